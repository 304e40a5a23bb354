//! Which worker a packet belongs to.
//!
//! Both directions of a flow must meet at one worker, although NAT changes the tuple in between.
//! [`home`] is a pure function of the packet's input and the tables that is equal for both; it is
//! asked on flow misses only, because a worker that is not home installs a stub.

use std::net::IpAddr;

use crate::flow::{FlowInput, Path, mix, seed_for};
use crate::id::{NetworkId, WorkerId};
use crate::stage::{Socket, has_ports};
use crate::tables::{Network, Tables};

/// The worker that owns the flow of a packet with this input.
pub(crate) fn home(input: &FlowInput, tables: &Tables, worker_count: usize, seed: u64) -> WorkerId {
    if worker_count <= 1 {
        return WorkerId(0);
    }
    let by_port = |port: u16| WorkerId((usize::from(port / 2) % worker_count) as u8);
    let mut source = Socket { address: input.source, port: input.source_port };
    let mut destination = Socket { address: input.destination, port: input.destination_port };
    // An echo and its answer carry their type where others have a port: it tells no flows apart.
    if input.is_echo() {
        destination.port = 0;
    } else if input.is_echo_answer() {
        source.port = 0;
    }
    let hash = |server| symmetric(input.protocol, source, server, worker_count, seed);
    if input.path != Path::Routed {
        return hash(destination);
    }
    let (protocol, publish) = (input.protocol, &tables.publish);
    let to_own = tables.uplink_with_address(destination.address).is_some();
    let statics = &tables.nat.statics;
    if to_own && let Some(one) = statics.by_outside(destination.address) {
        return hash(Socket { address: one.inside, ..destination });
    }
    if let Some(asked) = tables.published_address(input)
        && let Some(entry) = publish.by_host(asked, protocol, destination.port)
    {
        let port = entry.target_port_of(destination.port);
        return hash(Socket { address: entry.target, port });
    }
    let to_mapping = to_own && tables.nat.has_port(destination.port);
    let turns = to_mapping && input.network != NetworkId::NONE && has_ports(protocol);
    if to_mapping && input.network == NetworkId::NONE {
        return by_port(destination.port);
    }
    // What turns round has a mapping of its own, whoever sends it.
    if turns {
        return by_port(source.port);
    }
    let keeps_port = |network: NetworkId, inside: Socket| {
        statics.by_inside(network, inside.address).is_some()
            || publish.outward(network, inside.address, protocol, inside.port).is_some()
    };
    if keeps_port(input.network, source) {
        return hash(destination);
    }
    let target = tables.network_towards(input.network, destination.address);
    let from_outside = input.network == NetworkId::NONE;
    let takes_a_port = |own: &Network| own.masquerade && !keeps_port(own.id, destination);
    if from_outside && target.is_some_and(takes_a_port) {
        // Straight to an endpoint: its replies look like what it sends to the outside.
        return by_port(destination.port);
    }
    let masquerade = tables.network(input.network).is_some_and(|network| network.masquerade);
    match target.is_none() && masquerade && !to_own {
        true => by_port(source.port),
        false => hash(destination),
    }
}

/// A worker by a hash that is equal for both directions of a tuple.
pub(crate) fn symmetric(
    protocol: u8,
    one: Socket,
    other: Socket,
    worker_count: usize,
    seed: u64,
) -> WorkerId {
    let half = |socket: Socket| {
        let bits = match socket.address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let low = bits as u64 ^ u64::from(socket.port) << 40;
        mix(low ^ seed_for(seed, 30), (bits >> 64) as u64 ^ seed_for(seed, 31))
    };
    let both = half(one).wrapping_add(half(other)) ^ u64::from(protocol);
    let hash = mix(both, seed_for(seed, 32));
    WorkerId((((hash >> 32) * worker_count as u64) >> 32) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_directions_have_one_home(
            a in any::<u32>(), b in any::<u32>(), p in any::<u16>(), q in any::<u16>(),
            count in 1usize..9,
        ) {
            let one = Socket { address: IpAddr::from(a.to_be_bytes()), port: p };
            let other = Socket { address: IpAddr::from(b.to_be_bytes()), port: q };
            let there = symmetric(6, one, other, count, 5);
            prop_assert_eq!(there, symmetric(6, other, one, count, 5));
            prop_assert!(there.index() < count);
        }
    }

    #[test]
    fn homes_are_spread_evenly() {
        let mut counts = [0; 4];
        for port in 0..4_000 {
            let one = Socket { address: IpAddr::from([10, 0, 0, 1]), port };
            let other = Socket { address: IpAddr::from([10, 0, 0, 2]), port: 80 };
            counts[symmetric(6, one, other, 4, 9).index()] += 1;
        }
        assert!(counts.iter().all(|&count| (850..1_150).contains(&count)), "{counts:?}");
    }
}
