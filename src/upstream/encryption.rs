//! What a server answers to clients that ask for TLS inside its protocol.
//!
//! It is learnt in one place (a session, a check) and used in others (the opening of a session, a
//! refusal), and outlives a reload with its endpoint. Invariants: the answer is one that this
//! server gave, never a guess; one that may be out of date is not used to answer in its place. Read
//! and written without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A server's answer to a client that asks for TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// It accepts TLS: `S` (PostgreSQL protocol, "SSL Session Encryption").
    Offered,
    /// It has no TLS: `N`. The client goes on in clear, or leaves.
    Declined,
}

impl Encryption {
    /// Of a Postgres server's answer to SSLRequest; `None` where it is neither yes nor no.
    pub fn from_ssl_answer(answer: u8) -> Option<Encryption> {
        match answer {
            b'S' => Some(Encryption::Offered),
            b'N' => Some(Encryption::Declined),
            _ => None,
        }
    }
}

/// The last answer of one server.
#[derive(Debug)]
pub(super) struct Answer {
    /// Times are counted from here.
    known: Instant,
    /// 0: never asked. Else milliseconds, plus one, and in the lowest bit whether it was a yes.
    last: AtomicU64,
}

impl Answer {
    pub(super) fn new() -> Answer {
        Answer {
            known: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    pub(super) fn note(&self, encryption: Encryption) {
        let yes = u64::from(encryption == Encryption::Offered);
        self.last
            .store((self.millis() + 1) << 1 | yes, Ordering::Relaxed);
    }

    pub(super) fn last(&self) -> Option<Encryption> {
        match self.last.load(Ordering::Relaxed) {
            0 => None,
            last if last & 1 == 1 => Some(Encryption::Offered),
            _ => Some(Encryption::Declined),
        }
    }

    /// Whether the last answer is a no, and not an old one.
    pub(super) fn is_fresh_no(&self) -> bool {
        let last = self.last.load(Ordering::Relaxed);
        let age = self.millis().saturating_sub((last >> 1).saturating_sub(1));
        last != 0 && last & 1 == 0 && u128::from(age) < FRESH.as_millis()
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.known.elapsed().as_millis()).unwrap_or(u64::MAX >> 2)
    }
}

/// For so long a server's no is given in its place. A server on which TLS was turned on meanwhile
/// is found out by the session that follows, or by the next check.
const FRESH: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_no_grows_old_and_the_last_answer_counts() {
        let answer = Answer::new();
        assert_eq!(answer.last(), None);
        assert!(!answer.is_fresh_no());
        answer.note(Encryption::Declined);
        assert!(answer.is_fresh_no());
        tokio::time::advance(FRESH - Duration::from_millis(1)).await;
        assert!(answer.is_fresh_no());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!answer.is_fresh_no());
        assert_eq!(answer.last(), Some(Encryption::Declined));
        answer.note(Encryption::Offered);
        assert!(!answer.is_fresh_no());
        assert_eq!(answer.last(), Some(Encryption::Offered));
    }
}
