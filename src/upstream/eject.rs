//! Passive ejection of one endpoint: how often it failed in a row, and until when it is out.
//!
//! Its own file because its arithmetic of time is tested alone. Invariant: `until` is read without
//! a lock and zero means "in"; how many of an upstream may be out at once is the upstream's
//! business. Called by the upstream when a lease is finished, and by the prober.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::lock;
use crate::config::Ejection;

/// The longest ejection, unless `base` alone is longer (as Envoy's `max_ejection_time`).
const LONGEST: Duration = Duration::from_secs(300);

/// Ejection state of one endpoint.
#[derive(Debug)]
pub(super) struct Ejector {
    /// `until` counts from here.
    born: Instant,
    /// Failures since the last success.
    streak: AtomicU32,
    /// Nanoseconds since `born`; 0: not ejected.
    until: AtomicU64,
    history: Mutex<History>,
}

#[derive(Debug)]
struct History {
    /// Ejections that have not been forgiven yet: the factor of the next one.
    times: u32,
    /// When the last one ended.
    ended: Instant,
}

impl Ejector {
    pub(super) fn new() -> Ejector {
        let born = Instant::now();
        Ejector {
            born,
            streak: AtomicU32::new(0),
            until: AtomicU64::new(0),
            history: Mutex::new(History {
                times: 0,
                ended: born,
            }),
        }
    }

    /// When the ejection ends or ended; `None` when not ejected.
    pub(super) fn until(&self) -> Option<Instant> {
        match self.until.load(Ordering::SeqCst) {
            0 => None,
            nanos => Some(self.born + Duration::from_nanos(nanos)),
        }
    }

    /// A success ends the streak. Writes only when there is one: this runs for every request.
    pub(super) fn note_success(&self) {
        if self.streak.load(Ordering::Relaxed) != 0 {
            self.streak.store(0, Ordering::Relaxed);
        }
    }

    /// Counts a failure. True when it is time to eject: `consecutive_failures` in a row while in.
    pub(super) fn note_failure(&self, policy: &Ejection) -> bool {
        if self.until().is_some_and(|until| until > Instant::now()) {
            // What fails now was sent before the ejection, or while it is undone for all.
            return false;
        }
        self.streak.fetch_add(1, Ordering::Relaxed) + 1 >= policy.consecutive_failures
    }

    /// Puts the endpoint out and returns for how long: `base` times the number of ejections, at
    /// most five minutes. That number goes down by one for each `base` of time spent in.
    pub(super) fn eject(&self, policy: &Ejection, now: Instant) -> Duration {
        let mut history = lock(&self.history);
        if let Some(until) = self.until() {
            // It ended by itself and nobody has looked since.
            history.ended = until.min(now);
        }
        let spent_in = now.saturating_duration_since(history.ended);
        let forgiven = spent_in.as_nanos() / policy.base.as_nanos().max(1);
        history.times = history
            .times
            .saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
            .saturating_add(1);
        let out = policy
            .base
            .saturating_mul(history.times)
            .min(LONGEST.max(policy.base));
        let until = now.saturating_duration_since(self.born).saturating_add(out);
        let nanos = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        self.streak.store(0, Ordering::Relaxed);
        self.until.store(nanos.max(1), Ordering::SeqCst);
        out
    }

    /// Takes the endpoint in again. False when it was not out.
    pub(super) fn reinstate(&self, now: Instant) -> bool {
        let mut history = lock(&self.history);
        let Some(until) = self.until() else {
            return false;
        };
        history.ended = until.min(now);
        self.streak.store(0, Ordering::Relaxed);
        self.until.store(0, Ordering::SeqCst);
        true
    }
}
