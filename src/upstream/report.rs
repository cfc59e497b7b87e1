//! What the log says of an upstream and its endpoints as they fail and recover.
//!
//! A dead endpoint costs two lines in ten seconds at most, however many requests it fails: see
//! `failure_log`.

use std::fmt::{self, Display};
use std::io;
use std::time::Duration;

use log::{error, info, warn};

use super::connect_error;
use super::endpoint::Endpoint;
use super::failure_log::millis;
use super::group::Upstream;
use super::pick::PickError;

impl Upstream {
    /// A connect to `endpoint` failed, after `waited`.
    pub(super) fn connect_failed(&self, endpoint: &Endpoint, error: &io::Error, waited: Duration) {
        if connect_error::is_ours(error) {
            if let Some(unsaid) = self.lineage.failures.sockets.failed() {
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
        if let Some(unsaid) = endpoint.failure_logs().connects.failed() {
            let labels = self.labels(endpoint);
            match error.kind() {
                io::ErrorKind::TimedOut => {
                    let waited = Waited(waited);
                    warn!("cannot connect, timed out after {waited}: {labels}{unsaid}");
                }
                _ => warn!("cannot connect, {error}: {labels}{unsaid}"),
            }
        }
    }

    /// A request or session of `endpoint` failed. `why` is for operators and holds nothing secret.
    pub fn failed(&self, endpoint: &Endpoint, why: impl Display) {
        if let Some(unsaid) = endpoint.failure_logs().answers.failed() {
            warn!("failed, {why}: {}{unsaid}", self.labels(endpoint));
        }
        endpoint.note_error(why);
    }

    /// A connection to `endpoint` came about.
    pub(super) fn connected(&self, endpoint: &Endpoint) {
        if let Some(failures) = endpoint.failure_logs().connects.worked() {
            let labels = self.labels(endpoint);
            info!("connects again, after {failures} failures: {labels}");
        }
        if let Some(failures) = self.lineage.failures.sockets.worked() {
            let upstream = self.label();
            info!(
                "has sockets to connect with again, after {failures} failures: upstream={upstream}"
            );
        }
    }

    /// `endpoint` answered.
    pub(super) fn answered(&self, endpoint: &Endpoint) {
        self.connected(endpoint);
        if let Some(failures) = endpoint.failure_logs().answers.worked() {
            let labels = self.labels(endpoint);
            info!("answers again, after {failures} failures: {labels}");
        }
    }

    /// A pick came to an end.
    pub(super) fn picked<T>(&self, picked: &Result<T, PickError>) {
        let shortage = &self.lineage.failures.endpoints;
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

    fn labels<'a>(&'a self, endpoint: &'a Endpoint) -> impl Display + 'a {
        Labels(self, endpoint)
    }
}

struct Labels<'a>(&'a Upstream, &'a Endpoint);

impl Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Labels(upstream, endpoint) = self;
        let (upstream, label) = (upstream.label(), endpoint.label());
        let addr = endpoint.addrs().first;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_in_seconds_where_it_is_even() {
        assert_eq!(Waited(Duration::from_millis(1000)).to_string(), "1 s");
        assert_eq!(Waited(Duration::from_millis(1500)).to_string(), "1500 ms");
        assert_eq!(Waited(Duration::from_millis(200)).to_string(), "200 ms");
    }
}
