//! The settings of a dialect: what its own programs have as flags, and how endpoints are attached.
//!
//! They come from `--set KEY=VALUE` or from the table `set` of an `[[import]]`, and mean the same.
//! Each has its place, so a wrong one is shown as any other mistake.

use std::ops::RangeInclusive;

use super::Dialect;
use crate::nearest::nearest;
use crate::report::{PlaceId, Report, Step};

/// Where endpoints are attached, and how a converted config reaches the outside.
const ATTACHING: [&str; 3] = ["netns_prefix", "interface", "create"];
const UPLINK: [&str; 4] =
    ["uplink_interface", "uplink_address", "uplink_host_address", "uplink_gateway"];

/// One setting.
#[derive(Clone, Debug)]
struct Setting {
    key: String,
    value: String,
    at: PlaceId,
}

/// All settings of one reading.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    list: Vec<Setting>,
}

impl Settings {
    /// Settings of the command line, each KEY=VALUE. They are a file of their own in the report.
    pub(crate) fn from_command_line(set: &[String], report: &mut Report) -> Settings {
        let mut settings = Settings::default();
        if set.is_empty() {
            return settings;
        }
        let text = set.join("\n");
        let root = report.add_source("--set", &text);
        let mut offset = 0;
        for line in set {
            let span = offset..offset + line.len();
            offset = span.end + 1;
            let Some((key, value)) = line.split_once('=') else {
                report.error_in(root, span, "expected KEY=VALUE");
                continue;
            };
            let value_span = span.start + key.len() + 1..span.end;
            let at = report.place(root, Step::Key(key.to_owned()), value_span);
            settings.add(key, value, at);
        }
        settings
    }

    /// Adds a setting; the last one of a key counts.
    pub(crate) fn add(&mut self, key: &str, value: &str, at: PlaceId) {
        self.list.retain(|setting| setting.key != key);
        self.list.push(Setting { key: key.to_owned(), value: value.to_owned(), at });
    }

    /// The keys that a dialect has.
    pub(crate) fn known(dialect: Dialect) -> Vec<&'static str> {
        let own: &[&str] = match dialect {
            Dialect::Native => return Vec::new(),
            Dialect::Marathon => &[
                "default_network_name",
                "mesos_bridge_name",
                "local_port_min",
                "local_port_max",
                "offered_ports",
                "bridge_network",
                "mesos_network_prefix",
                "docker_network_prefix",
            ],
            Dialect::Dcos => &["agent_index", "agent_ip", "agent_hosts"],
            Dialect::Cni => &[],
            Dialect::Docker => {
                &["project", "node_ip", "overlay_peers", "overlay_vni", "data_path_port"]
            }
        };
        own.iter().copied().chain(ATTACHING).chain(UPLINK).collect()
    }

    /// Refuses what the dialect does not have.
    pub(crate) fn refuse_unknown(&self, dialect: Dialect, report: &mut Report) {
        let known = Settings::known(dialect);
        for setting in &self.list {
            if known.contains(&setting.key.as_str()) {
                continue;
            }
            let message = format!("the dialect {} has no such setting", dialect.name());
            let problem = report.error(setting.at, message);
            match nearest(&setting.key, known.iter().copied()) {
                Some(name) => problem.hint(format!("did you mean {name}?")),
                None if known.is_empty() => {}
                None => problem.hint(format!("its settings are {}", known.join(", "))),
            }
        }
    }

    /// A setting as text, with its place.
    pub(crate) fn text(&self, key: &str) -> Option<(&str, PlaceId)> {
        let setting = self.list.iter().find(|setting| setting.key == key)?;
        Some((&setting.value, setting.at))
    }

    /// A setting as text, or its default.
    pub(crate) fn text_or<'s>(&'s self, key: &str, default: &'s str) -> &'s str {
        self.text(key).map_or(default, |(text, _)| text)
    }

    /// A setting as a whole number within bounds, or its default.
    pub(crate) fn number_or(
        &self,
        key: &str,
        default: i64,
        bounds: RangeInclusive<i64>,
        report: &mut Report,
    ) -> i64 {
        self.number(key, bounds, report).unwrap_or(default)
    }

    /// A setting as a whole number within bounds.
    pub(crate) fn number(
        &self,
        key: &str,
        bounds: RangeInclusive<i64>,
        report: &mut Report,
    ) -> Option<i64> {
        let (text, at) = self.text(key)?;
        match text.parse::<i64>() {
            Ok(number) if bounds.contains(&number) => return Some(number),
            Ok(number) => {
                let (min, max) = bounds.into_inner();
                report.error(at, format!("{number} is out of bounds: {min} to {max}"));
            }
            Err(_) => {
                report.error(at, format!("expected a whole number, found {text:?}"));
            }
        }
        None
    }

    /// A setting as a boolean, or its default.
    pub(crate) fn flag_or(&self, key: &str, default: bool, report: &mut Report) -> bool {
        match self.text(key) {
            None => default,
            Some(("true", _)) => true,
            Some(("false", _)) => false,
            Some((text, at)) => {
                report.error(at, format!("expected true or false, found {text:?}"));
                default
            }
        }
    }
}
