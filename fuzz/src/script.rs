//! A script of packets, and what must hold whatever it says.
//!
//! A script is text that a person can write and a fuzzer can mangle. Its first byte says how many
//! workers there are (`0`: 1, `1`: 2, `2`: 4). Then letters follow, each with one byte per
//! argument; an argument is a choice from a list, its byte less `0` modulo the list's length, so
//! `0` to `9` are the first ten. Letters are for IPv4, capitals for IPv6. Other bytes are ignored.
//!
//! ```text
//! u FROM TO SPORT DPORT LEN         UDP                (U)
//! k FROM TO SPORT DPORT LEN         UDP, checksum left to the gateway (K)
//! t FROM TO SPORT DPORT FLAGS LEN   TCP                (T)
//! b FROM TO SPORT DPORT SEGMENT     TCP super-frame    (B)
//! p FROM TO                         echo request       (P)
//! f FROM TO SPORT DPORT ORDER       UDP in fragments   (F)
//! e FROM KIND                       ICMP error, quotes what was last sent to FROM's port
//! a FROM TO                         ARP request, or ND (A)
//! r                                 the other side answers what was sent last
//! h HOPS                            TTL of what follows
//! s STEP                            time passes
//! g                                 next generation of tables
//! d PORT                            a device disappears
//! m PORT ROOM                       a device takes no more than ROOM packets at once
//! q                                 hosts on the uplink stop or start to answer ARP and ND
//! c POSITION VALUE                  a byte of the next packet is changed
//! x PORT LEN bytes                  any bytes
//! ```
//!
//! After each letter: frames are conserved, and what was sent fits its port; until the first `c`
//! or `x` it is well-formed. At the end, time passes and every frame comes back. Everything runs
//! twice, with the flow cache and without, and both must send the same.

use std::net::IpAddr;
use std::time::Duration;

use engine::sim::WireFrame;
use engine::sim::datagram::Datagram;
use engine::sim::frames::{
    Arp, ETHERNET_BYTES, ETHERTYPE_ARP, ETHERTYPE_IPV6, IpHeader, Neighbour, TCP, TcpHeader, UDP,
    be16, ethernet, fill_checksum, fill_partial_checksum, group_mac, icmp, mac_at, solicited_node,
    tcp_gso, udp,
};
use engine::{MacAddress, Offload, PortId};

use crate::host::{HOSTS, Host, PORT_COUNT, TARGETS_V4, TARGETS_V6, UPLINK, caps, gateway_mac};
use crate::judge;
use crate::world::{Sent, World};

/// Letters of a script that are played: enough to fill every table, few enough to run fast.
const LETTERS_MAX: usize = 256;

const TRANSPORT_PORTS: [u16; 12] =
    [80, 8_080, 53, 5_003, 6_003, 1_000, 1_001, 40_000, 40_001, 40_063, 65_535, 0];
const PAYLOAD_BYTES: [usize; 8] = [0, 1, 8, 64, 512, 1_352, 1_372, 1_472];
const SEGMENT_BYTES: [u16; 5] = [1_000, 1_448, 1_340, 536, 1];
const TCP_FLAGS: [u8; 8] = [2, 18, 16, 24, 17, 4, 20, 0];
const HOPS: [u8; 4] = [64, 1, 2, 255];
const ROOM: [usize; 4] = [usize::MAX, 0, 1, 3];
const STEPS_MS: [u64; 8] = [1, 10, 300, 1_000, 10_000, 70_000, 310_000, 7_500_000];
const ICMP_ERRORS: [(u8, u8); 4] = [(3, 3), (3, 4), (11, 0), (3, 1)];
const ICMPV6_ERRORS: [(u8, u8); 4] = [(1, 4), (2, 0), (3, 0), (1, 3)];

/// Runs a script with and without the flow cache.
pub fn run(script: &[u8]) {
    let with = Player::play(script, true);
    let without = Player::play(script, false);
    let (last, pairs) = (with.len().max(without.len()), with.iter().zip(&without));
    let same = pairs.take_while(|(with, without)| with == without).count();
    if same < last {
        let show = |sent: &[(usize, Sent)]| match sent.get(same) {
            Some((letter, sent)) => format!("after byte {letter} {sent}"),
            None => "nothing".to_owned(),
        };
        panic!(
            "with the flow cache:    {}\nwithout the flow cache: {}",
            show(&with),
            show(&without)
        );
    }
}

/// Reads a script letter by letter.
struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    /// An argument: an index below `count`. A script that has ended says 0.
    fn index(&mut self, count: usize) -> usize {
        usize::from(self.byte().unwrap_or(b'0').wrapping_sub(b'0')) % count
    }

    fn choice<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let (bytes, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        bytes.to_vec()
    }
}

/// Plays a script to a world.
struct Player {
    world: World,
    /// What was sent, and how much of the script was read then.
    sent: Vec<(usize, Sent)>,
    position: usize,
    hops: u8,
    identification: u16,
    hosts_answer: bool,
    /// Position and value of a byte that the next packet will have.
    corruption: Option<(u8, u8)>,
    /// Everything so far was well-formed.
    clean: bool,
}

impl Player {
    fn play(script: &[u8], cache: bool) -> Vec<(usize, Sent)> {
        let script_bytes = script.len();
        let mut script = Reader { rest: script };
        let worker_count = script.choice(&[1, 2, 4]);
        let mut player = Player {
            world: World::new(worker_count, cache),
            sent: Vec::new(),
            position: 0,
            hops: HOPS[0],
            identification: 0,
            hosts_answer: true,
            corruption: None,
            clean: true,
        };
        for _ in 0..LETTERS_MAX {
            let Some(letter) = script.byte() else { break };
            player.letter(letter, &mut script);
            player.position = script_bytes - script.rest.len();
            let sent = player.world.settle();
            player.take(sent);
        }
        player.world.close();
        player.sent
    }

    fn letter(&mut self, letter: u8, script: &mut Reader) {
        let v6 = letter.is_ascii_uppercase();
        match letter.to_ascii_lowercase() {
            b'u' => self.udp(false, v6, script),
            b'k' => self.udp(true, v6, script),
            b't' => self.tcp(v6, script),
            b'b' => self.super_frame(v6, script),
            b'p' => self.echo(v6, script),
            b'f' => self.fragments(v6, script),
            b'e' => self.icmp_error(script),
            b'a' => self.neighbour_request(v6, script),
            b'r' => self.answer_last(),
            b'h' => self.hops = script.choice(&HOPS),
            b's' => {
                let sent = self.world.pass(Duration::from_millis(script.choice(&STEPS_MS)));
                self.take(sent);
            }
            b'g' => self.world.reload(),
            // The uplink stays: at the end its port takes the frames back.
            b'd' => self.world.destroy(PortId(1 + script.index(4) as u16)),
            b'm' => {
                let port = PortId(script.index(usize::from(PORT_COUNT)) as u16);
                self.world.set_room(port, script.choice(&ROOM));
            }
            b'q' => self.hosts_answer = !self.hosts_answer,
            b'c' => self.corruption = script.byte().zip(script.byte()),
            b'x' => {
                let port = PortId(script.index(usize::from(PORT_COUNT)) as u16);
                let len = script.byte().unwrap_or(0);
                self.clean = false;
                self.receive(port, WireFrame::whole(script.bytes(usize::from(len))));
            }
            _ => {}
        }
    }

    /// Judges what was sent, lets hosts answer who asks for them, and keeps all of it.
    fn take(&mut self, sent: Vec<Sent>) {
        let mut new = sent;
        while !new.is_empty() {
            new.iter().for_each(|sent| self.judge(sent));
            if self.hosts_answer {
                let answers: Vec<Sent> = new.iter().filter_map(neighbour_answer).collect();
                for Sent { port, frame } in answers {
                    self.world.receive(port, frame);
                }
            }
            let position = self.position;
            self.sent.extend(new.drain(..).map(|sent| (position, sent)));
            new = self.world.settle();
        }
    }

    fn judge(&self, sent: &Sent) {
        let caps = caps(sent.port);
        let mut judged = judge::fits(&sent.frame, caps);
        if self.clean && judged.is_ok() {
            judged = judge::is_well_formed(&sent.frame, caps);
        }
        if let Err(problem) = judged {
            panic!("{problem}: after byte {} {sent}", self.position);
        }
    }

    fn receive(&mut self, port: PortId, mut frame: WireFrame) {
        if let Some((position, value)) = self.corruption.take()
            && let Some(byte) = frame.bytes.get_mut(usize::from(position))
        {
            *byte = value;
            self.clean = false;
        }
        self.world.receive(port, frame);
    }

    /// An IP packet from a host, at the MAC address that the host would send it to.
    fn send(&mut self, from: &Host, header: IpHeader, payload: &[u8], offload: Offload) {
        let packet = header.packet(payload);
        let to = next_hop(from, header.destination);
        let bytes = ethernet(to, from.mac, header.ethertype(), &packet);
        self.receive(from.port, WireFrame { bytes, offload });
    }

    /// Reads who sends to whom.
    fn header(&mut self, protocol: u8, v6: bool, script: &mut Reader) -> (Host, IpHeader) {
        let from = script.choice(&HOSTS);
        let to: IpAddr = match v6 {
            true => script.choice(&TARGETS_V6).into(),
            false => script.choice(&TARGETS_V4).into(),
        };
        self.identification = self.identification.wrapping_add(1);
        let header = IpHeader {
            hops: self.hops,
            identification: self.identification,
            ..IpHeader::new(from.address(v6), to, protocol)
        };
        (from, header)
    }

    fn udp(&mut self, partial: bool, v6: bool, script: &mut Reader) {
        let (from, header) = self.header(UDP, v6, script);
        let (source, destination) =
            (script.choice(&TRANSPORT_PORTS), script.choice(&TRANSPORT_PORTS));
        let payload = vec![0x5a; script.choice(&PAYLOAD_BYTES)];
        let mut segment = udp(source, destination, &payload);
        let offload = finish(&header, &mut segment, partial);
        self.send(&from, header, &segment, offload);
    }

    fn tcp(&mut self, v6: bool, script: &mut Reader) {
        let (from, header) = self.header(TCP, v6, script);
        let tcp = tcp_header(script);
        let tcp = TcpHeader { flags: script.choice(&TCP_FLAGS), ..tcp };
        let mut segment = tcp.segment(&vec![0xa5; script.choice(&PAYLOAD_BYTES)]);
        finish(&header, &mut segment, false);
        self.send(&from, header, &segment, Offload::None);
    }

    fn super_frame(&mut self, v6: bool, script: &mut Reader) {
        let (from, header) = self.header(TCP, v6, script);
        let mut segment = tcp_header(script).segment(&[0xa5; 5_000]);
        let segment_bytes = script.choice(&SEGMENT_BYTES);
        finish(&header, &mut segment, true);
        let start = transport_start(v6);
        let offload = Offload::Gso { kind: tcp_gso(v6), segment_bytes, start, ecn: false };
        self.send(&from, header, &segment, offload);
    }

    fn echo(&mut self, v6: bool, script: &mut Reader) {
        let (protocol, kind) = if v6 { (58, 128) } else { (1, 8) };
        let (from, header) = self.header(protocol, v6, script);
        let message = icmp(header.source, header.destination, (kind, 0), 0x1234_0001, &[7; 32]);
        self.send(&from, header, &message, Offload::None);
    }

    fn fragments(&mut self, v6: bool, script: &mut Reader) {
        let (from, header) = self.header(UDP, v6, script);
        let (source, destination) =
            (script.choice(&TRANSPORT_PORTS), script.choice(&TRANSPORT_PORTS));
        let mut segment = udp(source, destination, &[0x3c; 3_000]);
        finish(&header, &mut segment, false);
        let mut parts = header.fragments(&segment, 1_400);
        match script.index(4) {
            0 => {}
            1 => parts.reverse(),
            2 => parts.truncate(1),
            _ => drop(parts.remove(0)),
        }
        let to = next_hop(&from, header.destination);
        for part in parts {
            let bytes = ethernet(to, from.mac, header.ethertype(), &part);
            self.receive(from.port, WireFrame::whole(bytes));
        }
    }

    fn icmp_error(&mut self, script: &mut Reader) {
        let from = script.choice(&HOSTS);
        let kind = script.index(ICMP_ERRORS.len());
        let last = self.sent.iter().rev().find(|(_, sent)| sent.port == from.port);
        let quoted = last.and_then(|(_, sent)| sent.frame.bytes.get(ETHERNET_BYTES..));
        let Some(quoted) = quoted else { return };
        let Ok(datagram) = Datagram::parse(quoted) else { return };
        let v6 = datagram.source.is_ipv6();
        let (protocol, kind) = if v6 { (58, ICMPV6_ERRORS[kind]) } else { (1, ICMP_ERRORS[kind]) };
        let header = IpHeader::new(from.address(v6), datagram.source, protocol);
        let quoted = &datagram.bytes[..datagram.bytes.len().min(128)];
        let message = icmp(header.source, header.destination, kind, 1_300, quoted);
        self.send(&from, header, &message, Offload::None);
    }

    fn neighbour_request(&mut self, v6: bool, script: &mut Reader) {
        let (from, header) = self.header(0, v6, script);
        let frame = match header.destination {
            IpAddr::V4(target) => {
                let arp = Arp {
                    operation: 1,
                    sender_mac: from.mac,
                    sender: from.ipv4,
                    target_mac: MacAddress(0),
                    target,
                };
                ethernet(MacAddress::BROADCAST, from.mac, ETHERTYPE_ARP, &arp.message())
            }
            IpAddr::V6(target) => {
                let group = solicited_node(target);
                let asks = Neighbour { kind: 135, flags: 0, target, mac: Some(from.mac) };
                let header =
                    IpHeader { hops: 255, ..IpHeader::new(from.ipv6.into(), group.into(), 58) };
                let packet = header.packet(&asks.message(from.ipv6, group));
                ethernet(group_mac(group), from.mac, ETHERTYPE_IPV6, &packet)
            }
        };
        self.receive(from.port, WireFrame::whole(frame));
    }

    /// Answers what was sent last with the same, addresses and ports exchanged.
    fn answer_last(&mut self) {
        let Some((_, Sent { port, frame })) = self.sent.last().cloned() else { return };
        let Ok(datagram) = Datagram::parse(frame.bytes.get(ETHERNET_BYTES..).unwrap_or_default())
        else {
            return;
        };
        let mut payload = datagram.payload.to_vec();
        match datagram.protocol {
            TCP | UDP if payload.len() >= 8 => {
                let (source, destination) = payload[..4].split_at_mut(2);
                source.swap_with_slice(destination);
                // A SYN is accepted; anything else goes back as it came.
                if datagram.protocol == TCP && payload.len() > 13 && payload[13] == 2 {
                    payload[13] = 18;
                }
            }
            1 if payload.first() == Some(&8) => payload[0] = 0,
            58 if payload.first() == Some(&128) => payload[0] = 129,
            _ => return,
        }
        let header = IpHeader::new(datagram.destination, datagram.source, datagram.protocol);
        let offload = if datagram.fragment.is_none() && frame.offload == Offload::None {
            finish(&header, &mut payload, false)
        } else {
            return;
        };
        let (from, to) = (mac_at(&frame.bytes, 0), mac_at(&frame.bytes, 6));
        let bytes = ethernet(to, from, header.ethertype(), &header.packet(&payload));
        self.receive(port, WireFrame { bytes, offload });
    }
}

/// A header with nothing but ports.
fn tcp_header(script: &mut Reader) -> TcpHeader {
    TcpHeader {
        source_port: script.choice(&TRANSPORT_PORTS),
        destination_port: script.choice(&TRANSPORT_PORTS),
        sequence: 1_000,
        acknowledgment: 2_000,
        flags: 16,
        mss: None,
        nonce: None,
    }
}

/// Writes the checksum, or leaves it to the gateway.
fn finish(header: &IpHeader, segment: &mut [u8], partial: bool) -> Offload {
    let IpHeader { source, destination, protocol, .. } = *header;
    if !partial {
        fill_checksum(source, destination, protocol, segment);
        return Offload::None;
    }
    fill_partial_checksum(source, destination, protocol, segment);
    let offset = if protocol == TCP { 16 } else { 6 };
    Offload::NeedsChecksum { start: transport_start(source.is_ipv6()), offset }
}

fn transport_start(v6: bool) -> u16 {
    if v6 { 54 } else { 34 }
}

/// The MAC address that a host sends to: a member of its own network at its own, a group at the
/// group's, everybody else through the gateway.
fn next_hop(from: &Host, to: IpAddr) -> MacAddress {
    let neighbour = HOSTS.iter().find(|host| host.address(to.is_ipv6()) == to);
    match (neighbour, to) {
        (Some(host), _) if is_same_link(from, host) => host.mac,
        (_, IpAddr::V4(to)) if to.is_broadcast() => MacAddress::BROADCAST,
        (_, IpAddr::V6(to)) if to.is_multicast() => group_mac(to),
        _ => gateway_mac(from),
    }
}

fn is_same_link(one: &Host, other: &Host) -> bool {
    gateway_mac(one) == gateway_mac(other)
}

/// What a host on the uplink answers when the gateway asks for it.
fn neighbour_answer(sent: &Sent) -> Option<Sent> {
    let bytes = sent.frame.bytes.get(ETHERNET_BYTES..)?;
    let asked = |address: IpAddr| {
        let mut hosts = HOSTS.iter().filter(|host| host.port == UPLINK && sent.port == UPLINK);
        hosts.find(|host| host.address(address.is_ipv6()) == address)
    };
    let bytes = match be16(&sent.frame.bytes, 12) {
        ETHERTYPE_ARP => {
            let arp = Arp::parse(bytes).filter(|arp| arp.operation == 1)?;
            let host = asked(arp.target.into())?;
            let answer = Arp {
                operation: 2,
                sender_mac: host.mac,
                sender: arp.target,
                target_mac: arp.sender_mac,
                target: arp.sender,
            };
            ethernet(arp.sender_mac, host.mac, ETHERTYPE_ARP, &answer.message())
        }
        ETHERTYPE_IPV6 => {
            let datagram = Datagram::parse(bytes).ok().filter(|packet| packet.protocol == 58)?;
            let asks = Neighbour::parse(datagram.payload).filter(|message| message.kind == 135)?;
            let host = asked(asks.target.into())?;
            let IpAddr::V6(to) = datagram.source else { return None };
            let answer =
                Neighbour { kind: 136, flags: 0x60, target: asks.target, mac: Some(host.mac) };
            let header = IpHeader { hops: 255, ..IpHeader::new(host.ipv6.into(), to.into(), 58) };
            let packet = header.packet(&answer.message(host.ipv6, to));
            ethernet(mac_at(&sent.frame.bytes, 6), host.mac, ETHERTYPE_IPV6, &packet)
        }
        _ => return None,
    };
    Some(Sent { port: UPLINK, frame: WireFrame::whole(bytes) })
}
