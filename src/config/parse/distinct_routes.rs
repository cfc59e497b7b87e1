//! TCP routes of one listener by what their clients send first, and what would distinguish one
//! more.
//!
//! It knows nothing of addresses. Invariant: of the routes in it, a client's first bytes fit one
//! only.

use std::collections::HashMap;

use crate::config::model::{DbType, TcpMatch, TcpRoute};

/// Routes that are distinct so far. What a client sends first is either a TLS ClientHello with a
/// server name, or the first bytes of a protocol, in which Postgres names database and user.
#[derive(Default)]
pub(super) struct DistinctRoutes<'r> {
    groups: HashMap<(Option<&'r str>, Option<Voice>), Group<'r>>,
}

/// Protocols by their first bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Voice {
    Http,
    Of(DbType),
}

/// Routes of one server name, or of one protocol without one. Each of them must differ from every
/// other in a database or in a user that both name; one look per map instead of one per pair.
#[derive(Default)]
struct Group<'r> {
    any: Option<&'r TcpRoute>,
    /// By database and user; `None` is a route that does not name it.
    exact: HashMap<(Option<&'r str>, Option<&'r str>), &'r TcpRoute>,
    by_database: HashMap<Option<&'r str>, &'r TcpRoute>,
    by_user: HashMap<Option<&'r str>, &'r TcpRoute>,
}

impl<'r> DistinctRoutes<'r> {
    /// Adds a route; returns one that it cannot be distinguished from.
    pub(super) fn insert(&mut self, route: &'r TcpRoute) -> Option<&'r TcpRoute> {
        let group = self.groups.entry(kind_of(route)).or_default();
        let clash = group.clash(route);
        if clash.is_none() {
            group.add(route);
        }
        clash
    }

    /// Whether `route` would be distinct from those that are added.
    fn could_take(&self, route: &TcpRoute) -> bool {
        let group = self.groups.get(&kind_of(route));
        group.is_none_or(|group| group.clash(route).is_none())
    }
}

/// What a client sends first, whatever values it holds.
fn kind_of(route: &TcpRoute) -> (Option<&str>, Option<Voice>) {
    let sni = route.matches.sni.as_deref();
    let voice = match (sni, route.db_type) {
        // What is inside TLS does not show the protocol.
        (Some(_), _) => None,
        (None, kind) if kind.speaks_http() => Some(Voice::Http),
        (None, kind) => Some(Voice::Of(kind)),
    };
    (sni, voice)
}

impl<'r> Group<'r> {
    fn clash(&self, route: &TcpRoute) -> Option<&'r TcpRoute> {
        let database = route.matches.database.as_deref();
        let user = route.matches.user.as_deref();
        let exact = |key| self.exact.get(&key);
        match (database, user) {
            (None, None) => self.any.as_ref(),
            (Some(_), None) => self
                .by_database
                .get(&database)
                .or_else(|| self.by_database.get(&None)),
            (None, Some(_)) => self.by_user.get(&user).or_else(|| self.by_user.get(&None)),
            (Some(_), Some(_)) => exact((database, user))
                .or_else(|| exact((database, None)))
                .or_else(|| exact((None, user)))
                .or_else(|| exact((None, None))),
        }
        .copied()
    }

    fn add(&mut self, route: &'r TcpRoute) {
        let database = route.matches.database.as_deref();
        let user = route.matches.user.as_deref();
        self.any.get_or_insert(route);
        self.exact.insert((database, user), route);
        self.by_database.entry(database).or_insert(route);
        self.by_user.entry(user).or_insert(route);
    }
}

/// What would distinguish a route from those before it, in view of what it and they have.
pub(super) fn ways_out(route: &TcpRoute, distinct: &DistinctRoutes, has_default: bool) -> String {
    let mut hint = OWN_PORT.to_owned();
    let form = FORMS.into_iter().find(|form| {
        let might_be = TcpRoute {
            matches: form.matches(),
            ..route.clone()
        };
        let is_said = form.is_sni || route.db_type == DbType::Postgres;
        is_said && distinct.could_take(&might_be)
    });
    if let Some(form) = form {
        hint.push_str(&format!(", or tell it apart: `match: {{{}}}`", form.text));
    }
    if !has_default && route.matches == TcpMatch::default() {
        hint.push_str(", or make it the one for all other clients: `default: true`");
    }
    hint
}

/// A `match` that may be offered.
struct Form {
    text: &'static str,
    is_database: bool,
    is_user: bool,
    is_sni: bool,
}

impl Form {
    /// With names that no route has.
    fn matches(&self) -> TcpMatch {
        let name = |is_there: bool| is_there.then(|| "\n".to_owned());
        TcpMatch {
            sni: name(self.is_sni),
            database: name(self.is_database),
            user: name(self.is_user),
        }
    }
}

const FORMS: [Form; 4] = [
    Form {
        text: "database: NAME",
        is_database: true,
        is_user: false,
        is_sni: false,
    },
    Form {
        text: "user: NAME",
        is_database: false,
        is_user: true,
        is_sni: false,
    },
    Form {
        text: "database: NAME, user: NAME",
        is_database: true,
        is_user: true,
        is_sni: false,
    },
    Form {
        text: "sni: db.example.org",
        is_database: false,
        is_user: false,
        is_sni: true,
    },
];

/// What always helps.
pub(super) const OWN_PORT: &str = "give it a port of its own: `tcp_listen_port: 5433`";
