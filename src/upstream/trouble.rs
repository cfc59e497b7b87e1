//! What the log is told of a thing that fails again and again.
//!
//! Its own file because requests, sessions and picks keep to one rule: the first failure, then one
//! line for each [`INTERVAL`] in which it fails, with the count of what was left unsaid, and one
//! line when it works again. So a dead endpoint costs two lines in ten seconds at most, however many
//! requests it fails. Invariants: nothing here locks; what works costs a look at a flag. Lives with
//! what fails, over reloads. Told by whoever connects, asks, picks or accepts.

use std::fmt::{self, Display};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use log::{error, info, warn};
use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::pick::PickError;
use super::{Upstream, dial};

/// What can be wrong with an endpoint.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    /// No connection comes about.
    connects: Trouble,
    /// Connections break, or there is no answer on them.
    answers: Trouble,
}

/// What can be wrong with an upstream, whatever its endpoints do.
#[derive(Debug, Default)]
pub(super) struct Shortages {
    /// Of endpoints that can be picked.
    endpoints: Trouble,
    /// Of descriptors, ports or memory, in this process.
    sockets: Trouble,
}

impl Upstream {
    /// A connect to `endpoint` failed, after `waited`.
    pub(super) fn connect_failed(&self, endpoint: &Endpoint, error: &io::Error, waited: Duration) {
        if dial::is_ours(error) {
            if let Some(unsaid) = self.lineage.shortages.sockets.failed() {
                let upstream = self.label();
                // No endpoint is named: none is to blame.
                error!(
                    "too_many_connections: this gateway has no socket left to connect with, {error}: \
                     upstream={upstream}{unsaid}"
                );
            }
            return;
        }
        endpoint.note_connect_error(error);
        if let Some(unsaid) = endpoint.troubles().connects.failed() {
            let place = self.place(endpoint);
            match error.kind() {
                io::ErrorKind::TimedOut => {
                    let waited = Waited(waited);
                    warn!("cannot connect, timed out after {waited}: {place}{unsaid}");
                }
                _ => warn!("cannot connect, {error}: {place}{unsaid}"),
            }
        }
    }

    /// A request or session of `endpoint` failed. `why` is for operators and holds nothing secret.
    pub fn failed(&self, endpoint: &Endpoint, why: impl Display) {
        if let Some(unsaid) = endpoint.troubles().answers.failed() {
            warn!("failed, {why}: {}{unsaid}", self.place(endpoint));
        }
        endpoint.note_error(why);
    }

    /// A connection to `endpoint` came about.
    pub(super) fn connected(&self, endpoint: &Endpoint) {
        if let Some(failures) = endpoint.troubles().connects.worked() {
            let place = self.place(endpoint);
            info!("connects again, after {failures} failures: {place}");
        }
        if let Some(failures) = self.lineage.shortages.sockets.worked() {
            let upstream = self.label();
            info!(
                "has sockets to connect with again, after {failures} failures: upstream={upstream}"
            );
        }
    }

    /// `endpoint` answered.
    pub(super) fn answered(&self, endpoint: &Endpoint) {
        self.connected(endpoint);
        if let Some(failures) = endpoint.troubles().answers.worked() {
            let place = self.place(endpoint);
            info!("answers again, after {failures} failures: {place}");
        }
    }

    /// A pick came to an end.
    pub(super) fn picked<T>(&self, picked: &Result<T, PickError>) {
        let shortage = &self.lineage.shortages.endpoints;
        let (reason, why) = match picked {
            Ok(_) => {
                if let Some(failures) = shortage.worked() {
                    let upstream = self.label();
                    info!(
                        "endpoints can be picked again, after {failures} failures: upstream={upstream}"
                    );
                }
                return;
            }
            Err(error) => (error.reason(), error.as_words()),
        };
        if let Some(unsaid) = shortage.failed() {
            warn!("{reason}: {why}: upstream={}{unsaid}", self.label());
        }
    }

    fn place<'a>(&'a self, endpoint: &'a Endpoint) -> impl Display + 'a {
        Place(self, endpoint)
    }
}

struct Place<'a>(&'a Upstream, &'a Endpoint);

impl Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place(upstream, endpoint) = self;
        let (upstream, label) = (upstream.label(), endpoint.label());
        let addr = endpoint.ways().first;
        write!(f, "upstream={upstream} endpoint={label} addr={addr}")
    }
}

/// A time as people say it.
struct Waited(Duration);

impl Display for Waited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match millis(self.0) {
            ms if ms >= 1000 && ms % 1000 == 0 => write!(f, "{} s", ms / 1000),
            ms => write!(f, "{ms} ms"),
        }
    }
}

/// How long nothing more is said after a line.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);

/// The failures of one kind of one thing.
#[derive(Debug)]
pub(crate) struct Trouble {
    /// `quiet_until` counts from here.
    born: Instant,
    /// Milliseconds since `born`; 0 before the first failure.
    quiet_until: AtomicU64,
    /// A line tells of it, and none yet that it is over.
    told: AtomicBool,
    unsaid: AtomicU64,
    /// Since it last worked.
    failures: AtomicU64,
}

impl Default for Trouble {
    fn default() -> Trouble {
        Trouble {
            born: Instant::now(),
            quiet_until: AtomicU64::new(0),
            told: AtomicBool::new(false),
            unsaid: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }
}

impl Trouble {
    /// It failed. When that is to be told: how many failures were not.
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
        self.told.store(true, Ordering::Relaxed);
        Some(Unsaid(self.unsaid.swap(0, Ordering::Relaxed)))
    }

    /// It worked. When a line told that it does not: how often it had failed. Only reads where there
    /// is no trouble: this runs for every request.
    pub(crate) fn worked(&self) -> Option<u64> {
        if !self.told.load(Ordering::Relaxed) || !self.told.swap(false, Ordering::Relaxed) {
            return None;
        }
        self.unsaid.store(0, Ordering::Relaxed);
        Some(self.failures.swap(0, Ordering::Relaxed))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How many failures no line has told of; shown as the end of a line.
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
    async fn the_first_is_told_and_then_one_in_each_interval_with_a_count() {
        let trouble = Trouble::default();
        assert_eq!(trouble.failed(), Some(Unsaid(0)));
        for _ in 0..1000 {
            assert_eq!(trouble.failed(), None);
        }
        tokio::time::advance(INTERVAL).await;
        assert_eq!(trouble.failed(), Some(Unsaid(1000)));
        assert_eq!(trouble.failed(), None);
        tokio::time::advance(INTERVAL * 5).await;
        assert_eq!(trouble.failed(), Some(Unsaid(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn that_it_works_again_is_told_once_and_only_after_a_line() {
        let trouble = Trouble::default();
        assert_eq!(trouble.worked(), None);
        trouble.failed();
        trouble.failed();
        assert_eq!(trouble.worked(), Some(2));
        assert_eq!(trouble.worked(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_every_second_time_costs_two_lines_in_an_interval() {
        let trouble = Trouble::default();
        let mut lines = 0;
        for _ in 0..5_000 {
            lines += usize::from(trouble.failed().is_some());
            lines += usize::from(trouble.worked().is_some());
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        assert!((8..=10).contains(&lines), "{lines} lines in 50 s");
    }

    #[test]
    fn one_of_many_threads_tells() {
        let trouble = Trouble::default();
        let told: usize = std::thread::scope(|scope| {
            let tellers: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..1000).filter(|_| trouble.failed().is_some()).count()))
                .collect();
            tellers.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(told, 1);
        assert_eq!(trouble.worked(), Some(8000));
    }

    #[test]
    fn a_line_ends_with_what_was_left_unsaid() {
        assert_eq!(Unsaid(0).to_string(), "");
        assert_eq!(Unsaid(1).to_string(), " (once more since the last line)");
        assert_eq!(Unsaid(7).to_string(), " (7 times more since the last line)");
        assert_eq!(Waited(Duration::from_millis(1000)).to_string(), "1 s");
        assert_eq!(Waited(Duration::from_millis(1500)).to_string(), "1500 ms");
        assert_eq!(Waited(Duration::from_millis(200)).to_string(), "200 ms");
    }
}
