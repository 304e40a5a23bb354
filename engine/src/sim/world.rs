//! A world: one gateway with its workers, hosts around it, wires between, and a clock that jumps.
//!
//! Everything that happens is an event at a time, and everything that varies comes from the seed,
//! so a seed replays exactly. The one hard constraint is that the gateway's inner workings cannot
//! move a random choice: what hosts and wires do follows from their own streams of numbers, and
//! when a worker turns follows from the time alone. That is what makes the output with and without
//! the flow cache comparable byte by byte. Workers turn one at a time; real parallelism is for
//! the drivers' tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::check::{Fault, Judge};
use super::frames::{ETHERNET_BYTES, mac_at};
use super::garbage::garbage;
use super::gateway::{Gateway, START_NS};
use super::host::Host;
use super::ledger::{Entry, Ledger, Outcomes};
use super::plan::{Failure, Output, Plan, Summary};
use super::port::WireFrame;
use super::rng::{Rng, mix};
use super::script::{Script, WITHDRAWN_ASKERS, Withdrawn};
use super::topology::{Place, Topology, UPLINK, WITHDRAWN};
use super::trace::Trace;
use super::tunnels::{self, Opened};
use super::wire::{Link, LinkCounts};
use crate::id::{MacAddress, PortId};
use crate::tables::Tables;

/// Average time between two questions.
const QUESTION_NS: u64 = 20_000_000;

/// How long after the last question everything must have ended.
const PATIENCE_NS: u64 = 600_000_000_000;

/// Longer than any flow lives without packets in a world that ends with silence.
const IDLE_NS: u64 = 400_000_000_000;

/// The last worker goes over to new tables so long after they are made.
const ADOPT_NS_MAX: u64 = 1_000_000;

/// Frames that one broken input may turn into: a flood to every member, and an error about it.
const FAULTS_PER_INPUT: u64 = 8;

#[derive(Debug)]
enum Event {
    /// A frame arrives at the gateway.
    ToGateway(PortId, WireFrame),
    /// A frame from a host behind a tunnel arrives at the tunnel's end.
    FromBeyond(usize, WireFrame),
    /// A frame from a host arrives on the uplink's link.
    ToLink(usize, WireFrame),
    /// A frame arrives at a host.
    ToHost(usize, WireFrame),
    /// A worker turns.
    Turn(usize),
    /// A host's time has come.
    Wake(usize),
    /// Somebody asks something.
    Ask,
    /// Somebody sends garbage.
    Garbage,
    /// New tables are made.
    Reload,
    /// Published ports are withdrawn: first nobody asks them, then they are gone.
    Withdraw(Stage),
    /// Somebody asks what is withdrawn half way.
    AskWithdrawn(usize),
    /// A worker goes over to them.
    Adopt(usize, Arc<Tables>),
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Quiet,
    Change,
    Gone,
}

/// A simulated world.
pub struct World {
    plan: Plan,
    now_ns: u64,
    events: BTreeMap<(u64, u64), Event>,
    event_count: u64,
    gateway: Gateway,
    topology: Topology,
    hosts: Vec<Host>,
    wakes_ns: Vec<Option<u64>>,
    from_host: Vec<Link>,
    to_host: Vec<Link>,
    script: Script,
    rng: Rng,
    ledger: Ledger,
    judge: Judge,
    trace: Trace,
    outputs: Vec<Output>,
    log: Vec<(u64, PortId, WireFrame)>,
    garbage_count: u64,
    excused_count: u64,
    tunnelled: (u64, u64),
}

impl World {
    /// Builds the world of a plan.
    pub fn new(plan: Plan) -> World {
        let mut rng = Rng::new(plan.seed);
        let topology = Topology::new(plan.topology(&mut rng), &mut rng);
        let gateway = Gateway::new(&plan, &topology, &mut rng);
        let host_count = topology.hosts.len();
        let mut links = |is_inbound| -> Vec<Link> {
            (0..host_count).map(|_| Link::new(plan.link, is_inbound, rng.fork())).collect()
        };
        let (from_host, to_host) = (links(true), links(false));
        let hosts = topology.hosts.iter().map(|host| Host::new(host.clone(), rng.fork())).collect();
        let nat = &topology.tables.nat;
        World {
            now_ns: START_NS,
            events: BTreeMap::new(),
            event_count: 0,
            hosts,
            wakes_ns: vec![None; host_count],
            from_host,
            to_host,
            script: Script::new(rng.fork(), &topology, &plan),
            ledger: Ledger::new(&plan, (nat.port_min, nat.port_max), topology.pool()),
            judge: Judge::new(&topology),
            trace: Trace::new(plan.trace_len),
            outputs: vec![Output::default(); topology.tables.ports.len()],
            log: Vec::new(),
            garbage_count: 0,
            excused_count: 0,
            tunnelled: (0, 0),
            gateway,
            topology,
            rng,
            plan,
        }
    }

    /// Lets everything happen that the plan says, and checks it.
    pub fn run(mut self) -> Result<Summary, Box<Failure>> {
        match self.live() {
            Ok(()) => Ok(self.summary()),
            Err(what) => {
                self.trace.note(self.now_ns, what.clone());
                let trace = self.trace.text();
                Err(Box::new(Failure { plan: self.plan, what, trace, log: self.take_log() }))
            }
        }
    }

    fn take_log(&mut self) -> Vec<(u64, PortId, WireFrame)> {
        std::mem::take(&mut self.log)
    }

    fn live(&mut self) -> Result<(), String> {
        let script_ns = self.plan_events();
        for worker in 0..self.plan.workers {
            self.schedule_turn(worker, self.now_ns);
        }
        while self.now_ns < script_ns || self.ledger.open_count() > 0 {
            if self.now_ns > script_ns + PATIENCE_NS {
                return Err(format!("never ended: {:#?}", self.ledger.describe_open()));
            }
            self.step()?;
        }
        // What is on its way arrives, and what was sent twice is heard a last time.
        self.run_until(self.now_ns + 5_000_000_000)?;
        if self.plan.idle {
            self.run_until(self.now_ns + IDLE_NS)?;
            self.gateway.check_empty()?;
        }
        Ok(())
    }

    fn run_until(&mut self, end_ns: u64) -> Result<(), String> {
        while self.events.first_key_value().is_some_and(|((at_ns, _), _)| *at_ns <= end_ns) {
            self.step()?;
        }
        self.now_ns = self.now_ns.max(end_ns);
        Ok(())
    }

    /// Enters all questions, garbage and reloads; returns when the last of them happens.
    fn plan_events(&mut self) -> u64 {
        let span_ns = u64::from(self.plan.question_count) * QUESTION_NS;
        for _ in 0..self.plan.question_count {
            // Many questions at one moment meet unresolved neighbours and each other's flows.
            let at_ns = START_NS + self.rng.below(span_ns) / (4 * QUESTION_NS) * 4 * QUESTION_NS;
            let spread_ns = self.rng.below(200_000);
            self.schedule(at_ns + spread_ns, Event::Ask);
        }
        if self.plan.hostile {
            for _ in 0..self.plan.question_count * 2 {
                let at_ns = START_NS + self.rng.below(span_ns);
                self.schedule(at_ns, Event::Garbage);
            }
        }
        for _ in 0..self.plan.reload_count {
            let at_ns = START_NS + self.rng.below(span_ns);
            self.schedule(at_ns, Event::Reload);
        }
        if self.plan.withdraw {
            let half_ns = START_NS + span_ns / 2;
            self.schedule(half_ns - span_ns / 8, Event::Withdraw(Stage::Quiet));
            self.schedule(half_ns, Event::Withdraw(Stage::Change));
            self.schedule(half_ns + ADOPT_NS_MAX, Event::Withdraw(Stage::Gone));
            for number in 0..WITHDRAWN_ASKERS {
                let asked = || Event::AskWithdrawn(number);
                let apart_ns = number as u64 * 1_000_000;
                self.schedule(START_NS + span_ns / 4 + apart_ns, asked());
                self.schedule(half_ns + ADOPT_NS_MAX * 2 + apart_ns, asked());
            }
        }
        START_NS + span_ns
    }

    fn schedule(&mut self, at_ns: u64, event: Event) {
        self.event_count += 1;
        self.events.insert((at_ns.max(self.now_ns), self.event_count), event);
    }

    /// A worker turns soon after `from_ns`; how soon depends on nothing but the seed and the time.
    fn schedule_turn(&mut self, worker: usize, from_ns: u64) {
        let choice = mix(self.plan.seed ^ mix(from_ns ^ (worker as u64) << 56));
        let at_ns = from_ns + choice % self.plan.turn_delay_ns_max.max(1);
        if self.gateway.wants_turn(worker, at_ns) {
            self.schedule(at_ns, Event::Turn(worker));
        }
    }

    fn step(&mut self) -> Result<(), String> {
        let Some(((at_ns, _), event)) = self.events.pop_first() else {
            return Err(format!("nothing happens any more: {:#?}", self.ledger.describe_open()));
        };
        self.now_ns = at_ns;
        match event {
            Event::ToGateway(port, frame) => self.reach_gateway(port, frame),
            Event::FromBeyond(host, frame) => self.leave_beyond(host, &frame),
            Event::ToLink(host, frame) => self.reach_link(host, &frame),
            Event::ToHost(host, frame) => {
                self.trace.frame(self.now_ns, "host receives", host, &frame);
                self.hosts[host].receive(self.now_ns, &frame);
                self.settle(host)?;
            }
            Event::Turn(worker) => self.turn(worker)?,
            Event::Wake(host) => {
                if self.wakes_ns[host] == Some(at_ns) {
                    self.wakes_ns[host] = None;
                    self.hosts[host].wake(at_ns);
                    self.settle(host)?;
                }
            }
            Event::Ask => {
                let mapped = self.ledger.mapped_socket(at_ns, self.rng.number());
                let entry = self.script.next(&self.topology, mapped);
                self.ask(entry)?;
            }
            Event::AskWithdrawn(number) => {
                let entry = self.script.ask_withdrawn(&self.topology, number);
                self.ask(entry)?;
            }
            Event::Garbage => self.send_garbage(),
            Event::Reload => {
                let tables = self.gateway.next_tables(&mut self.rng);
                self.adopt(tables);
            }
            Event::Withdraw(stage) => self.withdraw(stage),
            Event::Adopt(worker, tables) => {
                self.trace.note(at_ns, format!("worker {worker} adopts {}", tables.generation));
                self.gateway.adopt(worker, tables);
            }
        }
        Ok(())
    }

    fn ask(&mut self, entry: Entry) -> Result<(), String> {
        let (client, question) = (entry.client, entry.question);
        self.ledger.enter(entry);
        self.trace.note(self.now_ns, self.ledger.describe(question.nonce));
        self.hosts[client].ask(self.now_ns, question);
        self.settle(client)
    }

    fn send_garbage(&mut self) {
        // Who is behind a tunnel may say that others are there as well.
        let host = self.rng.index(self.hosts.len() - self.topology.beyond.len());
        for frame in garbage(&mut self.rng, &self.topology, host) {
            self.garbage_count += 1;
            self.trace.frame(self.now_ns, "garbage of host", host, &frame);
            match self.topology.places[host] {
                Place::Inside(port, _) => self.reach_gateway(port, frame),
                Place::Outside => self.reach_gateway(UPLINK, frame),
            }
        }
    }

    fn withdraw(&mut self, stage: Stage) {
        match stage {
            Stage::Quiet => self.script.withdrawn = Withdrawn::Soon,
            Stage::Change => {
                let tables = self.gateway.withdraw(&WITHDRAWN);
                self.adopt(tables);
            }
            Stage::Gone => self.script.withdrawn = Withdrawn::Gone,
        }
    }

    /// Each worker goes over to new tables at a time of its own.
    fn adopt(&mut self, tables: Arc<Tables>) {
        for worker in 0..self.plan.workers {
            let at_ns = self.now_ns + self.rng.below(ADOPT_NS_MAX);
            self.schedule(at_ns, Event::Adopt(worker, tables.clone()));
        }
    }

    /// Takes what a host has to send and to say, and sees when it wants to be woken.
    fn settle(&mut self, host: usize) -> Result<(), String> {
        for frame in std::mem::take(&mut self.hosts[host].sent) {
            for (at_ns, frame) in self.from_host[host].carry(self.now_ns, frame) {
                let event = match self.topology.places[host] {
                    Place::Inside(..) if self.topology.beyond(host).is_some() => {
                        Event::FromBeyond(host, frame)
                    }
                    Place::Inside(port, _) => Event::ToGateway(port, frame),
                    Place::Outside => Event::ToLink(host, frame),
                };
                self.schedule(at_ns, event);
            }
        }
        for report in std::mem::take(&mut self.hosts[host].reports) {
            self.ledger.take(self.now_ns, host, report)?;
        }
        if let Some(deadline_ns) = self.hosts[host].deadline_ns() {
            let at_ns = deadline_ns.max(self.now_ns + 1);
            if self.wakes_ns[host].is_none_or(|planned_ns| planned_ns > at_ns) {
                self.wakes_ns[host] = Some(at_ns);
                self.schedule(at_ns, Event::Wake(host));
            }
        }
        Ok(())
    }

    fn reach_gateway(&mut self, port: PortId, frame: WireFrame) {
        self.trace.frame(self.now_ns, "gateway receives from port", port.index(), &frame);
        let worker = self.gateway.receive(port, frame);
        self.schedule_turn(worker, self.now_ns);
    }

    /// The uplink's link is a switch that knows every station.
    fn reach_link(&mut self, from: usize, frame: &WireFrame) {
        let to = mac_at(&frame.bytes, 0);
        if to == self.topology.uplink_mac() || to.is_group() {
            self.reach_gateway(UPLINK, frame.clone());
        }
        self.reach_outside_hosts(Some(from), to, frame);
    }

    /// A tunnel's end passes on what a host behind it sends: to other ends, which it knows as
    /// peers, and wrapped to the gateway.
    fn leave_beyond(&mut self, host: usize, frame: &WireFrame) {
        if frame.bytes.len() < ETHERNET_BYTES {
            return;
        }
        let Some(own) = self.topology.beyond(host).cloned() else { return };
        let to = mac_at(&frame.bytes, 0);
        let others = self.topology.beyond.iter().filter(|other| {
            other.network == own.network && other.host != host && is_for(to, other.mac)
        });
        let others: Vec<usize> = others.map(|other| other.host).collect();
        if to.is_group() || others.is_empty() {
            let wrapped = own.wrap(&self.topology, &frame.bytes);
            self.tunnelled.0 += 1;
            self.reach_gateway(UPLINK, wrapped);
        }
        others.into_iter().for_each(|other| self.carry_to_host(other, frame.clone()));
    }

    /// The gateway has sent into a tunnel: what is in it is judged, and goes to who is behind it.
    fn reach_beyond(&mut self, opened: Opened) -> Result<(), Fault> {
        self.tunnelled.1 += 1;
        let judged = self.judge.judge_opened(&opened, &self.ledger);
        let to = mac_at(&opened.inner.bytes, 0);
        let behind = self.topology.beyond.iter();
        let behind =
            behind.filter(|beyond| beyond.tunnel == opened.tunnel && is_for(to, beyond.mac));
        let hosts: Vec<usize> = behind.map(|beyond| beyond.host).collect();
        hosts.into_iter().for_each(|host| self.carry_to_host(host, opened.inner.clone()));
        judged
    }

    fn reach_outside_hosts(&mut self, from: Option<usize>, to: MacAddress, frame: &WireFrame) {
        for host in self.topology.outside() {
            if Some(host) != from && (to.is_group() || to == self.topology.hosts[host].mac) {
                self.carry_to_host(host, frame.clone());
            }
        }
    }

    fn carry_to_host(&mut self, host: usize, frame: WireFrame) {
        for (at_ns, frame) in self.to_host[host].carry(self.now_ns, frame) {
            self.schedule(at_ns, Event::ToHost(host, frame));
        }
    }

    fn turn(&mut self, worker: usize) -> Result<(), String> {
        if !self.gateway.is_turn(worker, self.now_ns) {
            return Ok(());
        }
        let turned = self.gateway.turn(worker, self.now_ns)?;
        for (port, frame) in turned.sent {
            self.output(port, frame)?;
        }
        for (reason, count) in turned.drops {
            let text = format!("worker {worker} drops {count} as {}", reason.name());
            self.trace.note(self.now_ns, text);
        }
        for event in turned.events {
            self.trace.note(self.now_ns, format!("worker {worker} says {event:?}"));
        }
        for other in turned.wakes {
            self.schedule_turn(other, self.now_ns);
        }
        if let Some(more_ns) = turned.more_ns {
            self.schedule_turn(worker, self.now_ns + more_ns);
        }
        if let Some(deadline_ns) = turned.deadline_ns
            && self.gateway.wants_turn(worker, deadline_ns.max(self.now_ns + 1))
        {
            self.schedule(deadline_ns.max(self.now_ns + 1), Event::Turn(worker));
        }
        Ok(())
    }

    /// A frame has left the gateway: it is logged, judged and carried on.
    fn output(&mut self, port: PortId, frame: WireFrame) -> Result<(), String> {
        self.trace.frame(self.now_ns, "gateway sends to port", port.index(), &frame);
        self.outputs[port.index()].add(self.now_ns, &frame);
        if self.plan.keep_log {
            self.log.push((self.now_ns, port, frame.clone()));
        }
        let mut judged = self.judge.judge(port, &frame, &self.ledger);
        let opened = if port == UPLINK { tunnels::open(&self.topology, &frame) } else { None };
        let is_tunnelled = opened.is_some();
        match opened {
            Some(Ok(opened)) => judged = judged.and(self.reach_beyond(opened)),
            Some(Err(text)) => judged = Err(Fault::Place(text)),
            None => {}
        }
        match judged {
            Ok(()) => {}
            Err(Fault::Place(text)) => return Err(format!("sent to port {}: {text}", port.0)),
            Err(Fault::Form(text)) => {
                self.excused_count += 1;
                let broken_inputs = self.garbage_count + self.link_counts().corrupted;
                if self.excused_count > broken_inputs * FAULTS_PER_INPUT {
                    return Err(format!("sent to port {}: {text}", port.0));
                }
            }
        }
        match self.topology.behind(port) {
            _ if is_tunnelled => {}
            Some(host) => self.carry_to_host(host, frame),
            None => {
                let to = mac_at(&frame.bytes, 0);
                self.reach_outside_hosts(None, to, &frame);
            }
        }
        Ok(())
    }

    fn link_counts(&self) -> LinkCounts {
        let links = self.from_host.iter().chain(&self.to_host);
        links.fold(LinkCounts::default(), |sum, link| sum.plus(link.counts))
    }

    fn summary(&mut self) -> Summary {
        Summary {
            outcomes: self.outcomes(),
            links: self.link_counts(),
            outputs: self.outputs.clone(),
            drops: self.gateway.drops(),
            turn_count: self.gateway.turn_count,
            tunnelled: self.tunnelled,
            handed_over: self.gateway.handed_over(),
            garbage_count: self.garbage_count,
            excused_count: self.excused_count,
            log: self.take_log(),
        }
    }

    fn outcomes(&self) -> Outcomes {
        self.ledger.outcomes
    }
}

/// True if a frame to an address is for whom has this one.
fn is_for(to: MacAddress, own: MacAddress) -> bool {
    to.is_group() || to == own
}

impl Drop for World {
    /// A panic inside the engine says nothing about the world it happened in; this does.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("panic in {:?}\n{}", self.plan, self.trace.text());
        }
    }
}
