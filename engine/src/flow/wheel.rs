//! When to look at an entry again: a timing wheel with bounded work per turn.
//!
//! Entries are numbers; each is in at most one slot of the wheel, on a doubly linked list through
//! two flat arrays. Setting a timer, moving and cancelling it cost a few stores. A packet does not
//! touch the wheel: when an entry comes due its owner compares last-seen and sets it again for the
//! rest. Timers beyond the wheel's reach come due early and are set again likewise.

use crate::time::Tick;

/// Slots of the wheel.
const SLOTS: usize = 1024;

/// log2 of the ticks in a slot: 64 ticks are 67 ms, the wheel reaches 68 s.
const SLOT_SHIFT: u32 = 6;

const NONE: u32 = u32::MAX;

/// A wheel for entries 0 to capacity - 1.
#[derive(Debug)]
pub(crate) struct Wheel {
    heads: Box<[u32]>,
    links: Box<[Link]>,
    /// The slot number (not wrapped) up to which everything was handed out.
    position: u32,
    count: usize,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    next: u32,
    previous: u32,
    /// Index of the slot, or NONE.
    slot: u32,
}

impl Wheel {
    pub(crate) fn new(capacity: usize, now: Tick) -> Wheel {
        let link = Link { next: NONE, previous: NONE, slot: NONE };
        Wheel {
            heads: vec![NONE; SLOTS].into_boxed_slice(),
            links: vec![link; capacity].into_boxed_slice(),
            position: now.0 >> SLOT_SHIFT,
            count: 0,
        }
    }

    /// Sets an entry's timer to come due `ticks` after `now`, rounded up to a slot; replaces an
    /// earlier one.
    pub(crate) fn set(&mut self, entry: u32, now: Tick, ticks: u32) {
        self.cancel(entry);
        let reach = (SLOTS as u32 - 2) << SLOT_SHIFT;
        let due = now.0.wrapping_add(ticks.min(reach)) >> SLOT_SHIFT;
        // One round from where the wheel is, which may be behind `now`: a slot that it has still to
        // come to would be due at once, and again for ever.
        let ahead = due.wrapping_add(1).wrapping_sub(self.position) & (u32::MAX >> SLOT_SHIFT);
        let ahead = ahead.min(SLOTS as u32 - 1);
        let slot = self.position.wrapping_add(ahead) as usize % SLOTS;
        let head = self.heads[slot];
        self.links[entry as usize] = Link { next: head, previous: NONE, slot: slot as u32 };
        if head != NONE {
            self.links[head as usize].previous = entry;
        }
        self.heads[slot] = entry;
        self.count += 1;
    }

    /// Stops an entry's timer.
    pub(crate) fn cancel(&mut self, entry: u32) {
        let Link { next, previous, slot } = self.links[entry as usize];
        if slot == NONE {
            return;
        }
        match previous {
            NONE => self.heads[slot as usize] = next,
            previous => self.links[previous as usize].next = next,
        }
        if next != NONE {
            self.links[next as usize].previous = previous;
        }
        self.links[entry as usize].slot = NONE;
        self.count -= 1;
    }

    /// The next entry that is due; its timer is stopped. Called until `None` or until the caller
    /// has done enough for this turn; the rest stays for the next.
    pub(crate) fn due(&mut self, now: Tick) -> Option<u32> {
        let target = now.0 >> SLOT_SHIFT;
        if self.count == 0 {
            self.position = target;
            return None;
        }
        // Ticks wrap at 2^32 and slots at 2^26: compare modulo 2^26.
        const POSITION_MASK: u32 = u32::MAX >> SLOT_SHIFT;
        let mut behind = target.wrapping_sub(self.position) & POSITION_MASK;
        if behind > POSITION_MASK / 2 {
            return None;
        }
        if behind > SLOTS as u32 {
            // A pause longer than the wheel: one round finds everything.
            self.position = target.wrapping_sub(SLOTS as u32) & POSITION_MASK;
            behind = SLOTS as u32;
        }
        loop {
            let head = self.heads[self.position as usize % SLOTS];
            if head != NONE {
                self.cancel(head);
                return Some(head);
            }
            if behind == 0 {
                return None;
            }
            behind -= 1;
            self.position = self.position.wrapping_add(1) & POSITION_MASK;
        }
    }

    /// True if no timer is set.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drain(wheel: &mut Wheel, now: u32) -> Vec<u32> {
        let mut due: Vec<u32> = std::iter::from_fn(|| wheel.due(Tick(now))).collect();
        due.sort_unstable();
        due
    }

    #[test]
    fn an_entry_comes_due_after_its_time_and_within_two_slots() {
        let mut wheel = Wheel::new(4, Tick(1_000));
        wheel.set(2, Tick(1_000), 500);
        assert_eq!(drain(&mut wheel, 1_499), Vec::<u32>::new());
        assert_eq!(drain(&mut wheel, 1_500 + 128), vec![2]);
        assert!(wheel.is_empty());
    }

    #[test]
    fn a_timer_beyond_the_reach_comes_due_early_to_be_set_again() {
        let mut wheel = Wheel::new(1, Tick(0));
        wheel.set(0, Tick(0), 10_000_000);
        assert_eq!(drain(&mut wheel, 66_000), vec![0]);
    }

    #[test]
    fn a_long_timer_that_is_set_again_while_the_wheel_is_behind_is_not_due_at_once() {
        let mut wheel = Wheel::new(2, Tick(0));
        wheel.set(0, Tick(0), 100);
        wheel.set(1, Tick(0), 6_400);
        // Both are due; the wheel has still to come to the slot of the second.
        let now = Tick(6_400 + 640);
        assert_eq!(wheel.due(now), Some(0));
        wheel.set(0, now, 10_000_000);
        assert_eq!(wheel.due(now), Some(1));
        wheel.set(1, now, 10_000_000);
        assert_eq!(wheel.due(now), None);
    }

    #[test]
    fn a_pause_longer_than_the_wheel_loses_nothing() {
        let mut wheel = Wheel::new(100, Tick(7));
        for entry in 0..100 {
            wheel.set(entry, Tick(7), entry * 600);
        }
        assert_eq!(drain(&mut wheel, 10_000_000), (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn the_wrap_of_time_is_not_noticed() {
        let mut wheel = Wheel::new(1, Tick(u32::MAX - 100));
        wheel.set(0, Tick(u32::MAX - 100), 300);
        assert_eq!(drain(&mut wheel, u32::MAX), Vec::<u32>::new());
        assert_eq!(drain(&mut wheel, 199 + 128), vec![0]);
    }

    proptest! {
        #[test]
        fn no_entry_comes_due_early_or_is_lost(
            timers in prop::collection::vec((0u32..30, 0u32..60_000, any::<bool>()), 1..60),
        ) {
            let mut wheel = Wheel::new(30, Tick(0));
            let mut expected = [None; 30];
            for (entry, ticks, cancel) in timers {
                wheel.set(entry, Tick(0), ticks);
                expected[entry as usize] = Some(ticks);
                if cancel {
                    wheel.cancel(entry);
                    expected[entry as usize] = None;
                }
            }
            for now in (0..62_000).step_by(200) {
                while let Some(entry) = wheel.due(Tick(now)) {
                    let ticks = expected[entry as usize].take();
                    prop_assert!(ticks.is_some_and(|ticks| ticks <= now));
                }
            }
            prop_assert!(expected.iter().all(Option::is_none));
        }
    }
}
