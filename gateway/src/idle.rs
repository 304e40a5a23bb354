//! What a worker does when nothing waits: look again, or sleep.
//!
//! Pure: times and the scheduler's numbers come in, a decision goes out. Spinning saves the wake-up
//! (some microseconds of latency per packet) for as long as the CPU is the worker's own. Where it
//! is not, a spinning worker takes time from the very processes whose packets it waits for; the
//! kernel shows that as run delay and involuntary switches of our thread, and we stop spinning.

use std::time::Duration;

use engine::Instant;

/// How a worker waits; `idle` in the config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdlePolicy {
    /// Never sleeps.
    Busy,
    /// Spins briefly, then sleeps.
    Adaptive,
    /// Always sleeps.
    Interrupt,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Look again at once.
    Spin,
    /// Sleep until something comes.
    Sleep,
}

/// What the scheduler did to our thread since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Crowding {
    /// Nanoseconds that it was ready to run and did not.
    pub(crate) run_delay_ns: u64,
    /// How often the CPU was taken from it while it ran.
    pub(crate) involuntary_switches: u64,
}

/// How long a worker looks for more after its last packet. Twice a round trip through two local
/// sockets (about 20 µs): shorter misses the answers of a request-response exchange, longer only
/// burns.
const SPIN: Duration = Duration::from_micros(40);

/// How often the scheduler's numbers are read. Reading costs a few microseconds, so 10 ms keeps it
/// below a thousandth.
const SAMPLE_EVERY: Duration = Duration::from_millis(10);

const SECOND_NS: u128 = 1_000_000_000;

/// Run delay beyond this part of the time (one in 50) means that others want the CPU.
const CROWDED_PART: u64 = 50;

/// So many involuntary switches a second mean that others want the CPU, even if each takes it for
/// so short a time that the delay looks small: every one of them costs both a switch and a cold
/// cache. Housekeeping of the kernel alone takes a CPU some 10 times a second.
const CROWDED_SWITCHES_PER_S: u64 = 250;

/// First pause of spinning once the CPU was found crowded; doubles each time up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_millis(1_600);

/// One worker's state of waiting.
#[derive(Debug)]
pub(crate) struct Idle {
    policy: IdlePolicy,
    /// When the worker last handled something.
    busy_at: Instant,
    /// No spinning before this time.
    paused_until: Instant,
    pause: Duration,
    sampled_at: Instant,
    sampled: Crowding,
}

impl Idle {
    pub(crate) fn new(policy: IdlePolicy, now: Instant, crowding: Crowding) -> Idle {
        Idle {
            policy,
            busy_at: now,
            paused_until: Instant(0),
            pause: PAUSE_MIN,
            sampled_at: now,
            sampled: crowding,
        }
    }

    /// The worker handled something.
    pub(crate) fn busy(&mut self, now: Instant) {
        self.busy_at = now;
    }

    /// The worker found nothing to do. `crowding` reads the scheduler's numbers; it is called at
    /// most once per sampling interval.
    pub(crate) fn rest(&mut self, now: Instant, crowding: impl FnOnce() -> Crowding) -> Rest {
        match self.policy {
            IdlePolicy::Busy => Rest::Spin,
            IdlePolicy::Interrupt => Rest::Sleep,
            IdlePolicy::Adaptive => {
                if now.since(self.busy_at) >= SPIN || now < self.paused_until {
                    return Rest::Sleep;
                }
                if now.since(self.sampled_at) >= SAMPLE_EVERY {
                    self.sample(now, crowding());
                }
                if now < self.paused_until { Rest::Sleep } else { Rest::Spin }
            }
        }
    }

    fn sample(&mut self, now: Instant, crowding: Crowding) {
        let elapsed = now.since(self.sampled_at);
        let delay_ns = crowding.run_delay_ns.saturating_sub(self.sampled.run_delay_ns);
        let switches =
            crowding.involuntary_switches.saturating_sub(self.sampled.involuntary_switches);
        (self.sampled, self.sampled_at) = (crowding, now);
        let is_delayed = u128::from(delay_ns) * u128::from(CROWDED_PART) > elapsed.as_nanos();
        let often = u128::from(CROWDED_SWITCHES_PER_S) * elapsed.as_nanos() / SECOND_NS;
        let is_switched = u128::from(switches) > often;
        if is_delayed || is_switched {
            self.paused_until = now + self.pause;
            self.pause = (self.pause * 2).min(PAUSE_MAX);
            // What happens while we do not spin says nothing about spinning.
            self.sampled_at = self.paused_until;
        } else {
            self.pause = PAUSE_MIN;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn calm() -> Crowding {
        Crowding::default()
    }

    #[test]
    fn adaptive_spins_briefly_after_a_packet_and_then_sleeps() {
        let mut idle = Idle::new(IdlePolicy::Adaptive, Instant(0), calm());
        idle.busy(Instant(5 * MS));
        assert_eq!(idle.rest(Instant(5 * MS + 10_000), calm), Rest::Spin);
        assert_eq!(idle.rest(Instant(5 * MS + 41_000), calm), Rest::Sleep);
    }

    #[test]
    fn busy_never_sleeps_and_interrupt_always_does() {
        let mut busy = Idle::new(IdlePolicy::Busy, Instant(0), calm());
        assert_eq!(busy.rest(Instant(10_000 * MS), calm), Rest::Spin);
        let mut interrupt = Idle::new(IdlePolicy::Interrupt, Instant(0), calm());
        assert_eq!(interrupt.rest(Instant(0), calm), Rest::Sleep);
    }

    #[test]
    fn a_crowded_cpu_stops_the_spinning_for_a_while_that_doubles() {
        let mut idle = Idle::new(IdlePolicy::Adaptive, Instant(0), calm());
        let crowded = |run_delay_ns| move || Crowding { run_delay_ns, ..calm() };
        idle.busy(Instant(10 * MS));
        assert_eq!(idle.rest(Instant(10 * MS), crowded(MS)), Rest::Sleep);
        idle.busy(Instant(109 * MS));
        assert_eq!(idle.rest(Instant(109 * MS), calm), Rest::Sleep, "paused for 100 ms");
        idle.busy(Instant(111 * MS));
        assert_eq!(idle.rest(Instant(111 * MS), calm), Rest::Spin, "tries again");
        idle.busy(Instant(130 * MS));
        assert_eq!(idle.rest(Instant(130 * MS), crowded(5 * MS)), Rest::Sleep);
        idle.busy(Instant(325 * MS));
        assert_eq!(idle.rest(Instant(325 * MS), calm), Rest::Sleep, "paused for 200 ms");
        idle.busy(Instant(341 * MS));
        assert_eq!(idle.rest(Instant(341 * MS), crowded(5 * MS)), Rest::Spin);
    }

    #[test]
    fn involuntary_switches_stop_the_spinning_as_run_delay_does() {
        let at = |now, involuntary_switches| {
            let mut idle = Idle::new(IdlePolicy::Adaptive, Instant(0), calm());
            idle.busy(Instant(now));
            idle.rest(Instant(now), || Crowding { involuntary_switches, ..calm() })
        };
        assert_eq!(at(10 * MS, 1), Rest::Spin, "one is chance");
        assert_eq!(at(10 * MS, 3), Rest::Sleep, "300 a second");
        assert_eq!(at(1_000 * MS, 250), Rest::Spin, "as many as are allowed");
        assert_eq!(at(1_000 * MS, 251), Rest::Sleep);
    }

    #[test]
    fn the_scheduler_is_asked_at_most_once_per_interval() {
        let mut idle = Idle::new(IdlePolicy::Adaptive, Instant(0), calm());
        let mut asked = 0;
        for at in 0..200 {
            let now = Instant(20 * MS + at * 10_000);
            idle.busy(now);
            idle.rest(now, || {
                asked += 1;
                calm()
            });
        }
        assert_eq!(asked, 1, "200 rests within 2 ms");
    }
}
