//! Marathon's own settings, as its command line has them, and those of one agent.

use super::super::fragment::Attaching;
use super::super::settings::Settings;
use super::app::Engine;
use crate::report::{PlaceId, Report};

/// Mesos offers these unless an agent is told otherwise.
const OFFERED: &str = "31000-32000";

/// Settings of a reading.
#[derive(Debug)]
pub(super) struct Options {
    /// `--default_network_name`
    pub(super) default_network_name: Option<String>,
    /// `--mesos_bridge_name`
    pub(super) mesos_bridge_name: String,
    /// `--local_port_min` and `--local_port_max`; the upper end is not given out.
    pub(super) local_ports: (u16, u16),
    /// Ranges of host ports that the agent offers, both ends included.
    pub(super) offered: Vec<(u16, u16)>,
    /// The network of what is in mode container/bridge.
    pub(super) bridge_network: String,
    /// What comes before the names of container networks that Mesos' and Docker's containers join.
    network_prefixes: [String; 2],
    pub(super) attaching: Attaching,
}

impl Options {
    pub(super) fn new(settings: &Settings, report: &mut Report) -> Options {
        let min = settings.number_or("local_port_min", 10_000, 1..=65_535, report);
        let max = settings.number_or("local_port_max", 20_000, 1..=65_535, report);
        if min >= max {
            let at = settings.text("local_port_max").or(settings.text("local_port_min"));
            let at = at.map_or(PlaceId::ROOT, |(_, at)| at);
            report.error(at, format!("there are no ports from {min} to below {max}"));
        }
        let (written, at) = settings.text("offered_ports").unwrap_or((OFFERED, PlaceId::ROOT));
        let offered = ranges(written).unwrap_or_else(|| {
            let problem = report.error(at, format!("{written:?} is no list of ports"));
            problem.hint("such as \"31000-32000\" or \"80,443,31000-32000\"");
            Vec::new()
        });
        Options {
            default_network_name: settings
                .text("default_network_name")
                .map(|(name, _)| name.to_owned()),
            mesos_bridge_name: settings.text_or("mesos_bridge_name", "mesos-bridge").to_owned(),
            // Both were checked to be ports.
            local_ports: (min as u16, max as u16),
            offered,
            bridge_network: settings.text_or("bridge_network", "bridge").to_owned(),
            network_prefixes: ["mesos_network_prefix", "docker_network_prefix"]
                .map(|key| settings.text_or(key, "").to_owned()),
            attaching: Attaching::new(settings, report),
        }
    }

    /// What a container network is called here: DC/OS has one of a name for either engine.
    pub(super) fn network(&self, engine: Engine, name: &str) -> String {
        let [mesos, docker] = &self.network_prefixes;
        format!("{}{name}", if engine == Engine::Docker { docker } else { mesos })
    }
}

/// Reads `80,31000-32000`.
fn ranges(text: &str) -> Option<Vec<(u16, u16)>> {
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
    let ranges = text.trim_matches(['[', ']']).split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (port(first)?, port(last)?);
        (first <= last).then_some((first, last))
    });
    ranges.collect()
}
