//! Whether a Postgres session waits for its client, or its client for the server.
//!
//! Both directions of a relay feed it, and the timer asks. Invariant: it looks at messages and
//! keeps none; in doubt the client waits, since a session that is cut while its server works leaves
//! a query that runs for nobody.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::wire::postgres::{self, IdleTracker, Start};

/// Where a session in clear stands.
pub(super) struct PostgresIdle(Mutex<IdleTracker>);

impl PostgresIdle {
    /// Of a client that has sent `first`. `None` where that is no start of a session.
    pub(super) fn after(first: &[u8]) -> Option<PostgresIdle> {
        let Start::Startup(startup) = postgres::parse_start(first) else {
            return None;
        };
        let mut tracker = IdleTracker::new();
        tracker.client_sent(first.get(startup.length..)?);
        Some(PostgresIdle(Mutex::new(tracker)))
    }

    pub(super) fn client_sent(&self, bytes: &[u8]) {
        self.lock().client_sent(bytes);
    }

    pub(super) fn server_sent(&self, bytes: &[u8]) {
        self.lock().server_sent(bytes);
    }

    /// Everything is answered, and the next word is the client's.
    pub(super) fn waits_for_client(&self) -> bool {
        self.lock().is_ready()
    }

    fn lock(&self) -> MutexGuard<'_, IdleTracker> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
