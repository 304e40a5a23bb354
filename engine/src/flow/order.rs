//! In which order flows go when there is no room: lists through flat arrays.
//!
//! A flow is in a list of all flows and in one of its ingress port, of those that wait for an
//! answer (*half-open*) or of the others (*open*); stubs have a list of their own. A new flow
//! waits, at the end. Packets touch no list: who looks for room moves on what has been answered
//! meanwhile. So the order depends on when flows began and on who looked, never on which way
//! packets took.

use crate::id::PortId;

const NONE: u32 = u32::MAX;

/// Which flows a list has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Waiting for an answer.
    HalfOpen,
    /// Answered.
    Open,
    /// Of other workers; in no list of a port.
    Stub,
}

/// Whose flows a list has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    Everybody,
    /// Those that came in by this port.
    Port(PortId),
}

#[derive(Clone, Copy, Debug)]
struct Link {
    next: u32,
    previous: u32,
    /// Index of the list, or NONE.
    list: u32,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    first: u32,
    last: u32,
    count: u32,
}

const EMPTY: Ends = Ends { first: NONE, last: NONE, count: 0 };

/// Doubly linked lists of numbers, each in one list at most.
#[derive(Debug)]
struct Lists {
    links: Box<[Link]>,
    ends: Vec<Ends>,
}

impl Lists {
    fn new(capacity: usize, count: usize) -> Lists {
        let link = Link { next: NONE, previous: NONE, list: NONE };
        Lists { links: vec![link; capacity].into_boxed_slice(), ends: vec![EMPTY; count] }
    }

    fn push(&mut self, list: usize, entry: u32) {
        let last = self.ends[list].last;
        self.links[entry as usize] = Link { next: NONE, previous: last, list: list as u32 };
        match last {
            NONE => self.ends[list].first = entry,
            last => self.links[last as usize].next = entry,
        }
        self.ends[list].last = entry;
        self.ends[list].count += 1;
    }

    fn remove(&mut self, entry: u32) {
        let Link { next, previous, list } = self.links[entry as usize];
        if list == NONE {
            return;
        }
        let ends = &mut self.ends[list as usize];
        ends.count -= 1;
        match previous {
            NONE => ends.first = next,
            previous => self.links[previous as usize].next = next,
        }
        match next {
            NONE => ends.last = previous,
            next => self.links[next as usize].previous = previous,
        }
        self.links[entry as usize].list = NONE;
    }
}

/// The order of all flows of a table.
#[derive(Debug)]
pub(crate) struct Order {
    all: Lists,
    by_port: Lists,
}

impl Order {
    /// For flows 0 to capacity - 1.
    pub(crate) fn new(capacity: usize) -> Order {
        Order { all: Lists::new(capacity, 3), by_port: Lists::new(capacity, 2) }
    }

    /// Makes room for ports below this number. Not for the packet path.
    pub(crate) fn grow_ports(&mut self, count: usize) {
        let lists = (count + 1) * 2;
        if self.by_port.ends.len() < lists {
            self.by_port.ends.resize(lists, EMPTY);
        }
    }

    /// Lists of a port; the first two are of those that there is no room for, such as
    /// [`PortId::TURN`].
    fn of_port(&self, port: PortId, class: Class) -> usize {
        let first = (port.index() + 1) * 2;
        let first = if first < self.by_port.ends.len() { first } else { 0 };
        first + class as usize
    }

    /// A flow has begun.
    pub(crate) fn add(&mut self, flow: u32, port: PortId, class: Class) {
        self.all.push(class as usize, flow);
        if class != Class::Stub {
            self.by_port.push(self.of_port(port, class), flow);
        }
    }

    /// A flow has ended.
    pub(crate) fn remove(&mut self, flow: u32) {
        self.all.remove(flow);
        self.by_port.remove(flow);
    }

    /// A flow was answered, or it was looked at and may stay: it goes behind the others.
    pub(crate) fn defer(&mut self, flow: u32, port: PortId, class: Class) {
        self.remove(flow);
        self.add(flow, port, class);
    }

    /// The flows of a list, from the first on.
    pub(crate) fn iter(&self, whose: Whose, class: Class) -> impl Iterator<Item = u32> {
        let lists = if whose == Whose::Everybody { &self.all } else { &self.by_port };
        std::iter::successors(self.first(whose, class), move |&flow| {
            Some(lists.links[flow as usize].next).filter(|&next| next != NONE)
        })
    }

    /// The flow that is first in its list.
    pub(crate) fn first(&self, whose: Whose, class: Class) -> Option<u32> {
        let first = match whose {
            Whose::Everybody => self.all.ends[class as usize].first,
            Whose::Port(port) => self.by_port.ends[self.of_port(port, class)].first,
        };
        (first != NONE).then_some(first)
    }

    /// Flows of a port in a list.
    pub(crate) fn count(&self, port: PortId, class: Class) -> u32 {
        self.by_port.ends[self.of_port(port, class)].count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lists_agree_with_a_model(
            steps in prop::collection::vec((0u32..12, 0u16..3, 0u8..4), 0..150),
        ) {
            let mut order = Order::new(12);
            order.grow_ports(2);
            let mut model: Vec<(u32, PortId, Class)> = Vec::new();
            for (flow, port, step) in steps {
                // Port 2 is one that there is no room for.
                let port = PortId(port);
                let place = model.iter().position(|(other, ..)| *other == flow);
                let class = if step == 0 { Class::HalfOpen } else { Class::Open };
                match (place, step) {
                    (None, _) => {
                        order.add(flow, port, class);
                        model.push((flow, port, class));
                    }
                    (Some(place), 1) => {
                        order.remove(flow);
                        model.remove(place);
                    }
                    (Some(place), _) => {
                        let (_, port, _) = model.remove(place);
                        order.defer(flow, port, class);
                        model.push((flow, port, class));
                    }
                }
                for class in [Class::HalfOpen, Class::Open] {
                    let mut of_class = model.iter().filter(|(.., other)| *other == class);
                    let first = of_class.next().map(|(flow, ..)| *flow);
                    prop_assert_eq!(order.first(Whose::Everybody, class), first);
                    for port in [PortId(0), PortId(1), PortId(2)] {
                        let own: Vec<u32> = model
                            .iter()
                            .filter(|(_, other, of)| *other == port && *of == class)
                            .map(|(flow, ..)| *flow)
                            .collect();
                        prop_assert_eq!(order.count(port, class) as usize, own.len());
                        let first = order.first(Whose::Port(port), class);
                        prop_assert_eq!(first, own.first().copied());
                    }
                }
            }
        }
    }
}
