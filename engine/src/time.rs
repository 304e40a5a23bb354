//! Time as the engine sees it: a number that the runner hands in once per turn.
//!
//! The engine never reads a clock, so a simulation, a fuzz run and production follow one code path
//! and a seed replays exactly.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in time: nanoseconds since an origin that the caller chooses (boot, or 0 in a
/// simulation). Only differences have a meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// Coarse time for flow and FDB entries, see [`Tick`].
    pub fn tick(self) -> Tick {
        Tick((self.0 >> Tick::NS_SHIFT) as u32)
    }

    /// Time passed since `earlier`; zero when `earlier` lies ahead.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(duration.as_nanos() as u64))
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;
    fn sub(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_sub(duration.as_nanos() as u64))
    }
}

/// Coarse time: units of 2^20 ns (about 1.05 ms) in 32 bits, so that an entry's last-seen fits in
/// its cache line. It wraps after 52 days; differences are taken modulo 2^32, so an age is right
/// as long as it is below 26 days. The longest timeout is 5 days.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tick(pub u32);

impl Tick {
    /// log2 of a tick's length in nanoseconds.
    pub const NS_SHIFT: u32 = 20;

    /// Ticks from `earlier` to `self`; zero when `earlier` lies ahead.
    pub fn since(self, earlier: Tick) -> u32 {
        let age = self.0.wrapping_sub(earlier.0);
        if age > u32::MAX / 2 { 0 } else { age }
    }

    /// How long this many ticks are.
    pub const fn duration(ticks: u32) -> Duration {
        Duration::from_nanos((ticks as u64) << Self::NS_SHIFT)
    }

    /// The number of ticks in a duration, rounded down.
    pub const fn count(duration: Duration) -> u32 {
        (duration.as_nanos() >> Self::NS_SHIFT) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_survives_the_wrap_of_the_tick() {
        assert_eq!(Tick(3).since(Tick(u32::MAX - 1)), 5);
    }

    #[test]
    fn an_age_never_goes_backwards() {
        assert_eq!(Tick(3).since(Tick(4)), 0);
        assert_eq!(Instant(5).since(Instant(9)), Duration::ZERO);
    }
}
