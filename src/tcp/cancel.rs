//! Which server runs the query that a Postgres CancelRequest means.
//!
//! A client cancels on a connection of its own, with the key it was given at login, and a balancer
//! that sends it to any endpoint loses it nearly always. Invariants: an entry lives as long as its
//! session, by Drop; a key that is known goes to its server, always; one that is not goes where its
//! client has a session whose key was not seen (that of an encrypted one never is), and only so
//! often, because each costs a server a process and a line in its log, from sixteen bytes without a
//! login. A server ignores a key that is not its own (PostgreSQL, "Canceling Requests in
//! Progress").

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::route::TcpTable;
use crate::transport::Transport;
use crate::wire::postgres::CancelKey;

/// Where the sessions in progress are, as far as a cancel may ask.
#[derive(Clone, Debug, Default)]
pub struct Cancels {
    known: Arc<Mutex<Known>>,
    /// Until then sessions may live in the process before this one.
    inherited_until: Option<Instant>,
}

#[derive(Debug, Default)]
struct Known {
    keys: HashMap<CancelKey, SocketAddr>,
    /// By client: those whose keys were not seen.
    unseen: HashMap<IpAddr, Unseen>,
    /// For clients that have none here, while any may have one in the process before.
    strangers: Window,
}

/// The sessions of one client whose keys were not seen.
#[derive(Debug, Default)]
struct Unseen {
    /// How many, by route and server.
    sessions: HashMap<(Arc<str>, SocketAddr), usize>,
    window: Window,
}

/// Counts the requests of one second.
#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    count: u32,
}

/// One session; forgotten by Drop.
#[derive(Debug)]
pub struct Registered {
    known: Arc<Mutex<Known>>,
    what: Entry,
}

#[derive(Debug)]
enum Entry {
    Key(CancelKey),
    Unseen(IpAddr, (Arc<str>, SocketAddr)),
}

impl Cancels {
    /// For a process that has taken over from another, whose sessions end within `drain`.
    pub fn inheriting(drain: Duration) -> Cancels {
        Cancels {
            known: Arc::default(),
            inherited_until: Instant::now().checked_add(drain),
        }
    }

    /// Remembers that the session with `key` is at `server`.
    pub fn register(&self, key: &CancelKey, server: SocketAddr) -> Registered {
        lock(&self.known).keys.insert(key.clone(), server);
        self.registered(Entry::Key(key.clone()))
    }

    /// Remembers that `client` has a session of `route` at `server` whose key cannot be seen.
    pub fn register_unseen(
        &self,
        client: IpAddr,
        route: &Arc<str>,
        server: SocketAddr,
    ) -> Registered {
        let place = (route.clone(), server);
        let mut known = lock(&self.known);
        if known.unseen.len() >= MANY_CLIENTS && !known.unseen.contains_key(&client) {
            known.unseen.retain(|_, unseen| unseen.is_of_use());
        }
        let unseen = known.unseen.entry(client).or_default();
        *unseen.sessions.entry(place.clone()).or_default() += 1;
        drop(known);
        self.registered(Entry::Unseen(client, place))
    }

    fn registered(&self, what: Entry) -> Registered {
        Registered {
            known: self.known.clone(),
            what,
        }
    }

    /// Where the session with `key` can be, as a `client` of the listener with `table` asks.
    fn servers(&self, key: &CancelKey, client: IpAddr, table: &TcpTable) -> Vec<SocketAddr> {
        let mut known = lock(&self.known);
        if let Some(server) = known.keys.get(key) {
            return vec![*server];
        }
        let is_here = |route: &Arc<str>| table.postgres().any(|here| here.label == *route);
        let mut servers = Vec::new();
        if let Some(unseen) = known.unseen.get_mut(&client)
            && unseen.sessions.keys().any(|(route, _)| is_here(route))
            && unseen.window.admits()
        {
            let here = unseen.sessions.keys().filter(|(route, _)| is_here(route));
            servers.extend(here.map(|(_, server)| *server));
        }
        if self
            .inherited_until
            .is_some_and(|until| Instant::now() < until)
            && known.strangers.admits()
        {
            servers.extend(every_server(table));
        }
        servers.sort_unstable();
        servers.dedup();
        servers.truncate(MAX_SERVERS);
        servers
    }
}

impl Unseen {
    /// Has sessions, or a count that still holds.
    fn is_of_use(&self) -> bool {
        !self.sessions.is_empty() || !self.window.is_over()
    }
}

impl Window {
    /// Whether one more fits into this second.
    fn admits(&mut self) -> bool {
        if self.is_over() {
            *self = Window {
                began: Some(Instant::now()),
                count: 0,
            };
        }
        self.count = self.count.saturating_add(1);
        self.count <= UNKNOWN_A_SECOND
    }

    fn is_over(&self) -> bool {
        self.began
            .is_none_or(|began| began.elapsed() >= Duration::from_secs(1))
    }
}

/// Carries one CancelRequest of `peer` to the server that runs the session, or, when its key is not
/// known, to each that can. Never queued, and never limited where the key is known. The client gets
/// no answer, as from a server.
pub async fn carry(
    key: &CancelKey,
    cancels: &Cancels,
    table: &TcpTable,
    peer: IpAddr,
    client: Transport,
) {
    let servers = cancels.servers(key, peer, table);
    if servers.is_empty() {
        log::debug!("{peer}: a cancel that no session here can be meant by");
    }
    let request = key.to_request();
    let mut carried = JoinSet::new();
    for server in servers {
        let request = request.clone();
        carried.spawn(async move { send(server, &request).await });
    }
    while carried.join_next().await.is_some() {}
    drop(client);
}

fn every_server(table: &TcpTable) -> Vec<SocketAddr> {
    let mut servers: Vec<SocketAddr> = table
        .postgres()
        .flat_map(|route| {
            let endpoints = route.upstream.endpoints();
            endpoints
                .iter()
                .map(|e| e.addrs().first)
                .collect::<Vec<_>>()
        })
        .collect();
    servers.sort_unstable();
    servers.dedup();
    servers.truncate(MAX_SERVERS);
    servers
}

/// Sends `request` and waits until the server has closed, which it does once the signal is out.
async fn send(server: SocketAddr, request: &[u8]) {
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        stream.write_all(request).await?;
        let mut nothing = [0; 16];
        while stream.read(&mut nothing).await? > 0 {}
        Ok::<(), std::io::Error>(())
    };
    match timeout(PATIENCE, exchange).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("{server}: cancel request not delivered: {error}"),
        Err(_) => log::debug!("{server}: cancel request not answered in {PATIENCE:?}"),
    }
}

impl Registered {
    /// Ends the query of this session, if it runs one, before the session itself is ended: a server
    /// does not notice that nobody waits for it any more. `None` where the key was not seen.
    pub fn cancel(&self) -> Option<impl Future<Output = ()> + Send + use<>> {
        let Entry::Key(key) = &self.what else {
            return None;
        };
        let server = lock(&self.known).keys.get(key).copied()?;
        let request = key.to_request();
        Some(async move { send(server, &request).await })
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut known = lock(&self.known);
        match &self.what {
            Entry::Key(key) => {
                known.keys.remove(key);
            }
            Entry::Unseen(client, place) => {
                let Some(unseen) = known.unseen.get_mut(client) else {
                    return;
                };
                if let Some(count) = unseen.sessions.get_mut(place) {
                    *count -= 1;
                    if *count == 0 {
                        unseen.sessions.remove(place);
                    }
                }
                if !unseen.is_of_use() {
                    known.unseen.remove(client);
                }
            }
        }
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For a server to take a cancel.
const PATIENCE: Duration = Duration::from_secs(2);
/// Servers that one unknown key is sent to.
const MAX_SERVERS: usize = 256;
/// Unknown keys of one client that are sent on within a second. An application that cancels a query
/// on each of a hundred connections may do so at once.
const UNKNOWN_A_SECOND: u32 = 100;
/// Clients above which those are forgotten that have no session any more.
const MANY_CLIENTS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::filter::Registry;
    use crate::snapshot::{Additions, Snapshot};
    use crate::telemetry::Metrics;

    const SERVER: &str = "127.0.0.1:7001";

    fn table() -> Arc<TcpTable> {
        let text = "listen_addr: 127.0.0.1:0\nglobal_timeout_ms: 1000\nmax_connections: 9\n\
             tcp_proxy: {enabled: true, listen_addr: \"127.0.0.1:1\"}\nroutes:\n  db: {upstream: \
             [\"postgres://127.0.0.1:7001\", \"postgres://127.0.0.1:7002\"]}\n";
        let config = config::parse(text, std::path::Path::new("c.yml")).expect("a correct file");
        let additions = Additions {
            filters: Registry::default(),
            ..Additions::default()
        };
        let snapshot = Snapshot::build(Arc::new(config), &additions, &Metrics::new(), None)
            .expect("nothing to look up");
        snapshot.tcp.values().next().expect("one listener").clone()
    }

    fn key(byte: u8) -> CancelKey {
        CancelKey::from_bytes(&[byte; 8]).expect("a key")
    }

    fn client(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_not_known_goes_where_its_client_has_a_session_and_only_so_often() {
        let (cancels, table) = (Cancels::default(), table());
        let server: SocketAddr = SERVER.parse().expect("an address");
        let asked = |from| cancels.servers(&key(9), client(from), &table);
        let _seen = cancels.register(&key(1), server);
        assert!(asked(1).is_empty(), "no session of its own");
        let route: Arc<str> = "db".into();
        let unseen = cancels.register_unseen(client(1), &route, server);
        let twice = cancels.register_unseen(client(1), &route, server);
        assert_eq!(asked(1), [server], "that server and no other");
        assert!(asked(2).is_empty(), "somebody else's session");
        for _ in 1..UNKNOWN_A_SECOND {
            assert_eq!(asked(1), [server]);
        }
        for _ in 0..1000 {
            assert!(asked(1).is_empty());
        }
        // A key that is known is not counted, whoever sends it.
        for _ in 0..1000 {
            assert_eq!(cancels.servers(&key(1), client(1), &table), [server]);
        }
        // To come anew does not help.
        drop((unseen, twice));
        let again = cancels.register_unseen(client(1), &route, server);
        assert!(asked(1).is_empty());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(asked(1), [server]);
        drop(again);
        assert!(asked(1).is_empty());
        // A session of another listener's route is none of this one's.
        let _other = cancels.register_unseen(client(1), &"other".into(), server);
        assert!(asked(1).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_of_clients_is_bounded_by_their_sessions() {
        let (cancels, table) = (Cancels::default(), table());
        let server: SocketAddr = SERVER.parse().expect("an address");
        let route: Arc<str> = "db".into();
        for n in 0..10_000_u32 {
            let from = IpAddr::from(n.to_be_bytes());
            let session = cancels.register_unseen(from, &route, server);
            assert_eq!(cancels.servers(&key(9), from, &table), [server]);
            drop(session);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        let left = lock(&cancels.known).unseen.len();
        assert!(left <= MANY_CLIENTS + 1, "{left}");
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_of_the_process_before_are_looked_for_while_they_may_live() {
        let (cancels, table) = (Cancels::inheriting(Duration::from_secs(30)), table());
        let asked = || cancels.servers(&key(9), client(1), &table).len();
        for _ in 0..UNKNOWN_A_SECOND {
            assert_eq!(asked(), 2);
        }
        assert_eq!(asked(), 0);
        tokio::time::advance(Duration::from_secs(29)).await;
        assert_eq!(asked(), 2);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(asked(), 0);
    }
}
