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
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::demand::Demand;
use super::endpoint::Endpoint;
use super::{LOOK, Upstream, lock, stopped};
use crate::config::DbType;
use crate::telemetry::{TcpRouteMetrics, WarmSocket};

/// How many sockets an endpoint may have connected ahead, and how old they may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    most: usize,
    max_age: Duration,
}

impl Policy {
    /// What a protocol bears. `max_idle_time` (`tcp_proxy.max_idle_time_secs`) can only make it
    /// less. `None`: no socket may be connected ahead.
    ///
    /// PostgreSQL closes a silent client after `authentication_timeout` (60 s) and forks a process
    /// for each; a MongoDB server spends a thread. MySQL and MariaDB speak first, and count what is
    /// closed before login as an attack; Oracle's listener reports it. SQL Server documents no
    /// bound. Cassandra's drivers keep few connections for long, and databases over HTTP have
    /// keep-alive.
    pub fn of(db_type: DbType, max_idle_time: Duration) -> Option<Policy> {
        let (most, seconds) = match db_type {
            DbType::Postgres => (8, 30),
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
        (!max_age.is_zero()).then_some(Policy { most, max_age })
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

/// Connects ahead, and gives out.
pub struct Warm {
    wanted: WarmSource,
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
    /// The oldest first.
    sockets: VecDeque<Kept>,
    connecting: usize,
    demand: Demand,
    /// Connects in a row that failed.
    failures: u32,
    /// None is started before.
    retry_at: Option<Instant>,
    /// The round of the filler that last wanted this.
    round: u64,
}

struct Kept {
    /// Known to no runtime yet: each has its own poll, and what goes on with the one that connected
    /// would be heard in its thread, and told to the session's, for as long as the session lives.
    stream: std::net::TcpStream,
    since: Instant,
    _counted: WarmSocket,
}

/// A connect on its way, counted until it is dropped.
struct Connecting {
    endpoint: Arc<Endpoint>,
    upstream: Arc<Upstream>,
    metrics: TcpRouteMetrics,
}

/// A connect that has ended, and how long it took.
struct Connected {
    connecting: Connecting,
    result: io::Result<std::net::TcpStream>,
    took: Duration,
}

/// What the filler knows from one round to the next.
#[derive(Default)]
struct Filler {
    wanted: Vec<Wanted>,
    /// Endpoints wanted in the last round.
    served: Vec<Arc<Endpoint>>,
    round: u64,
    connects: JoinSet<Connected>,
}

impl Warm {
    pub fn new(wanted: WarmSource) -> Warm {
        Warm {
            wanted,
            came: Notify::new(),
        }
    }

    /// A socket for a client of `endpoint`, connected and never used; `None` when there is none
    /// and the caller has to connect. Never waits; call it in the runtime that will use the socket. Count it per route: `Some` is a hit, `None` a
    /// miss.
    pub fn take(&self, endpoint: &Endpoint) -> Option<TcpStream> {
        let now = Instant::now();
        let mut state = endpoint.shelf().lock();
        let policy = state.policy?;
        state.demand.note(now);
        self.came.notify_one();
        if !endpoint.is_healthy() {
            return None;
        }
        while let Some(kept) = state.sockets.pop_front() {
            if kept.is_good(now, policy)
                && let Ok(stream) = TcpStream::from_std(kept.stream)
            {
                return Some(stream);
            }
        }
        None
    }

    /// Closes what is connected ahead to `endpoint`, which said on a connection that it cannot serve
    /// now. PostgreSQL decides that when a client connects: a socket from before its end of recovery
    /// would be refused long after it.
    pub fn flush(&self, endpoint: &Endpoint) {
        let mut state = endpoint.shelf().lock();
        state.sockets.clear();
        state.retry_at = Some(Instant::now() + FIRST_RETRY);
    }

    /// Connects ahead until `shutdown` says true, then closes what is left.
    pub async fn run(&self, mut shutdown: watch::Receiver<bool>) {
        let mut filler = Filler::default();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stopped(&mut shutdown) => break,
                _ = look.tick() => filler.tend((self.wanted)()),
                () = self.came.notified() => {}
                Some(done) = filler.connects.join_next() => filler.note(done.ok()),
            }
            filler.fill();
        }
        for endpoint in filler.served {
            endpoint.shelf().lock().clear();
        }
    }
}

impl Filler {
    /// Closes what is dead, old or no longer wanted, and measures how many clients come.
    fn tend(&mut self, wanted: Vec<Wanted>) {
        let now = Instant::now();
        self.round += 1;
        let mut served = Vec::with_capacity(self.served.len());
        for wanted in &wanted {
            for endpoint in wanted.upstream.endpoints().iter() {
                let mut state = endpoint.shelf().lock();
                if state.round == self.round && state.policy.is_some() {
                    continue;
                }
                state.round = self.round;
                state.policy = Some(wanted.policy);
                state.demand.measure(now);
                if !endpoint.is_healthy() || state.demand.is_over(now, wanted.policy.max_age) {
                    state.sockets.clear();
                }
                state
                    .sockets
                    .retain(|kept| kept.is_good(now, wanted.policy));
                served.push(Arc::clone(endpoint));
            }
        }
        // Their address is another now, or they left the configuration.
        for endpoint in &self.served {
            let mut state = endpoint.shelf().lock();
            if state.round != self.round {
                state.clear();
            }
        }
        self.served = served;
        self.wanted = wanted;
    }

    /// Starts the connects that are missing.
    fn fill(&mut self) {
        let now = Instant::now();
        for wanted in &self.wanted {
            let upstream = &wanted.upstream;
            let set = upstream.endpoints();
            let mut room = upstream.room_ahead();
            for endpoint in set.iter() {
                let mut state = endpoint.shelf().lock();
                let room_here = room.min(endpoint.room_ahead());
                // Leases come first.
                while state.sockets.len() > room_here {
                    state.sockets.pop_front();
                }
                let may = state.round == self.round
                    && endpoint.is_healthy()
                    && state.retry_at.is_none_or(|at| at <= now);
                let target = match state.policy {
                    Some(policy) if may => state
                        .demand
                        .target(now, policy.max_age)
                        .min(policy.most)
                        .min(room_here),
                    _ => 0,
                };
                while state.ahead() < target && self.connects.len() < AT_ONCE {
                    state.connecting += 1;
                    let connecting = Connecting {
                        endpoint: Arc::clone(endpoint),
                        upstream: Arc::clone(upstream),
                        metrics: wanted.metrics.clone(),
                    };
                    self.connects.spawn(connecting.connect());
                }
                room = room.saturating_sub(state.ahead());
            }
        }
    }

    /// Takes a finished connect; `None` when it died.
    fn note(&mut self, done: Option<Connected>) {
        let Some(Connected {
            connecting,
            result,
            took,
        }) = done
        else {
            return;
        };
        let Connecting {
            endpoint,
            upstream,
            metrics,
        } = &connecting;
        let now = Instant::now();
        let mut state = endpoint.shelf().lock();
        match result {
            Ok(stream) => {
                state.failures = 0;
                state.retry_at = None;
                state.demand.note_connect(took);
                // Its own place among those connecting becomes the one on the shelf. Leases that
                // came meanwhile go first.
                let room = upstream.room_ahead().min(endpoint.room_ahead());
                if let Some(policy) = state.policy
                    && endpoint.is_healthy()
                    && state.sockets.len() < room.min(policy.most)
                {
                    state.sockets.push_back(Kept {
                        stream,
                        since: now,
                        _counted: metrics.warm_socket(),
                    });
                }
            }
            Err(error) => {
                let wait = FIRST_RETRY.saturating_mul(1 << state.failures.min(8));
                state.failures = state.failures.saturating_add(1);
                state.retry_at = Some(now + wait.min(LAST_RETRY));
                log::debug!(
                    "connect ahead failed: {error}; upstream={} endpoint={} addr={}",
                    upstream.label(),
                    endpoint.label(),
                    endpoint.addr()
                );
            }
        }
    }
}

impl Connecting {
    async fn connect(self) -> Connected {
        let start = Instant::now();
        let addr: SocketAddr = self.endpoint.addr();
        let result = tokio::time::timeout(PATIENCE, TcpStream::connect(addr))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .and_then(TcpStream::into_std);
        Connected {
            connecting: self,
            result,
            took: start.elapsed(),
        }
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        let mut state = self.endpoint.shelf().lock();
        state.connecting = state.connecting.saturating_sub(1);
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

    /// Closes all, and wants none.
    fn clear(&mut self) {
        self.policy = None;
        self.sockets.clear();
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
        now.duration_since(self.since) < policy.max_age
            && SockRef::from(&self.stream)
                .peek(&mut byte)
                .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// How many connects may be on their way at once.
const AT_ONCE: usize = 32;

/// How long one connect may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// After a failed connect; doubled with each failure, up to `LAST_RETRY`.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(30);
