//! What a gateway sees of a Postgres login in clear: the key that cancels the session's queries, and
//! whether the server takes sessions at all.
//!
//! Its own file because it is the one thing that is read of a session after its opening. Invariant:
//! it looks and changes nothing, and stops at the first ReadyForQuery, at a refusal, and where TLS
//! begins. Called by `session.rs` for each piece that the server sends.

use crate::tcp::opening::PostgresTls;
use crate::tcp::relay::Seen;
use crate::wire::postgres::{self, Progress, StartupTracker};

/// Watches a Postgres login in clear for the key that cancels the session's queries.
pub struct Login {
    tracker: StartupTracker,
    /// The server's one-byte answer to SSLRequest is still to come.
    answer_due: bool,
    reported: bool,
}

impl Login {
    pub fn new(tls: PostgresTls) -> Login {
        Login {
            tracker: StartupTracker::new(),
            answer_due: tls == PostgresTls::Asked,
            reported: false,
        }
    }

    pub fn see(&mut self, mut bytes: &[u8]) -> Seen {
        if self.answer_due
            && let Some((answer, rest)) = bytes.split_first()
        {
            if *answer == b'S' {
                return Seen::Enough;
            }
            self.answer_due = false;
            bytes = rest;
        }
        match self.tracker.advance(bytes) {
            Progress::Going => Seen::More,
            Progress::Ready | Progress::Refused(_) | Progress::Malformed => Seen::Enough,
        }
    }

    /// The server starts, recovers or ends (57P03).
    pub fn cannot_connect_now(&self) -> bool {
        self.tracker.progress() == Progress::Refused(*b"57P03")
    }

    /// The key, the first time it is known.
    pub fn key(&mut self) -> Option<&postgres::CancelKey> {
        if self.reported {
            return None;
        }
        let key = self.tracker.cancel_key()?;
        self.reported = true;
        Some(key)
    }
}
