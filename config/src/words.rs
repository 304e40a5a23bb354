//! Keys whose value is one of a few words, and what each word means.
//!
//! One table per key, read by the checker and by the JSON Schema alike, so that the two never
//! disagree. A word without a meaning is of a later version: it is known, and refused as such.

use engine::limits::Filtering;
use engine::tables::{GatewayMode, RuleAction};

use crate::model::{
    Family, Idle, IpvlanFlag, IpvlanMode, LogFormat, MacPolicy, MacvlanMode, NetworkDriver,
    UplinkDriver,
};

/// The words of one key.
pub(crate) type Words<T> = &'static [(&'static str, Option<T>)];

pub(crate) const IDLE: Words<Idle> = &[
    ("busy", Some(Idle::Busy)),
    ("adaptive", Some(Idle::Adaptive)),
    ("interrupt", Some(Idle::Interrupt)),
];

pub(crate) const LOG: Words<LogFormat> =
    &[("text", Some(LogFormat::Text)), ("json", Some(LogFormat::Json))];

pub(crate) const UPLINK_DRIVER: Words<UplinkDriver> =
    &[("tap", Some(UplinkDriver::Tap)), ("xdp", Some(UplinkDriver::Xdp))];

pub(crate) const NETWORK_DRIVER: Words<NetworkDriver> = &[
    ("bridge", Some(NetworkDriver::Bridge)),
    ("overlay", Some(NetworkDriver::Overlay)),
    ("macvlan", Some(NetworkDriver::Macvlan)),
    ("ipvlan", Some(NetworkDriver::Ipvlan)),
    ("none", Some(NetworkDriver::None)),
    ("host", Some(NetworkDriver::Host)),
];

pub(crate) const MODE: Words<GatewayMode> = &[
    ("nat", Some(GatewayMode::Nat)),
    ("nat-unprotected", Some(GatewayMode::NatUnprotected)),
    ("routed", Some(GatewayMode::Routed)),
    ("isolated", Some(GatewayMode::Isolated)),
];

pub(crate) const MACVLAN_MODE: Words<MacvlanMode> = &[
    ("bridge", Some(MacvlanMode::Bridge)),
    ("private", Some(MacvlanMode::Private)),
    ("vepa", Some(MacvlanMode::Vepa)),
    ("passthru", Some(MacvlanMode::Passthru)),
];

pub(crate) const IPVLAN_MODE: Words<IpvlanMode> =
    &[("l2", Some(IpvlanMode::L2)), ("l3", Some(IpvlanMode::L3)), ("l3s", Some(IpvlanMode::L3s))];

pub(crate) const IPVLAN_FLAG: Words<IpvlanFlag> = &[
    ("bridge", Some(IpvlanFlag::Bridge)),
    ("private", Some(IpvlanFlag::Private)),
    ("vepa", Some(IpvlanFlag::Vepa)),
];

pub(crate) const RULE_ACTION: Words<RuleAction> = &[
    ("allow", Some(RuleAction::Allow)),
    ("deny", Some(RuleAction::Deny)),
    ("reject", Some(RuleAction::Reject)),
];

pub(crate) const MAC_POLICY: Words<MacPolicy> =
    &[("derived", Some(MacPolicy::Derived)), ("random", Some(MacPolicy::Random))];

pub(crate) const FILTERING: Words<Filtering> = &[
    ("address-and-port", Some(Filtering::AddressAndPort)),
    ("address", Some(Filtering::Address)),
    ("endpoint", Some(Filtering::Endpoint)),
];

pub(crate) const FAMILY: Words<Family> = &[("ipv4", Some(Family::V4)), ("ipv6", Some(Family::V6))];

/// The words that mean something in this version.
pub(crate) fn known<T>(words: Words<T>) -> Vec<&'static str> {
    words.iter().filter(|(_, meaning)| meaning.is_some()).map(|(word, _)| *word).collect()
}

/// The word for a meaning.
pub(crate) fn of<T: PartialEq>(words: Words<T>, meaning: &T) -> &'static str {
    let found = words.iter().find(|(_, known)| known.as_ref() == Some(meaning));
    found.map(|(word, _)| *word).expect("every meaning has its word")
}

/// The meaning of a word, if it is one.
pub(crate) fn meaning<T: Copy>(words: Words<T>, word: Option<&String>) -> Option<T> {
    let found = words.iter().find(|(known, _)| word.is_some_and(|word| word == known));
    found.and_then(|(_, meaning)| *meaning)
}
