//! The single values of the schema: text and numbers that mean something.
//!
//! A value knows how it is written and says what was expected instead. Whether it makes sense where
//! it stands is for `check` to say.

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::time::Duration;

use engine::MacAddress;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};

use crate::reader::Field;
use crate::report::PlaceId;
use crate::schema::AddressPool;

/// A whole number; its range is the checker's to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number(pub(crate) i64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Number, D::Error> {
        struct NumberVisitor;

        impl Visitor<'_> for NumberVisitor {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Number, E> {
                Ok(Number(number))
            }
        }

        deserializer.deserialize_any(NumberVisitor)
    }
}

/// A text, number or boolean, as the text that `--set` would have for it.
#[derive(Clone, Debug)]
pub(crate) struct Scalar(pub(crate) String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scalar, D::Error> {
        struct ScalarVisitor;

        impl Visitor<'_> for ScalarVisitor {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, a number or a boolean")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar(text.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }

            fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Scalar, E> {
                Ok(Scalar(flag.to_string()))
            }
        }

        deserializer.deserialize_any(ScalarVisitor)
    }
}

/// A value written as text.
struct TextVisitor<T> {
    expected: &'static str,
    parse: fn(&str) -> Option<T>,
}

impl<T> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        let wrong = || E::custom(format_args!("expected {}, found {text:?}", self.expected));
        (self.parse)(text).ok_or_else(wrong)
    }
}

/// An address and a prefix length. Host bits are kept: for some keys they are the point.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prefix(pub(crate) IpNet);

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Prefix, D::Error> {
        deserializer.deserialize_any(TextVisitor {
            expected: "an address with its prefix length, such as \"10.1.0.0/24\"",
            parse: |text| text.parse().ok().map(Prefix),
        })
    }
}

/// One address, or all of a prefix. Host bits are kept, for the checker to refuse.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses(pub(crate) IpNet);

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Addresses, D::Error> {
        deserializer.deserialize_any(TextVisitor {
            expected: "an address or a prefix, such as \"10.1.0.5\" or \"10.1.0.64/26\"",
            parse: |text| match text.parse::<IpAddr>() {
                Ok(address) => Some(Addresses(address.into())),
                Err(_) => text.parse().ok().map(Addresses),
            },
        })
    }
}

/// An address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address(pub(crate) IpAddr);

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
        deserializer.deserialize_any(TextVisitor {
            expected: "an address, such as \"10.1.0.10\"",
            parse: |text| text.parse().ok().map(Address),
        })
    }
}

/// A MAC address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mac(pub(crate) MacAddress);

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Mac, D::Error> {
        deserializer.deserialize_any(TextVisitor {
            expected: "a MAC address, such as \"02:42:0a:01:00:0a\"",
            parse: |text| text.parse().ok().map(Mac),
        })
    }
}

/// A time span.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Period(pub(crate) Duration);

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Period, D::Error> {
        deserializer.deserialize_any(TextVisitor {
            expected: "a duration, such as \"2h4m\" or \"90s\"",
            parse: |text| duration(text).map(Period),
        })
    }
}

/// Units of time with their milliseconds, long ones first.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads `2h4m`: numbers with their units, d, h, m, s or ms, long ones first and none twice.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut unit_from = 0;
    let mut sum_ms = 0u64;
    while !rest.is_empty() {
        let digits_bytes = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, tail) = rest.split_at(digits_bytes);
        let unit_bytes = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(unit_bytes);
        let index = UNITS.iter().position(|(name, _)| *name == unit)?;
        if index < unit_from {
            return None;
        }
        unit_from = index + 1;
        let number: u64 = digits.parse().ok()?;
        sum_ms = sum_ms.checked_add(number.checked_mul(UNITS[index].1)?)?;
        rest = tail;
    }
    (!text.is_empty()).then(|| Duration::from_millis(sum_ms))
}

/// A time span as it is written in a config.
pub(crate) fn written(time: Duration) -> String {
    let mut rest_ms = time.as_millis();
    let mut text = String::new();
    for (unit, unit_ms) in UNITS {
        let count = rest_ms / u128::from(unit_ms);
        rest_ms %= u128::from(unit_ms);
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Ports from the first to the last, both included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortRange {
    pub(crate) min: u16,
    pub(crate) max: u16,
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PortRange, D::Error> {
        deserializer.deserialize_any(TextVisitor {
            expected: "a range of ports, such as \"32768-65535\"",
            parse: |text| {
                let (min, max) = text.split_once('-')?;
                // A sign is a number to Rust, and no port to anybody.
                let port = |text: &str| {
                    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
                    is_plain.then(|| text.parse().ok()).flatten()
                };
                let (min, max) = (port(min)?, port(max)?);
                (min <= max).then_some(PortRange { min, max })
            },
        })
    }
}

/// Which workers run.
#[derive(Clone, Debug)]
pub(crate) enum Workers {
    /// "auto", or another word that is wrong.
    Word(String),
    /// So many.
    Count(i64),
    /// One on each of these CPUs.
    Cpus(Vec<Field<Number>>),
}

impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Workers, D::Error> {
        struct WorkersVisitor;

        impl<'de> Visitor<'de> for WorkersVisitor {
            type Value = Workers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of CPU ids, a count, or \"auto\"")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Workers, E> {
                Ok(Workers::Word(word.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, count: i64) -> Result<Workers, E> {
                Ok(Workers::Count(count))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Workers, A::Error> {
                let mut cpus = Vec::new();
                while let Some(cpu) = seq.next_element()? {
                    cpus.push(cpu);
                }
                Ok(Workers::Cpus(cpus))
            }
        }

        deserializer.deserialize_any(WorkersVisitor)
    }
}

/// How far a segment size is lowered.
#[derive(Clone, Debug)]
pub(crate) enum MssClamp {
    /// A word; the checker knows which mean something.
    Word(String),
    /// To so many bytes; the range is the checker's to know.
    Bytes(i64),
}

impl<'de> Deserialize<'de> for MssClamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MssClamp, D::Error> {
        struct MssClampVisitor;

        impl Visitor<'_> for MssClampVisitor {
            type Value = MssClamp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a word or a whole number")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<MssClamp, E> {
                Ok(MssClamp::Word(word.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<MssClamp, E> {
                Ok(MssClamp::Bytes(number))
            }
        }

        deserializer.deserialize_any(MssClampVisitor)
    }
}

/// A list, or a word that stands for one.
#[derive(Clone, Debug)]
pub(crate) enum WordOrList<T> {
    /// A word; the checker knows which mean something.
    Word(String),
    /// These.
    List(Vec<Field<T>>),
}

/// An element of a [`WordOrList`].
pub(crate) trait Listed: JsonSchema {
    /// What is expected, in words.
    const EXPECTED: &'static str;
    /// The words that mean something.
    const WORDS: &'static [&'static str];
    /// Fewest elements.
    const COUNT_MIN: usize;
}

impl Listed for Prefix {
    const EXPECTED: &'static str = "a list of addresses with their prefix lengths, or \"host\"";
    const WORDS: &'static [&'static str] = &["host"];
    const COUNT_MIN: usize = 1;
}

impl Listed for AddressPool {
    const EXPECTED: &'static str = "a list of pools such as { base = \"10.0.0.0/8\", size = 24 }, \
                                    \"docker\" or \"large\"";
    const WORDS: &'static [&'static str] = &["docker", "large"];
    const COUNT_MIN: usize = 0;
}

impl<'de, T: Deserialize<'de> + Listed> Deserialize<'de> for WordOrList<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WordOrListVisitor(PhantomData))
    }
}

struct WordOrListVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + Listed> Visitor<'de> for WordOrListVisitor<T> {
    type Value = WordOrList<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<WordOrList<T>, E> {
        Ok(WordOrList::Word(word.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = seq.next_element()? {
            list.push(element);
        }
        Ok(WordOrList::List(list))
    }
}

/// One text, or several in a list.
#[derive(Clone, Debug)]
pub(crate) enum Texts {
    /// One.
    One(String),
    /// Several.
    Several(Vec<Field<String>>),
}

impl Texts {
    /// Each text with its place. `at`: the place of the whole.
    pub(crate) fn each(&self, at: PlaceId) -> Vec<(PlaceId, &str)> {
        match self {
            Texts::One(text) => vec![(at, text)],
            Texts::Several(all) => {
                all.iter().filter_map(Field::given).map(|(at, text)| (at, text.as_str())).collect()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Texts, D::Error> {
        struct TextsVisitor;

        impl<'de> Visitor<'de> for TextsVisitor {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Texts, A::Error> {
                let mut all = Vec::new();
                while let Some(element) = seq.next_element()? {
                    all.push(element);
                }
                Ok(Texts::Several(all))
            }
        }

        deserializer.deserialize_any(TextsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_written_as_it_is_read() {
        for text in ["2h4m", "5d", "1d12h", "1s500ms", "0s", "1m"] {
            assert_eq!(written(duration(text).unwrap()), text);
        }
        assert_eq!(written(Duration::from_secs(90)), "1m30s");
    }

    #[test]
    fn a_duration_is_numbers_with_units_from_long_to_short() {
        let seconds = |text: &str| duration(text).map(|duration| duration.as_secs_f64());
        assert_eq!(seconds("2h4m"), Some(7_440.0));
        assert_eq!(seconds("1d12h"), Some(129_600.0));
        assert_eq!(seconds("90s"), Some(90.0));
        assert_eq!(seconds("1s500ms"), Some(1.5));
        for text in ["", "5", "m", "4m2h", "1m1m", "5 m", "-5m", "1.5h", "99999999999999999999s"] {
            assert_eq!(seconds(text), None, "{text}");
        }
        assert_eq!(duration("18446744073709551615d"), None);
        assert_eq!(duration("5µ"), None);
    }
}
