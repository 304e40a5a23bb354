//! Reads a parsed TOML document into the serde structs of `schema`, reporting instead of stopping.
//!
//! serde gives up at the first value of a wrong type. Here every value of the schema is a
//! [`Field`]: it catches the refusal of its content, which is then reported with the place of the
//! value, and reading goes on with the next key. Keys that a struct does not know are reported
//! with the nearest one that it does. The one hard constraint: whatever is not read is reported,
//! so a field that is [`Field::Wrong`] never needs a second message.
//!
//! Fields talk to the deserializer by a newtype of a reserved name, [`FIELD`]. Like every such
//! scheme it does not survive `flatten`, `untagged` or tagged enums: the schema has none.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::U32Deserializer;
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::nearest::nearest;
use crate::report::{PlaceId, Report, Step};

const FIELD: &str = "$portolan_config::Field";

/// A value of the file with its place.
#[derive(Clone, Debug, Default)]
pub(crate) enum Field<T> {
    /// The file does not have it.
    #[default]
    Absent,
    /// It was of the wrong type, which has been reported.
    Wrong(PlaceId),
    /// It is there.
    Given(PlaceId, T),
}

impl<T> Field<T> {
    /// The value, if it could be read.
    pub(crate) fn value(&self) -> Option<&T> {
        match self {
            Field::Given(_, value) => Some(value),
            _ => None,
        }
    }

    /// The value and its place, if it could be read.
    pub(crate) fn given(&self) -> Option<(PlaceId, &T)> {
        match self {
            Field::Given(at, value) => Some((*at, value)),
            _ => None,
        }
    }

    /// The place, if the key is there at all.
    pub(crate) fn place(&self) -> Option<PlaceId> {
        match self {
            Field::Absent => None,
            Field::Wrong(at) | Field::Given(at, _) => Some(*at),
        }
    }

    /// True if the key is not there.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Field::Absent)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(FIELD, FieldVisitor(PhantomData))
    }
}

struct FieldVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for FieldVisitor<T> {
    type Value = Field<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value with its place")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Field<T>, A::Error> {
        let place = seq.next_element::<u32>()?.expect("a field comes with its place");
        let place = PlaceId(place);
        // The access has reported what is wrong before it says so.
        Ok(match seq.next_element::<T>() {
            Ok(Some(value)) => Field::Given(place, value),
            _ => Field::Wrong(place),
        })
    }
}

/// The named tables of one kind, such as all of `[network.*]`, in the order of the file.
#[derive(Clone, Debug)]
pub(crate) struct Named<T>(pub(crate) Vec<(Field<String>, Field<T>)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(NamedVisitor(PhantomData))
    }
}

struct NamedVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for NamedVisitor<T> {
    type Value = Named<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Named(entries))
    }
}

/// Why a value was not taken. Reported by the innermost [`Field`] around it.
#[derive(Debug)]
pub(crate) struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

impl de::Error for Refusal {
    fn custom<T: fmt::Display>(message: T) -> Refusal {
        Refusal(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Refusal {
        let found = match found {
            Unexpected::Str(_) => "text",
            Unexpected::Bool(_) => "a boolean",
            Unexpected::Signed(_) | Unexpected::Unsigned(_) => "a whole number",
            Unexpected::Float(_) => "a fraction",
            Unexpected::Seq => "a list",
            Unexpected::Map => "a table",
            Unexpected::Other(what) => what,
            _ => "something else",
        };
        // serde's words for what TOML calls otherwise.
        let expected = match expected.to_string().as_str() {
            "a sequence" => "a list".to_owned(),
            "a string" => "text".to_owned(),
            other => other.to_owned(),
        };
        Refusal(format!("expected {expected}, found {found}"))
    }
}

/// Reads a whole document, a struct of which every member is a [`Field`] with a default.
pub(crate) fn read<'de, T: Deserialize<'de>>(
    document: &Spanned<DeTable<'_>>,
    report: &RefCell<Report>,
) -> T {
    T::deserialize(TableReader { table: document.get_ref(), at: PlaceId::ROOT, report })
        .expect("fields catch every refusal")
}

/// Deserializer of one value.
struct ValueReader<'r> {
    value: &'r Spanned<DeValue<'r>>,
    at: PlaceId,
    report: &'r RefCell<Report>,
}

impl<'r> ValueReader<'r> {
    fn table(&self) -> Option<TableReader<'r>> {
        let table = self.value.get_ref().as_table()?;
        Some(TableReader { table, at: self.at, report: self.report })
    }

    fn list(&self, items: &'r [Spanned<DeValue<'r>>]) -> ListReader<'r> {
        ListReader { items: items.iter().enumerate(), at: self.at, report: self.report }
    }
}

impl<'de, 'r> Deserializer<'de> for ValueReader<'r> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.value.get_ref() {
            DeValue::String(text) => visitor.visit_str(text),
            DeValue::Integer(number) => {
                match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => visitor.visit_i64(number),
                    Err(_) => Err(Refusal(format!("{number} is too large a number"))),
                }
            }
            DeValue::Float(number) => {
                visitor.visit_f64(number.as_str().parse().unwrap_or(f64::NAN))
            }
            DeValue::Boolean(boolean) => visitor.visit_bool(*boolean),
            DeValue::Datetime(_) => {
                Err(de::Error::invalid_type(Unexpected::Other("a date"), &visitor))
            }
            DeValue::Array(items) => visitor.visit_seq(self.list(items)),
            DeValue::Table(_) => {
                let table = self.table().expect("the value was matched as a table");
                visitor.visit_map(table.entries(&[]))
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        if name == FIELD {
            let (at, report) = (self.at, self.report);
            // What is no TOML has been reported, and is not what its author wrote.
            let is_spoilt = report.borrow_mut().is_spoilt(&self.value.span());
            let content = (!is_spoilt).then_some(self);
            visitor.visit_seq(FieldAccess { at, given_place: false, report, content })
        } else {
            visitor.visit_newtype_struct(self)
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        match self.table() {
            Some(table) => table.deserialize_struct(name, fields, visitor),
            None => {
                let found = self.value.get_ref().type_str();
                Err(Refusal(format!("expected a table, found {}", article(found))))
            }
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// TOML's name of a type as `Refusal` names it.
fn article(type_name: &str) -> &'static str {
    match type_name {
        "string" => "text",
        "integer" => "a whole number",
        "float" => "a fraction",
        "boolean" => "a boolean",
        "datetime" => "a date",
        "array" => "a list",
        _ => "a table",
    }
}

/// Deserializer of one table.
struct TableReader<'r> {
    table: &'r DeTable<'r>,
    at: PlaceId,
    report: &'r RefCell<Report>,
}

type Entry<'r> = (&'r Spanned<std::borrow::Cow<'r, str>>, &'r Spanned<DeValue<'r>>);

impl<'r> TableReader<'r> {
    /// The entries in the order of the file; those that `known` does not name are reported and
    /// left out, unless `known` is empty.
    fn entries(self, known: &'static [&'static str]) -> EntriesReader<'r> {
        let mut entries: Vec<Entry<'r>> = Vec::with_capacity(self.table.len());
        for (key, value) in self.table {
            if known.is_empty() || known.contains(&&**key.get_ref()) {
                entries.push((key, value));
            } else {
                self.report_unknown(key, known);
            }
        }
        entries.sort_by_key(|(key, _)| key.span().start);
        EntriesReader {
            entries: entries.into_iter(),
            value: None,
            at: self.at,
            report: self.report,
        }
    }

    fn report_unknown(&self, key: &Spanned<std::borrow::Cow<'r, str>>, known: &[&str]) {
        let mut report = self.report.borrow_mut();
        let at = report.place(self.at, Step::Key(key.get_ref().to_string()), key.span());
        let problem = report.error(at, "unknown key");
        match nearest(key.get_ref(), known.iter().copied()) {
            Some(name) => problem.hint(format!("did you mean {name}?")),
            None => problem.hint(format!("known keys are {}", known.join(", "))),
        }
    }
}

impl<'de, 'r> Deserializer<'de> for TableReader<'r> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_map(self.entries(&[]))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        visitor.visit_map(self.entries(fields))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any option
    }
}

struct EntriesReader<'r> {
    entries: std::vec::IntoIter<Entry<'r>>,
    value: Option<Entry<'r>>,
    at: PlaceId,
    report: &'r RefCell<Report>,
}

impl<'de, 'r> MapAccess<'de> for EntriesReader<'r> {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Refusal> {
        self.value = self.entries.next();
        match self.value {
            Some((key, _)) => {
                seed.deserialize(KeyReader { key, parent: self.at, report: self.report }).map(Some)
            }
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refusal> {
        let (key, value) = self.value.take().expect("serde asks for a value after its key");
        let step = Step::Key(key.get_ref().to_string());
        let at = self.report.borrow_mut().place(self.at, step, value.span());
        seed.deserialize(ValueReader { value, at, report: self.report })
    }
}

struct ListReader<'r> {
    items: std::iter::Enumerate<std::slice::Iter<'r, Spanned<DeValue<'r>>>>,
    at: PlaceId,
    report: &'r RefCell<Report>,
}

impl<'de, 'r> SeqAccess<'de> for ListReader<'r> {
    type Error = Refusal;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Refusal> {
        let Some((index, value)) = self.items.next() else { return Ok(None) };
        let at = self.report.borrow_mut().place(self.at, Step::Index(index), value.span());
        seed.deserialize(ValueReader { value, at, report: self.report }).map(Some)
    }
}

/// Deserializer of a key.
struct KeyReader<'r> {
    key: &'r Spanned<std::borrow::Cow<'r, str>>,
    parent: PlaceId,
    report: &'r RefCell<Report>,
}

impl<'de, 'r> Deserializer<'de> for KeyReader<'r> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_str(self.key.get_ref())
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        if name != FIELD {
            return visitor.visit_newtype_struct(self);
        }
        let report = self.report;
        let step = Step::Key(self.key.get_ref().to_string());
        let at = report.borrow_mut().place(self.parent, step, self.key.span());
        visitor.visit_seq(FieldAccess { at, given_place: false, report, content: Some(self) })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct enum identifier ignored_any option
    }
}

/// Gives a [`FieldVisitor`] first the place, then the content; reports a content that is refused.
struct FieldAccess<'r, C> {
    at: PlaceId,
    given_place: bool,
    /// `None` once taken, and where it is not to be read.
    content: Option<C>,
    report: &'r RefCell<Report>,
}

impl<'de, 'r, C: Deserializer<'de, Error = Refusal>> SeqAccess<'de> for FieldAccess<'r, C> {
    type Error = Refusal;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Refusal> {
        if !self.given_place {
            self.given_place = true;
            let place: U32Deserializer<Refusal> = self.at.0.into_deserializer();
            return seed.deserialize(place).map(Some);
        }
        let Some(content) = self.content.take() else { return Ok(None) };
        seed.deserialize(content).map(Some).inspect_err(|refusal| {
            self.report.borrow_mut().error(self.at, refusal.0.clone());
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, serde::Deserialize)]
    #[serde(default)]
    struct Sheep {
        legs: Field<u8>,
        wool: Field<bool>,
        lambs: Field<Vec<Field<String>>>,
    }

    #[derive(Debug, Default, serde::Deserialize)]
    #[serde(default)]
    struct Farm {
        sheep: Field<Named<Sheep>>,
        name: Field<String>,
    }

    fn read_farm(text: &str) -> (Farm, Vec<String>) {
        let document = DeTable::parse(text).unwrap();
        let report = RefCell::new(Report::new("farm", text));
        let farm = read(&document, &report);
        let diagnostics = report.into_inner().into_diagnostics();
        (farm, diagnostics.iter().map(|diagnostic| diagnostic.to_string()).collect())
    }

    #[test]
    fn a_wrong_value_and_an_unknown_key_do_not_stop_the_reading() {
        let (farm, problems) = read_farm(
            "nam = 'x'\n[sheep.dolly]\nlegs = 'four'\nwool = 1.5\nlambs = ['a', 7, 'c']\n\
             [sheep]\nbob = 3\nflossy.legs = 1979-05-27\n[sheep.molly]\nlegs = 4\n",
        );
        assert_eq!(
            problems,
            [
                "farm:1:1: nam: unknown key",
                "farm:3:8: sheep.dolly.legs: expected u8, found text",
                "farm:4:8: sheep.dolly.wool: expected a boolean, found a fraction",
                "farm:5:15: sheep.dolly.lambs[1]: expected text, found a whole number",
                "farm:7:7: sheep.bob: expected a table, found a whole number",
                "farm:8:15: sheep.flossy.legs: expected u8, found a date",
            ]
        );
        let sheep = &farm.sheep.value().unwrap().0;
        let names: Vec<&str> =
            sheep.iter().map(|(name, _)| name.value().unwrap().as_str()).collect();
        assert_eq!(names, ["dolly", "bob", "flossy", "molly"]);
        assert_eq!(sheep[3].1.value().unwrap().legs.value(), Some(&4));
        assert_eq!(sheep[0].1.value().unwrap().lambs.value().unwrap().len(), 3);
    }

    #[test]
    fn a_number_that_fits_nowhere_is_reported() {
        let (_, problems) = read_farm("[sheep.x]\nlegs = 99999999999999999999\n");
        assert_eq!(
            problems,
            ["farm:2:8: sheep.x.legs: 99999999999999999999 is too large a number"]
        );
    }
}
