//! What the files of a dialect come to: networks and endpoints of the native schema.
//!
//! A fragment joins a document before that is checked. Names that both have are refused here;
//! everything else is the checker's, who does not know that something was imported.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::settings::Settings;
use crate::reader::{Field, Named};
use crate::report::{PlaceId, Report};
use crate::schema::{self, Document};
use crate::values::{Address, Number, Prefix};

/// Networks and endpoints that a dialect gives.
#[derive(Debug, Default)]
pub(crate) struct Fragment {
    pub(crate) networks: Vec<Part<schema::Network>>,
    pub(crate) endpoints: Vec<Part<schema::Endpoint>>,
    /// Networks that endpoints are in, and that these files do not define, by name.
    pub(crate) joined: BTreeMap<String, Joined>,
    /// Devices whose links networks are on, with the first place that names each.
    pub(crate) parents: BTreeMap<String, PlaceId>,
    /// A network is on a link that the files do not name.
    pub(crate) lacks_parent: bool,
    /// Our end of the tunnels that networks have, where the files say it.
    pub(crate) underlay: Option<(IpAddr, PlaceId)>,
    /// What the files come to, for people.
    pub(crate) summary: Vec<String>,
}

/// One network or endpoint.
#[derive(Debug)]
pub(crate) struct Part<T> {
    pub(crate) at: PlaceId,
    pub(crate) name: String,
    pub(crate) table: T,
    /// What is said about it in a converted config.
    pub(crate) comment: String,
}

/// A network that endpoints are in.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) at: PlaceId,
    /// True: it is there without being defined, as Docker's default bridge is.
    pub(crate) is_implied: bool,
    pub(crate) comment: String,
}

impl Fragment {
    pub(crate) fn network(
        &mut self,
        at: PlaceId,
        name: &str,
        comment: impl Into<String>,
        table: schema::Network,
    ) {
        self.networks.push(Part { at, name: name.to_owned(), table, comment: comment.into() });
    }

    pub(crate) fn endpoint(
        &mut self,
        at: PlaceId,
        name: &str,
        comment: impl Into<String>,
        table: schema::Endpoint,
    ) {
        self.endpoints.push(Part { at, name: name.to_owned(), table, comment: comment.into() });
    }

    /// Notes that a network is on the link of a device, or on a VLAN of it.
    pub(crate) fn parent(&mut self, at: PlaceId, name: &str) {
        let device = match name.rsplit_once('.') {
            Some((device, vlan)) if vlan.bytes().all(|digit| digit.is_ascii_digit()) => device,
            _ => name,
        };
        self.parents.entry(device.to_owned()).or_insert(at);
    }

    /// Notes that an endpoint is in a network that is defined elsewhere.
    pub(crate) fn join(&mut self, at: PlaceId, name: &str, is_implied: bool, comment: &str) {
        let comment = comment.to_owned();
        self.joined.entry(name.to_owned()).or_insert(Joined { at, is_implied, comment });
    }

    /// Adds it to a document. Of the networks that it does not define, those come in that `wanted`
    /// takes and the document has not.
    pub(crate) fn add_to(
        self,
        document: &mut Document,
        wanted: impl Fn(&Joined) -> bool,
        report: &mut Report,
    ) {
        add(self.networks, &mut document.network, "network", report);
        add(self.endpoints, &mut document.endpoint, "endpoint", report);
        let known: Vec<&str> = names(&document.network).map(|(_, name)| name).collect();
        let missing = self.joined.into_iter().filter(|(name, joined)| {
            wanted(joined) && !matches!(name.as_str(), "host" | "none") && !known.contains(&&**name)
        });
        let missing = missing.map(|(name, joined)| Part {
            at: joined.at,
            name,
            table: schema::Network::default(),
            comment: joined.comment,
        });
        let missing: Vec<Part<schema::Network>> = missing.collect();
        add(missing, &mut document.network, "network", report);
    }
}

fn names<T>(tables: &Field<Named<T>>) -> impl Iterator<Item = (PlaceId, &str)> {
    let tables = tables.value().into_iter().flat_map(|Named(tables)| tables);
    tables.filter_map(|(name, _)| name.given()).map(|(at, name)| (at, name.as_str()))
}

fn add<T>(parts: Vec<Part<T>>, tables: &mut Field<Named<T>>, kind: &str, report: &mut Report) {
    let mut known: HashMap<String, PlaceId> =
        names(tables).map(|(at, name)| (name.to_owned(), at)).collect();
    if parts.is_empty() {
        return;
    }
    if tables.is_absent() {
        *tables = Field::Given(parts[0].at, Named(Vec::new()));
    }
    let Field::Given(_, Named(tables)) = tables else { return };
    for Part { at, name, table, .. } in parts {
        if let Some(&other) = known.get(&name) {
            let message = format!("there is a {kind} {name:?} already");
            report.error(at, message).related(other, "it is defined here");
            continue;
        }
        known.insert(name.clone(), at);
        tables.push((Field::Given(at, name), Field::Given(at, table)));
    }
}

/// How the endpoints of a file are attached, by the dialect's settings.
#[derive(Clone, Debug)]
pub(crate) struct Attaching {
    prefix: String,
    interface: Option<String>,
    create: bool,
}

impl Attaching {
    pub(crate) fn new(settings: &Settings, report: &mut Report) -> Attaching {
        Attaching {
            prefix: settings.text_or("netns_prefix", "").to_owned(),
            interface: settings.text("interface").map(|(text, _)| text.to_owned()),
            create: settings.flag_or("create", true, report),
        }
    }

    /// Into the namespace that is called as the endpoint is, after a prefix.
    pub(crate) fn of(&self, at: PlaceId, endpoint: &str) -> Field<schema::Attach> {
        let attach = schema::Attach {
            netns: text(at, format!("{}{endpoint}", self.prefix)),
            interface: self.interface.as_ref().map_or(Field::Absent, |name| text(at, name)),
            create: Field::Given(at, self.create),
            ..schema::Attach::default()
        };
        Field::Given(at, attach)
    }
}

/// A text as the schema has it.
pub(crate) fn text(at: PlaceId, text: impl Into<String>) -> Field<String> {
    Field::Given(at, text.into())
}

pub(crate) fn flag(at: PlaceId, flag: bool) -> Field<bool> {
    Field::Given(at, flag)
}

pub(crate) fn number(at: PlaceId, number: i64) -> Field<Number> {
    Field::Given(at, Number(number))
}

pub(crate) fn address(at: PlaceId, address: IpAddr) -> Field<Address> {
    Field::Given(at, Address(address))
}

pub(crate) fn prefix(at: PlaceId, prefix: IpNet) -> Field<Prefix> {
    Field::Given(at, Prefix(prefix))
}

/// A list with the place of its first element; an empty one is absent.
pub(crate) fn list<T>(items: Vec<Field<T>>) -> Field<Vec<Field<T>>> {
    match items.first().and_then(Field::place) {
        Some(at) => Field::Given(at, items),
        None => Field::Absent,
    }
}

/// An endpoint's membership of a network.
pub(crate) fn member(at: PlaceId, network: &str) -> schema::EndpointNetwork {
    schema::EndpointNetwork { name: text(at, network), ..schema::EndpointNetwork::default() }
}
