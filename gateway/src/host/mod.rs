//! The host beside the gateway: what the daemon does to the kernel of the namespace that it runs
//! in, so that an uplink whose device stays there always works.
//!
//! One thread does all of it and watches over it: the link's addresses and routes to networks on
//! the uplink's device (`link`), one table of nftables (`rules`, `nft`), forwarding per interface
//! (`sysctl`), sockets on ::1 (`splice`), and test packets that show whether another table drops
//! what the host forwards (`probe`). It hears of addresses and of rules from the kernel
//! (`notices`): the host's addresses are followed, and the table is put back when others remove or
//! change it.
//!
//! The one hard constraint: nothing of the host is changed but what is journaled or goes with our
//! own device or table, and at the end all of it is as it was.

mod claim;
mod kernel;
mod link;
mod nft;
mod notices;
mod probe;
mod rules;
mod splice;
mod sysctl;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use config::Config;
use crossbeam::channel::{Receiver, Sender, unbounded};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::error::Error;
use crate::store::Store;
use notices::Notices;
pub use probe::{Culprit, Outcome};
use sysctl::Settings;
use wanted::Wanted;

/// Journal's key: true while a table of nftables of ours may be there.
const TABLE_KEY: &str = "host/table";

/// How long after a change of others' rules a test packet is sent: a tool that loads a rule set
/// makes many changes in a row.
const TEST_AFTER: Duration = Duration::from_millis(300);

/// How often the table is put back within this time. Two gateways on one host would do nothing
/// else.
const RESTORE_COUNT_MAX: usize = 50;
const RESTORE_WITHIN: Duration = Duration::from_secs(10);

/// How often a test packet is sent when nothing is heard: iptables-legacy tells nobody.
const TEST_EVERY: Duration = Duration::from_secs(60);

/// What became of the last test packets: of each uplink beside the host by its name, IPv4 and IPv6.
pub type Tested = BTreeMap<String, [Option<Outcome>; 2]>;

/// The last test packets, for whoever shows them.
#[derive(Clone, Debug, Default)]
pub struct LiveHost(Arc<Mutex<Tested>>);

impl LiveHost {
    /// What became of them.
    pub fn tested(&self) -> Tested {
        lock(&self.0).clone()
    }
}

fn lock(tested: &Mutex<Tested>) -> MutexGuard<'_, Tested> {
    tested.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The host has other addresses than it had.
#[derive(Clone, Debug)]
pub struct AddressesChanged;

enum Command {
    Apply(Wanted, Sender<Result<(), Error>>),
    End,
}

/// The host side of a gateway. Dropped, everything on the host is as it was; the uplinks' devices
/// must still be there.
#[derive(Debug)]
pub struct Host {
    commands: Sender<Command>,
    bell: Arc<OwnedFd>,
    events: Receiver<AddressesChanged>,
    live: LiveHost,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    /// Begins to watch, and undoes what a killed run left and is no longer wanted.
    ///
    /// # Errors
    /// The kernel tells nothing of addresses or rules.
    pub fn start(store: &Arc<Store>) -> Result<Host, Error> {
        let failed =
            |action| move |errno: rustix::io::Errno| Error::Host { action, source: errno.into() };
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
        let bell = Arc::new(bell.map_err(failed("make a bell"))?);
        let (commands, receiver) = unbounded();
        let (sender, events) = unbounded();
        let live = LiveHost::default();
        let keeper = Keeper {
            store: store.clone(),
            settings: Settings::load(store),
            addresses: Notices::of_addresses().map_err(failed("hear of addresses"))?,
            rules: Notices::of_rules().map_err(failed("hear of nftables"))?,
            wanted: Wanted::default(),
            text: String::new(),
            is_table_there: store.get(TABLE_KEY)?.unwrap_or(false),
            splice: splice::Splice::default(),
            claim: None,
            test_at: None,
            restored: Vec::new(),
            live: live.clone(),
            events: sender,
        };
        let ring = bell.clone();
        let builder = std::thread::Builder::new().name("host".into());
        let thread = builder.spawn(move || keeper.run(&receiver, &ring));
        let thread = thread.map_err(|source| Error::Thread { purpose: "the host", source })?;
        Ok(Host { commands, bell, events, live, thread: Some(thread) })
    }

    /// Does what a config asks; its uplinks' devices are there.
    ///
    /// # Errors
    /// The kernel refuses, or there is no program `nft`.
    pub fn apply(&self, config: &Config) -> Result<(), Error> {
        let (sender, answer) = unbounded();
        self.tell(Command::Apply(Wanted::of(config), sender));
        // Without an answer the thread has panicked.
        answer.recv().unwrap_or(Ok(()))
    }

    fn tell(&self, command: Command) {
        let _ = self.commands.send(command);
        let _ = rustix::io::write(&*self.bell, &1u64.to_ne_bytes());
    }

    /// Where changes of addresses are told.
    pub fn events(&self) -> &Receiver<AddressesChanged> {
        &self.events
    }

    /// What became of test packets, for whoever shows it.
    pub fn live(&self) -> LiveHost {
        self.live.clone()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.tell(Command::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Gives the uplinks beside the host the addresses that the host has now. `running` is the config
/// whose stand-ins are in use: they stay.
pub fn adopt_addresses(config: &mut Config, running: Option<&Config>) {
    let Some(primary) = wanted::primary(config) else { return };
    let loopbacks = Wanted::loopbacks(config);
    let subnets: Vec<ipnet::IpNet> = config
        .networks
        .iter()
        .flat_map(|network| network.subnets.iter().map(|subnet| subnet.prefix))
        .collect();
    let own = link::host_addresses(config).unwrap_or_else(|error| {
        tracing::error!(%error, "the host's addresses are not known");
        Vec::new()
    });
    let (inside, mut addresses): (Vec<IpAddr>, Vec<IpAddr>) =
        own.into_iter().partition(|own| subnets.iter().any(|subnet| subnet.contains(own)));
    for address in inside {
        tracing::warn!(%address, "the host's address is in a network's subnet: it is left out");
    }
    addresses.splice(0..0, loopbacks);
    let uplink = &mut config.uplinks[primary];
    let before = running.and_then(|running| running.uplink(&uplink.name)?.host.as_ref());
    if let Some(host) = &mut uplink.host {
        let without = host.follow(before, &addresses);
        if without > 0 {
            tracing::warn!(without, "the host has more addresses than the gateway can follow");
        }
    }
}

/// The thread's state.
struct Keeper {
    store: Arc<Store>,
    settings: Settings,
    addresses: Notices,
    rules: Notices,
    wanted: Wanted,
    /// The table in force.
    text: String,
    is_table_there: bool,
    splice: splice::Splice,
    /// The host's side is ours while this is here.
    claim: Option<UnixListener>,
    test_at: Option<Instant>,
    /// When the table was put back lately.
    restored: Vec<Instant>,
    live: LiveHost,
    events: Sender<AddressesChanged>,
}

impl Keeper {
    fn run(mut self, commands: &Receiver<Command>, bell: &OwnedFd) {
        loop {
            self.wait(bell);
            for command in commands.try_iter() {
                match command {
                    Command::Apply(wanted, answer) => drop(answer.send(self.apply(wanted))),
                    Command::End => return self.end(),
                }
            }
            if self.addresses.drain() && !self.wanted.beside.is_empty() {
                let _ = self.events.send(AddressesChanged);
            }
            self.look_at_rules();
            if self.test_at.is_some_and(|at| at <= Instant::now()) {
                self.test();
            }
        }
    }

    /// Waits for something to do.
    fn wait(&self, bell: &OwnedFd) {
        let mut polled = [
            PollFd::new(bell, PollFlags::IN),
            PollFd::new(&self.addresses, PollFlags::IN),
            PollFd::new(&self.rules, PollFlags::IN),
        ];
        let until = self.test_at.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = until.map(|left| Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        });
        // A signal is as good as a reason.
        let _ = poll(&mut polled, timeout.as_ref());
        let _ = rustix::io::read(bell, &mut [0u8; 8]);
    }

    fn apply(&mut self, wanted: Wanted) -> Result<(), Error> {
        if self.claim.is_none() && !wanted.beside.is_empty() {
            self.claim = Some(claim::take()?);
        }
        for beside in &wanted.beside {
            link::set(beside, &wanted)?;
        }
        let interfaces = match wanted.beside.is_empty() {
            true => BTreeSet::new(),
            false => link::interfaces_outside(&wanted)?,
        };
        let opened = self.settings.forward(&interfaces);
        let text = rules::ruleset(&wanted, &opened);
        let is_new = text != self.text;
        self.wanted = wanted;
        self.set_table(text)?;
        self.splice.set(&self.wanted)?;
        lock(&self.live.0).retain(|name, _| self.wanted.beside.iter().any(|own| own.name == *name));
        // At the start and when something is new. Not always: a test packet's device has addresses,
        // and those bring us here again.
        self.test_at = match self.wanted.beside.is_empty() {
            true => None,
            false if is_new => Some(Instant::now()),
            false => self.test_at,
        };
        Ok(())
    }

    /// Puts the table in force, unless it is already.
    fn set_table(&mut self, text: String) -> Result<(), Error> {
        if text == self.text {
            return Ok(());
        }
        let is_wanted = text != rules::REMOVAL;
        if !is_wanted && !self.is_table_there {
            return Ok(());
        }
        if is_wanted {
            // Noted first, so that a killed run's table is found.
            self.store.put(TABLE_KEY, &true)?;
        }
        self.put(&text)?;
        self.is_table_there = is_wanted;
        if !is_wanted {
            self.store.put(TABLE_KEY, &false)?;
        }
        self.text = text;
        Ok(())
    }

    /// Runs `nft` until what is heard then is our own change alone.
    fn put(&mut self, text: &str) -> Result<(), Error> {
        // Somebody who changes the table in a loop is not to keep this thread busy for ever.
        for _ in 0..8 {
            let others = self.rules.rule_changes(rules::TABLE);
            self.note_others(others.is_others);
            nft::apply(text)?;
            let heard = self.rules.rule_changes(rules::TABLE);
            self.note_others(heard.is_others);
            if heard.count <= 1 {
                break;
            }
        }
        Ok(())
    }

    fn note_others(&mut self, changed: bool) {
        if changed && !self.wanted.beside.is_empty() {
            self.test_at = Some(Instant::now() + TEST_AFTER);
        }
    }

    /// Puts the table back if others have changed it.
    fn look_at_rules(&mut self) {
        let change = self.rules.rule_changes(rules::TABLE);
        self.note_others(change.is_others);
        if !change.is_ours || !self.is_table_there {
            return;
        }
        let now = Instant::now();
        self.restored.retain(|at| now.duration_since(*at) < RESTORE_WITHIN);
        if self.restored.len() >= RESTORE_COUNT_MAX {
            // Somebody fights for the table, perhaps another gateway on this host.
            if self.restored.len() == RESTORE_COUNT_MAX {
                self.restored.push(now);
                tracing::error!("the nftables table portolan is changed again and again: left");
            }
            return;
        }
        self.restored.push(now);
        let text = self.text.clone();
        match self.put(&text) {
            Ok(()) => {
                tracing::warn!("the nftables table portolan was changed by others: put back");
                self.test_at = Some(Instant::now() + TEST_AFTER);
            }
            Err(error) => {
                tracing::error!(%error, "the nftables table portolan is not there");
                self.test_at = Some(Instant::now() + TEST_AFTER);
            }
        }
    }

    /// Sends test packets, and tells what has changed since the last ones.
    fn test(&mut self) {
        self.test_at = Some(Instant::now() + TEST_EVERY);
        for beside in &self.wanted.beside {
            let mut outcomes = [None, None];
            for (outcome, v6) in outcomes.iter_mut().zip([false, true]) {
                let has_family = beside.own.iter().any(|own| own.addr().is_ipv6() == v6);
                if !has_family || (v6 && !link::has_ipv6(&beside.interface)) {
                    continue;
                }
                match probe::probe(&beside.host, &beside.interface, v6) {
                    Ok(found) => *outcome = Some(found),
                    Err(error) => tracing::warn!(%error, "no test packet was sent"),
                }
            }
            let before = lock(&self.live.0).insert(beside.name.clone(), outcomes.clone());
            for (index, outcome) in outcomes.iter().enumerate() {
                let before = before.as_ref().and_then(|before| before[index].as_ref());
                tell(&beside.name, ["IPv4", "IPv6"][index], before, outcome.as_ref());
            }
        }
    }

    fn end(mut self) {
        self.splice = splice::Splice::default();
        self.wanted = Wanted::default();
        if let Err(error) = self.set_table(rules::REMOVAL.to_owned()) {
            tracing::error!(%error, "the nftables table portolan stays");
        }
        self.settings.undo_all();
    }
}

/// What became of the last test packets of an uplink, a line per family.
pub(crate) fn lines(tested: &Tested, uplink: &str) -> Vec<String> {
    let of = tested.get(uplink).into_iter().flatten();
    let families = of.zip(["IPv4", "IPv6"]);
    let said = families.filter_map(|(outcome, family)| {
        Some(match outcome.as_ref()? {
            Outcome::Passed => format!("{family}: passes"),
            Outcome::Dropped(culprit) => {
                format!("{family}: dropped by {culprit}; to let it pass: {}", culprit.fix())
            }
            Outcome::Lost => format!("{family}: dropped, by no nftables rule"),
        })
    });
    said.collect()
}

/// A line for an outcome that differs from the last.
fn tell(uplink: &str, family: &str, before: Option<&Outcome>, now: Option<&Outcome>) {
    if before == now {
        return;
    }
    match now {
        None => {}
        Some(Outcome::Passed) => tracing::info!(uplink, family, "the host forwards"),
        Some(Outcome::Dropped(culprit)) => {
            let fix = culprit.fix();
            tracing::error!(
                uplink,
                family,
                "the host drops what it should forward: {culprit}; to let it pass: {fix}"
            );
        }
        Some(Outcome::Lost) => tracing::error!(
            uplink,
            family,
            "the host drops what it should forward, and no nftables rule: see iptables-legacy -S \
             FORWARD"
        ),
    }
}
