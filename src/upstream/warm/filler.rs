//! The work of connecting ahead: what is closed, whom it connects to next, whom it asks first.
//!
//! The background task; sessions see the shelves only. Invariants: at most [`AT_ONCE`] connects are
//! on their way; a socket whose server was doubted while it was connected is not kept; leases come
//! first.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::shelf::{FIRST_RETRY, SpareSocket, State};
use super::wanted::{Ready, Wanted};
use crate::upstream::endpoint::Endpoint;
use crate::upstream::{Upstream, dial, tune};

/// What the filler knows from one round to the next.
#[derive(Default)]
pub(super) struct Filler {
    pub(super) ready: Option<Arc<dyn Ready>>,
    pub(super) wanted: Vec<Wanted>,
    /// Endpoints wanted in the last round.
    pub(super) served: Vec<Arc<Endpoint>>,
    pub(super) round: u64,
    pub(super) connects: JoinSet<()>,
}

/// A connect on its way, counted until it is dropped.
pub(super) struct Connecting {
    endpoint: Arc<Endpoint>,
    upstream: Arc<Upstream>,
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
                state.metrics = Some(wanted.metrics.clone());
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
                while state.round == self.round
                    && self.connects.len() < AT_ONCE
                    && let ready = self.ready.as_ref()
                    && let Some(next) = state.next(upstream, endpoint, ready, room_here, now)
                {
                    self.connects.spawn(async { next.connect().await.note() });
                }
                room = room.saturating_sub(state.ahead());
            }
        }
    }
}

impl State {
    /// The next connect to an endpoint that needs one, counted as on its way. `room`: how many
    /// sockets its limits leave.
    pub(super) fn next(
        &mut self,
        upstream: &Arc<Upstream>,
        endpoint: &Arc<Endpoint>,
        ready: Option<&Arc<dyn Ready>>,
        room: usize,
        now: Instant,
    ) -> Option<Connecting> {
        let policy = self.policy?;
        if !endpoint.is_healthy() || self.retry_at.is_some_and(|at| at > now) {
            return None;
        }
        let target = self.demand.target(now, policy.max_age);
        let target = target.min(policy.most).min(room);
        let ask = ready.filter(|_| policy.asked_first && !self.said_ready);
        let target = match ask {
            Some(_) => target.min(1),
            None => target,
        };
        if self.ahead() >= target {
            return None;
        }
        self.connecting += 1;
        Some(Connecting {
            endpoint: Arc::clone(endpoint),
            upstream: Arc::clone(upstream),
            ask: ask.cloned(),
            doubts: self.doubts,
        })
    }
}

impl Connected {
    /// Puts the socket on the shelf, or remembers why there is none.
    pub(super) fn note(self) {
        let Connected {
            connecting,
            result,
            took,
        } = self;
        let Connecting {
            endpoint,
            upstream,
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
                upstream.connected(endpoint);
            }
            Ok(Some(stream)) => {
                state.failures = 0;
                state.retry_at = None;
                state.demand.note_connect(took);
                upstream.connected(endpoint);
                // Its own place among those connecting becomes the one on the shelf. Leases that
                // came meanwhile go first.
                let room = upstream.room_ahead().min(endpoint.room_ahead());
                if let Some(policy) = state.policy
                    && let Some(counted) = state.metrics.as_ref().map(|m| m.warm_socket())
                    && endpoint.is_healthy()
                    && state.sockets.len() < room.min(policy.most)
                {
                    state.sockets.push_back(SpareSocket {
                        stream,
                        since: now,
                        _counted: counted,
                    });
                }
            }
            Err(error) => {
                let wait = FIRST_RETRY.saturating_mul(1 << state.failures.min(8));
                state.failures = state.failures.saturating_add(1);
                state.doubt();
                state.retry_at = Some(now + wait.min(LAST_RETRY));
                upstream.connect_failed(endpoint, &error, took);
            }
        }
    }
}

impl Connecting {
    pub(super) async fn connect(self) -> Connected {
        let start = Instant::now();
        let attempt = async {
            match &self.ask {
                Some(ready) => ready.ask(&self.endpoint).await.map(|()| None),
                None => {
                    let stream = dial::connect(&self.endpoint, PATIENCE).await?.into_std()?;
                    tune(&stream)?;
                    Ok(Some(stream))
                }
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
