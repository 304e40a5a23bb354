//! Every metric: its name, its labels, what it means, where its value is.
//!
//! The one hard constraint: a name, once given, stays; units are in the names.

use std::time::UNIX_EPOCH;

use engine::DropReason;

use super::Kind::{Counter, Gauge};
use super::{Kind, Metric, Samples};
use crate::api::model::Traffic;
use crate::api::{Behind, behind_ports, driver_of, of_network, of_port};
use crate::control::StateView;
use crate::view::Link;

/// Labels of what is counted per port.
const PORT: &[&str] = &["port", "endpoint", "network"];

/// What each value is.
const fn metric(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&StateView, &mut Samples),
) -> Metric {
    Metric { name, kind, labels, help, read }
}

/// Every metric, in the order in which they are shown.
pub const METRICS: &[Metric] = &[
    metric(
        "portolan_build_info",
        Gauge,
        &["version"],
        "Always 1; the label says which version runs.",
        |_, out| out.count([env!("CARGO_PKG_VERSION")], 1),
    ),
    metric(
        "portolan_start_time_seconds",
        Gauge,
        &[],
        "When the gateway started, in seconds since 1970.",
        |state, out| {
            let since = state.started_at.duration_since(UNIX_EPOCH);
            out.number([], since.map_or(0.0, |since| since.as_secs_f64()));
        },
    ),
    metric(
        "portolan_config_generation",
        Gauge,
        &[],
        "Number of the tables in force; grows with every change of the config.",
        |state, out| out.count([], state.tables.generation),
    ),
    metric(
        "portolan_config_reloads",
        Counter,
        &["result"],
        "Reloads that were applied, and that were refused and changed nothing.",
        |state, out| {
            out.count(["applied"], state.reloads.applied);
            out.count(["refused"], state.reloads.refused);
        },
    ),
    metric("portolan_networks", Gauge, &[], "Networks in the config.", |state, out| {
        out.count([], state.config.networks.len() as u64);
    }),
    metric("portolan_endpoints", Gauge, &[], "Endpoints in the config.", |state, out| {
        out.count([], state.config.endpoints.len() as u64);
    }),
    metric(
        "portolan_published_ranges",
        Gauge,
        &[],
        "Published ranges of ports, per address family.",
        |state, out| out.count([], state.tables.publish.entries().len() as u64),
    ),
    metric(
        "portolan_flows_limit",
        Gauge,
        &[],
        "Flows of each address family that there is room for: `limits.flows`.",
        |state, out| out.count([], state.tables.limits.flows.into()),
    ),
    metric(
        "portolan_stations_limit",
        Gauge,
        &[],
        "Learnt stations that there is room for: `limits.fdb`.",
        |state, out| out.count([], state.tables.limits.fdb.into()),
    ),
    metric(
        "portolan_port_up",
        Gauge,
        PORT,
        "1: its device is there; 0: it is gone.",
        |state, out| {
            ports(state, |labels, behind| {
                out.count(labels, u64::from(!state.ports_down.contains(&behind.port())));
            });
        },
    ),
    metric(
        "portolan_port_info",
        Gauge,
        &["port", "driver", "mode"],
        "1: how packets go in and out: `tap`, or `xdp` with `native` or `generic` and `copy`, \
         `copy with relay` or `zero-copy`.",
        |state, out| {
            let live = state.devices.by_port();
            ports(state, |[port, ..], behind| {
                let mode = live.get(&behind.port()).and_then(|seen| seen.mode);
                let mode = mode.map(|mode| mode.to_string()).unwrap_or_default();
                out.count([port, driver_of(behind), &mode], 1);
            });
        },
    ),
    metric(
        "portolan_port_mtu_bytes",
        Gauge,
        PORT,
        "Largest IP packet that may leave by the port.",
        |state, out| {
            ports(state, |labels, behind| {
                let mtu = state.tables.port(behind.port()).map_or(0, |port| port.mtu);
                out.count(labels, mtu.into());
            });
        },
    ),
    metric(
        "portolan_port_rx_packets",
        Counter,
        PORT,
        "Packets received by the port.",
        |state, out| traffic(state, out, |traffic| traffic.rx_packets),
    ),
    metric(
        "portolan_port_rx_bytes",
        Counter,
        PORT,
        "Bytes received by the port, Ethernet header included.",
        |state, out| traffic(state, out, |traffic| traffic.rx_bytes),
    ),
    metric(
        "portolan_port_rx_dropped_packets",
        Counter,
        PORT,
        "Packets received by the port and dropped later, under whatever reason.",
        |state, out| traffic(state, out, |traffic| traffic.rx_dropped),
    ),
    metric("portolan_port_tx_packets", Counter, PORT, "Packets sent by the port.", |state, out| {
        traffic(state, out, |traffic| traffic.tx_packets);
    }),
    metric(
        "portolan_port_tx_bytes",
        Counter,
        PORT,
        "Bytes sent by the port, Ethernet header included.",
        |state, out| traffic(state, out, |traffic| traffic.tx_bytes),
    ),
    metric(
        "portolan_port_tx_dropped_packets",
        Counter,
        PORT,
        "Packets that were to leave by the port, which took no more or is gone.",
        |state, out| traffic(state, out, |traffic| traffic.tx_dropped),
    ),
    metric(
        "portolan_network_endpoints",
        Gauge,
        &["network"],
        "Endpoints that are members of the network.",
        |state, out| {
            for network in state.tables.networks.iter().flatten() {
                out.count([&network.name], network.endpoint_count() as u64);
            }
        },
    ),
    metric(
        "portolan_network_rx_packets",
        Counter,
        &["network"],
        "Packets received by the network's ports, those that are gone included.",
        |state, out| networks(state, out, |traffic| traffic.rx_packets),
    ),
    metric(
        "portolan_network_rx_bytes",
        Counter,
        &["network"],
        "Bytes received by the network's ports, those that are gone included.",
        |state, out| networks(state, out, |traffic| traffic.rx_bytes),
    ),
    metric(
        "portolan_network_rx_dropped_packets",
        Counter,
        &["network"],
        "Packets received by the network's ports and dropped later, those that are gone included.",
        |state, out| networks(state, out, |traffic| traffic.rx_dropped),
    ),
    metric(
        "portolan_network_tx_packets",
        Counter,
        &["network"],
        "Packets sent by the network's ports, those that are gone included.",
        |state, out| networks(state, out, |traffic| traffic.tx_packets),
    ),
    metric(
        "portolan_network_tx_bytes",
        Counter,
        &["network"],
        "Bytes sent by the network's ports, those that are gone included.",
        |state, out| networks(state, out, |traffic| traffic.tx_bytes),
    ),
    metric(
        "portolan_network_tx_dropped_packets",
        Counter,
        &["network"],
        "Packets that the network's ports could not send, those that are gone included.",
        |state, out| networks(state, out, |traffic| traffic.tx_dropped),
    ),
    metric(
        "portolan_stage_settled_packets",
        Counter,
        &["stage", "worker"],
        "First packets whose fate the stage settled; `forward`: none of them objected.",
        |state, out| {
            workers(state, |id, link| {
                for (stage, count) in link.counters.stages() {
                    out.count([stage, id], count);
                }
            });
        },
    ),
    metric(
        "portolan_stage_dropped_packets",
        Counter,
        &["stage", "reason", "worker"],
        "First packets that the stage refused; they are in portolan_dropped_packets, too.",
        |state, out| {
            workers(state, |id, link| {
                for (stage, reason, count) in link.counters.stage_drops() {
                    out.count([stage, reason.name(), id], count);
                }
            });
        },
    ),
    metric(
        "portolan_policy_rule_hits",
        Counter,
        &["order", "action", "rule"],
        "How often the rule decided: connections let in, or packets refused.",
        |state, out| {
            for (index, rule) in state.config.policy.iter().enumerate() {
                let (order, text) = ((index + 1).to_string(), rule.to_string());
                let (action, about) = text.split_once(' ').expect("a rule begins with its action");
                out.count([&order, action, about], state.tables.policy.hits(index));
            }
        },
    ),
    metric(
        "portolan_dropped_packets",
        Counter,
        &["reason", "worker"],
        "Packets dropped, by reason; the README explains each.",
        |state, out| {
            workers(state, |id, link| {
                for &reason in DropReason::ALL {
                    out.count([reason.name(), id], link.counters.dropped(reason).get());
                }
            });
        },
    ),
    metric(
        "portolan_worker_cpu",
        Gauge,
        &["worker"],
        "CPU that the worker is pinned to.",
        |state, out| workers(state, |id, link| out.count([id], link.cpu as u64)),
    ),
    metric(
        "portolan_worker_turns",
        Counter,
        &["worker"],
        "Turns of the worker; one that sleeps makes at least one per second.",
        |state, out| workers(state, |id, link| out.count([id], link.counters.worker.turns.get())),
    ),
    metric(
        "portolan_worker_asleep_seconds",
        Counter,
        &["worker"],
        "Time that the worker slept because nothing waited.",
        |state, out| {
            workers(state, |id, link| {
                out.number([id], link.counters.worker.asleep_ns.get() as f64 / 1e9);
            });
        },
    ),
    metric(
        "portolan_worker_hit_packets",
        Counter,
        &["worker"],
        "Packets whose decision was known.",
        |state, out| workers(state, |id, link| out.count([id], link.counters.worker.hits.get())),
    ),
    metric(
        "portolan_worker_missed_packets",
        Counter,
        &["worker"],
        "Packets that the stages decided.",
        |state, out| workers(state, |id, link| out.count([id], link.counters.worker.misses.get())),
    ),
    metric(
        "portolan_worker_flooded_packets",
        Counter,
        &["worker"],
        "Packets of which every other member of a network got a copy.",
        |state, out| workers(state, |id, link| out.count([id], link.counters.worker.floods.get())),
    ),
    metric(
        "portolan_worker_answers",
        Counter,
        &["worker"],
        "Answers of the gateway's own: ARP, ND, echo, ICMP errors, resets.",
        |state, out| workers(state, |id, link| out.count([id], link.counters.worker.answers.get())),
    ),
    metric(
        "portolan_worker_handed_over_packets",
        Counter,
        &["worker"],
        "Packets handed over to another worker, which owns their flow.",
        |state, out| {
            workers(state, |id, link| out.count([id], link.counters.worker.handed_over.get()));
        },
    ),
    metric(
        "portolan_worker_cut_packets",
        Counter,
        &["worker"],
        "Super-frames cut because a port could not take them whole.",
        |state, out| workers(state, |id, link| out.count([id], link.counters.worker.cuts.get())),
    ),
    metric(
        "portolan_worker_glued_packets",
        Counter,
        &["worker"],
        "Packets that became part of a super-frame for a port that takes such ones.",
        |state, out| workers(state, |id, link| out.count([id], link.counters.worker.glued.get())),
    ),
    metric(
        "portolan_worker_revalidated_flows",
        Counter,
        &["worker"],
        "Flows that were decided again after a change of what they depend on.",
        |state, out| {
            workers(state, |id, link| out.count([id], link.counters.worker.revalidated.get()));
        },
    ),
    metric(
        "portolan_worker_expired_flows",
        Counter,
        &["worker"],
        "Flows that ended by idle time.",
        |state, out| {
            workers(state, |id, link| out.count([id], link.counters.worker.flows_expired.get()));
        },
    ),
    metric(
        "portolan_worker_evicted_flows",
        Counter,
        &["worker"],
        "Flows that ended, half-open or idle, to make room for others.",
        |state, out| {
            workers(state, |id, link| out.count([id], link.counters.worker.flows_evicted.get()));
        },
    ),
    metric(
        "portolan_worker_paths",
        Gauge,
        &["worker"],
        "Destinations whose path MTU the worker knows from ICMP errors; all workers know the same.",
        |state, out| workers(state, |id, link| out.count([id], link.counters.worker.paths.get())),
    ),
    metric(
        "portolan_worker_learnt_paths",
        Counter,
        &["worker"],
        "ICMP errors from which the path MTU of a destination was learnt.",
        |state, out| {
            workers(state, |id, link| out.count([id], link.counters.worker.paths_learnt.get()));
        },
    ),
    metric(
        "portolan_worker_clamped_segments",
        Counter,
        &["worker"],
        "SYN segments whose announced segment size was lowered.",
        |state, out| {
            workers(state, |id, link| out.count([id], link.counters.worker.mss_clamped.get()));
        },
    ),
    metric(
        "portolan_worker_mappings",
        Gauge,
        &["worker"],
        "NAT mappings of the worker now: inside sockets with an outside port.",
        |state, out| {
            workers(state, |id, link| out.count([id], link.counters.worker.mappings.get()));
        },
    ),
    metric(
        "portolan_worker_overloaded_mappings",
        Counter,
        &["worker"],
        "NAT mappings of TCP that share their port per destination: 90 % of the range was in use.",
        |state, out| {
            workers(state, |id, link| out.count([id], link.counters.worker.ports_shared.get()));
        },
    ),
    metric(
        "portolan_worker_flows",
        Gauge,
        &["worker"],
        "Flows of the worker now; at most its share of portolan_flows_limit per family.",
        |state, out| workers(state, |id, link| out.count([id], link.counters.worker.flows.get())),
    ),
    metric(
        "portolan_worker_stations",
        Gauge,
        &["worker"],
        "Learnt stations that the worker knows now; each knows those of all.",
        |state, out| {
            workers(state, |id, link| out.count([id], link.counters.worker.stations.get()))
        },
    ),
    metric(
        "portolan_worker_unlearnt_stations",
        Counter,
        &["worker", "limit"],
        "Stations not learnt: `fdb`: the table was full; `fdb_per_port`: the port's share was.",
        |state, out| {
            workers(state, |id, link| {
                out.count([id, "fdb"], link.counters.worker.fdb_full.get());
                out.count([id, "fdb_per_port"], link.counters.worker.fdb_share_full.get());
            });
        },
    ),
    metric(
        "portolan_worker_groups",
        Gauge,
        &["worker"],
        "Memberships of multicast groups, queriers and routers that the worker knows now.",
        |state, out| workers(state, |id, link| out.count([id], link.counters.worker.groups.get())),
    ),
    metric(
        "portolan_worker_groups_full",
        Counter,
        &["worker"],
        "Multicast memberships not noted: no room, or the port's share was used up.",
        |state, out| {
            workers(state, |id, link| out.count([id], link.counters.worker.groups_full.get()));
        },
    ),
    metric(
        "portolan_worker_floods_narrowed",
        Counter,
        &["worker"],
        "Frames to multicast groups that went only to those who are in them, and to routers.",
        |state, out| {
            workers(state, |id, link| out.count([id], link.counters.worker.floods_narrowed.get()));
        },
    ),
    metric(
        "portolan_worker_overlay_misses",
        Counter,
        &["worker"],
        "Frames and questions for stations that no static overlay knows.",
        |state, out| {
            workers(state, |id, link| out.count([id], link.counters.worker.overlay_misses.get()));
        },
    ),
    metric(
        "portolan_worker_overlay_too_big",
        Counter,
        &["worker"],
        "ICMP errors that said how large outer packets to a tunnel's far end may be.",
        |state, out| {
            workers(state, |id, link| out.count([id], link.counters.worker.overlay_too_big.get()));
        },
    ),
    metric(
        "portolan_worker_free_chunks",
        Gauge,
        &["worker"],
        "Chunks of packet memory (2 KiB) that are free in the worker's pool.",
        |state, out| {
            workers(state, |id, link| out.count([id], link.counters.worker.chunks_free.get()));
        },
    ),
    metric(
        "portolan_worker_free_tails",
        Gauge,
        &["worker"],
        "Tails of packet memory (66 KiB, for super-frames) that are free in the worker's pool.",
        |state, out| {
            workers(state, |id, link| out.count([id], link.counters.worker.tails_free.get()));
        },
    ),
];

fn workers(state: &StateView, mut read: impl FnMut(&str, &Link)) {
    for link in &state.workers {
        read(&link.id.0.to_string(), link);
    }
}

fn ports(state: &StateView, mut read: impl FnMut([&str; 3], &Behind<'_>)) {
    for behind in behind_ports(&state.config) {
        let name = state.tables.port(behind.port()).map_or("", |port| &*port.name);
        let (endpoint, network) = match &behind {
            Behind::Uplink(_) => ("", ""),
            Behind::Endpoint(endpoint, attachment) => (&*endpoint.name, &*attachment.network),
            Behind::Tunnel(network, _) | Behind::Wire(network, _) => ("", &*network.name),
        };
        read([name, endpoint, network], &behind);
    }
}

fn traffic(state: &StateView, out: &mut Samples, value: fn(Traffic) -> u64) {
    ports(state, |labels, behind| out.count(labels, value(of_port(state, behind.port()))));
}

fn networks(state: &StateView, out: &mut Samples, value: fn(Traffic) -> u64) {
    for network in state.tables.networks.iter().flatten() {
        out.count([&network.name], value(of_network(state, network)));
    }
}
