//! From words to a packet: what `explain` is asked.
//!
//! A packet from an endpoint leaves it as its kernel would send it: to a member of one of its own
//! networks as a frame, to everywhere else by its default route. The one hard constraint: what
//! cannot be asked is refused with what to write instead.

use std::net::IpAddr;

use config::{Attachment, Config, Endpoint};
use engine::flow::{FlowInput, Path};
use engine::tables::PortKind;
use engine::wire::protocol;
use engine::{MacAddress, NetworkId, PortId, Tables};

use crate::api::model::Failure;

/// Source port of a packet that names none: in the range that kernels choose from.
const SOURCE_PORT: u16 = 40_000;

/// Bytes of a packet that says nothing about it: the smallest frame's.
const BYTES: u32 = 46;

/// Hops that a packet may go on for, if nothing is said: as kernels set it.
const HOPS: u8 = 64;

/// What is asked, as it was written.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Question {
    /// Who sends it: an endpoint, perhaps with a source port (`web:4000`); with --uplink an address
    /// and port outside (`198.51.100.7:40000`)
    #[arg(long, value_name = "ENDPOINT|ADDRESS")]
    pub from: String,
    /// It comes in by this uplink
    #[arg(long, value_name = "NAME")]
    pub uplink: Option<String>,
    /// Where to: `1.1.1.1:53/udp`, `[2001:db8::1]:80/tcp`, `10.1.0.1/icmp`, or a MAC address
    #[arg(long, value_name = "ADDRESS:PORT/PROTOCOL")]
    pub to: String,
    /// By this network of the endpoint; absent: as its routes say
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    /// Bytes of the IP packet
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(28..=65_535))]
    pub size: Option<u32>,
    /// Its TTL or hop limit as it comes in [default: 64]
    #[arg(long, value_name = "HOPS")]
    pub ttl: Option<u8>,
    /// It is IPv4 without DF ("don't fragment"), which kernels set otherwise
    #[arg(long)]
    pub no_df: bool,
    /// It is a TCP segment of a connection that is open, and no SYN
    #[arg(long)]
    pub no_syn: bool,
}

/// A packet that the gateway is asked about.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) input: FlowInput,
    /// Source and destination as written; of a frame the input does not have them.
    pub(crate) source: (IpAddr, u16),
    pub(crate) destination: To,
    pub(crate) bytes: u32,
    /// TTL or hop limit.
    pub(crate) hops: u8,
    /// True for IPv4 without DF.
    pub(crate) may_fragment: bool,
    /// True for a TCP segment without SYN.
    pub(crate) is_midway: bool,
    /// Nobody answers the endpoint's question for this address, so it sends nothing.
    pub(crate) unanswered: bool,
}

/// Where a packet is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Socket(IpAddr, u16, u8),
    Mac(MacAddress),
}

fn bad(error: impl Into<String>, hint: impl Into<String>) -> Failure {
    Failure { error: error.into(), hint: Some(hint.into()), ..Failure::default() }
}

/// Reads the destination.
fn parse_to(text: &str) -> Result<To, Failure> {
    let wrong = || {
        bad(
            format!("`{text}` is no destination"),
            "write `1.1.1.1:53/udp`, `[2001:db8::1]:80/tcp`, `10.1.0.1/icmp` or a MAC address",
        )
    };
    if let Some(mac) = parse_mac(text) {
        return Ok(To::Mac(mac));
    }
    let (socket, name) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    let number = match name {
        "tcp" => protocol::TCP,
        "udp" => protocol::UDP,
        "sctp" => protocol::SCTP,
        "icmp" | "icmpv6" => {
            let address: IpAddr = socket.trim_matches(['[', ']']).parse().map_err(|_| wrong())?;
            let number = if address.is_ipv6() { protocol::ICMPV6 } else { protocol::ICMP };
            return Ok(To::Socket(address, 0, number));
        }
        other => other.parse().map_err(|_| wrong())?,
    };
    let (address, port) = parse_socket(socket).ok_or_else(wrong)?;
    Ok(To::Socket(address, port, number))
}

fn parse_socket(text: &str) -> Option<(IpAddr, u16)> {
    let socket: std::net::SocketAddr = text.parse().ok()?;
    Some((socket.ip(), socket.port()))
}

fn parse_mac(text: &str) -> Option<MacAddress> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2))
        .collect::<Option<_>>()?;
    Some(MacAddress::new(bytes.try_into().ok()?))
}

/// What a question means under these tables.
pub(crate) fn asked(
    question: &Question,
    config: &Config,
    tables: &Tables,
) -> Result<Asked, Failure> {
    let to = parse_to(&question.to)?;
    match &question.uplink {
        Some(uplink) => from_outside(question, uplink, to, config),
        None => from_endpoint(question, to, config, tables),
    }
}

impl Question {
    /// The packet, once its addresses are known.
    fn packet(&self, input: FlowInput, source: (IpAddr, u16), to: To, unanswered: bool) -> Asked {
        Asked {
            input,
            source,
            destination: to,
            bytes: self.size.unwrap_or(BYTES),
            hops: self.ttl.unwrap_or(HOPS),
            may_fragment: self.no_df && source.0.is_ipv4(),
            is_midway: self.no_syn && input.protocol == protocol::TCP,
            unanswered,
        }
    }
}

fn from_outside(
    question: &Question,
    uplink: &str,
    to: To,
    config: &Config,
) -> Result<Asked, Failure> {
    let Some(uplink) = config.uplink(uplink) else {
        let known: Vec<&str> = config.uplinks.iter().map(|uplink| &*uplink.name).collect();
        return Err(unknown("uplink", uplink, &known));
    };
    let from = question.from.as_str();
    let source = parse_socket(from)
        .or_else(|| Some((from.trim_matches(['[', ']']).parse().ok()?, SOURCE_PORT)))
        .ok_or_else(|| bad(format!("`--from {from}`"), "an address outside and its port"))?;
    let To::Socket(address, port, number) = to else {
        return Err(bad("a frame to a MAC address", "from an uplink only packets are routed"));
    };
    let input = input(uplink.port, NetworkId::NONE, source, (address, port, number))?;
    Ok(question.packet(input, source, to, false))
}

fn from_endpoint(
    question: &Question,
    to: To,
    config: &Config,
    tables: &Tables,
) -> Result<Asked, Failure> {
    let (name, port) = match question.from.rsplit_once(':') {
        Some((name, port)) => {
            let port = port.parse();
            (name, port.map_err(|_| bad(format!("`--from {}`", question.from), "NAME:PORT"))?)
        }
        None => (question.from.as_str(), SOURCE_PORT),
    };
    let Some(endpoint) = config.endpoint(name) else {
        let known: Vec<&str> = config.endpoints.iter().map(|endpoint| &*endpoint.name).collect();
        return Err(unknown("endpoint", name, &known));
    };
    let attachment = attachment(question, endpoint, to, tables)?;
    let network = match &tables.port(attachment.port).map(|port| &port.kind) {
        Some(PortKind::Endpoint(own)) => own.network,
        _ => return Err(bad(format!("{name} has no port yet"), "reload the gateway")),
    };
    let own = |v6: bool| match v6 {
        true => attachment.ipv6_address().map(IpAddr::V6),
        false => attachment.ipv4_address().map(IpAddr::V4),
    };
    let To::Socket(address, to_port, number) = to else {
        let To::Mac(mac) = to else { unreachable!("the other kind of two") };
        let source = own(false).or_else(|| own(true)).unwrap_or(IpAddr::from([0; 4]));
        let input = FlowInput::bridged(attachment.port, network, mac);
        return Ok(question.packet(input, (source, port), to, false));
    };
    let Some(source) = own(address.is_ipv6()) else {
        let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
        let error = format!("{name} has no {family} address in {}", attachment.network);
        return Err(bad(error, "give the network a subnet of that family"));
    };
    if source == address {
        let error = format!("{address} is {name}'s own address: the packet never leaves it");
        return Err(bad(error, "ask from another endpoint"));
    }
    let source = (source, port);
    let asked = |input, unanswered| question.packet(input, source, to, unanswered);
    let table = tables.network(network);
    let near = table.filter(|own| own.subnet_of(address).is_some() && !own.is_gateway(address));
    let Some(near) = near else {
        let input = input(attachment.port, network, source, (address, to_port, number))?;
        return Ok(asked(input, false));
    };
    // To its own network it sends frames, to the MAC address that ARP or ND gives.
    let member = near.by_address.get(&address).and_then(|&port| tables.port(port));
    if let Some(PortKind::Endpoint(member)) = member.map(|port| &port.kind) {
        return Ok(asked(FlowInput::bridged(attachment.port, network, member.mac), false));
    }
    let overlay = near.overlay.as_ref();
    let host = overlay.and_then(|overlay| overlay.hosts.get(&address));
    match host {
        Some(&mac) => Ok(asked(FlowInput::bridged(attachment.port, network, mac), false)),
        None if overlay.is_some_and(|overlay| overlay.learns) => {
            let error = format!("{address} is no member here: it may be behind a tunnel");
            Err(bad(error, "ask by its MAC address, which the endpoint learns by ARP or ND"))
        }
        None => {
            Ok(asked(FlowInput::bridged(attachment.port, network, MacAddress::BROADCAST), true))
        }
    }
}

/// By which of its networks an endpoint sends.
fn attachment<'e>(
    question: &Question,
    endpoint: &'e Endpoint,
    to: To,
    tables: &Tables,
) -> Result<&'e Attachment, Failure> {
    let all = &endpoint.attachments;
    if let Some(name) = &question.network {
        let known: Vec<&str> = all.iter().map(|attachment| &*attachment.network).collect();
        let found = all.iter().find(|attachment| attachment.network == *name);
        return found.ok_or_else(|| unknown("network of the endpoint", name, &known));
    }
    let holds = |attachment: &&Attachment, address: IpAddr| {
        let Some(PortKind::Endpoint(own)) = tables.port(attachment.port).map(|port| &port.kind)
        else {
            return false;
        };
        tables.network(own.network).is_some_and(|network| network.subnet_of(address).is_some())
    };
    let found = match to {
        To::Socket(address, ..) => {
            let default = |attachment: &&Attachment| match address.is_ipv6() {
                true => attachment.default_route_v6.is_some(),
                false => attachment.default_route_v4.is_some(),
            };
            all.iter().find(|one| holds(one, address)).or_else(|| all.iter().find(default))
        }
        To::Mac(_) => all.first(),
    };
    found.ok_or_else(|| {
        let error = format!("{} has no route there: the packet never leaves it", endpoint.name);
        bad(error, "put it in a network with a gateway of that family that is not internal")
    })
}

fn input(
    ingress: PortId,
    network: NetworkId,
    source: (IpAddr, u16),
    to: (IpAddr, u16, u8),
) -> Result<FlowInput, Failure> {
    let (destination, port, number) = to;
    if source.0.is_ipv6() != destination.is_ipv6() {
        return Err(bad("addresses of two families", "use IPv4 or IPv6 for both"));
    }
    // Of an echo request its type stands where others have a port.
    let destination_port = match number {
        protocol::ICMP => 0x0800,
        protocol::ICMPV6 => 0x8000,
        _ => port,
    };
    let has_ports = matches!(
        number,
        protocol::TCP | protocol::UDP | protocol::SCTP | protocol::ICMP | protocol::ICMPV6
    );
    Ok(FlowInput {
        ingress,
        network,
        path: Path::Routed,
        source: source.0,
        destination,
        protocol: number,
        source_port: if has_ports { source.1 } else { 0 },
        destination_port: if has_ports { destination_port } else { 0 },
    })
}

fn unknown(what: &str, name: &str, known: &[&str]) -> Failure {
    let hint = match config::nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known: {}", known.join(", ")),
    };
    bad(format!("there is no {what} `{name}`"), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read_in_every_form_and_others_are_refused() {
        let socket = |text: &str, port, number| To::Socket(text.parse().unwrap(), port, number);
        assert_eq!(parse_to("1.1.1.1:53/udp").unwrap(), socket("1.1.1.1", 53, protocol::UDP));
        assert_eq!(parse_to("[::1]:80").unwrap(), socket("::1", 80, protocol::TCP));
        assert_eq!(parse_to("fd00::1/icmp").unwrap(), socket("fd00::1", 0, protocol::ICMPV6));
        assert_eq!(parse_to("10.0.0.1:1/47").unwrap(), socket("10.0.0.1", 1, 47));
        let mac = MacAddress::new([2, 0x42, 10, 1, 0, 10]);
        assert_eq!(parse_to("02:42:0a:01:00:0a").unwrap(), To::Mac(mac));
        for wrong in ["", "1.1.1.1", "1.1.1.1:x/udp", "1.1.1.1:70000", "a/icmp", "1.1.1.1:1/foo"] {
            assert!(parse_to(wrong).is_err(), "{wrong}");
        }
    }
}
