//! What is told of packets under configs: who reaches whom, why not, and what to change.

use engine::DropReason;

use super::*;

const CONFIG: &str = r#"
[uplink.wan]
driver = "tap"
interface = "wan0"
netns = "outside"
create = true
addresses = ["192.0.2.10/24", "2001:db8::10/64"]
gateway = "192.0.2.1"
mtu = 1400
[network.front]
subnet = "10.1.0.0/24"
[network.back]
subnet = "10.2.0.0/24"
[network.quiet]
subnet = "10.3.0.0/24"
icc = false
[network.vault]
subnet = "10.4.0.0/24"
internal = true
[network.open]
subnet = "10.5.0.0/24"
mode = "routed"
[network.jumbo]
subnets = ["10.6.0.0/24", "fd00:6::/64"]
mtu = 1400
[endpoint.web]
attach = { netns = "web", create = true }
publish = ["8080:80"]
network = [{ name = "front", ip = "10.1.0.10", mac = "02:42:0a:01:00:0a" }]
[endpoint.client]
attach = { netns = "client", create = true }
network = [{ name = "front", ip = "10.1.0.11" }]
[endpoint.other]
attach = { netns = "other", create = true }
network = [{ name = "back", ip = "10.2.0.11" }]
[endpoint.one]
attach = { netns = "one", create = true }
publish = ["9090:90"]
network = [{ name = "quiet", ip = "10.3.0.10" }]
[endpoint.two]
attach = { netns = "two", create = true }
network = [{ name = "quiet", ip = "10.3.0.11" }]
[endpoint.safe]
attach = { netns = "safe", create = true }
network = [{ name = "vault", ip = "10.4.0.10" }]
[endpoint.routed]
attach = { netns = "routed", create = true }
publish = ["70:70"]
network = [{ name = "open", ip = "10.5.0.10" }]
[endpoint.six]
attach = { netns = "six", create = true }
network = [{ name = "jumbo", ip = "10.6.0.10", ip6 = "fd00:6::10" }]
[[policy]]
action = "allow"
from = { uplink = "wan", cidr = "203.0.113.7/32" }
[[policy]]
action = "deny"
from = { uplink = "wan", cidr = "203.0.113.0/24" }
to = { endpoint = "web", ports = "8080/tcp" }
[[policy]]
action = "reject"
from = { endpoint = "client" }
to = { cidr = "198.51.100.9/32" }
"#;

fn question(from: &str, uplink: Option<&str>, to: &str) -> Question {
    Question {
        from: from.to_owned(),
        uplink: uplink.map(str::to_owned),
        to: to.to_owned(),
        ..Question::default()
    }
}

fn under(config: &str, question: &Question) -> Explained {
    let config = Config::parse("test.toml", config).unwrap();
    offline(&config, question).unwrap()
}

/// From an endpoint.
fn out(from: &str, to: &str) -> Explained {
    under(CONFIG, &question(from, None, to))
}

/// From outside.
fn in_by_wan(from: &str, to: &str) -> Explained {
    under(CONFIG, &question(from, Some("wan"), to))
}

/// What a step says.
fn why<'t>(told: &'t Explained, step: &str) -> &'t str {
    &told.steps.iter().find(|one| one.step == step).unwrap().why
}

fn dies(told: &Explained, reason: &str) {
    assert_eq!((told.verdict.as_str(), told.reason.as_deref()), ("drop", Some(reason)), "{told:?}");
    let advice = told.advice.as_deref().unwrap_or_default();
    assert!(!advice.is_empty(), "{told:?}");
}

/// What is advised works: with the config changed so, the packet arrives.
fn helps(told: &Explained, advice: &str, change: (&str, &str), question: &Question) {
    let given = told.advice.as_deref().unwrap();
    assert!(given.contains(advice), "{given}");
    assert!(CONFIG.contains(change.0));
    let changed = under(&CONFIG.replace(change.0, change.1), question);
    assert_eq!(changed.verdict, "forward", "{changed:?}");
}

#[test]
fn a_packet_out_is_masqueraded_step_by_step() {
    let told = out("web:40000", "1.1.1.1:53/udp");
    assert_eq!((told.verdict.as_str(), told.reason.as_deref()), ("forward", None));
    assert_eq!(why(&told, "nat"), "the source becomes 192.0.2.10:40000");
    let leaves = told.leaves.unwrap();
    assert_eq!((leaves.port.as_str(), leaves.source.as_str()), ("wan", "192.0.2.10:40000"));
    assert_eq!(leaves.next_hop.as_deref(), Some("192.0.2.1"));
    let names: Vec<&str> = told.steps.iter().map(|step| step.step.as_str()).collect();
    let stages = ["admit", "publish", "unmap", "local", "bridge", "route", "policy", "nat", "mtu"];
    assert_eq!(names[..2], ["ingress", "lookup"]);
    assert_eq!(names[2..11], stages);
    assert_eq!(names[11..], ["flow", "size", "neighbour", "egress"]);
}

#[test]
fn a_segment_whose_connection_is_not_known_is_picked_up_or_dies_as_the_key_says() {
    let mut asked = question("web", None, "1.1.1.1:80/tcp");
    assert!(why(&under(CONFIG, &asked), "flow").contains("room"));
    asked.no_syn = true;
    assert_eq!(under(CONFIG, &asked).verdict, "forward");
    let told = under(&format!("{CONFIG}\n[nat]\ntcp_pickup = false\n"), &asked);
    dies(&told, "no_connection");
}

#[test]
fn a_neighbour_that_nobody_has_asked_for_is_asked_first() {
    let told = out("web", "1.1.1.1:53/udp");
    assert!(why(&told, "neighbour").contains("asked for by ARP"), "{told:?}");
    assert_eq!(told.leaves.unwrap().destination_mac, None);
}

#[test]
fn a_published_port_is_reached_from_outside_and_another_port_is_closed() {
    let reached = in_by_wan("198.51.100.7:999", "192.0.2.10:8080/tcp");
    assert!(why(&reached, "publish").contains("published by web/front"), "{reached:?}");
    let leaves = reached.leaves.unwrap();
    assert_eq!((leaves.port.as_str(), leaves.destination.as_str()), ("web/front", "10.1.0.10:80"));
    assert_eq!(leaves.source, "198.51.100.7:999");
    let closed = in_by_wan("198.51.100.7:999", "192.0.2.10:81/tcp");
    dies(&closed, "closed_port");
    assert_eq!(closed.answer.as_deref(), Some("tcp reset"));
    let asked = question("198.51.100.7:999", Some("wan"), "192.0.2.10:81/tcp");
    helps(&closed, "`publish = [\"81:PORT\"]`", ("\"8080:80\"", "\"8080:80\", \"81:80\""), &asked);
}

#[test]
fn an_unpublished_address_is_silent_and_the_advice_opens_it() {
    let asked = question("198.51.100.7:999", Some("wan"), "10.1.0.10:443/udp");
    let told = under(CONFIG, &asked);
    dies(&told, "unpublished");
    assert_eq!(
        (told.answer.as_deref(), told.steps.last().unwrap().step.as_str()),
        (None, "policy")
    );
    let subnet = "subnet = \"10.1.0.0/24\"";
    let opened = format!("{subnet}\nmode = \"nat-unprotected\"");
    helps(&told, "`mode = \"nat-unprotected\"` in [network.front]", (subnet, &opened), &asked);
    let published = question("198.51.100.7:999", Some("wan"), "192.0.2.10:443/udp");
    let change = ("\"8080:80\"", "\"443:443/udp\"");
    helps(&told, "`publish = [\"443:443/udp\"]` in [endpoint.web]", change, &published);
    assert!(told.advice.unwrap().contains("send to 192.0.2.10:443"));
}

#[test]
fn another_network_is_reached_as_the_advice_says_only() {
    let asked = question("other", None, "10.1.0.10:80/tcp");
    let told = under(CONFIG, &asked);
    dies(&told, "other_network");
    let own = r#"network = [{ name = "back", ip = "10.2.0.11" }]"#;
    let joined = r#"network = [{ name = "back", ip = "10.2.0.11" }, { name = "front" }]"#;
    helps(&told, "[[endpoint.other.network]] `name = \"front\"`", (own, joined), &asked);
    assert!(told.advice.unwrap().starts_with("send to 192.0.2.10:8080, where it is published"));
    let published = out("other", "192.0.2.10:8080/tcp");
    assert_eq!(published.leaves.unwrap().destination, "10.1.0.10:80");
}

#[test]
fn members_without_icc_reach_each_other_by_published_ports_only() {
    let asked = question("two", None, "10.3.0.10:90/tcp");
    let told = under(CONFIG, &asked);
    dies(&told, "icc_off");
    helps(&told, "`icc = true` in [network.quiet]", ("icc = false", "icc = true"), &asked);
    let leaves = out("two", "192.0.2.10:9090/tcp").leaves.unwrap();
    assert_eq!(leaves.destination, "10.3.0.10:90");
}

#[test]
fn an_internal_network_is_closed_in_both_directions() {
    for told in [
        out("web", "10.4.0.10:80/tcp"),
        in_by_wan("198.51.100.7:1", "10.4.0.10:80/tcp"),
        in_by_wan("198.51.100.7:1", "10.4.0.10/icmp"),
    ] {
        dies(&told, "internal");
        assert!(told.advice.unwrap().contains("[network.vault]"));
    }
    let mut asked = question("safe", None, "1.1.1.1:53/udp");
    asked.network = Some("vault".to_owned());
    let told = under(CONFIG, &asked);
    dies(&told, "internal");
    helps(&told, "remove `internal = true`", ("internal = true", "internal = false"), &asked);
}

#[test]
fn a_policy_rule_is_named_with_its_number() {
    let denied = in_by_wan("203.0.113.9:1", "192.0.2.10:8080/tcp");
    dies(&denied, "policy_denied");
    assert!(why(&denied, "policy").contains("rule 2"), "{denied:?}");
    assert!(denied.advice.unwrap().contains("change rule 2"));
    let allowed = in_by_wan("203.0.113.7:1", "192.0.2.10:8080/tcp");
    assert!(why(&allowed, "policy").contains("rule 1"), "{allowed:?}");
    assert_eq!(allowed.verdict, "forward");
    let rejected = out("client", "198.51.100.9:53/udp");
    dies(&rejected, "policy_rejected");
    assert_eq!(rejected.answer.as_deref(), Some("icmp port unreachable"));
    assert_eq!(out("client", "198.51.100.9:53/tcp").answer.as_deref(), Some("tcp reset"));
}

#[test]
fn a_routed_network_is_reached_straight_at_published_ports_and_keeps_its_addresses() {
    let reached = in_by_wan("198.51.100.7:1", "10.5.0.10:70/tcp");
    assert_eq!(reached.leaves.unwrap().destination, "10.5.0.10:70");
    assert_eq!(in_by_wan("198.51.100.7:1", "10.5.0.10/icmp").verdict, "forward");
    dies(&in_by_wan("198.51.100.7:1", "10.5.0.10:71/tcp"), "unpublished");
    let out = out("routed:4000", "1.1.1.1:53/udp");
    assert_eq!(why(&out, "nat"), "the source stays");
    assert_eq!(out.leaves.unwrap().source, "10.5.0.10:4000");
}

#[test]
fn a_hairpin_is_seen_as_the_networks_gateway() {
    for from in ["client:4000", "web:4000"] {
        let told = out(from, "192.0.2.10:8080/tcp");
        let leaves = told.leaves.unwrap();
        assert_eq!(
            (leaves.port.as_str(), leaves.destination.as_str()),
            ("web/front", "10.1.0.10:80")
        );
        assert!(leaves.source.starts_with("10.1.0.1:"), "{leaves:?}");
    }
}

#[test]
fn a_client_of_ipv6_reaches_an_endpoint_that_has_ipv4_only() {
    let mut asked = question("[2001:db8::77]:999", Some("wan"), "[2001:db8::10]:8080/tcp");
    asked.size = Some(1_420);
    let told = under(CONFIG, &asked);
    assert_eq!(told.verdict, "forward", "{told:?}");
    let leaves = told.leaves.unwrap();
    assert_eq!(leaves.destination, "10.1.0.10:80");
    assert!(leaves.source.starts_with("10.1.0.1:") && leaves.fits, "{leaves:?}");
    asked.size = Some(1_421);
    let told = under(CONFIG, &asked);
    assert_eq!(told.answer.as_deref(), Some("icmp packet too big, next-hop MTU 1420"));
}

#[test]
fn without_a_route_the_inside_is_told_and_the_advice_names_the_key() {
    let (from, to) = ("[fd00:6::10]", "[2600::1]:53/udp");
    let told = out("six", to);
    dies(&told, "no_route");
    assert_eq!(told.answer.as_deref(), Some("icmp network unreachable"), "{from}");
    let asked = question("six", None, to);
    let gateway =
        ("gateway = \"192.0.2.1\"", "gateway = \"192.0.2.1\"\ngateway6 = \"2001:db8::1\"");
    helps(&told, "`gateway6`", gateway, &asked);
}

#[test]
fn a_packet_whose_hops_are_used_up_dies_where_it_is_routed_only() {
    let mut asked = question("web", None, "1.1.1.1:53/udp");
    asked.ttl = Some(1);
    let told = under(CONFIG, &asked);
    dies(&told, "ttl_exceeded");
    assert_eq!(told.answer.as_deref(), Some("icmp time exceeded"));
    asked.ttl = Some(2);
    assert_eq!(under(CONFIG, &asked).verdict, "forward");
    asked.ttl = Some(1);
    asked.to = "10.1.0.11:53/udp".to_owned();
    assert_eq!(under(CONFIG, &asked).verdict, "forward", "a bridge looks at no TTL");
}

#[test]
fn a_packet_that_is_too_large_is_cut_or_told_the_mtu_or_dies() {
    let mut asked = question("web", None, "1.1.1.1:53/udp");
    asked.size = Some(1_400);
    let told = under(CONFIG, &asked);
    assert_eq!((told.verdict.as_str(), why(&told, "size").contains("1400")), ("forward", true));
    asked.size = Some(1_401);
    let told = under(CONFIG, &asked);
    dies(&told, "too_big_icmp_sent");
    assert!(why(&told, "size").contains("[uplink.wan]"), "{told:?}");
    assert_eq!(told.answer.as_deref(), Some("icmp fragmentation needed, next-hop MTU 1400"));
    assert!(!told.leaves.unwrap().fits);
    asked.no_df = true;
    let told = under(CONFIG, &asked);
    assert_eq!((told.verdict.as_str(), told.leaves.unwrap().fragments), ("forward", Some(2)));
    asked.size = Some(20 + 2 * 1_376 + 1);
    assert_eq!(under(CONFIG, &asked).leaves.unwrap().fragments, Some(3));
    // Inside its network it is the same.
    asked.to = "10.1.0.11:53/udp".to_owned();
    let told = under(CONFIG, &asked);
    assert_eq!((told.verdict.as_str(), told.leaves.unwrap().fragments), ("forward", Some(3)));
    asked.no_df = false;
    let told = under(CONFIG, &asked);
    dies(&told, "too_big_icmp_sent");
    assert!(told.answer.unwrap().contains("next-hop MTU"));
}

#[test]
fn a_frame_inside_a_network_an_unknown_address_and_a_mac_address() {
    let frame = out("client", "10.1.0.10:80/tcp");
    let leaves = frame.leaves.unwrap();
    assert_eq!(leaves.destination_mac.as_deref(), Some("02:42:0a:01:00:0a"));
    assert_eq!((frame.verdict.as_str(), leaves.port.as_str()), ("forward", "web/front"));
    dies(&out("client", "10.1.0.99:80/tcp"), "no_endpoint");
    let by_mac = out("client", "02:42:0a:01:00:0a");
    assert_eq!(by_mac.leaves.unwrap().port, "web/front");
    assert_eq!(out("client", "02:42:0a:01:00:ff").verdict, "flood");
    dies(&out("web", "02:42:0a:01:00:0a"), "same_port");
}

#[test]
fn what_no_wire_should_carry_and_what_is_not_translated_is_told() {
    dies(&in_by_wan("10.1.0.10:1", "192.0.2.10:8080/tcp"), "martian");
    dies(&in_by_wan("198.51.100.7:1", "198.51.100.8:1/udp"), "not_routable");
    dies(&out("web", "224.0.1.1:1/udp"), "not_routable");
    dies(&out("web", "1.1.1.1:0/47"), "protocol_not_translated");
    dies(&in_by_wan("198.51.100.7:1", "192.0.2.10:40000/tcp"), "filtered");
    assert_eq!(out("web", "10.1.0.1/icmp").answer.as_deref(), Some("echo reply"));
}

#[test]
fn a_port_of_the_host_that_is_not_published_is_the_hosts_to_serve() {
    let config = CONFIG
        .replace("netns = \"outside\"\ncreate = true\n", "")
        .replace("gateway = ", "host_addresses = [\"192.0.2.1/24\"]\ngateway = ");
    let asked = question("192.0.2.7:999", Some("wan"), "192.0.2.1:81/tcp");
    let closed = under(&config, &asked);
    dies(&closed, "not_routable");
    let advice = closed.advice.unwrap();
    assert!(advice.contains("192.0.2.1 is the host's"), "{advice}");
    assert!(advice.contains("`publish = [\"81:PORT\"]`"), "{advice}");
}

/// Reasons under which a stage, or a guard after the stages, lets a packet die.
const TOLD: [DropReason; 23] = [
    DropReason::Martian,
    DropReason::NotRoutable,
    DropReason::Unpublished,
    DropReason::OtherNetwork,
    DropReason::Internal,
    DropReason::IccOff,
    DropReason::PolicyDenied,
    DropReason::PolicyRejected,
    DropReason::ProtocolNotTranslated,
    DropReason::Filtered,
    DropReason::NoOutsideAddress,
    DropReason::OutsidePortsUsedUp,
    DropReason::NoRoute,
    DropReason::NoEndpoint,
    DropReason::PortGone,
    DropReason::SamePort,
    DropReason::ClosedPort,
    DropReason::LocalUnhandled,
    DropReason::TtlExceeded,
    DropReason::TooBig,
    DropReason::TooBigIcmpSent,
    DropReason::NeighbourUnreachable,
    DropReason::NeighbourTableFull,
];

#[test]
fn of_every_reason_that_is_told_there_are_words_on_what_to_change() {
    for reason in TOLD {
        let advice = crate::reasons::of(reason).1;
        let says_what =
            !advice.starts_with("nothing") || advice.contains(';') || advice.contains(':');
        assert!(says_what && !advice.starts_with("as above"), "{}: {advice}", reason.name());
    }
}

#[test]
fn a_question_that_cannot_be_asked_is_refused_with_what_can() {
    let config = Config::parse("test.toml", CONFIG).unwrap();
    let refused = |question: Question| offline(&config, &question).unwrap_err();
    let failure = refused(question("wbe", None, "1.1.1.1:53"));
    assert_eq!(failure.hint.as_deref(), Some("did you mean `web`?"));
    let failure = refused(question("web", None, "[2001:db8::1]:53"));
    assert!(failure.error.contains("no route there"), "{}", failure.error);
    assert!(refused(question("1.1.1.1:1", Some("lan"), "1.1.1.1:53")).hint.is_some());
}
