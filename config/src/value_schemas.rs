//! JSON Schemas of the single values: what an editor knows of them, and how the reference calls
//! them.
//!
//! A schema's `title` is the name of the type in `docs/config.md`. Patterns are loose: they catch
//! slips while typing; whether a value is right is for the reader and the checker.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::bounds;
use crate::names::NAME_BYTES_MAX;
use crate::reader::{Field, Named};
use crate::values::{
    Address, Addresses, Listed, Mac, MssClamp, Number, Period, PortRange, Prefix, Scalar, Texts,
    WordOrList, Workers,
};

/// Implements `JsonSchema` for a type whose schema stands where it is used.
macro_rules! inline {
    (
        $type:ident $(<$parameter:ident: $bound:ident>)?,
        $name:literal, $generator:pat, $schema:expr
    ) => {
        impl$(<$parameter: $bound>)? JsonSchema for $type$(<$parameter>)? {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema($generator: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

fn text(title: &str, pattern: &str) -> Schema {
    json_schema!({ "type": "string", "title": title, "pattern": pattern })
}

inline!(
    Scalar,
    "Scalar",
    _,
    json_schema!({ "anyOf": [
        { "type": "string" }, { "type": "integer" }, { "type": "boolean" },
    ] })
);
inline!(Number, "Number", _, json_schema!({ "type": "integer" }));
inline!(Prefix, "Prefix", _, text("address with prefix length", "^[0-9a-fA-F:.]+/[0-9]{1,3}$"));
inline!(Address, "Address", _, text("address", "^[0-9a-fA-F:.]+$"));
inline!(Addresses, "Addresses", _, text("address or prefix", "^[0-9a-fA-F:.]+(/[0-9]{1,3})?$"));
inline!(Mac, "Mac", _, text("MAC address", "^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$"));
inline!(
    Period,
    "Period",
    _,
    text("duration", "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$")
);
inline!(PortRange, "PortRange", _, text("range of ports", "^[0-9]{1,5}-[0-9]{1,5}$"));
inline!(
    Texts,
    "Texts",
    _,
    json_schema!({ "anyOf": [
        { "type": "string" },
        { "type": "array", "items": { "type": "string" } },
    ] })
);
inline!(
    Workers,
    "Workers",
    _,
    json_schema!({ "anyOf": [
        { "const": "auto" },
        { "type": "integer", "minimum": 1, "maximum": bounds::WORKERS_MAX },
        {
            "type": "array", "minItems": 1, "maxItems": bounds::WORKERS_MAX, "uniqueItems": true,
            "items": { "type": "integer", "minimum": 0, "maximum": bounds::CPU_ID_MAX },
        },
    ] })
);
inline!(
    MssClamp,
    "MssClamp",
    _,
    json_schema!({ "anyOf": [
        { "enum": ["auto", "off"] },
        { "type": "integer", "minimum": bounds::MSS_MIN, "maximum": bounds::MSS_MAX },
    ] })
);
inline!(Field<T: JsonSchema>, "Field", generator, generator.subschema_for::<T>());
inline!(
    Named<T: JsonSchema>,
    "Named",
    generator,
    json_schema!({
        "type": "object",
        "propertyNames": {
            "pattern": "^[0-9A-Za-z][0-9A-Za-z_.-]*$", "maxLength": NAME_BYTES_MAX,
        },
        "additionalProperties": generator.subschema_for::<T>(),
    })
);
inline!(WordOrList<T: Listed>, "WordOrList", generator, {
    let list = json_schema!({
        "type": "array", "minItems": T::COUNT_MIN, "items": generator.subschema_for::<T>(),
    });
    if T::WORDS.is_empty() { list } else { json_schema!({ "anyOf": [{ "enum": T::WORDS }, list] }) }
});
