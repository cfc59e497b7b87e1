//! Which server runs the query that a Postgres CancelRequest means.
//!
//! A client cancels on a connection of its own, with the key it was given at login, and a balancer
//! that sends it to any endpoint loses it nearly always. Its own file because it is the only thing
//! that one session must know of others. Invariant: an entry lives as long as its session, by
//! Drop. Keys of encrypted sessions are never seen: those cancels go to every endpoint, where a
//! key that is not known is ignored (PostgreSQL, "Canceling Requests in Progress").

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::route::TcpTable;
use crate::wire::postgres::CancelKey;

/// The keys of all clear-text sessions in progress.
#[derive(Clone, Debug, Default)]
pub struct Cancels {
    keys: Arc<Mutex<HashMap<CancelKey, SocketAddr>>>,
}

/// One session's key; forgotten by Drop.
#[derive(Debug)]
pub struct Registered {
    keys: Arc<Mutex<HashMap<CancelKey, SocketAddr>>>,
    key: CancelKey,
}

impl Cancels {
    /// Remembers that the session with `key` is at `server`.
    pub fn register(&self, key: &CancelKey, server: SocketAddr) -> Registered {
        lock(&self.keys).insert(key.clone(), server);
        Registered {
            keys: self.keys.clone(),
            key: key.clone(),
        }
    }

    /// Where the session with `key` is.
    pub fn server_of(&self, key: &CancelKey) -> Option<SocketAddr> {
        lock(&self.keys).get(key).copied()
    }
}

/// Carries one CancelRequest: to the server that runs the session, or, when its key is not known,
/// to every server it can be at. Never queued and never limited. The client hears nothing, as from
/// a server.
pub async fn carry(key: &CancelKey, cancels: &Cancels, table: &TcpTable, client: TcpStream) {
    let servers = match cancels.server_of(key) {
        Some(server) => vec![server],
        None => every_server(table),
    };
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
            endpoints.iter().map(|e| e.ways().first).collect::<Vec<_>>()
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

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.keys).remove(&self.key);
    }
}

fn lock(
    keys: &Mutex<HashMap<CancelKey, SocketAddr>>,
) -> MutexGuard<'_, HashMap<CancelKey, SocketAddr>> {
    keys.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For a server to take a cancel.
const PATIENCE: Duration = Duration::from_secs(2);
/// Servers that one unknown key is sent to.
const MAX_SERVERS: usize = 256;
