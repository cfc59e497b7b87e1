//! What the filters of a route decide about a session, and the report of its end to them.
//!
//! The only place where foreign code meets a session. Invariants: filters are asked before there is
//! an endpoint, within `timeout_ms`; each that was asked receives the end, once, also when the
//! session is broken off.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use crate::error::Reason;
use crate::filter::{Passage, TcpChain, TcpContext, TcpEnd};
use crate::route::TcpRoute;
use crate::snapshot::Snapshot;
use crate::tcp::parameters::ClientParameters;
use crate::tcp::stats::SessionStats;

/// Where a session comes from.
pub(super) struct Origin {
    pub client: SocketAddr,
    pub listener: Arc<str>,
    pub started: Instant,
}

/// A session that filters know of. Its Drop reports the end to them.
pub(super) struct Filtered {
    chain: TcpChain,
    /// How many of the chain were asked.
    asked: usize,
    origin: Origin,
    /// The one that the session goes on to.
    route: Arc<TcpRoute>,
    parameters: Box<ClientParameters>,
    reason: Reason,
    bytes: (u64, u64),
}

impl Filtered {
    pub(super) fn new(
        origin: Origin,
        route: Arc<TcpRoute>,
        parameters: Box<ClientParameters>,
    ) -> Filtered {
        Filtered {
            chain: route.filters.clone(),
            asked: 0,
            origin,
            route,
            parameters,
            // What is broken off without a word is so by a drain.
            reason: Reason::Drained,
            bytes: (0, 0),
        }
    }

    /// Asks the filters. The route that the session goes on to, or why it does not.
    pub(super) async fn connect(
        &mut self,
        snapshot: &Snapshot,
        opened: Instant,
        cut_off: impl Future<Output = ()>,
    ) -> Result<Arc<TcpRoute>, Reason> {
        let route = self.route.clone();
        let find = |name: &str| another(snapshot, &route, name);
        let context = context(&self.origin, &route, &self.parameters);
        let asking = self.chain.connect(&context, &mut self.asked, find);
        let passage = tokio::select! {
            biased;
            () = cut_off => return Err(Reason::Drained),
            passage = timeout_at(opened + route.tries.timeout, asking) => passage,
        };
        match passage {
            Ok(Ok(Passage::Allowed)) => {}
            Ok(Ok(Passage::To(another))) => self.route = another,
            Ok(Ok(Passage::Refused)) => {
                let (name, client) = (self.last(), self.origin.client);
                log::debug!(
                    "filter `{name}` refused a client of {}: {client}",
                    route.label
                );
                return Err(Reason::FilterRefused);
            }
            Ok(Err(_)) => return Err(Reason::FilterError),
            Err(_) => {
                let name = self.last();
                log::warn!(
                    "filter `{name}` took too long to connect (route {})",
                    route.label
                );
                return Err(Reason::Timeout);
            }
        }
        Ok(self.route.clone())
    }

    /// The session is over.
    pub(super) fn finished(mut self, reason: Reason, stats: &SessionStats) {
        self.reason = reason;
        self.bytes = (stats.up, stats.down);
    }

    /// The filter that was asked last.
    fn last(&self) -> &str {
        self.chain.name(self.asked.saturating_sub(1))
    }
}

impl Drop for Filtered {
    fn drop(&mut self) {
        let context = context(&self.origin, &self.route, &self.parameters);
        let (bytes_up, bytes_down) = self.bytes;
        let end = TcpEnd {
            reason: self.reason,
            bytes_up,
            bytes_down,
            duration: self.origin.started.elapsed(),
        };
        self.chain.close(&context, &end, self.asked);
    }
}

fn context<'a>(
    origin: &'a Origin,
    route: &'a TcpRoute,
    parameters: &'a ClientParameters,
) -> TcpContext<'a> {
    TcpContext {
        client: origin.client,
        listener: &origin.listener,
        route: &route.label,
        upstream: route.upstream.label(),
        protocol: route.db_type.as_str(),
        sni: parameters.sni.as_deref(),
        database: parameters.database.as_deref(),
        user: parameters.user.as_deref(),
    }
}

/// The route of this name that can take over a client of `route`.
fn another(snapshot: &Snapshot, route: &TcpRoute, name: &str) -> Result<Arc<TcpRoute>, String> {
    let mut routes = snapshot.tcp.values().flat_map(|table| table.routes());
    let Some(found) = routes.find(|candidate| *candidate.label == *name) else {
        return Err(format!("there is no TCP route `{name}`"));
    };
    match found.db_type == route.db_type {
        true => Ok(found.clone()),
        false => Err(format!(
            "the route `{name}` is for {}, and the client speaks {}",
            found.db_type.as_str(),
            route.db_type.as_str()
        )),
    }
}
