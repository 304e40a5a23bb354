//! The JSON Schema and the reference: up to date, true about defaults, and of one mind with the
//! checker about what is a config.

// Clippy allows this in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use config::{Config, json_schema};
use serde_json::{Value, json};

/// The least that a file can say about one of each thing.
const LEAST: &str = r#"
[uplink.wan]
driver = "tap"
interface = "wan0"
addresses = ["192.0.2.10/24"]
[network.front]
[endpoint.web]
attach = { netns = "web" }
[[endpoint.web.network]]
name = "front"
"#;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// Compares a file in `docs/` with what it is made from.
fn check_document(name: &str, text: &str) {
    let path = folder("docs").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(folder("docs")).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    let different = text.lines().zip(written.lines()).find(|(new, old)| new != old);
    let advice = "run UPDATE_GOLDEN=1 cargo test -p portolan-config --test reference";
    assert_eq!(different, None, "docs/{name} is stale: {advice}");
    assert_eq!(text.len(), written.len(), "docs/{name} is stale: {advice}");
}

/// A TOML text as JSON.
fn as_json(text: &str) -> Value {
    serde_json::to_value(toml::from_str::<toml::Table>(text).unwrap()).unwrap()
}

/// Everything about a value that a schema does not allow. Knows the words of our schema alone, and
/// fails at any other.
fn violations(value: &Value, schema: &Value, root: &Value, path: &str) -> Vec<String> {
    let (mut found, mut inner) = (Vec::new(), Vec::<(Value, Value, String)>::new());
    let mut wrong = |what: String| found.push(format!("{path}: {what}"));
    for (word, rule) in schema.as_object().unwrap() {
        match word.as_str() {
            "$schema" | "$defs" | "title" | "description" | "default" | "x-maximum"
            | "properties" => {}
            "$ref" => {
                let pointer = rule.as_str().unwrap().trim_start_matches('#');
                inner.push((value.clone(), root.pointer(pointer).unwrap().clone(), path.into()));
            }
            "type" => {
                let is_right = match rule.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "boolean" => value.is_boolean(),
                    other => panic!("type {other}"),
                };
                if !is_right {
                    wrong(format!("is no {rule}"));
                }
            }
            "const" if value != rule => wrong(format!("is not {rule}")),
            "enum" if !rule.as_array().unwrap().contains(value) => wrong("no such word".into()),
            "minimum" if value.as_i64() < rule.as_i64() => wrong(format!("below {rule}")),
            "maximum" if value.as_i64() > rule.as_i64() => wrong(format!("above {rule}")),
            "minLength" | "minItems" if length(value) < rule.as_u64() => wrong("short".into()),
            "maxLength" | "maxItems" if length(value) > rule.as_u64() => wrong("long".into()),
            // Patterns are for editors; the checker judges the text itself.
            "const" | "enum" | "minimum" | "maximum" | "minLength" | "maxLength" | "minItems"
            | "maxItems" | "pattern" | "uniqueItems" | "propertyNames" => {}
            "required" => {
                let keys = rule.as_array().unwrap().iter().map(|key| key.as_str().unwrap());
                for key in keys.filter(|key| value.get(key).is_none()) {
                    wrong(format!("lacks {key}"));
                }
            }
            "additionalProperties" => {
                let known = schema.get("properties").and_then(Value::as_object);
                for (key, content) in value.as_object().into_iter().flatten() {
                    let path = format!("{path}.{key}");
                    match known.and_then(|known| known.get(key)) {
                        Some(schema) => inner.push((content.clone(), schema.clone(), path)),
                        None if *rule == json!(false) => wrong(format!("unknown key {key}")),
                        None => inner.push((content.clone(), rule.clone(), path)),
                    }
                }
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    inner.push((item.clone(), rule.clone(), format!("{path}[{index}]")));
                }
            }
            "anyOf" => {
                let choices = rule.as_array().unwrap().iter();
                let mut refusals = choices.map(|choice| violations(value, choice, root, path));
                if !refusals.any(|refusals| refusals.is_empty()) {
                    wrong("fits none of the choices".into());
                }
            }
            other => panic!("{path}: the test does not know {other}"),
        }
    }
    found.extend(
        inner.iter().flat_map(|(value, schema, path)| violations(value, schema, root, path)),
    );
    found
}

fn length(value: &Value) -> Option<u64> {
    let bytes = value.as_str().map(str::len);
    bytes.or(value.as_array().map(Vec::len)).map(|length| length as u64)
}

fn refusals(text: &str) -> Vec<String> {
    let schema = json_schema();
    violations(&as_json(text), &schema, &schema, "")
}

#[test]
fn the_documents_are_what_the_types_say() {
    check_document("config.md", &config::markdown());
    let schema = serde_json::to_string_pretty(&json_schema()).unwrap();
    check_document("config.schema.json", &format!("{schema}\n"));
}

#[test]
fn every_key_is_explained() {
    let schema = json_schema();
    let mut count = 0;
    let definitions = schema["$defs"].as_object().unwrap().values().chain([&schema]);
    for definition in definitions {
        assert!(definition["description"].is_string(), "{definition}");
        for (key, property) in definition["properties"].as_object().unwrap() {
            assert!(property["description"].is_string(), "{key} has no description");
            count += 1;
        }
        assert_eq!(definition["additionalProperties"], json!(false), "{definition}");
    }
    assert!(count > 80, "found {count} keys");
    let text = config::markdown();
    for definition in schema["$defs"].as_object().unwrap().values() {
        for key in definition["properties"].as_object().unwrap().keys() {
            assert!(text.contains(&format!("\n| `{key}` |")), "{key} is not in the reference");
        }
    }
}

#[test]
fn every_default_is_what_a_config_has_that_says_nothing() {
    let resolved = as_json(&Config::parse("x.toml", LEAST).unwrap().to_toml());
    let schema = json_schema();
    let places = [
        ("/gateway", "Gateway"),
        ("/uplink/wan", "Uplink"),
        ("/network/front", "Network"),
        ("/endpoint/web/attach", "Attach"),
        ("/endpoint/web", "Endpoint"),
        ("/endpoint/web/network/0", "EndpointNetwork"),
        ("/nat", "Nat"),
        ("/nat/timeouts", "Timeouts"),
        ("/limits", "Limits"),
    ];
    for (place, definition) in places {
        let table = resolved.pointer(place).unwrap();
        for (key, property) in schema["$defs"][definition]["properties"].as_object().unwrap() {
            // One word stands for the list that the resolved config has.
            let Some(default) = property.get("default").filter(|_| key != "address_pools") else {
                continue;
            };
            assert_eq!(table.get(key), Some(default), "{place}/{key}");
        }
    }
}

#[test]
fn the_schema_takes_the_examples_and_whatever_is_resolved() {
    let mut texts: Vec<String> = vec![LEAST.to_owned(), String::new()];
    for entry in std::fs::read_dir(folder("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            texts.push(std::fs::read_to_string(path).unwrap());
        }
    }
    assert!(texts.len() >= 4);
    for text in texts {
        assert_eq!(refusals(&text), [""; 0], "{text}");
        let resolved = Config::parse("x.toml", &text).unwrap().to_toml();
        assert_eq!(refusals(&resolved), [""; 0], "{resolved}");
    }
}

#[test]
fn the_schema_refuses_what_the_checker_refuses_by_type() {
    for (piece, expected) in [
        ("[gateway]\nworkers = 0\n", ".gateway.workers: fits none of the choices"),
        ("[gateway]\nworkers = \"all\"\n", ".gateway.workers: fits none of the choices"),
        ("[gateway]\nidel = \"busy\"\n", ".gateway: unknown key idel"),
        ("[gateway]\nidle = \"lazy\"\n", ".gateway.idle: no such word"),
        ("[gateway]\nwatch = 1\n", ".gateway.watch: is no \"boolean\""),
        ("[polcy]\n", ": unknown key polcy"),
        (
            "[uplink.lan]\ndriver = \"tap\"\ninterface = \"\"\naddresses = []\n",
            ".uplink.lan.addresses: fits none of the choices",
        ),
        ("[network.x]\nmtu = 100\n", ".network.x.mtu: below 576"),
        ("[network.x]\nvni = 0\n", ".network.x.vni: below 1"),
        ("[endpoint.x]\nnetwork = [{ ip = \"10.1.0.1\" }]\n", ".endpoint.x.network[0]: lacks name"),
        ("[endpoint.x]\nnetwork = []\n", ".endpoint.x.network: short"),
        ("[limits]\nflows = 0\n", ".limits.flows: below 1"),
        ("[nat]\nports = 7\n", ".nat.ports: is no \"string\""),
    ] {
        assert!(Config::parse("x.toml", piece).is_err(), "{piece}");
        assert!(refusals(piece).contains(&expected.to_owned()), "{piece}: {:?}", refusals(piece));
    }
}
