//! What a gateway sees of a Postgres login in clear: the key that cancels the session's queries,
//! and whether the server takes sessions at all.
//!
//! Invariant: it looks and changes nothing, and stops at the first ReadyForQuery, at a refusal, and
//! where it is not Postgres in clear.

use crate::tcp::relay::Seen;
use crate::wire::postgres::{self, Progress, StartupTracker};

/// Watches a Postgres login in clear for the key that cancels the session's queries.
pub(super) struct Login {
    tracker: StartupTracker,
    reported: bool,
}

impl Login {
    pub(super) fn new() -> Login {
        Login {
            tracker: StartupTracker::new(),
            reported: false,
        }
    }

    pub(super) fn see(&mut self, bytes: &[u8]) -> Seen {
        match self.tracker.advance(bytes) {
            Progress::Going => Seen::More,
            Progress::Ready | Progress::Refused(_) | Progress::Malformed => Seen::Enough,
        }
    }

    /// The server starts, recovers or ends (57P03).
    pub(super) fn cannot_connect_now(&self) -> bool {
        self.tracker.progress() == Progress::Refused(*b"57P03")
    }

    /// The key, the first time it is known.
    pub(super) fn key(&mut self) -> Option<&postgres::CancelKey> {
        if self.reported {
            return None;
        }
        let key = self.tracker.cancel_key()?;
        self.reported = true;
        Some(key)
    }
}
