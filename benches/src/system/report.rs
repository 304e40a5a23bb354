//! What was measured, as a table for people and as JSON for programs.
//!
//! A ratio is taken within one round, where both legs ran within seconds of each other, and the
//! median of the rounds is shown. The hard constraint: a ratio of two medians is never shown; it
//! would compare different minutes of a machine whose speed swings.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::traffic::Traffic;

/// TCP through Portolan is at least this much of the bare copier.
pub const TCP_OF_COPIER_LEAST: f64 = 0.9;

/// TCP inside a network is at least this much of the kernel's bridge.
pub const TCP_OF_BRIDGE_LEAST: f64 = 0.7;

/// Masqueraded TCP is at least this much of the kernel's nftables.
pub const TCP_OF_MASQUERADE_LEAST: f64 = 0.85;

/// TCP from AF_XDP to a TAP is at least so many times what it is without gluing.
pub const TCP_OF_UNGLUED_LEAST: f64 = 2.0;

/// TCP through a tunnel between TAPs is at least this much of the kernel's with all its offloads.
pub const TCP_THROUGH_TUNNEL_LEAST: f64 = 0.5;

/// TCP through a tunnel by AF_XDP is at least this much of the kernel's by uplinks without
/// segmentation offloads.
pub const TCP_THROUGH_TUNNEL_OF_PLAIN_LEAST: f64 = 1.0;

/// Masqueraded UDP between veths by AF_XDP is at least so many times the kernel's.
pub const UDP_BY_XDP_OF_KERNEL_LEAST: f64 = 1.8;

/// What the packets cross.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// Two endpoints of one Portolan network.
    BridgePortolan,
    /// Two veth pairs on a kernel bridge.
    BridgeKernel,
    /// Two TAPs and a thread that copies frames.
    BridgeCopier,
    /// An endpoint, Portolan's masquerade, an uplink TAP.
    MasqueradePortolan,
    /// A veth pair, kernel routing with nftables masquerade, a veth pair.
    MasqueradeKernel,
    /// The same pairs, with Portolan between them by AF_XDP.
    MasqueradeXdp,
    /// As `MasqueradeKernel`, with the two ends on the CPUs that a worker leaves them.
    MasqueradeKernelBeside,
    /// From outside, by AF_XDP, to an endpoint behind a TAP: frames are glued.
    InboundGlued,
    /// The same with `glued = 1`.
    InboundUnglued,
    /// Two gateways with a VXLAN tunnel between TAPs, which super-frames cross whole.
    TunnelPortolan,
    /// Two kernel bridges with `vxlan` devices.
    TunnelKernel,
    /// Two gateways by AF_XDP with a tunnel over a veth: each segment is a packet there.
    TunnelXdp,
    /// As `TunnelKernel`, with the segmentation offloads of the uplinks off.
    TunnelKernelPlain,
}

impl Leg {
    /// Name in progress lines, JSON and errors.
    pub fn name(self) -> &'static str {
        match self {
            Leg::BridgePortolan => "bridge/portolan",
            Leg::BridgeKernel => "bridge/kernel",
            Leg::BridgeCopier => "bridge/copier",
            Leg::MasqueradePortolan => "masquerade/portolan",
            Leg::MasqueradeKernel => "masquerade/kernel",
            Leg::MasqueradeXdp => "masquerade/xdp",
            Leg::MasqueradeKernelBeside => "masquerade/kernel-beside",
            Leg::InboundGlued => "inbound/glued",
            Leg::InboundUnglued => "inbound/unglued",
            Leg::TunnelPortolan => "tunnel/portolan",
            Leg::TunnelKernel => "tunnel/kernel",
            Leg::TunnelXdp => "tunnel/xdp",
            Leg::TunnelKernelPlain => "tunnel/kernel-plain",
        }
    }

    /// True if Portolan is in the middle.
    pub(super) fn is_portolan(self) -> bool {
        !matches!(
            self,
            Leg::BridgeKernel
                | Leg::BridgeCopier
                | Leg::MasqueradeKernel
                | Leg::MasqueradeKernelBeside
                | Leg::TunnelKernel
                | Leg::TunnelKernelPlain
        )
    }

    /// True if this traffic is measured on it.
    pub fn carries(self, traffic: Traffic) -> bool {
        traffic == Traffic::Tcp
            || !matches!(
                self,
                Leg::InboundGlued
                    | Leg::InboundUnglued
                    | Leg::TunnelPortolan
                    | Leg::TunnelKernel
                    | Leg::TunnelXdp
                    | Leg::TunnelKernelPlain
            )
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The round, from 0. All legs of one round and traffic ran one after another.
    pub round: usize,
    /// What the packets crossed.
    pub leg: Leg,
    /// What was sent.
    pub traffic: Traffic,
    /// What the receiver got, in bit/s (TCP) or packets/s (UDP).
    pub received: f64,
    /// What the sender got rid of, in the same unit. UDP beyond `received` was dropped.
    pub sent: f64,
}

/// The machine and the settings: a figure without them means nothing.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Model name of the processor.
    pub processor: String,
    /// CPUs that this process may use.
    pub cpus: Vec<usize>,
    /// Kernel release.
    pub kernel: String,
    /// CPUs that Portolan's workers are pinned to. The copier has the last of them.
    pub worker_cpus: Vec<usize>,
    /// CPUs of sender and receiver beside Portolan and the copier. Beside the kernel they may use
    /// all of them, as it works on theirs.
    pub end_cpus: Vec<usize>,
    /// Portolan's idle policy.
    pub idle: String,
    /// Rounds.
    pub round_count: usize,
    /// Load before each measurement.
    pub warm_up: Duration,
    /// Length of each measurement.
    pub length: Duration,
}

/// The result of a whole benchmark.
#[derive(Clone, Debug)]
pub struct Report {
    /// Machine and settings.
    pub setting: Setting,
    /// Every measurement, in the order in which they were taken.
    pub samples: Vec<Sample>,
}

/// A ratio between two legs over all rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// Median of the rounds' ratios.
    pub median: f64,
    /// The lowest round.
    pub least: f64,
    /// The highest round.
    pub most: f64,
}

/// A ratio and the least that is wanted of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gate {
    /// The traffic, the case and the peer.
    pub what: &'static str,
    /// What was measured.
    pub median: f64,
    /// What is wanted.
    pub least: f64,
}

impl Gate {
    /// True if it is reached.
    pub fn is_met(&self) -> bool {
        self.median >= self.least
    }

    fn json(&self) -> Value {
        let Gate { what, median, least } = self;
        json!({ "what": what, "median": median, "least": least, "met": self.is_met() })
    }
}

/// One line of the table: a case and a traffic.
struct Row {
    case: &'static str,
    portolan: Leg,
    kernel: Leg,
    traffic: Traffic,
}

const ROWS: [Row; 9] = [
    row("bridge", Leg::BridgePortolan, Leg::BridgeKernel, Traffic::Tcp),
    row("bridge", Leg::BridgePortolan, Leg::BridgeKernel, Traffic::Udp64),
    row("masquerade", Leg::MasqueradePortolan, Leg::MasqueradeKernel, Traffic::Tcp),
    row("masquerade", Leg::MasqueradePortolan, Leg::MasqueradeKernel, Traffic::Udp64),
    row("masquerade, af_xdp", Leg::MasqueradeXdp, Leg::MasqueradeKernelBeside, Traffic::Tcp),
    row("masquerade, af_xdp", Leg::MasqueradeXdp, Leg::MasqueradeKernelBeside, Traffic::Udp64),
    // Here the peer is Portolan as well, without gluing.
    row("af_xdp to a tap, peer unglued", Leg::InboundGlued, Leg::InboundUnglued, Traffic::Tcp),
    row("tunnel", Leg::TunnelPortolan, Leg::TunnelKernel, Traffic::Tcp),
    row("tunnel, af_xdp, peer plain", Leg::TunnelXdp, Leg::TunnelKernelPlain, Traffic::Tcp),
];

const fn row(case: &'static str, portolan: Leg, kernel: Leg, traffic: Traffic) -> Row {
    Row { case, portolan, kernel, traffic }
}

impl Report {
    /// The median rate of a leg, in the unit of [`Sample::received`]; none if it did not run.
    pub fn median(&self, leg: Leg, traffic: Traffic) -> Option<f64> {
        let of_leg = |sample: &&Sample| sample.leg == leg && sample.traffic == traffic;
        median(self.samples.iter().filter(of_leg).map(|sample| sample.received).collect())
    }

    /// `leg` divided by `peer`, round by round; none if one of them did not run.
    pub fn ratio(&self, leg: Leg, peer: Leg, traffic: Traffic) -> Option<Ratio> {
        let find = |round: usize, leg: Leg| {
            let same = |sample: &&Sample| {
                (sample.round, sample.leg, sample.traffic) == (round, leg, traffic)
            };
            self.samples.iter().find(same).map(|sample| sample.received)
        };
        let ratios: Vec<f64> = (0..self.setting.round_count)
            .filter_map(|round| Some(find(round, leg)? / find(round, peer)?))
            .collect();
        Some(Ratio {
            least: ratios.iter().copied().reduce(f64::min)?,
            most: ratios.iter().copied().reduce(f64::max)?,
            median: median(ratios)?,
        })
    }

    /// What is wanted of the ratios, and whether it was met, of all that ran.
    pub fn gates(&self) -> Vec<Gate> {
        use Leg::*;
        let (tcp, udp) = (Traffic::Tcp, Traffic::Udp64);
        let all = [
            ("tcp, bridge, of the copier", BridgePortolan, BridgeCopier, tcp, TCP_OF_COPIER_LEAST),
            (
                "tcp, masquerade, of the copier",
                MasqueradePortolan,
                BridgeCopier,
                tcp,
                TCP_OF_COPIER_LEAST,
            ),
            ("tcp, bridge, of the kernel", BridgePortolan, BridgeKernel, tcp, TCP_OF_BRIDGE_LEAST),
            (
                "tcp, masquerade, of the kernel",
                MasqueradePortolan,
                MasqueradeKernel,
                tcp,
                TCP_OF_MASQUERADE_LEAST,
            ),
            (
                "tcp, af_xdp to a tap, of not gluing",
                InboundGlued,
                InboundUnglued,
                tcp,
                TCP_OF_UNGLUED_LEAST,
            ),
            (
                "tcp, tunnel, of the kernel with its offloads",
                TunnelPortolan,
                TunnelKernel,
                tcp,
                TCP_THROUGH_TUNNEL_LEAST,
            ),
            (
                "tcp, tunnel by af_xdp, of the kernel without segmentation offloads",
                TunnelXdp,
                TunnelKernelPlain,
                tcp,
                TCP_THROUGH_TUNNEL_OF_PLAIN_LEAST,
            ),
            (
                "udp-64, masquerade by af_xdp, of the kernel",
                MasqueradeXdp,
                MasqueradeKernelBeside,
                udp,
                UDP_BY_XDP_OF_KERNEL_LEAST,
            ),
        ];
        let gate = |(what, leg, peer, traffic, least)| {
            let median = self.ratio(leg, peer, traffic)?.median;
            Some(Gate { what, median, least })
        };
        all.into_iter().filter_map(gate).collect()
    }

    /// The table, in Markdown.
    pub fn markdown(&self) -> String {
        let mut text = self.setting.markdown();
        text.push_str(
            "| case | traffic | unit | Portolan | kernel | copier | of kernel | of copier |\n\
             | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |\n",
        );
        for row in &ROWS {
            let rate = |leg| match self.median(leg, row.traffic) {
                Some(rate) => format!("{:.2}", row.traffic.scaled(rate)),
                None => "–".to_owned(),
            };
            let ratio = |peer| match self.ratio(row.portolan, peer, row.traffic) {
                Some(Ratio { median, least, most }) => {
                    format!("**{median:.2}** ({least:.2}–{most:.2})")
                }
                None => "–".to_owned(),
            };
            let line = [
                row.case.to_owned(),
                row.traffic.name().to_owned(),
                row.traffic.unit().to_owned(),
                rate(row.portolan),
                rate(row.kernel),
                rate(Leg::BridgeCopier),
                ratio(row.kernel),
                ratio(Leg::BridgeCopier),
            ];
            let _ = writeln!(text, "| {} |", line.join(" | "));
        }
        text.push('\n');
        for gate in self.gates() {
            let Gate { what, median, least, .. } = gate;
            let verdict = if gate.is_met() { "met" } else { "not met" };
            let _ = writeln!(text, "{what}: {median:.2}, at least {least}: {verdict}.");
        }
        text
    }

    /// Everything, each sample included. Rates are bit/s (tcp) and packets/s (udp-64).
    pub fn json(&self) -> Value {
        let rows = ROWS.iter().map(|row| {
            let ratio = |peer| match self.ratio(row.portolan, peer, row.traffic) {
                Some(Ratio { median, least, most }) => {
                    json!({ "median": median, "least": least, "most": most })
                }
                None => Value::Null,
            };
            json!({
                "case": row.case,
                "traffic": row.traffic.name(),
                "portolan": self.median(row.portolan, row.traffic),
                "kernel": self.median(row.kernel, row.traffic),
                "copier": self.median(Leg::BridgeCopier, row.traffic),
                "of_kernel": ratio(row.kernel),
                "of_copier": ratio(Leg::BridgeCopier),
            })
        });
        let samples = self.samples.iter().map(|sample| {
            json!({
                "round": sample.round,
                "leg": sample.leg.name(),
                "traffic": sample.traffic.name(),
                "received": sample.received,
                "sent": sample.sent,
            })
        });
        json!({
            "setting": self.setting.json(),
            "rows": rows.collect::<Vec<_>>(),
            "gates": self.gates().iter().map(Gate::json).collect::<Vec<_>>(),
            "samples": samples.collect::<Vec<_>>(),
        })
    }
}

impl Setting {
    fn markdown(&self) -> String {
        let list = |cpus: &[usize]| cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(" ");
        format!(
            "Machine: {}, {} CPUs, Linux {}. Portolan: workers on CPU {}, idle {}; copier on CPU \
             {}; the two ends on CPU {}, of the kernel's legs on any.\n{} rounds of {:.1} s after \
             {:.1} s of warm-up. Rates are medians; ratios are the median of the rounds' ratios \
             (lowest–highest).\n\n",
            self.processor,
            self.cpus.len(),
            self.kernel,
            list(&self.worker_cpus),
            self.idle,
            self.worker_cpus.last().map_or_else(|| "-".to_owned(), usize::to_string),
            list(&self.end_cpus),
            self.round_count,
            self.length.as_secs_f64(),
            self.warm_up.as_secs_f64(),
        )
    }

    fn json(&self) -> Value {
        json!({
            "processor": self.processor,
            "cpu_count": self.cpus.len(),
            "kernel": self.kernel,
            "worker_cpus": self.worker_cpus,
            "end_cpus": self.end_cpus,
            "idle": self.idle,
            "round_count": self.round_count,
            "warm_up_s": self.warm_up.as_secs_f64(),
            "length_s": self.length.as_secs_f64(),
        })
    }
}

/// The median, or the mean of the two in the middle; none of nothing.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let high = *values.get(middle)?;
    Some(if values.len() % 2 == 1 { high } else { (values[middle - 1] + high) / 2.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(rates: &[(usize, Leg, f64)]) -> Report {
        let setting = Setting {
            processor: "test".to_owned(),
            cpus: vec![0, 1],
            kernel: "6.18".to_owned(),
            worker_cpus: vec![1],
            end_cpus: vec![0],
            idle: "adaptive".to_owned(),
            round_count: 3,
            warm_up: Duration::from_millis(200),
            length: Duration::from_secs(1),
        };
        let sample = |&(round, leg, received): &(usize, Leg, f64)| Sample {
            round,
            leg,
            traffic: Traffic::Tcp,
            received,
            sent: received,
        };
        Report { setting, samples: rates.iter().map(sample).collect() }
    }

    #[test]
    fn median_of_even_count_is_the_mean_of_the_middle() {
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn ratio_is_taken_within_each_round() {
        // The machine slows down tenfold after the first round; the ratio does not see it.
        let report = report(&[
            (0, Leg::BridgePortolan, 90e9),
            (0, Leg::BridgeCopier, 100e9),
            (1, Leg::BridgeCopier, 10e9),
            (1, Leg::BridgePortolan, 8e9),
            (2, Leg::BridgePortolan, 19e9),
            (2, Leg::BridgeCopier, 20e9),
        ]);
        let ratio = report.ratio(Leg::BridgePortolan, Leg::BridgeCopier, Traffic::Tcp);
        assert_eq!(ratio, Some(Ratio { median: 0.9, least: 0.8, most: 0.95 }));
        assert_eq!(report.median(Leg::BridgeCopier, Traffic::Tcp), Some(20e9));
    }

    #[test]
    fn legs_that_did_not_run_are_shown_as_missing() {
        let report = report(&[(0, Leg::BridgeKernel, 1e9), (0, Leg::BridgeCopier, 2e9)]);
        assert_eq!(report.gates(), []);
        let text = report.markdown();
        assert!(text.contains("| bridge | tcp | Gbit/s | – | 1.00 | 2.00 | – | – |"), "{text}");
        assert_eq!(report.json()["rows"][0]["of_copier"], Value::Null);
    }

    #[test]
    fn a_gate_is_met_by_the_median_of_its_ratio() {
        let rates = |masquerade| {
            let rates = [
                (0, Leg::BridgePortolan, 95.0),
                (0, Leg::BridgeCopier, 100.0),
                (0, Leg::MasqueradePortolan, masquerade),
            ];
            let gates = report(&rates).gates();
            gates.iter().map(Gate::is_met).collect::<Vec<_>>()
        };
        assert_eq!(rates(90.0), [true, true]);
        assert_eq!(rates(89.0), [true, false]);
    }

    #[test]
    fn every_gate_is_stated_once_its_legs_ran() {
        let legs = super::super::legs(true).into_iter();
        let rates: Vec<_> = legs.map(|leg| (0, leg, 1.0)).collect();
        let mut report = report(&rates);
        let udp = |sample: &Sample| Sample { traffic: Traffic::Udp64, ..*sample };
        report.samples.extend(report.samples.clone().iter().map(udp));
        assert_eq!(report.gates().len(), 8);
        let text = report.markdown();
        assert!(text.contains("of not gluing: 1.00, at least 2: not met."), "{text}");
    }
}
