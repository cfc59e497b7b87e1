//! The last error of an endpoint, in words.
//!
//! Health, discovery and the layers above all write it and only the admin listener reads it.
//! Invariants: it is one line of bounded length; it is written when something failed and never on
//! the way of a success; what a client or a configuration keeps secret is not in it, since its
//! writers quote nothing but what the system or a server's error said. Held by the endpoint, and by
//! the upstream for names without an address.

use std::fmt;
use std::sync::Mutex;
use std::time::SystemTime;

use super::lock::lock;

/// What went wrong last, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// By the wall clock; `/status` and `/config` show it in UTC (RFC 3339).
    pub at: SystemTime,
    /// One line of at most 500 characters.
    pub text: Box<str>,
}

impl LastError {
    /// As of now. What could break or forge a line becomes a space.
    pub(super) fn new(why: impl fmt::Display) -> LastError {
        let text = why.to_string();
        let text = text.chars().take(MOST_CHARACTERS);
        LastError {
            at: SystemTime::now(),
            text: text.map(|c| if misleads(c) { ' ' } else { c }).collect(),
        }
    }
}

/// A place for one.
#[derive(Debug, Default)]
pub(super) struct Remembered(Mutex<Option<LastError>>);

impl Remembered {
    /// Keeps the younger one.
    pub(super) fn note(&self, error: LastError) {
        let mut last = lock(&self.0);
        if last.as_ref().is_none_or(|last| last.at <= error.at) {
            *last = Some(error);
        }
    }

    pub(super) fn last(&self) -> Option<LastError> {
        lock(&self.0).clone()
    }
}

/// Control characters, line separators, and what reorders text.
fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

const MOST_CHARACTERS: usize = 500;

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::time::Duration;

    use nix::errno::Errno;

    use super::*;
    use crate::config::UpstreamSpec;
    use crate::upstream::fixture::{ejecting, endpoint, spec, upstream, weighted};
    use crate::upstream::{EndpointAddr, Upstream};

    #[test]
    fn a_text_is_one_bounded_line() {
        let error = LastError::new("a\nb\r\u{1b}[31m\u{202e}c");
        assert_eq!(&*error.text, "a b  [31m c");
        let error = LastError::new("é".repeat(5000));
        assert_eq!(error.text.chars().count(), MOST_CHARACTERS);
    }

    #[test]
    fn the_younger_error_stays() {
        let remembered = Remembered::default();
        let old = LastError::new("old");
        let mut young = LastError::new("young");
        young.at = old.at + Duration::from_secs(1);
        remembered.note(young.clone());
        remembered.note(old);
        assert_eq!(remembered.last(), Some(young));
    }

    #[tokio::test]
    async fn an_error_is_kept_over_reloads_and_what_is_missing_here_is_none() {
        let old = upstream(ejecting(1, weighted(&[1, 1])));
        let first = |upstream: &Upstream| upstream.endpoints().iter().next().cloned().unwrap();
        let ours = io::Error::from_raw_os_error(Errno::EMFILE as i32);
        first(&old).note_connect_error(&ours);
        assert_eq!(first(&old).last_error(), None);
        let refused = io::Error::from_raw_os_error(Errno::ECONNREFUSED as i32);
        first(&old).note_connect_error(&refused);
        let told = first(&old).last_error().unwrap();
        assert_eq!(&*told.text, "connect: Connection refused (os error 111)");
        let new = Upstream::new(Arc::new(ejecting(2, weighted(&[7, 1]))), Some(&old));
        assert_eq!(first(&new).last_error(), Some(told));
        assert_eq!(new.endpoints().iter().nth(1).unwrap().last_error(), None);
    }

    #[tokio::test]
    async fn a_name_without_address_has_an_error_until_it_has_one() {
        let named =
            || -> UpstreamSpec { spec(vec![endpoint("a.example:80"), endpoint("b.example:80")]) };
        let old = upstream(named());
        let why = LastError::new("resolve: no such host");
        old.note_unresolved("a.example", 80, &why);
        old.note_unresolved("c.example", 80, &why);
        assert_eq!(
            old.unresolved(),
            [
                ("a.example:80".to_owned(), Some(why.clone())),
                ("b.example:80".to_owned(), None),
            ]
        );
        let new = Upstream::new(Arc::new(named()), Some(&old));
        assert_eq!(new.unresolved().len(), 2);
        assert_eq!(new.unresolved()[0].1, Some(why.clone()));
        let server = EndpointAddr::alone("10.0.0.1:80".parse().unwrap());
        new.note_addresses("a.example", 80, &[server]);
        assert_eq!(new.unresolved().len(), 1);
        // A name that has addresses: each of them gets the error.
        new.note_unresolved("a.example", 80, &why);
        let first = new.endpoints().iter().next().cloned().unwrap();
        assert_eq!(first.last_error(), Some(why));
    }
}
