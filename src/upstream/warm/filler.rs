//! The work of connecting ahead: what is closed, whom it connects to next, whom it asks first.
//!
//! Its own file because it is the only thing here that runs by itself; sessions see the shelves
//! only. Invariants: at most [`AT_ONCE`] connects are on their way; a socket whose server was
//! doubted while it was connected is not kept; leases come first. Driven by [`Warm::run`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

#[cfg(doc)]
use super::Warm;
use super::{FIRST_RETRY, Kept, Ready, Wanted};
use crate::telemetry::TcpRouteMetrics;
use crate::upstream::Upstream;
use crate::upstream::endpoint::Endpoint;

/// What the filler knows from one round to the next.
#[derive(Default)]
pub(super) struct Filler {
    pub(super) ready: Option<Arc<dyn Ready>>,
    pub(super) wanted: Vec<Wanted>,
    /// Endpoints wanted in the last round.
    pub(super) served: Vec<Arc<Endpoint>>,
    pub(super) round: u64,
    pub(super) connects: JoinSet<Connected>,
}

/// A connect on its way, counted until it is dropped.
pub(super) struct Connecting {
    endpoint: Arc<Endpoint>,
    upstream: Arc<Upstream>,
    metrics: TcpRouteMetrics,
    /// The server is to be asked, not to be connected to.
    ask: Option<Arc<dyn Ready>>,
    /// Those so far, when it began.
    doubts: u64,
}

/// A connect that has ended, and how long it took.
pub(super) struct Connected {
    connecting: Connecting,
    /// `None`: the server was asked, and takes clients.
    result: io::Result<Option<std::net::TcpStream>>,
    took: Duration,
}

impl Filler {
    /// Closes what is dead, old or no longer wanted, and measures how many clients come.
    pub(super) fn tend(&mut self, wanted: Vec<Wanted>) {
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
                if !endpoint.is_healthy() {
                    state.doubt();
                }
                if !endpoint.is_healthy() || state.demand.is_over(now, wanted.policy.max_age) {
                    state.sockets.clear();
                }
                state.drop_bad(now, wanted.policy);
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
    pub(super) fn fill(&mut self) {
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
                let mut target = match state.policy {
                    Some(policy) if may => state
                        .demand
                        .target(now, policy.max_age)
                        .min(policy.most)
                        .min(room_here),
                    _ => 0,
                };
                let asked_first = state.policy.is_some_and(|policy| policy.asked_first);
                let ask = self.ready.clone();
                let ask = ask.filter(|_| asked_first && !state.said_ready);
                if ask.is_some() {
                    target = target.min(1);
                }
                while state.ahead() < target && self.connects.len() < AT_ONCE {
                    state.connecting += 1;
                    let connecting = Connecting {
                        endpoint: Arc::clone(endpoint),
                        upstream: Arc::clone(upstream),
                        metrics: wanted.metrics.clone(),
                        ask: ask.clone(),
                        doubts: state.doubts,
                    };
                    self.connects.spawn(connecting.connect());
                }
                room = room.saturating_sub(state.ahead());
            }
        }
    }

    /// Takes a finished connect; `None` when it died.
    pub(super) fn note(&mut self, done: Option<Connected>) {
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
            ask: _,
            doubts,
        } = &connecting;
        let now = Instant::now();
        let mut state = endpoint.shelf().lock();
        match result {
            // The server may be another by now.
            Ok(_) if state.doubts != *doubts => {}
            Ok(None) => {
                state.failures = 0;
                state.retry_at = None;
                state.said_ready = true;
            }
            Ok(Some(stream)) => {
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
                state.doubt();
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
        let attempt = async {
            match &self.ask {
                Some(ready) => ready.ask(addr).await.map(|()| None),
                None => TcpStream::connect(addr).await?.into_std().map(Some),
            }
        };
        let result = tokio::time::timeout(PATIENCE, attempt)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
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

/// How many connects may be on their way at once.
const AT_ONCE: usize = 32;

/// How long one connect may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// The longest pause after failed connects.
const LAST_RETRY: Duration = Duration::from_secs(30);
