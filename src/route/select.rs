//! Which TCP route a connection belongs to, from the listener it came to and its first bytes.
//!
//! No I/O. The whole rule of shared listeners; that the routes of one listener can be distinguished
//! was proven when the configuration was read. Invariant: the choice depends on the first bytes
//! alone, never on which endpoint is up.

use std::sync::Arc;

use crate::config::{self, DbType, ProxyProtocol, Target, TcpMatch, Tries};
use crate::filter::TcpChain;
use crate::telemetry::{Metrics, TcpRouteMetrics};
use crate::upstream::Upstream;
use crate::wire::postgres::StartupMessage;
use crate::wire::sniff::{self, Sniffed};
use crate::wire::tls::ClientHello;

/// One TCP route, ready to be used.
pub struct TcpRoute {
    /// The key as written: the `route` label.
    pub label: Arc<str>,
    /// `db_type`, or what scheme and port of the upstream imply.
    pub db_type: DbType,
    /// `timeout_ms`, `retry_count`, `connect_timeout_ms` and `try_timeout_ms`.
    pub tries: Tries,
    /// Where sessions go; shared with every route that names the same upstream.
    pub upstream: Arc<Upstream>,
    /// `target`: the role that an endpoint must have; default `any`.
    pub target: Target,
    /// `idle_timeout_secs`. `None`, the default: a session may be silent for as long as it likes.
    pub idle_timeout: Option<std::time::Duration>,
    /// `proxy_protocol`: the version of the header that the server is sent. `None`: no header.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// `filters`, in the order of the file, after those that the embedder adds to every route.
    pub filters: TcpChain,
    /// Where its sessions are counted, under the label `route`.
    pub metrics: TcpRouteMetrics,
    matches: TcpMatch,
    default: bool,
}

impl TcpRoute {
    /// Compiles one route onto its upstream.
    pub fn new(
        route: &config::TcpRoute,
        upstream: Arc<Upstream>,
        filters: TcpChain,
        metrics: &Metrics,
    ) -> TcpRoute {
        TcpRoute {
            label: Arc::from(route.name.as_str()),
            db_type: route.db_type,
            tries: route.tries.clone(),
            upstream,
            target: route.target,
            idle_timeout: route.idle_timeout,
            proxy_protocol: route.proxy_protocol,
            filters,
            metrics: metrics.tcp_route(&route.name),
            matches: route.matches.clone(),
            default: route.default,
        }
    }
}

/// The routes of one TCP listener; never empty.
pub struct TcpTable {
    routes: Vec<Arc<TcpRoute>>,
    unrouted: TcpRouteMetrics,
}

impl TcpTable {
    /// A table of these `routes`, at least one, in the order of the file.
    pub fn new(routes: Vec<Arc<TcpRoute>>, metrics: &Metrics) -> TcpTable {
        TcpTable {
            routes,
            unrouted: metrics.tcp_route("-"),
        }
    }

    /// Where sessions are counted that end before their route is known.
    pub fn unselected(&self) -> &TcpRouteMetrics {
        self.alone().map_or(&self.unrouted, |route| &route.metrics)
    }

    /// All of them, in the order of the file.
    pub fn routes(&self) -> &[Arc<TcpRoute>] {
        &self.routes
    }

    /// The one route of a listener of its own: it takes everything.
    pub fn alone(&self) -> Option<&Arc<TcpRoute>> {
        match self.routes.as_slice() {
            [route] => Some(route),
            _ => None,
        }
    }

    /// The route whose server speaks first: its clients are silent.
    pub fn server_first(&self) -> Option<&Arc<TcpRoute>> {
        self.routes
            .iter()
            .find(|route| sniff::speaks_first(route.db_type))
    }

    /// The route for a client that sent `first`. `None`: no route takes it.
    pub fn select(&self, first: &Sniffed) -> Option<&Arc<TcpRoute>> {
        if let Some(route) = self.alone() {
            return Some(route);
        }
        let found = match first {
            Sniffed::Tls(hello) => {
                self.by_hello(hello, |route| sniff::can_be(route.db_type, first))
            }
            Sniffed::PostgresStartup(startup) => self.by_login(startup),
            other => self
                .routes
                .iter()
                .find(|route| sniff::can_be(route.db_type, other) && route.db_type != DbType::Tcp),
        };
        found.or_else(|| self.fallback())
    }

    /// How a Postgres client that asks for TLS goes on. `None`: the listener has no Postgres route.
    pub fn on_ssl_request(&self) -> Option<SslRequest<'_>> {
        let mut postgres = self.postgres();
        let first = postgres.next()?;
        if postgres.next().is_none() {
            return Some(SslRequest::PassOn(first));
        }
        match self.postgres().any(|route| route.matches.sni.is_some()) {
            true => Some(SslRequest::AskForName),
            false => Some(SslRequest::Decline),
        }
    }

    /// The Postgres route for a ClientHello that came after our `S`. What its ALPN says does not
    /// matter: only clients that begin with TLS have to name the protocol there.
    pub fn postgres_by_name(&self, hello: &ClientHello) -> Option<&Arc<TcpRoute>> {
        self.by_hello(hello, |route| route.db_type == DbType::Postgres)
            .or_else(|| self.fallback())
            .filter(|route| route.db_type == DbType::Postgres)
    }

    /// The routes a CancelRequest may be meant for.
    pub fn postgres(&self) -> impl Iterator<Item = &Arc<TcpRoute>> {
        self.routes
            .iter()
            .filter(|route| route.db_type == DbType::Postgres)
    }

    /// The route marked `default: true`.
    pub fn fallback(&self) -> Option<&Arc<TcpRoute>> {
        self.routes.iter().find(|route| route.default)
    }

    fn by_hello(
        &self,
        hello: &ClientHello,
        fits: impl Fn(&TcpRoute) -> bool,
    ) -> Option<&Arc<TcpRoute>> {
        let candidates = || self.routes.iter().filter(|route| fits(route));
        let named = hello.sni.as_deref().and_then(|name| {
            candidates().find(|route| {
                let wanted = route.matches.sni.as_deref();
                wanted.is_some_and(|wanted| wanted.eq_ignore_ascii_case(name))
            })
        });
        named.or_else(|| {
            // What else a route asks for is said inside of TLS.
            let mut unnamed = candidates().filter(|route| route.matches == TcpMatch::default());
            // This hello does not distinguish two of them: the default decides.
            unnamed.next().filter(|_| unnamed.next().is_none())
        })
    }

    /// The route that asks for the most of what the login says.
    fn by_login(&self, startup: &StartupMessage) -> Option<&Arc<TcpRoute>> {
        self.postgres()
            .filter_map(|route| Some((asked(&route.matches, startup)?, route)))
            .max_by_key(|(asked, _)| *asked)
            .map(|(_, route)| route)
    }
}

/// What to do about an SSLRequest.
pub enum SslRequest<'t> {
    /// One Postgres route: it and the client settle it among themselves.
    PassOn(&'t Arc<TcpRoute>),
    /// Routes differ by server name: say `S` and read the ClientHello.
    AskForName,
    /// Routes differ by what the login says, which must come in clear: say `N`.
    Decline,
}

/// How many conditions a route has, all of which the login meets. A login in clear has no server
/// name to meet one.
fn asked(matches: &TcpMatch, startup: &StartupMessage) -> Option<usize> {
    if matches.sni.is_some() {
        return None;
    }
    let conditions = [
        (&matches.database, &startup.database),
        (&matches.user, &startup.user),
    ];
    let mut asked = 0;
    for (wanted, said) in conditions {
        match wanted {
            Some(wanted) if wanted == said => asked += 1,
            Some(_) => return None,
            None => {}
        }
    }
    Some(asked)
}
