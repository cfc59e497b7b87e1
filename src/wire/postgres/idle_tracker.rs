//! Whether a session is between two requests and outside a transaction.

use super::frame::{Event, Frame, READY};

/// Knows whether a session is idle: the server's last ReadyForQuery said `I` and answered the last
/// request of the client. Then, and only then, an ErrorResponse may be put into its stream.
///
/// When in doubt (a Sync that the server ignores during COPY) the session counts as busy.
#[derive(Debug)]
pub struct IdleTracker {
    /// `None`: bytes passed unseen, the next message boundaries are not known.
    streams: Option<Streams>,
    status: u8,
}

#[derive(Debug, Default)]
struct Streams {
    server: Frame,
    client: Frame,
    /// ReadyForQuery messages that the server still owes.
    owed: u32,
}

impl Default for IdleTracker {
    fn default() -> IdleTracker {
        IdleTracker::new()
    }
}

impl IdleTracker {
    /// After the StartupMessage, which owes the first ReadyForQuery.
    pub fn new() -> IdleTracker {
        IdleTracker {
            streams: Some(Streams {
                owed: 1,
                ..Streams::default()
            }),
            status: 0,
        }
    }

    /// The server's next bytes in clear, cut anywhere.
    pub fn server_sent(&mut self, bytes: &[u8]) {
        let Some(streams) = &mut self.streams else {
            // Nothing of the server follows a ReadyForQuery unasked but at a boundary, so a read
            // that ends in one shows where it is.
            if let Some((status, start)) = bytes.split_last()
                && start.ends_with(READY_HEADER)
                && matches!(status, b'I' | b'T' | b'E')
            {
                self.streams = Some(Streams::default());
                self.status = *status;
            }
            return;
        };
        let mut rest = bytes;
        while let Some(event) = streams.server.next(&mut rest) {
            match event {
                Event::Body { kind: READY, piece } => {
                    self.status = piece.last().copied().unwrap_or(0);
                }
                Event::End { kind: READY } => streams.owed = streams.owed.saturating_sub(1),
                Event::Broken => return self.lost(),
                _ => (),
            }
        }
    }

    /// The client's next bytes in clear after its StartupMessage, cut anywhere.
    pub fn client_sent(&mut self, bytes: &[u8]) {
        let Some(streams) = &mut self.streams else {
            return;
        };
        let mut rest = bytes;
        while let Some(event) = streams.client.next(&mut rest) {
            match event {
                Event::Start { kind, .. } if !CLIENT_KINDS.contains(&kind) => return self.lost(),
                Event::Start { kind, .. } if OWES_READY.contains(&kind) => {
                    streams.owed = streams.owed.saturating_add(1);
                }
                Event::Broken => return self.lost(),
                _ => (),
            }
        }
    }

    /// Bytes pass unseen from here (they are spliced). Idleness is known again after a later read
    /// of the server's that ends in a ReadyForQuery.
    pub fn lost(&mut self) {
        self.streams = None;
    }

    /// Whether the session is between two requests and outside a transaction.
    pub fn is_idle(&self) -> bool {
        self.status == b'I' && self.is_ready()
    }

    /// Whether the session is between two requests: the next message is the client's.
    pub fn is_ready(&self) -> bool {
        self.streams.as_ref().is_some_and(|streams| {
            streams.owed == 0 && streams.server.is_at_boundary() && streams.client.is_at_boundary()
        })
    }
}

const READY_HEADER: &[u8] = b"Z\0\0\0\x05";

/// Every message type of a client.
const CLIENT_KINDS: &[u8] = b"BCDEFHPQSXcdfp";

/// Query, Sync and FunctionCall: each is answered by one ReadyForQuery.
const OWES_READY: &[u8] = b"QSF";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::postgres::message;

    // What PostgreSQL 15 answers a StartupMessage with under `trust`, shortened.
    fn accepted() -> Vec<u8> {
        [
            message(b'R', &[0, 0, 0, 0]),
            message(b'S', b"server_version\x0015.6\0"),
            message(b'K', b"\0\0\x12\x34\xde\xad\xbe\xef"),
            message(b'Z', b"I"),
        ]
        .concat()
    }

    fn query() -> Vec<u8> {
        message(b'Q', b"select 1\0")
    }

    fn ready() -> Vec<u8> {
        message(b'Z', b"I")
    }

    /// A session that has just begun.
    fn begun() -> IdleTracker {
        let mut tracker = IdleTracker::new();
        assert!(!tracker.is_idle());
        tracker.client_sent(&message(b'p', b"secret\0"));
        tracker.server_sent(&accepted());
        assert!(tracker.is_idle());
        tracker
    }

    #[test]
    fn a_session_is_idle_between_ready_for_query_and_the_next_request() {
        let mut tracker = begun();
        for byte in query() {
            tracker.client_sent(&[byte]);
            assert!(!tracker.is_idle());
        }
        tracker.server_sent(&message(b'D', b"..row"));
        assert!(!tracker.is_idle());
        tracker.server_sent(&ready());
        assert!(tracker.is_idle());
        // A notification that is half there is no place for an error, a whole one is.
        let notice = message(b'A', b"\0\0\0\x01channel\0payload\0");
        let (start, end) = notice.split_at(9);
        tracker.server_sent(start);
        assert!(!tracker.is_idle());
        tracker.server_sent(end);
        assert!(tracker.is_idle());
    }

    #[test]
    fn a_pipeline_is_idle_after_its_last_answer() {
        let mut tracker = begun();
        tracker.client_sent(&[query(), message(b'P', b"\0q\0\0\0"), message(b'S', b"")].concat());
        tracker.server_sent(&ready());
        assert!(!tracker.is_idle());
        tracker.server_sent(&ready());
        assert!(tracker.is_idle());
    }

    #[test]
    fn a_transaction_is_not_idle() {
        for status in [b"T", b"E"] {
            let mut tracker = begun();
            tracker.client_sent(&query());
            tracker.server_sent(&message(b'Z', status));
            assert!(!tracker.is_idle());
        }
    }

    #[test]
    fn a_ready_for_query_inside_a_row_is_data() {
        let row = message(b'D', b"Z\0\0\0\x05I");
        for cut in 0..row.len() {
            let mut tracker = begun();
            tracker.client_sent(&query());
            tracker.server_sent(&row[..cut]);
            tracker.server_sent(&row[cut..]);
            assert!(!tracker.is_idle());
        }
    }

    #[test]
    fn after_unseen_bytes_a_read_that_ends_in_ready_for_query_finds_the_boundary_again() {
        let mut tracker = begun();
        tracker.client_sent(&query());
        tracker.lost();
        tracker.client_sent(b"middle of a row");
        tracker.server_sent(b"middle of a row");
        assert!(!tracker.is_idle());
        tracker.server_sent(&[message(b'C', b"COPY 1\0"), ready()].concat());
        assert!(tracker.is_idle());
        tracker.server_sent(b"Z\0\0\0\x01");
        assert!(!tracker.is_idle());
        tracker.server_sent(&ready());
        tracker.client_sent(b"\x17\x03\x03 not a message");
        assert!(!tracker.is_idle());
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            bytes in prop::collection::vec(prop::sample::select(b"ZRKES\0\0\0\0\0\x05\x09I".to_vec()), 0..120),
            step in 1_usize..9,
        ) {
            let (mut idle, mut idle_cut) = (IdleTracker::new(), IdleTracker::new());
            idle.server_sent(&bytes);
            for piece in bytes.chunks(step) {
                if idle_cut.streams.is_some() {
                    idle_cut.server_sent(piece);
                }
            }
            prop_assert_eq!(idle.is_idle(), idle_cut.is_idle());
        }
    }
}
