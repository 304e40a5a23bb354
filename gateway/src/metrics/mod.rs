//! The metrics as text, for Prometheus and its relatives.
//!
//! Values are read when somebody asks; nothing is kept here. One content in two formats:
//! OpenMetrics 1.0 for who asks for it, else the older text of Prometheus, which everybody reads.
//! The one hard constraint: what is in [`METRICS`] is what is shown, with these names, labels and
//! texts, so that the reference in `docs/metrics.md` cannot be wrong.

mod list;

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

pub use self::list::METRICS;
use crate::control::StateView;

/// Whether a value may fall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, but for a start of the daemon.
    Counter,
    /// It is what it is now.
    Gauge,
}

/// One metric.
#[derive(Clone, Copy)]
pub struct Metric {
    /// Its name; counters are shown with `_total` after it.
    pub name: &'static str,
    /// Whether it may fall.
    pub kind: Kind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
    read: fn(&StateView, &mut Samples),
}

impl Metric {
    /// The name under which samples are shown.
    pub fn shown_name(&self) -> String {
        match self.kind {
            Kind::Counter => format!("{}_total", self.name),
            Kind::Gauge => self.name.to_owned(),
        }
    }
}

impl fmt::Debug for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metric").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A value.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Value {
    Count(u64),
    Number(f64),
}

/// Values of one metric, each with its labels.
#[derive(Debug, Default)]
struct Samples(Vec<(Vec<String>, Value)>);

impl Samples {
    fn count<const N: usize>(&mut self, labels: [&str; N], value: u64) {
        self.push(labels, Value::Count(value));
    }

    fn number<const N: usize>(&mut self, labels: [&str; N], value: f64) {
        self.push(labels, Value::Number(value));
    }

    fn push<const N: usize>(&mut self, labels: [&str; N], value: Value) {
        self.0.push((labels.map(str::to_owned).to_vec(), value));
    }
}

/// How the text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format of Prometheus, version 0.0.4.
    Classic,
}

impl Format {
    /// The format that a client asks for by its `Accept`.
    pub fn wanted(accept: &str) -> Format {
        match accept.contains("application/openmetrics-text") {
            true => Format::OpenMetrics,
            false => Format::Classic,
        }
    }

    /// What the answer says that it is.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// All metrics as text.
pub fn text(state: &StateView, format: Format) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot(state.clone())));
    let mut out = String::new();
    text::encode(&mut out, &registry).expect("a string takes any text");
    match format {
        Format::OpenMetrics => out,
        Format::Classic => classic(&out),
    }
}

/// From OpenMetrics to the older format, which names a counter's samples, not its family, and has
/// neither units nor an end.
fn classic(open: &str) -> String {
    let counters: std::collections::HashSet<&str> = METRICS
        .iter()
        .filter(|metric| metric.kind == Kind::Counter)
        .map(|metric| metric.name)
        .collect();
    let mut out = String::with_capacity(open.len() + 64 * METRICS.len());
    for line in open.lines().filter(|line| *line != "# EOF") {
        let words = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
        match words.and_then(|words| words.split_once(' ')) {
            Some((name, rest)) if counters.contains(name) => {
                out.extend([&line[..7], name, "_total ", rest]);
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

/// What the encoder asks for the values.
#[derive(Debug)]
struct Snapshot(StateView);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for metric in METRICS {
            let mut samples = Samples::default();
            (metric.read)(&self.0, &mut samples);
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let mut family = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
            for (labels, value) in samples.0 {
                assert_eq!(labels.len(), metric.labels.len(), "{}", metric.name);
                if labels.is_empty() {
                    One(metric.kind, value).write(&mut family)?;
                    continue;
                }
                let labels: Vec<(&str, String)> =
                    metric.labels.iter().copied().zip(labels).collect();
                One(metric.kind, value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// One value.
struct One(Kind, Value);

impl One {
    fn write(&self, encoder: &mut MetricEncoder) -> fmt::Result {
        match (self.0, self.1) {
            (Kind::Counter, Value::Count(value)) => {
                encoder.encode_counter::<NoLabelSet, u64, u64>(&value, None)
            }
            (Kind::Counter, Value::Number(value)) => {
                encoder.encode_counter::<NoLabelSet, f64, u64>(&value, None)
            }
            (Kind::Gauge, Value::Count(value)) => encoder.encode_gauge(&value),
            (Kind::Gauge, Value::Number(value)) => encoder.encode_gauge(&value),
        }
    }
}

impl EncodeMetric for One {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        self.write(&mut encoder)
    }

    fn metric_type(&self) -> MetricType {
        match self.0 {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Link;
    use crate::waker::Waker;
    use config::Config;
    use engine::{Counters, DropReason, PortId, WorkerId};
    use std::collections::{BTreeMap, BTreeSet, HashSet};
    use std::sync::Arc;
    use std::time::{Instant, SystemTime};

    /// The shipped example with one worker, and a network whose name nobody would choose.
    fn state() -> StateView {
        let text = include_str!("../../../examples/two-networks.toml");
        let config = Config::parse("example", text).unwrap();
        let mut tables = config::compile(&config, None);
        let network = tables.networks[1].as_mut().unwrap();
        Arc::make_mut(network).name = HOSTILE.to_owned();
        let counters = Counters::new(0);
        counters.reserve(&tables);
        counters.dropped(DropReason::NoRoute).add(7);
        counters.port(PortId(0)).unwrap().rx_bytes.add(u64::MAX / 3);
        counters.worker.asleep_ns.add(1_500_000_000);
        let link = Link {
            id: WorkerId(0),
            cpu: 1,
            counters,
            commands: crossbeam::channel::unbounded().0,
            wakers: [Waker::new().unwrap()].into(),
        };
        StateView {
            config: Arc::new(config),
            tables: Arc::new(tables),
            workers: vec![link],
            source: None,
            started_at: SystemTime::now(),
            started: Instant::now(),
            ports_down: BTreeSet::new(),
            devices: Default::default(),
            host: Default::default(),
            reloads: Default::default(),
        }
    }

    const HOSTILE: &str = "a\"b\\c\nd} 1";

    /// Samples by name and labels, from text that is read as strictly as a scraper may.
    fn parse(text: &str, counters_are_families: bool) -> BTreeMap<(String, String), String> {
        let (mut samples, mut kinds) = (BTreeMap::new(), BTreeMap::new());
        let mut helped = HashSet::new();
        for line in text.lines().filter(|line| *line != "# EOF") {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(helped.insert(name.to_owned()) && help.ends_with('.'), "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(helped.contains(name) && ["counter", "gauge"].contains(&kind), "{line}");
                assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
            } else {
                let end = line.find(['{', ' ']).unwrap();
                let (name, rest) = line.split_at(end);
                let (labels, value) = labels(rest);
                let family = match counters_are_families {
                    true => name.strip_suffix("_total").unwrap_or(name),
                    false => name,
                };
                let kind = kinds.get(family).unwrap_or_else(|| panic!("no type: {line}"));
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                let value = value.strip_prefix(' ').unwrap();
                assert!(value.parse::<f64>().unwrap() >= 0.0, "{line}");
                let twice = samples.insert((name.to_owned(), labels), value.to_owned());
                assert!(twice.is_none(), "{line}");
            }
        }
        samples
    }

    /// The labels behind a name, unescaped, and what follows them.
    fn labels(text: &str) -> (String, &str) {
        let Some(inner) = text.strip_prefix('{') else { return (String::new(), text) };
        let (mut out, mut quoted) = (String::new(), false);
        let mut chars = inner.char_indices();
        while let Some((index, character)) = chars.next() {
            match character {
                '"' => quoted = !quoted,
                '\\' => match chars.next().unwrap().1 {
                    'n' => out.push('\n'),
                    other => out.push(other),
                },
                '}' if !quoted => return (out, &inner[index + 1..]),
                other => out.push(other),
            }
        }
        panic!("labels without an end: {text}");
    }

    #[test]
    fn both_formats_say_the_same_and_say_it_rightly() {
        let state = state();
        let open = text(&state, Format::OpenMetrics);
        assert!(open.ends_with("\n# EOF\n"));
        let open = parse(&open, true);
        let classic = parse(&text(&state, Format::Classic), false);
        assert_eq!(open, classic);
        let value = |name: &str, labels: &str| {
            open.get(&(name.to_owned(), labels.to_owned())).unwrap_or_else(|| panic!("{name}"))
        };
        assert_eq!(value("portolan_dropped_packets_total", "reason=no_route,worker=0"), "7");
        let wan = "port=wan,endpoint=,network=";
        assert_eq!(value("portolan_port_rx_bytes_total", wan), &(u64::MAX / 3).to_string());
        assert_eq!(value("portolan_worker_asleep_seconds_total", "worker=0"), "1.5");
        value("portolan_network_endpoints", &format!("network={HOSTILE}"));
    }

    #[test]
    fn every_metric_is_shown_and_stands_in_the_reference() {
        let shown = text(&state(), Format::Classic);
        let reference = include_str!("../../../docs/metrics.md");
        let mut lines: Vec<String> = Vec::new();
        for metric in METRICS {
            let name = metric.shown_name();
            assert!(shown.contains(&format!("# HELP {name} {}\n", metric.help)), "{name}");
            let kind = format!("{:?}", metric.kind).to_lowercase();
            let labels: Vec<String> =
                metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let labels = if labels.is_empty() { "-".to_owned() } else { labels.join(", ") };
            lines.push(format!("| `{name}` | {kind} | {labels} | {} |", metric.help));
        }
        let table: Vec<&str> =
            reference.lines().filter(|line| line.starts_with("| `portolan_")).collect();
        assert_eq!(table, lines, "docs/metrics.md should have:\n{}", lines.join("\n"));
    }
}
