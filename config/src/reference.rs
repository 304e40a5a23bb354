//! The JSON Schema of a config, and its reference for people, both from the types in `schema`.
//!
//! What an operator reads about a key stands beside the field that reads it, once. A test compares
//! `docs/` with what comes out here, so the two cannot part.

use std::fmt::{self, Write};

use schemars::generate::SchemaSettings;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;

use crate::schema;

const INTRODUCTION: &str = include_str!("reference.md");

/// The JSON Schema (draft 2020-12) of a native config.
pub fn json_schema() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    generator.into_root_schema_for::<schema::Document>().to_value()
}

/// The reference of a native config, in Markdown.
pub fn markdown() -> String {
    let schema = json_schema();
    let mut text = INTRODUCTION.to_owned();
    for section in sections() {
        text.push_str(&section.markdown(&schema));
    }
    text
}

/// A table of a config.
struct Section {
    /// How it is written.
    heading: &'static str,
    /// Its definition in the JSON Schema.
    definition: &'static str,
    /// Its keys, in the order of the fields.
    keys: &'static [&'static str],
}

fn sections() -> [Section; 17] {
    let section = |heading, definition, keys| Section { heading, definition, keys };
    [
        section("[gateway]", "Gateway", keys::<schema::Gateway>()),
        section("gateway.address_pools = [{ ... }]", "AddressPool", keys::<schema::AddressPool>()),
        section("[uplink.NAME]", "Uplink", keys::<schema::Uplink>()),
        section("routes = [{ ... }]", "Route", keys::<schema::Route>()),
        section("[network.NAME]", "Network", keys::<schema::Network>()),
        section("[[network.NAME.remote]]", "Remote", keys::<schema::Remote>()),
        section("[[network.NAME.route]]", "OverlayRoute", keys::<schema::OverlayRoute>()),
        section("[endpoint.NAME]", "Endpoint", keys::<schema::Endpoint>()),
        section("attach = { ... }", "Attach", keys::<schema::Attach>()),
        section("[[endpoint.NAME.network]]", "EndpointNetwork", keys::<schema::EndpointNetwork>()),
        section("[[policy]]", "Rule", keys::<schema::Rule>()),
        section("from = { ... }", "RuleSide", keys::<schema::RuleSide>()),
        section("[nat]", "Nat", keys::<schema::Nat>()),
        section("[[nat.static]]", "StaticNat", keys::<schema::StaticNat>()),
        section("[nat.timeouts]", "Timeouts", keys::<schema::Timeouts>()),
        section("[limits]", "Limits", keys::<schema::Limits>()),
        section("[[import]]", "Import", keys::<schema::Import>()),
    ]
}

impl Section {
    fn markdown(&self, schema: &Value) -> String {
        let definition = &schema["$defs"][self.definition];
        let required = definition["required"].as_array().map_or(&[][..], Vec::as_slice);
        let mut text = format!(
            "\n## `{}`\n\n{}\n\n| key | value | default | meaning |\n| --- | --- | --- | --- |\n",
            self.heading,
            description(definition)
        );
        for key in self.keys {
            let property = &definition["properties"][key];
            if property.is_null() {
                // A key of a later version.
                continue;
            }
            let default = match property.get("default") {
                Some(default) => format!("`{default}`"),
                None if required.iter().any(|name| name == key) => "needed".to_owned(),
                None => String::new(),
            };
            let (kind, meaning) = (kind(property), description(property).replace('|', "\\|"));
            writeln!(text, "| `{key}` | {kind} | {default} | {meaning} |")
                .expect("a string takes every line");
        }
        text
    }
}

/// A description, on one line.
fn description(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().replace('\n', " ")
}

/// What a value is, in words.
fn kind(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.trim_start_matches("#/$defs/");
        let all = sections();
        let section = all.iter().find(|section| section.definition == name);
        let heading = section.expect("every definition has its section").heading;
        return format!("see `{heading}`");
    }
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
        return words.join(", ");
    }
    if let Some(word) = schema.get("const") {
        return format!("`{word}`");
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        return choices.iter().map(kind).collect::<Vec<String>>().join(", or ");
    }
    match schema["type"].as_str() {
        Some("boolean") => "`true`, `false`".to_owned(),
        Some("integer") => match (&schema["minimum"], &schema["maximum"]) {
            (Value::Null, _) | (_, Value::Null) => "whole number".to_owned(),
            (min, max) => format!("{min} to {max}"),
        },
        Some("array") => format!("list: {}", kind(&schema["items"])),
        Some("object") => format!("by name: {}", kind(&schema["additionalProperties"])),
        _ => schema["title"].as_str().unwrap_or("text").to_owned(),
    }
}

/// The keys of a table in the order of its fields, which a JSON object forgets.
fn keys<T: for<'de> Deserialize<'de>>() -> &'static [&'static str] {
    let mut keys: &'static [&'static str] = &[];
    // It always refuses: it is asked for the names only.
    let _ = T::deserialize(KeyReader(&mut keys));
    keys
}

/// A deserializer that notes which keys a struct knows, and gives it nothing.
struct KeyReader<'k>(&'k mut &'static [&'static str]);

impl<'de> Deserializer<'de> for KeyReader<'_> {
    type Error = NothingToRead;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, NothingToRead> {
        Err(NothingToRead)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, NothingToRead> {
        *self.0 = fields;
        Err(NothingToRead)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any option
    }
}

#[derive(Debug)]
struct NothingToRead;

impl fmt::Display for NothingToRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is nothing to read")
    }
}

impl std::error::Error for NothingToRead {}

impl de::Error for NothingToRead {
    fn custom<T: fmt::Display>(_message: T) -> NothingToRead {
        NothingToRead
    }
}
