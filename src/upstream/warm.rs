//! Sockets connected ahead, each for one client that has not come yet.
//!
//! A database connection that one client used must never be given to another: here sockets go in
//! after a connect and out through [`Warm::take`], and nothing puts one back. Invariants: a socket
//! given out is alive, as far as the system knows, and neither side has written to it; it is
//! younger than its protocol allows, since servers close clients that do not begin; there are as
//! many as the recent rate of clients can use up, so none while nobody comes; together with the
//! leases they stay within the limits of endpoint and upstream.

mod demand;
mod filler;
pub(super) mod shelf;
#[cfg(test)]
mod tests;
mod wanted;

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use self::filler::{Connecting, Filler};
use self::shelf::FIRST_RETRY;
pub use self::shelf::Policy;
pub use self::wanted::{Ready, Wanted, WarmSource};
use super::Upstream;
use super::endpoint::Endpoint;
use super::source::{LOOK, stopped};

/// Connects ahead, and gives out.
pub struct Warm {
    wanted: WarmSource,
    /// `None`: nobody is asked anything.
    ready: Option<Arc<dyn Ready>>,
    /// A client came.
    came: Notify,
}

/// A socket for one client.
pub struct Taken {
    /// Connected, never written to or read from; alive when it was taken.
    pub stream: TcpStream,
    /// `None`: there are enough, or the filler sees to it.
    pub next: Option<Next>,
}

/// The connect in the place of a socket that was taken. To be started when the server has done for
/// the client what it does for each: PostgreSQL forks for every connection, and a second fork
/// beside the first session's start makes that slower. Dropped, it is left to the filler.
pub struct Next(Connecting);

impl Warm {
    /// Connects to nothing until it is `run`.
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
