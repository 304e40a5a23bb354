//! CNI: network configurations of all spec versions, single (`.conf`) and lists (`.conflist`).
//!
//! A configuration is a network: its first plugin says how members are connected, its IPAM which
//! addresses there are, the plugins behind it what else happens. Each part is checked by the rules
//! of the reference plugins and in their words (`plugins`, `ipam`), then said in the native schema
//! (`network`). The one hard constraint: a plugin that is not known is reported, not skipped.

mod ipam;
mod network;
mod plugins;

use super::fragment::Fragment;
use super::settings::Settings;
use super::tree::Node;
use super::{Purpose, Source, json};
use crate::report::Report;
use ipam::Ipam;

/// Versions of the specification.
const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The version of a configuration that names none.
const VERSION_DEFAULT: &str = "0.1.0";

const LIST: [&str; 8] = [
    "cniVersion",
    "cniVersions",
    "name",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
    "plugins",
    "args",
];

/// A network configuration that is valid.
struct Network<'n> {
    name: String,
    node: &'n Node,
    /// The plugin that connects members.
    main: &'n Node,
    main_type: &'n str,
    /// What it does for the plugins behind it.
    chained: Vec<(&'n str, &'n Node)>,
    ipam: Ipam,
}

/// Reads files.
pub(super) fn read(
    sources: &[Source<'_>],
    _settings: &Settings,
    purpose: Purpose,
    report: &mut Report,
) -> Fragment {
    let mut fragment = Fragment::default();
    for source in sources {
        let Some(node) = json::read(source.text, source.root, report) else { continue };
        let before = report.error_count();
        let Some(network) = Network::read(&node, report) else { continue };
        if report.error_count() == before {
            network.add_to(&mut fragment, purpose, report);
        }
    }
    fragment
}

impl<'n> Network<'n> {
    fn read(node: &'n Node, report: &mut Report) -> Option<Network<'n>> {
        node.map(report)?;
        let version = version(node, report);
        let name = name(node, report);
        let is_list = node.get("plugins").is_some();
        let plugins: Vec<&Node> = if is_list {
            node.warn_unknown(&LIST, report);
            for key in ["disableCheck", "disableGC", "loadOnlyInlinedPlugins"] {
                node.flag_at(key, report);
            }
            node.list_at("plugins", report)?.iter().collect()
        } else {
            if node.get("type").is_none() {
                let problem = report.error(node.at, "error parsing configuration: missing 'type'");
                problem.hint("a list of plugins has the key plugins");
                return None;
            }
            if version >= "1.0.0" {
                let problem =
                    report.warning(node.at, format!("{version} has lists of plugins alone"));
                problem.hint("put the plugin into plugins of a .conflist");
            }
            vec![node]
        };
        if plugins.is_empty() {
            let at = node.get("plugins").map_or(node.at, |plugins| plugins.at);
            report.error(at, "error parsing configuration list: no plugins in list");
            return None;
        }
        let mut typed = Vec::new();
        for (index, plugin) in plugins.into_iter().enumerate() {
            typed.extend(plugins::check(plugin, index > 0, is_list, report));
        }
        let mut typed = typed.into_iter();
        let (main_type, main) = typed.next()?;
        let (main_type, main) = delegated(main_type, main, report)?;
        let ipam = Ipam::read(main, version, report)?;
        Some(Network { name: name?, node, main, main_type, chained: typed.collect(), ipam })
    }
}

/// A port mapper of Mesos has the plugin that connects inside.
fn delegated<'n>(
    kind: &'n str,
    plugin: &'n Node,
    report: &mut Report,
) -> Option<(&'n str, &'n Node)> {
    if kind != "mesos-cni-port-mapper" {
        return Some((kind, plugin));
    }
    let Some(delegate) = plugin.map_at("delegate", report) else {
        report.error(plugin.at, "delegate is missing");
        return None;
    };
    plugins::check(delegate, false, true, report)
}

fn version<'n>(node: &'n Node, report: &mut Report) -> &'n str {
    let Some(given) = node.get("cniVersion") else { return VERSION_DEFAULT };
    let Some(version) = given.text(report) else { return VERSION_DEFAULT };
    if VERSIONS.contains(&version) {
        return version;
    }
    let known: Vec<String> = VERSIONS.iter().map(|version| format!("{version:?}")).collect();
    let supported = known.join(" ");
    let message =
        format!("incompatible CNI versions: config is {version:?}, plugin supports [{supported}]");
    report.error(given.at, message);
    VERSION_DEFAULT
}

fn name(node: &Node, report: &mut Report) -> Option<String> {
    let Some(given) = node.get("name") else {
        report.error(node.at, "missing network name");
        return None;
    };
    let name = given.text(report)?;
    if name.is_empty() {
        report.error(given.at, "missing network name");
        return None;
    }
    let goes_on = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(goes_on) {
        report.error(given.at, "invalid characters found in network name");
        return None;
    }
    Some(name.to_owned())
}
