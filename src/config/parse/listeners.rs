//! Rules between listeners: no address twice, and TCP routes that share one can be distinguished.
//!
//! They see all routes at once. Invariant: what passes here can be decided from a client's first
//! bytes, whatever the client sends.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;

use super::distinct_routes::{DistinctRoutes, OWN_PORT, ways_out};
use super::fields::Fields;
use super::report::Report;
use crate::config::encryption::out_of_reach_in_tls;
use crate::config::model::{Admin, DbType, TcpProxy, TcpRoute, Tls};
use crate::config::problem::{Mark, Wrong};
use crate::config::trail::Trail;
use crate::config::value::{ListenAddrs, makes_way, takes_in};

/// Refuses an address that two listeners would bind.
pub(super) fn refuse_equal_addresses(
    report: &mut Report,
    root: &Fields,
    http: Option<&ListenAddrs>,
    tls: Option<&Tls>,
    admin: Option<&Admin>,
    tcp: &[TcpRoute],
    tcp_proxy: &TcpProxy,
) {
    let bound = bound(root, http, tls, admin, tcp, tcp_proxy);
    let mut by_port: HashMap<u16, Vec<&Bound>> = HashMap::new();
    for one in &bound {
        let others = by_port.entry(one.addr.port()).or_default();
        if let Some(other) = others.iter().find(|other| overlap(other, one)) {
            // The position is that of a key that is written, the first of the file if both are.
            let (place, other) = match (one.at, other.at) {
                (Some(_), _) => (one, *other),
                _ => (*other, one),
            };
            report.problem(place.at.unwrap_or(root.at), &place.name, place.taken(other));
        }
        others.push(one);
    }
}

/// Each listener that would be bound.
fn bound(
    root: &Fields,
    http: Option<&ListenAddrs>,
    tls: Option<&Tls>,
    admin: Option<&Admin>,
    tcp: &[TcpRoute],
    tcp_proxy: &TcpProxy,
) -> Vec<Bound> {
    let mut bound: Vec<Bound> = Vec::new();
    for listen in http.iter().flat_map(|list| list.iter()) {
        let at = root.find("listen_addr").map(|f| f.at);
        bound.push(Bound::new("listen_addr", listen.addr, at));
    }
    let https = tls.and_then(|tls| tls.listen_addr.as_ref());
    for listen in https.iter().flat_map(|list| list.iter()) {
        let at = within(root, "tls", "listen_addr");
        bound.push(Bound::new("tls.listen_addr", listen.addr, at));
    }
    for listen in admin.iter().flat_map(|admin| admin.listen_addr.iter()) {
        let at = within(root, "admin", "listen_addr");
        bound.push(Bound::new("admin.listen_addr", listen.addr, at));
    }
    let mut seen = HashSet::new();
    for route in tcp {
        for addr in &route.listen {
            if !seen.insert(*addr) {
                continue;
            }
            if tcp_proxy.listen_addr.contains(*addr) {
                let at = within(root, "tcp_proxy", "listen_addr");
                bound.push(Bound::new("tcp_proxy.listen_addr", *addr, at));
            } else {
                let name = format!("routes.{}.tcp_listen_port", route.name);
                let (line, column) = route.at;
                bound.push(Bound::new(&name, *addr, Some(Mark { line, column })));
            }
        }
    }
    bound
}

/// An address and the key that asks for it.
struct Bound {
    name: String,
    addr: SocketAddr,
    /// `None`: it is the default of its key.
    at: Option<Mark>,
}

impl Bound {
    fn new(name: &str, addr: SocketAddr, at: Option<Mark>) -> Bound {
        Bound {
            name: name.to_owned(),
            addr,
            at,
        }
    }

    /// That it cannot be bound because of `other`.
    fn taken(&self, other: &Bound) -> Wrong {
        if self.name == other.name {
            let (all, one) = match takes_in(other.addr.ip(), self.addr.ip()) {
                true => (other.addr, self.addr),
                false => (self.addr, other.addr),
            };
            return Wrong::new(
                format!("{all} takes the clients of {one} already"),
                format!("remove `{one}`"),
            );
        }
        let default = match other.at {
            Some(_) => "",
            None => "the default of ",
        };
        let why = match self.addr == other.addr {
            true => String::new(),
            false => format!(" ({})", other.addr),
        };
        Wrong::new(
            format!("{} is taken by {default}`{}`{why}", self.addr, other.name),
            "give each listener an address of its own",
        )
    }
}

/// Where a key of a section is written.
fn within(root: &Fields, section: &str, name: &str) -> Option<Mark> {
    use crate::config::tree::Value;
    match &root.find(section)?.node.value {
        Value::Map(entries) => entries.iter().find(|e| e.key == name).map(|e| e.key_at),
        _ => None,
    }
}

/// Whether binding both fails: equal, or one stands for the other, too. In one list, `[::]` leaves
/// IPv4 to `0.0.0.0`.
fn overlap(a: &Bound, b: &Bound) -> bool {
    let (one, other) = (a.addr.ip(), b.addr.ip());
    if a.addr.port() != b.addr.port() || a.addr.port() == 0 {
        return false;
    }
    if a.name == b.name && (makes_way(one, other) || makes_way(other, one)) {
        return false;
    }
    one == other || takes_in(one, other) || takes_in(other, one)
}

/// TCP routes without `tcp_proxy.enabled: true`: a problem when it is left out, a warning when it
/// is a written `false`.
pub(super) fn check_enabled(
    report: &mut Report,
    root: &Fields,
    tcp: &[TcpRoute],
    tcp_proxy: &TcpProxy,
    enabled_is_written: bool,
) {
    let Some(first) = tcp.first().filter(|_| !tcp_proxy.enabled) else {
        return;
    };
    let names = names(tcp.iter());
    let (line, column) = first.at;
    let at = within(root, "tcp_proxy", "enabled")
        .or(root.find("tcp_proxy").map(|field| field.at))
        .unwrap_or(Mark { line, column });
    if enabled_is_written {
        let text = format!("is false, so TCP routes are not served: {names}");
        report.warn(at, "tcp_proxy.enabled", text);
    } else {
        let wrong = Wrong::new(
            format!("TCP routes need it: {names}"),
            "write `tcp_proxy: {enabled: true}`, or false to leave them unserved",
        );
        report.problem(at, "tcp_proxy.enabled", wrong);
    }
}

fn names<'r>(routes: impl Iterator<Item = &'r TcpRoute>) -> String {
    let mut names: Vec<&str> = routes.map(|route| route.name.as_str()).collect();
    let more = names.len().saturating_sub(10);
    names.truncate(10);
    let mut out = names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ");
    if more > 0 {
        out.push_str(&format!(" and {more} more"));
    }
    out
}

/// Refuses routes on one listener of which it cannot be proven which one a client means.
pub(super) fn refuse_undecidable(report: &mut Report, routes_trail: &Trail, tcp: &[TcpRoute]) {
    let mut listeners: BTreeMap<SocketAddr, Vec<usize>> = BTreeMap::new();
    for (nth, route) in tcp.iter().enumerate() {
        for addr in &route.listen {
            listeners.entry(*addr).or_default().push(nth);
        }
    }
    // The same routes on several addresses are one question.
    let mut seen = HashSet::new();
    for (addr, nths) in listeners {
        let routes: Vec<&TcpRoute> = nths.iter().map(|nth| &tcp[*nth]).collect();
        if !seen.insert(nths) {
            continue;
        }
        match routes.as_slice() {
            [only] => {
                if only.matches != Default::default() {
                    let (line, column) = only.at;
                    let text = format!("is the only route of {addr} and takes everything");
                    let trail = routes_trail.key(&only.name);
                    report.warn(Mark { line, column }, trail.key("match"), text);
                }
            }
            routes => {
                check_listener(report, routes_trail, addr, routes);
                warn_of_clear_text(report, routes_trail, addr, tcp);
            }
        }
    }
}

/// Warns of the Postgres routes of a shared listener that clients reach in clear only.
fn warn_of_clear_text(report: &mut Report, trail: &Trail, addr: SocketAddr, tcp: &[TcpRoute]) {
    let unreached = || out_of_reach_in_tls(tcp, addr);
    let with_match = || unreached().find(|route| route.matches != Default::default());
    let Some(first) = with_match().or_else(|| unreached().next()) else {
        return;
    };
    let text = format!(
        "Postgres clients that ask for TLS on {addr} do not get it from {}: database and user, which \
         tell these routes apart, are said inside of TLS; `sslmode=prefer` goes on in clear, \
         `sslmode=require` fails; give each a `tcp_listen_port`, or a `match` with `sni`",
        names(unreached())
    );
    let (line, column) = first.at;
    let trail = trail.key(&first.name);
    report.warn(Mark { line, column }, trail.key("match"), text);
}

fn check_listener(report: &mut Report, trail: &Trail, addr: SocketAddr, routes: &[&TcpRoute]) {
    let first_default = routes.iter().position(|route| route.default);
    let mut refuse = |route: &TcpRoute, why: String, hint: String| {
        let (line, column) = route.at;
        let wrong = Wrong::new(format!("{why} on the shared listener {addr}"), hint);
        report.problem(Mark { line, column }, trail.key(&route.name), wrong);
    };
    let mut server_first: Option<&TcpRoute> = None;
    let mut distinct = DistinctRoutes::default();
    for (nth, route) in routes.iter().enumerate() {
        match first_default {
            Some(first) if route.default && first != nth => {
                let why = format!("`{}` is `default: true` too", routes[first].name);
                refuse(route, why, OWN_PORT.to_owned());
                continue;
            }
            _ => {}
        }
        if route.db_type.is_server_first() {
            match server_first {
                Some(first) => {
                    let why = format!(
                        "clients of `{}` wait for the server to speak too",
                        first.name
                    );
                    // Nothing that a client sends can help: it waits.
                    refuse(route, why, OWN_PORT.to_owned());
                }
                None => server_first = Some(route),
            }
            continue;
        }
        let no_match = route.matches == Default::default();
        if route.default && no_match {
            continue;
        }
        let why = if route.db_type == DbType::Tcp && route.matches.sni.is_none() {
            "nothing tells its clients from others".to_owned()
        } else if let Some(first) = distinct.insert(route) {
            format!("its clients cannot be told from those of `{}`", first.name)
        } else {
            continue;
        };
        let hint = ways_out(route, &distinct, first_default.is_some());
        refuse(route, why, hint);
    }
}
