//! Sockets connected ahead, each for one client that has not come yet.
//!
//! Its own file because a database connection that was used by somebody must never be given to
//! anybody else, and here is where that is plain to see: sockets go in after a connect and out
//! through [`Warm::take`], and nothing puts one back. Invariants: a socket given out is alive, as
//! far as the system knows, and neither side has written to it; it is younger than its protocol
//! allows, since servers close clients that do not begin; there are as many as the recent rate of
//! clients can use up, so none while nobody comes; together with the leases they stay within the
//! limits of endpoint and upstream. Started by the server; sessions take.

mod demand;
mod filler;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use self::demand::Demand;
use self::filler::{Connecting, Filler};
use super::endpoint::Endpoint;
use super::{LOOK, Upstream, lock, stopped};
use crate::config::DbType;
use crate::telemetry::{TcpRouteMetrics, WarmSocket};

/// How many sockets an endpoint may have connected ahead, and how old they may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    most: usize,
    max_age: Duration,
    /// The server decides when a client connects whether it will serve it: it is [asked](Ready)
    /// before anything is connected ahead, and again whenever it may have been restarted.
    asked_first: bool,
}

impl Policy {
    /// What a protocol bears. `max_idle_time` (`tcp_proxy.max_idle_time_secs`) can only make it
    /// less. `None`: no socket may be connected ahead.
    ///
    /// PostgreSQL forks a process for each, which keeps the rules of that moment (`pg_hba.conf`, `ssl`):
    /// a session must not be let in by rules that are over for longer than a moment. A MongoDB server
    /// spends a thread. MySQL and MariaDB speak first, and count what is
    /// closed before login as an attack; Oracle's listener reports it. SQL Server documents no
    /// bound. Cassandra's drivers keep few connections for long, and databases over HTTP have
    /// keep-alive.
    pub fn of(db_type: DbType, max_idle_time: Duration) -> Option<Policy> {
        let (most, seconds) = match db_type {
            DbType::Postgres => (8, 2),
            DbType::Redis => (4, 60),
            DbType::Mongodb => (2, 30),
            DbType::Mysql
            | DbType::Oracle
            | DbType::Sqlserver
            | DbType::Cassandra
            | DbType::Couchdb
            | DbType::Influxdb
            | DbType::Elasticsearch
            | DbType::Tcp => return None,
        };
        let max_age = Duration::from_secs(seconds).min(max_idle_time);
        (!max_age.is_zero()).then_some(Policy {
            most,
            max_age,
            asked_first: db_type == DbType::Postgres,
        })
    }
}

/// An upstream whose endpoints get sockets ahead.
#[derive(Clone)]
pub struct Wanted {
    pub upstream: Arc<Upstream>,
    pub policy: Policy,
    /// Where the sockets are counted. Of two routes onto one upstream the first counts them.
    pub metrics: TcpRouteMetrics,
}

/// Gives what the current configuration wants. Asked several times a second, which is how a reload
/// is seen.
pub type WarmSource = Arc<dyn Fn() -> Vec<Wanted> + Send + Sync>;

/// Asks a server whether it takes clients now. The floors above know how.
#[async_trait]
pub trait Ready: Send + Sync {
    /// `Err`: it does not, or cannot be asked.
    async fn ask(&self, endpoint: &Endpoint) -> io::Result<()>;
}

/// Connects ahead, and gives out.
pub struct Warm {
    wanted: WarmSource,
    /// `None`: nobody is asked anything.
    ready: Option<Arc<dyn Ready>>,
    /// A client came.
    came: Notify,
}

/// The sockets of one endpoint. Lives in the endpoint's vitals, so it outlives a reload.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None`: nothing is connected ahead, and clients are not counted.
    policy: Option<Policy>,
    /// There where `policy` is.
    metrics: Option<TcpRouteMetrics>,
    /// The oldest first.
    sockets: VecDeque<Kept>,
    connecting: usize,
    /// It said that it takes clients, and nothing has come in between.
    said_ready: bool,
    /// How often that was doubted.
    doubts: u64,
    demand: Demand,
    /// Connects in a row that failed.
    failures: u32,
    /// None is started before.
    retry_at: Option<Instant>,
    /// The round of the filler that last wanted this.
    round: u64,
}

/// A socket for one client.
pub struct Taken {
    pub stream: TcpStream,
    /// `None`: there are enough, or the filler sees to it.
    pub next: Option<Next>,
}

/// The connect in the place of a socket that was taken. To be started when the server has done for
/// the client what it does for each: PostgreSQL forks for every connection, and a second fork beside
/// the first session's start makes that slower. Dropped, it is left to the filler.
pub struct Next(Connecting);

struct Kept {
    /// Known to no runtime yet: each has its own poll, and what goes on with the one that connected
    /// would be heard in its thread, and told to the session's, for as long as the session lives.
    stream: std::net::TcpStream,
    since: Instant,
    _counted: WarmSocket,
}

impl Warm {
    pub fn new(wanted: WarmSource) -> Warm {
        Warm {
            wanted,
            ready: None,
            came: Notify::new(),
        }
    }

    /// Lets servers be asked before anything is connected to them ahead.
    pub fn asking(self, ready: Arc<dyn Ready>) -> Warm {
        Warm {
            ready: Some(ready),
            ..self
        }
    }

    /// A socket for a client of `endpoint`, connected, [tuned](super::tune) and never used; `None`
    /// when there is none and the caller has to connect. Never waits; call it in the runtime that
    /// will use the socket. Count it per route: `Some` is a hit, `None` a miss.
    pub fn take(&self, upstream: &Arc<Upstream>, endpoint: &Arc<Endpoint>) -> Option<Taken> {
        let now = Instant::now();
        let (kept, next) = {
            let mut state = endpoint.shelf().lock();
            let policy = state.policy?;
            state.demand.note(now);
            let kept = match endpoint.is_healthy() {
                true => state.take(now, policy),
                false => None,
            };
            let next = kept.as_ref().and_then(|_| {
                let room = upstream.room_ahead().min(endpoint.room_ahead());
                state.next(upstream, endpoint, self.ready.as_ref(), room, now)
            });
            (kept, next)
        };
        if next.is_none() {
            self.came.notify_one();
        }
        Some(Taken {
            stream: TcpStream::from_std(kept?.stream).ok()?,
            next: next.map(Next),
        })
    }

    /// Closes what is connected ahead to `endpoint`, which refused a connection, broke one, or said
    /// on one that it cannot serve now. PostgreSQL decides that when a client connects: a socket
    /// from before its end of recovery would be refused long after it.
    pub fn flush(&self, endpoint: &Endpoint) {
        let mut state = endpoint.shelf().lock();
        if !state.policy.is_some_and(|policy| policy.asked_first) {
            return;
        }
        state.sockets.clear();
        state.doubt();
        state.retry_at = Some(Instant::now() + FIRST_RETRY);
    }

    /// Connects ahead until `shutdown` says true, then closes what is left.
    pub async fn run(&self, mut shutdown: watch::Receiver<bool>) {
        let mut filler = Filler {
            ready: self.ready.clone(),
            ..Filler::default()
        };
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stopped(&mut shutdown) => break,
                _ = look.tick() => filler.tend((self.wanted)()),
                () = self.came.notified() => {}
                Some(_) = filler.connects.join_next() => {}
            }
            filler.fill();
        }
        for endpoint in filler.served {
            endpoint.shelf().lock().clear();
        }
    }
}

impl Next {
    /// Connects, in this runtime: waking the filler's thread for it would cost as much.
    pub fn start(self) {
        tokio::spawn(async { self.0.connect().await.note() });
    }
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Sockets that could be given out now.
    pub(super) fn len(&self) -> usize {
        self.lock().sockets.len()
    }
}

impl State {
    fn ahead(&self) -> usize {
        self.sockets.len() + self.connecting
    }

    /// The oldest socket that can be given out.
    fn take(&mut self, now: Instant, policy: Policy) -> Option<Kept> {
        while let Some(kept) = self.sockets.pop_front() {
            if kept.is_good(now, policy) {
                return Some(kept);
            }
            if kept.is_young(now, policy) {
                self.doubt();
            }
        }
        None
    }

    /// What is known of the server may be over: it is asked again.
    fn doubt(&mut self) {
        self.said_ready = false;
        self.doubts += 1;
    }

    /// Closes what cannot be given out.
    fn drop_bad(&mut self, now: Instant, policy: Policy) {
        let mut died = false;
        self.sockets.retain(|kept| {
            let is_good = kept.is_good(now, policy);
            died |= !is_good && kept.is_young(now, policy);
            is_good
        });
        if died {
            self.doubt();
        }
    }

    /// Closes all, and wants none.
    fn clear(&mut self) {
        self.policy = None;
        self.sockets.clear();
        self.said_ready = false;
        self.demand = Demand::default();
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("policy", &self.policy)
            .field("sockets", &self.sockets.len())
            .field("connecting", &self.connecting)
            .finish_non_exhaustive()
    }
}

impl Kept {
    /// Young enough, open, and without a byte. Asks the system, not the runtime, which may not have
    /// heard of a close yet.
    fn is_good(&self, now: Instant, policy: Policy) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        self.is_young(now, policy)
            && SockRef::from(&self.stream)
                .peek(&mut byte)
                .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    fn is_young(&self, now: Instant, policy: Policy) -> bool {
        now.duration_since(self.since) < policy.max_age
    }
}

/// After a failed connect; doubled with each failure.
const FIRST_RETRY: Duration = Duration::from_millis(200);
