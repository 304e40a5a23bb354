//! Text through a dialect.
//!
//! A text is refused with errors that print, or it is valid. What is converted is a config that the
//! checker takes; Marathon's present form is taken again and stays what it is.

use config::{Config, Diagnostic, Dialect, Severity, check_dialect, convert};

/// Checks and converts, with settings that leave as little as possible to be refused.
pub fn run(dialect: Dialect, text: &str) {
    let set: &[&str] = match dialect {
        Dialect::Marathon => &["default_network_name=n", "offered_ports=1-65535"],
        Dialect::Dcos => &["agent_index=1", "agent_hosts=192.0.2.30,192.0.2.31,192.0.2.32"],
        Dialect::Docker => &["node_ip=192.0.2.31", "overlay_peers=192.0.2.32", "overlay_vni=7"],
        _ => &[],
    };
    let set: Vec<String> = set.iter().map(|&one| one.to_owned()).collect();
    if let Err(found) = check_dialect(dialect, "fuzz", text, &set) {
        assert_printed(&found);
        let converted = convert(dialect, Dialect::Native, "fuzz", text, &set);
        assert!(converted.is_err(), "what is refused is not converted");
        return;
    }
    match convert(dialect, Dialect::Native, "fuzz", text, &set) {
        Ok(converted) => {
            if let Err(found) = Config::parse("converted", &converted.text) {
                panic!("{}\n{}", config::render(&found, false), converted.text);
            }
        }
        Err(found) => assert_printed(&found),
    }
    if dialect == Dialect::Marathon {
        let once = convert(dialect, dialect, "fuzz", text, &set).expect("it is valid").text;
        let twice = convert(dialect, dialect, "once", &once, &set);
        assert_eq!(twice.expect("it is still valid").text, once, "twice is once");
    }
}

fn assert_printed(found: &[Diagnostic]) {
    assert!(found.iter().any(|one| one.severity == Severity::Error), "refused for a reason");
    for diagnostic in found {
        assert!(!format!("{diagnostic} {diagnostic:#}").trim().is_empty());
    }
    assert!(!config::render(found, false).is_empty());
}
