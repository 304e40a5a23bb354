//! `[[policy]]`, gateway modes and trusted uplinks: what is refused and where, what they compile
//! to, and that a change of them moves what it must and nothing else.

// Clippy allows this in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use config::{Config, Leases, compile, recompile};
use engine::tables::{GatewayMode, RuleAction, RulePorts};
use engine::{NetworkId, PortId, Tables};

const BASE: &str = r#"[uplink.wan]
driver = "tap"
interface = "wan0"
addresses = ["192.0.2.10/24", "2001:db8::10/64"]
host_addresses = ["192.0.2.1/24"]
[network.front]
subnets = ["10.1.0.0/24", "fd00:1::/64"]
[network.back]
subnet = "10.2.0.0/24"
[endpoint.web]
attach = { netns = "web" }
publish = ["8080:80"]
network = [{ name = "front" }, { name = "back" }]
[endpoint.db]
attach = { netns = "db" }
network = [{ name = "back" }]
[endpoint.alone]
attach = { netns = "alone" }
network = [{ name = "none" }]
"#;

fn parse(rules: &str) -> Result<Config, Vec<String>> {
    Config::parse("x.toml", &format!("{BASE}{rules}"))
        .map_err(|found| found.iter().map(ToString::to_string).collect())
}

fn refused(rule: &str, expected: &str) {
    let text = format!("[[policy]]\n{rule}\n");
    let found = parse(&text).err().unwrap_or_default();
    assert_eq!(found.len(), 1, "{rule}: {found:?}");
    assert!(found[0].starts_with(expected), "{rule}: {found:?}");
}

#[test]
fn what_is_wrong_in_a_rule_is_said_with_its_place() {
    refused("from = { uplink = \"wan\" }", "x.toml:20:1: policy[0]: action is missing");
    refused("action = \"drop\"", "x.toml:21:10: policy[0].action: unknown word \"drop\"");
    let deny = |rest: &str, expected: &str| {
        refused(&format!("action = \"deny\"\n{rest}"), &format!("x.toml:22:{expected}"));
    };
    deny("from = { uplink = \"wam\" }", "19: policy[0].from.uplink: there is no uplink \"wam\"");
    deny("to = { network = \"x\" }", "18: policy[0].to.network: there is no network \"x\"");
    deny("to = { endpoint = \"wb\" }", "19: policy[0].to.endpoint: there is no endpoint \"wb\"");
    deny(
        "to = { endpoint = \"alone\" }",
        "19: policy[0].to.endpoint: no packet of endpoint alone passes the gateway",
    );
    deny(
        "to = { endpoint = \"db\", network = \"front\" }",
        "19: policy[0].to.endpoint: endpoint db is not in network front",
    );
    deny(
        "from = { uplink = \"wan\", network = \"front\" }",
        "19: policy[0].from.uplink: an uplink and what is inside exclude each other",
    );
    refused(
        "action = \"deny\"\nfrom = { uplink = \"wan\" }\nto = { uplink = \"wan\" }",
        "x.toml:20:1: policy[0]: nothing passes from an uplink to an uplink",
    );
    deny("to = { cidr = \"10.1.0.1/24\" }", "15: policy[0].to.cidr: 10.1.0.1/24 has host bits set");
    deny(
        "to = { cidr = [\"10.1.0.1\", \"x\"] }",
        "28: policy[0].to.cidr[1]: expected an address or prefix, found \"x\"",
    );
    deny("to = { ports = \"80-\" }", "16: policy[0].to.ports: expected ports such as 80");
    deny("to = { ports = \"80/icmp\" }", "16: policy[0].to.ports: invalid proto: icmp");
    deny(
        "to = { ports = \"80\" }\nprotocol = \"icmp\"",
        "16: policy[0].to.ports: protocol 1 has no",
    );
    deny(
        "to = { ports = \"80/tcp\" }\nprotocol = \"udp\"",
        "16: policy[0].to.ports: the rule is of protocol 17, and tcp is another",
    );
    deny("protocol = \"tpc\"", "12: policy[0].protocol: expected tcp, udp, sctp, icmp or a number");
    deny("form = {}", "1: policy[0].form: unknown key");
    deny("from = { adress = \"x\" }", "10: policy[0].from.adress: unknown key");
    refused(
        "action = \"deny\"\nfrom = { cidr = \"10.0.0.0/8\" }\nto = { cidr = \"fd00::/8\" }",
        "x.toml:20:1: policy[0]: no packet is from one address family and to the other",
    );
    let many = "[[policy]]\naction = \"deny\"\nprotocol = \"udp\"\n".repeat(4_097);
    let found = parse(&many).unwrap_err();
    assert_eq!(found, ["x.toml:20:1: policy: 4097 rules are too many, 4096 go"]);
}

#[test]
fn a_rule_that_can_never_fit_is_a_warning() {
    let warnings = |rules: &str| -> Vec<String> {
        parse(rules).unwrap().warnings.iter().map(ToString::to_string).collect()
    };
    let all = "[[policy]]\naction = \"deny\"\n";
    assert_eq!(
        warnings(&format!("{all}{all}")),
        ["x.toml:22:1: warning: policy[1]: this rule is never asked"]
    );
    let bridged = "[[policy]]\naction = \"deny\"\nfrom = { endpoint = \"db\" }\n\
                   to = { endpoint = \"web\", network = \"back\" }\n";
    assert_eq!(
        warnings(bridged),
        ["x.toml:20:1: warning: policy[0]: members of network back reach each other past all \
             rules"]
    );
}

const RULES: &str = r#"
[[policy]]
action = "allow"
from = { cidr = ["203.0.113.7", "2001:db8:1::/48"] }
[[policy]]
action = "deny"
from = { uplink = "wan", cidr = "203.0.113.0/24" }
to = { endpoint = "web", ports = ["8080/tcp", "5000-5010"] }
[[policy]]
action = "reject"
from = { network = "back", ports = "53" }
protocol = "udp"
"#;

#[test]
fn rules_compile_to_ids_and_ports_by_protocol() {
    let config = parse(RULES).unwrap();
    let tables = compile(&config, None);
    let rules = tables.policy.rules();
    assert_eq!(
        rules.iter().map(|rule| rule.action).collect::<Vec<_>>(),
        [RuleAction::Allow, RuleAction::Deny, RuleAction::Reject]
    );
    assert_eq!(rules[0].from.prefixes.as_ref().unwrap().len(), 2);
    assert_eq!(rules[1].from.behind, Some(vec![PortId(0)]));
    let web: Vec<PortId> =
        config.endpoint("web").unwrap().attachments.iter().map(|own| own.port).collect();
    assert_eq!(rules[1].to.behind, Some(web));
    let range = |protocol, first, last| RulePorts { protocol, first, last };
    let expected =
        [range(6, 8080, 8080), range(6, 5000, 5010), range(17, 5000, 5010), range(132, 5000, 5010)];
    assert_eq!(rules[1].to_ports.as_deref(), Some(&expected[..]));
    assert_eq!(rules[2].from.network, Some(NetworkId(1)));
    assert_eq!(rules[2].from_ports.as_deref(), Some(&[range(17, 53, 53)][..]));
    assert_eq!(rules[2].to_ports.as_deref(), Some(&[range(17, 0, 65_535)][..]));
    let shown: Vec<String> = config.policy.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "allow from 203.0.113.7/32 2001:db8:1::/48 to any",
            "deny from uplink wan 203.0.113.0/24 to endpoint web ports 8080/tcp,5000-5010",
            "reject udp from network back ports 53 to any",
        ]
    );
}

#[test]
fn a_resolved_config_has_the_same_rules_modes_and_trust() {
    let text = format!("{BASE}{RULES}")
        .replace("[network.back]", "[network.back]\nmode = \"routed\"")
        .replace("interface = \"wan0\"", "interface = \"wan0\"\ntrusted = true");
    let config = Config::parse("x.toml", &text).unwrap();
    let again = Config::parse("y.toml", &config.to_toml()).unwrap();
    assert_eq!((&again.policy, &again.networks), (&config.policy, &config.networks));
    assert_eq!(again.to_toml(), config.to_toml());
    assert!(again.uplinks[0].trusted);
    let back = again.network("back").unwrap();
    assert_eq!((back.mode, back.masquerade), (GatewayMode::Routed, false));
}

#[test]
fn a_published_port_of_a_routed_network_is_only_opened() {
    let text = BASE
        .replace("[network.front]", "[network.front]\nmode = \"routed\"")
        .replace("\"8080:80\"", "\"8080:80\", \"198.51.100.1:8080:81\", \"127.0.0.1:8080:82\"");
    let config = Config::parse("x.toml", &text).unwrap();
    let entries = compile(&config, None).publish.entries().to_vec();
    assert_eq!(entries.len(), 4);
    assert!(entries.iter().all(|entry| entry.host_port == 0 && entry.host.is_none()));
    assert_eq!(entries.iter().map(|entry| entry.target_port).collect::<Vec<_>>(), [80, 80, 81, 82]);
    let again = Config::parse("y.toml", &config.to_toml()).unwrap();
    assert_eq!(again.endpoints, config.endpoints);
}

/// What a change moves: policy, plan, and the first network.
fn step(from: &str, to: &str) -> (Tables, Tables) {
    let parse = |text: &str| Config::parse("x.toml", text).unwrap();
    let mut running = parse(from);
    let before = compile(&running, None);
    config::adopt_ids(&running.clone(), &before, &mut running);
    let mut next = parse(to);
    let after = recompile(&running, &before, &mut next);
    let full = compile(&parse(to), Some(&before));
    assert_eq!(after.policy.rules(), full.policy.rules());
    assert_eq!((after.policy.epoch, after.plan), (full.policy.epoch, full.plan));
    (before, after)
}

#[test]
fn a_change_of_rules_moves_their_epoch_and_an_equal_text_moves_nothing() {
    let text = format!("{BASE}{RULES}");
    let (before, after) = step(&text, &text);
    assert!(Arc::ptr_eq(&before.policy, &after.policy));
    let (before, after) = step(&text, &text.replace("203.0.113.0/24", "203.0.112.0/24"));
    assert!(before.policy.epoch < after.policy.epoch && before.plan == after.plan);
    let trusted = text.replace("interface = \"wan0\"", "interface = \"wan0\"\ntrusted = true");
    let (before, after) = step(&text, &trusted);
    assert!(before.plan < after.plan && before.policy.epoch == after.policy.epoch);
    let (_, after) = step(&text, BASE);
    assert!(after.policy.rules().is_empty());
}

#[test]
fn the_machine_is_behind_an_uplink_that_stays_in_its_own_namespace() {
    let tables = compile(&parse("").unwrap(), None);
    let machine = "192.0.2.1".parse().unwrap();
    assert!(tables.uplinks[0].as_ref().unwrap().host.is_host(machine));
    let outside = BASE.replace("interface = \"wan0\"", "interface = \"wan0\"\nnetns = \"outside\"");
    let outside = Config::parse_with("x.toml", &outside, &Leases::default()).unwrap();
    assert!(compile(&outside, None).uplinks[0].as_ref().unwrap().host.peers.is_empty());
}
