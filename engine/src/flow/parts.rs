//! Which parts of a fragmented datagram have come: bounded, and without a byte of them.
//!
//! A receiver that puts overlapping fragments together may see another packet than the one that
//! was judged by its first fragment (RFC 1858, RFC 5722), so no byte of a datagram passes twice.
//! Parts are kept as ranges of eight bytes, the unit that fragments are cut in; what touches
//! becomes one range, so fragments in order need one.

use arrayvec::ArrayVec;

/// Ranges that do not touch, in one datagram. Fragments that come in order need 1, every second one
/// first of 64 KiB at an MTU of 1,500 needs 22; more is a game.
const RANGES_MAX: usize = 24;

/// A part of a datagram, in units of eight bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) start: u16,
    /// Exclusive; the last part's last unit may be incomplete.
    pub(crate) end: u16,
    /// Others follow.
    pub(crate) more: bool,
}

/// What a part is to those that came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// New.
    New,
    /// New, and with it the datagram is whole.
    Whole,
    /// All of it was there already.
    Known,
    /// Some of it was there already, or it contradicts what is known of the datagram's end.
    Overlaps,
    /// There are too many gaps to remember it.
    Scattered,
}

/// The parts of one datagram.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parts {
    ranges: ArrayVec<(u16, u16), RANGES_MAX>,
    /// Where the datagram ends, once its last part has come.
    end: Option<u16>,
}

impl Parts {
    /// Adds a part, if it is new.
    pub(crate) fn add(&mut self, part: Part) -> Fit {
        let Part { start, end, more } = part;
        if self.ranges.iter().any(|&(from, to)| from <= start && end <= to) {
            return if self.end.is_none_or(|known| more || known == end) {
                Fit::Known
            } else {
                Fit::Overlaps
            };
        }
        let reach = self.ranges.last().map_or(0, |&(_, to)| to);
        let contradicts = match (self.end, more) {
            (Some(known), true) => end >= known,
            (Some(_), false) => true,
            (None, false) => reach > start,
            (None, true) => false,
        };
        if contradicts || self.ranges.iter().any(|&(from, to)| from < end && start < to) {
            return Fit::Overlaps;
        }
        if !self.insert(start, end) {
            return Fit::Scattered;
        }
        if !more {
            self.end = Some(end);
        }
        match self.ranges.as_slice() {
            [(0, to)] if Some(*to) == self.end => Fit::Whole,
            _ => Fit::New,
        }
    }

    /// Puts a range that overlaps none into its place. False: no room.
    fn insert(&mut self, start: u16, end: u16) -> bool {
        let at = self.ranges.partition_point(|&(from, _)| from < start);
        let touches_before = at > 0 && self.ranges[at - 1].1 == start;
        let touches_behind = self.ranges.get(at).is_some_and(|&(from, _)| from == end);
        match (touches_before, touches_behind) {
            (true, true) => {
                self.ranges[at - 1].1 = self.ranges[at].1;
                self.ranges.remove(at);
            }
            (true, false) => self.ranges[at - 1].1 = end,
            (false, true) => self.ranges[at].0 = start,
            (false, false) => return self.ranges.try_insert(at, (start, end)).is_ok(),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part(start: u16, end: u16, more: bool) -> Part {
        Part { start, end, more }
    }

    #[test]
    fn parts_in_any_order_make_the_whole_once() {
        let mut parts = Parts::default();
        assert_eq!(parts.add(part(20, 25, false)), Fit::New);
        assert_eq!(parts.add(part(0, 10, true)), Fit::New);
        assert_eq!(parts.add(part(0, 10, true)), Fit::Known);
        assert_eq!(parts.add(part(10, 20, true)), Fit::Whole);
    }

    #[test]
    fn what_overlaps_or_contradicts_the_end_is_told() {
        let mut parts = Parts::default();
        assert_eq!(parts.add(part(0, 10, true)), Fit::New);
        for (start, end, more) in [(9, 12, true), (0, 11, true), (5, 12, false)] {
            assert_eq!(parts.add(part(start, end, more)), Fit::Overlaps, "{start} to {end}");
        }
        assert_eq!(parts.add(part(20, 25, false)), Fit::New);
        assert_eq!(parts.add(part(30, 31, true)), Fit::Overlaps);
        assert_eq!(parts.add(part(15, 18, false)), Fit::Overlaps);
        assert_eq!(parts.add(part(0, 10, false)), Fit::Overlaps);
    }

    #[test]
    fn more_gaps_than_are_remembered_are_refused() {
        let mut parts = Parts::default();
        let fits: Vec<Fit> =
            (0..30).map(|index| parts.add(part(index * 4 + 1, index * 4 + 2, true))).collect();
        assert_eq!(fits.iter().filter(|&&fit| fit == Fit::New).count(), RANGES_MAX);
        assert_eq!(fits[29], Fit::Scattered);
    }

    proptest! {
        #[test]
        fn no_unit_passes_twice(
            steps in prop::collection::vec((0u16..40, 1u16..12, any::<bool>()), 0..60),
        ) {
            let (mut parts, mut seen) = (Parts::default(), [false; 64]);
            for (start, length, more) in steps {
                let fit = parts.add(part(start, start + length, more));
                let units = &mut seen[usize::from(start)..usize::from(start + length)];
                match fit {
                    Fit::New | Fit::Whole => {
                        prop_assert!(units.iter().all(|unit| !unit));
                        units.fill(true);
                    }
                    Fit::Known => prop_assert!(units.iter().all(|unit| *unit)),
                    Fit::Overlaps | Fit::Scattered => {}
                }
            }
        }
    }
}
