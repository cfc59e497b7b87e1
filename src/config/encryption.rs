//! Which Postgres routes clients do not reach in TLS.
//!
//! The parser warns of them; a reload logs those that have become unreachable. Invariant: the
//! answer is what `route::TcpTable` does with a request for TLS. No I/O.

use std::net::SocketAddr;

use super::model::{DbType, TcpMatch, TcpRoute};

/// The Postgres routes on `listen` whose clients are refused TLS, or are not understood in it: what
/// distinguishes these routes, database and user, is sent inside of TLS.
pub fn out_of_reach_in_tls(
    routes: &[TcpRoute],
    listen: SocketAddr,
) -> impl Iterator<Item = &TcpRoute> {
    let here = move || {
        routes
            .iter()
            .filter(move |r| r.listen.contains(&listen) && r.db_type == DbType::Postgres)
    };
    let is_alone = here().nth(1).is_none();
    let by_name = here().any(|route| route.matches.sni.is_some());
    let unmatched = here().filter(|r| r.matches == TcpMatch::default()).count();
    here().filter(move |route| {
        let is_named = route.matches.sni.is_some() || route.default;
        let is_the_rest = route.matches == TcpMatch::default() && unmatched == 1;
        !is_alone && !(by_name && (is_named || is_the_rest))
    })
}
