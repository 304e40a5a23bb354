//! What a worker does without a packet: go over to new tables, ask for neighbours, end idle flows.
//! Each piece is bounded, so a turn never takes long.

use std::sync::Arc;
use std::time::Duration;

use super::core::TokenBucket;
use super::membership::Reports;
use super::{Adoption, Event, Retired, Worker};
use crate::decapsulate::KnownTunnels;
use crate::id::WorkerId;
use crate::limits::Filtering;
use crate::neighbour::Due;
use crate::tables::Tables;
use crate::time::Instant;

/// How often upkeep is due. A slot of the timing wheel is about as long.
const UPKEEP_EVERY: Duration = Duration::from_millis(64);
/// How soon upkeep is due again while flows are due that the budget left over: soon enough for 10
/// million ends a second, and time passes between.
const EXPIRE_AGAIN: Duration = Duration::from_micros(20);
/// Flows looked at per turn and family while some are due: four for each packet of a full batch, so
/// that as many end as begin. More would make a turn longer than 100 us.
const EXPIRE_BUDGET: usize = 256;
/// New members that are looked for among the learnt stations one by one, in 50 us. When more come
/// at once all stations are forgotten, and learnt again from their next frames.
const FORGET_MAX: usize = 1024;
/// Neighbours asked for per upkeep.
const ASK_BUDGET: usize = 64;

impl Worker {
    /// Goes over to a new snapshot, between turns. Returns the old one. As
    /// [`adopt_prepared`](Worker::adopt_prepared), and works out here what that has done before:
    /// for tests and simulations, where no packet waits.
    pub fn adopt(&mut self, tables: Arc<Tables>) -> Arc<Tables> {
        let adoption = Adoption::new(tables, Some(&self.core.tables));
        self.adopt_prepared(Arc::new(adoption)).tables().clone()
    }

    /// Goes over to a new snapshot, between turns. Gives back what is used no more: the supervisor
    /// frees it. Flows are not visited: each revalidates when its next packet comes.
    ///
    /// # Panics
    /// When the step does not begin at the snapshot that the worker has.
    pub fn adopt_prepared(&mut self, adoption: Arc<Adoption>) -> Retired {
        assert_eq!(adoption.follows, self.core.tables.generation, "no snapshot was left out");
        self.take_over(&adoption);
        let core = &mut self.core;
        // All that is shared stays alive in the step that is given back.
        (core.tables, core.rules) = (adoption.tables.clone(), adoption.rules.clone());
        core.tunnels = adoption.tunnels.clone();
        core.reports = Reports::begin(core.now);
        *core.crossing_tunnels.known = KnownTunnels::default();
        core.generation = core.tables.generation as u32;
        core.stamp = core.stamp.wrapping_add(1);
        let announced = match core.id {
            WorkerId(0) => self.announcements.begin(&adoption.announcements, core.now),
            _ => Vec::new(),
        };
        let adoption = std::mem::replace(&mut self.adoption, adoption);
        Retired { adoption, _announced: announced }
    }

    /// Learns what has changed.
    fn take_over(&mut self, adoption: &Adoption) {
        let core = &mut self.core;
        let counted = core.started.len().max(adoption.tables.ports.len());
        let floods = TokenBucket::new(adoption.tables.limits.floods_per_second);
        // There is room since the start, unless there is no supervisor to see to it.
        core.floods.resize(counted, floods);
        core.started.resize(counted, 0);
        core.forget_underlay(counted);
        self.v4.table.order.grow_ports(counted);
        self.v6.table.order.grow_ports(counted);
        core.groups.grow_ports(counted);
        let fdb = &mut core.stages.bridge.fdb;
        fdb.grow_ports(counted);
        // What was learnt of a station that is a member now is no longer true.
        if fdb.count() > 0 {
            match adoption.members.len() {
                0..=FORGET_MAX => adoption
                    .members
                    .iter()
                    .for_each(|&(network, mac)| fdb.forget_station(network, mac)),
                _ => fdb.forget_stations(),
            }
        }
        let was_wanted = core.tables.nat.filtering == Filtering::Address;
        core.stages.nat.adopt(&adoption.tables.nat, was_wanted);
        core.egress.refresh_caps(&adoption.changed);
        core.counters.follow(&adoption.networks_gone, &adoption.ports_gone);
    }

    /// The bounded work of a turn that no packet asks for.
    pub(super) fn upkeep(&mut self, now: Instant) {
        if now < self.upkeep_at {
            return;
        }
        let more = self.v4.expire(&mut self.core, EXPIRE_BUDGET);
        let more = self.v6.expire(&mut self.core, EXPIRE_BUDGET) || more;
        if now >= self.rounds_at {
            self.rounds_at = now + UPKEEP_EVERY;
            self.make_rounds(now);
        }
        // What is due is not put off: the next turns go on with it.
        self.upkeep_at = if more { now + EXPIRE_AGAIN } else { self.rounds_at };
    }

    /// The part of upkeep that need not be often.
    fn make_rounds(&mut self, now: Instant) {
        self.v4.sweep_fragments(&mut self.core);
        self.v6.sweep_fragments(&mut self.core);
        self.v4.answer_syns(&mut self.core);
        self.v6.answer_syns(&mut self.core);
        self.ask_neighbours();
        self.announce(now);
        self.report_groups(now);
        let core = &mut self.core;
        core.stages.bridge.fdb.sweep(core.generation, core.tick);
        core.groups.sweep(core.tick);
        core.forget_paths();
        let flows = self.v4.table.count() + self.v6.table.count();
        core.counters.worker.flows.set(flows as u64);
        core.counters.worker.stations.set(core.stages.bridge.fdb.count() as u64);
        core.counters.worker.groups.set(core.groups.count() as u64);
        core.counters.worker.paths.set(core.stages.mtu.paths.count() as u64);
        core.counters.worker.mappings.set(core.stages.nat.count() as u64);
        core.counters.worker.ports_shared.set(core.stages.nat.shared_total());
        let (chunks, tails) = core.frames.count();
        core.counters.worker.chunks_free.set(chunks as u64);
        core.counters.worker.tails_free.set(tails as u64);
    }

    fn ask_neighbours(&mut self) {
        for _ in 0..ASK_BUDGET {
            match self.core.neighbours.due(self.core.tick) {
                None => return,
                Some(Due::Ask { port, address, to }) => self.core.ask(port, address, to),
                Some(Due::Failed(id)) => {
                    if let Some((port, address)) = self.core.neighbours.address_of(id) {
                        self.core.event(Event::NeighbourFailed(port, address));
                    }
                    let mut held = std::mem::take(&mut self.core.released);
                    self.core.neighbours.take_held(id, &mut held);
                    for packet in held.drain(..) {
                        self.core.unreachable(packet);
                    }
                    self.core.released = held;
                }
            }
        }
    }
}
