//! Until when endpoints keep the connections open that lie in Pingora's pool.
//!
//! Its own file because Pingora 0.9.1 asks for the idle time of a connection before its request is
//! sent, while an endpoint says with each response how long it waits for the next one
//! (`Keep-Alive: timeout=5`). So that time stands here, by descriptor, and is looked at when the pool
//! hands the connection out: one that the endpoint may be closing is not used, because a `POST` that
//! meets its end cannot be sent again. Invariant: an entry is that of the connection which has the
//! descriptor now, because whoever gets a connection takes its entry away. Nothing is locked, and
//! nothing allocated before an endpoint names a time.

use std::os::fd::RawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::header::{HeaderMap, HeaderValue};

use crate::http::deadline::Coarse;

/// When connections end, by descriptor.
pub(super) struct KeepAliveTimes {
    blocks: Box<[OnceLock<Box<Block>>]>,
}

/// Milliseconds of [`Coarse`]; 0 where no time was named.
type Block = [AtomicU64; BLOCK];

impl KeepAliveTimes {
    pub(super) fn new() -> KeepAliveTimes {
        KeepAliveTimes {
            blocks: (0..BLOCKS).map(|_| OnceLock::new()).collect(),
        }
    }

    /// The endpoint of this connection waits for another request until then.
    pub(super) fn until(&self, socket: RawFd, end: Coarse) {
        let Some((block, within)) = self.place(socket) else {
            return;
        };
        let block = block.get_or_init(|| Box::new([const { AtomicU64::new(0) }; BLOCK]));
        // The pool hands connections from thread to thread, and orders what is read of them here.
        block[within].store(end.as_millis().max(1), Ordering::Relaxed);
    }

    /// Until when the endpoint keeps this connection open, if it said so with its last response.
    pub(super) fn take(&self, socket: RawFd) -> Option<Coarse> {
        let (block, within) = self.place(socket)?;
        let entry = &block.get()?[within];
        match entry.load(Ordering::Relaxed) {
            0 => None,
            end => {
                entry.store(0, Ordering::Relaxed);
                Some(Coarse::from_millis(end))
            }
        }
    }

    /// No process has more descriptors than there are places; what would be past them is not kept.
    fn place(&self, socket: RawFd) -> Option<(&OnceLock<Box<Block>>, usize)> {
        let number = usize::try_from(socket).ok()?;
        Some((self.blocks.get(number / BLOCK)?, number % BLOCK))
    }
}

/// How long the sender of a response with these fields waits for the next request, less the second
/// that both ways and two clocks may take: the shortest `timeout` of its `Keep-Alive` fields.
pub(super) fn named(headers: &HeaderMap) -> Option<Duration> {
    let fields = headers.get_all("keep-alive").iter();
    let seconds = fields.filter_map(timeout).min()?;
    Some(Duration::from_secs(seconds.min(LONGEST).saturating_sub(1)))
}

fn timeout(keep_alive: &HeaderValue) -> Option<u64> {
    let parameters = keep_alive.to_str().ok()?.split(',');
    let timeouts = parameters.filter_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"');
        let number = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
        // More digits than fit mean a very long time.
        (name.trim().eq_ignore_ascii_case("timeout") && number)
            .then(|| value.parse().unwrap_or(LONGEST))
    });
    timeouts.min()
}

/// A day, in seconds: as long as a connection may idle here at all.
const LONGEST: u64 = 86_400;

const BLOCK: usize = 1024;
/// 2²⁰ descriptors, the most that Linux gives one process by default (`fs.nr_open`).
const BLOCKS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_an_endpoint_names_is_read_in_every_form() {
        for (lines, seconds) in [
            (&["timeout=5"][..], Some(4)),
            (&["timeout=5, max=100"], Some(4)),
            (&["max=100,Timeout = 20"], Some(19)),
            (&["timeout=\"7\""], Some(6)),
            (&["timeout=60", "timeout=3"], Some(2)),
            (&["timeout=1"], Some(0)),
            (&["timeout=0"], Some(0)),
            (&["timeout=99999999999999999999999"], Some(86_399)),
            (&["max=5"], None),
            (&["timeout=soon"], None),
            (&["timeout=-1"], None),
            (&["timeout="], None),
            (&["timeout"], None),
            (&["xtimeout=5"], None),
            (&[""], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("keep-alive", HeaderValue::from_static(line));
            }
            let expected = seconds.map(Duration::from_secs);
            assert_eq!(named(&headers), expected, "{lines:?}");
        }
    }

    #[test]
    fn an_entry_is_of_one_connection_and_is_taken_once() {
        let kept = KeepAliveTimes::new();
        assert_eq!(kept.take(7), None);
        let end = Coarse::from_millis(1234);
        for socket in [0, 7, 1024, 1_048_575] {
            kept.until(socket, end);
            assert_eq!(kept.take(socket + 1), None);
            assert_eq!(kept.take(socket), Some(end));
            assert_eq!(kept.take(socket), None, "the next connection named none");
        }
        for nowhere in [-1, 1_048_576, RawFd::MAX] {
            kept.until(nowhere, end);
            assert_eq!(kept.take(nowhere), None);
        }
    }
}
