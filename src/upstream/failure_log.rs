//! When a repeated failure goes into the log: the first, then one line for each [`INTERVAL`] in
//! which it fails, with the count of what was left out, and one line when it works again.
//!
//! Invariants: nothing here locks; what works costs a look at a flag. Lives with what fails, over
//! reloads.

use std::fmt::{self, Display};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// What can be wrong with an endpoint.
#[derive(Debug, Default)]
pub(super) struct EndpointFailures {
    /// No connection comes about.
    pub(super) connects: FailureLog,
    /// Connections break, or there is no answer on them.
    pub(super) answers: FailureLog,
}

/// What can be wrong with an upstream, whatever its endpoints do.
#[derive(Debug, Default)]
pub(super) struct UpstreamFailures {
    /// Of endpoints that can be picked.
    pub(super) endpoints: FailureLog,
    /// Of descriptors, ports or memory, in this process.
    pub(super) sockets: FailureLog,
}

/// How long nothing more is said after a line.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);

/// The failures of one kind of one thing.
#[derive(Debug)]
pub(crate) struct FailureLog {
    /// `quiet_until` counts from here.
    born: Instant,
    /// Milliseconds since `born`; 0 before the first failure.
    quiet_until: AtomicU64,
    /// A line has reported it, and none yet that it is over.
    reported: AtomicBool,
    unsaid: AtomicU64,
    /// Since it last worked.
    failures: AtomicU64,
}

impl Default for FailureLog {
    fn default() -> FailureLog {
        FailureLog {
            born: Instant::now(),
            quiet_until: AtomicU64::new(0),
            reported: AtomicBool::new(false),
            unsaid: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }
}

impl FailureLog {
    /// It failed. `Some` when a line is due, with the number of failures that no line has reported.
    pub(crate) fn failed(&self) -> Option<Unsaid> {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let now = millis(self.born.elapsed()).saturating_add(1);
        let quiet_until = self.quiet_until.load(Ordering::Relaxed);
        let is_due = quiet_until <= now
            && self
                .quiet_until
                .compare_exchange(
                    quiet_until,
                    now.saturating_add(millis(INTERVAL)),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok();
        if !is_due {
            self.unsaid.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.reported.store(true, Ordering::Relaxed);
        Some(Unsaid(self.unsaid.swap(0, Ordering::Relaxed)))
    }

    /// It worked. `Some` when a line has reported failures, with their number. Only reads where
    /// nothing failed: this runs for every request.
    pub(crate) fn worked(&self) -> Option<u64> {
        if !self.reported.load(Ordering::Relaxed) || !self.reported.swap(false, Ordering::Relaxed) {
            return None;
        }
        self.unsaid.store(0, Ordering::Relaxed);
        Some(self.failures.swap(0, Ordering::Relaxed))
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How many failures no line has reported; shown as the end of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unsaid(u64);

impl Display for Unsaid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            1 => write!(f, " (once more since the last line)"),
            n => write!(f, " ({n} times more since the last line)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_is_reported_and_then_one_in_each_interval_with_a_count() {
        let log = FailureLog::default();
        assert_eq!(log.failed(), Some(Unsaid(0)));
        for _ in 0..1000 {
            assert_eq!(log.failed(), None);
        }
        tokio::time::advance(INTERVAL).await;
        assert_eq!(log.failed(), Some(Unsaid(1000)));
        assert_eq!(log.failed(), None);
        tokio::time::advance(INTERVAL * 5).await;
        assert_eq!(log.failed(), Some(Unsaid(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn that_it_works_again_is_reported_once_and_only_after_a_line() {
        let log = FailureLog::default();
        assert_eq!(log.worked(), None);
        log.failed();
        log.failed();
        assert_eq!(log.worked(), Some(2));
        assert_eq!(log.worked(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_every_second_time_costs_two_lines_in_an_interval() {
        let log = FailureLog::default();
        let mut lines = 0;
        for _ in 0..5_000 {
            lines += usize::from(log.failed().is_some());
            lines += usize::from(log.worked().is_some());
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        assert!((8..=10).contains(&lines), "{lines} lines in 50 s");
    }

    #[test]
    fn one_of_many_threads_tells() {
        let log = FailureLog::default();
        let told: usize = std::thread::scope(|scope| {
            let tellers: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..1000).filter(|_| log.failed().is_some()).count()))
                .collect();
            tellers.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(told, 1);
        assert_eq!(log.worked(), Some(8000));
    }

    #[test]
    fn a_line_ends_with_what_was_left_unsaid() {
        assert_eq!(Unsaid(0).to_string(), "");
        assert_eq!(Unsaid(1).to_string(), " (once more since the last line)");
        assert_eq!(Unsaid(7).to_string(), " (7 times more since the last line)");
    }
}
