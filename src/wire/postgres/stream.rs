//! Walks over the messages that a PostgreSQL server sends, without keeping them.
//!
//! Its own file because it runs beside a relay: a few nanoseconds for each message, no allocation
//! but for the one cancel key. Invariant: bodies are skipped by their length, never searched.

use super::error_field;
use super::startup::CancelKey;

/// How far a server's side of the start of a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Still authenticating.
    Going,
    /// The first ReadyForQuery was seen.
    Ready,
    /// The server sent an ErrorResponse instead, with this SQLSTATE (`?????` when it had none).
    Refused([u8; 5]),
    /// Not PostgreSQL. Nothing more is learnt from this stream.
    Malformed,
}

/// Finds BackendKeyData and the first ReadyForQuery in what a server sends after the
/// StartupMessage.
#[derive(Debug)]
pub struct StartupTracker {
    frame: Frame,
    /// The body of a message that is read: BackendKeyData, or the start of an ErrorResponse.
    body: Vec<u8>,
    key: Option<CancelKey>,
    progress: Progress,
}

impl Default for StartupTracker {
    fn default() -> StartupTracker {
        StartupTracker::new()
    }
}

impl StartupTracker {
    /// Before the server's first byte in clear: its answer to SSLRequest must not be fed.
    pub fn new() -> StartupTracker {
        StartupTracker {
            frame: Frame::default(),
            body: Vec::new(),
            key: None,
            progress: Progress::Going,
        }
    }

    /// Reads the server's next bytes; they may be cut anywhere. Once the answer is not
    /// [`Progress::Going`] it stays and costs nothing.
    pub fn advance(&mut self, mut bytes: &[u8]) -> Progress {
        while self.progress == Progress::Going
            && let Some(event) = self.frame.next(&mut bytes)
        {
            match event {
                Event::Start { kind, length } => {
                    self.body.clear();
                    if !known_at_start(kind) || length > MAX_START_MESSAGE {
                        self.progress = Progress::Malformed;
                    }
                }
                Event::Body { kind, piece } => {
                    if matches!(kind, KEY_DATA | ERROR | READY) {
                        let room = MAX_KEPT.saturating_sub(self.body.len());
                        self.body.extend(&piece[..piece.len().min(room)]);
                    }
                }
                Event::End { kind } => self.message_ended(kind),
                Event::Broken => self.progress = Progress::Malformed,
            }
        }
        self.progress
    }

    /// What the last [`StartupTracker::advance`] answered.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// What a CancelRequest for this session carries, once the server has said it.
    pub fn cancel_key(&self) -> Option<&CancelKey> {
        self.key.as_ref()
    }

    fn message_ended(&mut self, kind: u8) {
        match kind {
            KEY_DATA => self.key = CancelKey::from_bytes(&self.body),
            READY => self.progress = Progress::Ready,
            ERROR => {
                let state = error_field(&self.body, b'C').and_then(|text| text.try_into().ok());
                self.progress = Progress::Refused(state.unwrap_or(*b"?????"));
            }
            _ => (),
        }
        if self.progress != Progress::Going {
            self.body = Vec::new();
        }
    }
}

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

/// Where a stream of messages stands.
#[derive(Debug, Default)]
struct Frame {
    header: [u8; 5],
    header_length: usize,
    /// Bytes of the body still to come; meant only when the header is whole.
    left: usize,
}

enum Event<'a> {
    Start {
        kind: u8,
        length: usize,
    },
    Body {
        kind: u8,
        piece: &'a [u8],
    },
    End {
        kind: u8,
    },
    /// A length below 4.
    Broken,
}

impl Frame {
    fn is_at_boundary(&self) -> bool {
        self.header_length == 0
    }

    /// The next thing in `bytes`, which moves on; `None` when they are used up.
    fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Event<'a>> {
        if self.header_length < 5 {
            let wanted = 5 - self.header_length;
            let (taken, rest) = bytes.split_at(wanted.min(bytes.len()));
            self.header[self.header_length..][..taken.len()].copy_from_slice(taken);
            self.header_length += taken.len();
            *bytes = rest;
            if self.header_length < 5 {
                return None;
            }
            let [kind, length @ ..] = self.header;
            let length = u32::from_be_bytes(length) as usize;
            let Some(left) = length.checked_sub(4).filter(|_| length <= MAX_MESSAGE) else {
                return Some(Event::Broken);
            };
            self.left = left;
            return Some(Event::Start { kind, length });
        }
        let kind = self.header[0];
        if self.left == 0 {
            self.header_length = 0;
            return Some(Event::End { kind });
        }
        if bytes.is_empty() {
            return None;
        }
        let (piece, rest) = bytes.split_at(self.left.min(bytes.len()));
        self.left -= piece.len();
        *bytes = rest;
        Some(Event::Body { kind, piece })
    }
}

/// What a server may send before its first ReadyForQuery.
fn known_at_start(kind: u8) -> bool {
    matches!(kind, b'R' | b'S' | b'N' | b'v' | KEY_DATA | READY | ERROR)
}

const KEY_DATA: u8 = b'K';
const READY: u8 = b'Z';
const ERROR: u8 = b'E';
const READY_HEADER: &[u8] = b"Z\0\0\0\x05";

/// Every message type of a client.
const CLIENT_KINDS: &[u8] = b"BCDEFHPQSXcdfp";

/// Query, Sync and FunctionCall: each is answered by one ReadyForQuery.
const OWES_READY: &[u8] = b"QSF";

/// PostgreSQL's `MaxAllocSize`: no message is longer.
const MAX_MESSAGE: usize = 0x3fff_ffff;

/// Longest message believed before a session stands; as libpq's limit for errors at that time.
const MAX_START_MESSAGE: usize = 30_000;

/// Bytes kept of one message: the longest BackendKeyData. SQLSTATE stands within it in errors.
const MAX_KEPT: usize = 4 + 256;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::postgres::{error_response, message};

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

    #[test]
    fn key_and_readiness_are_found_at_any_cut() {
        let stream = accepted();
        for step in 1..=stream.len() {
            let mut tracker = StartupTracker::new();
            let mut fed = 0;
            for piece in stream.chunks(step) {
                fed += piece.len();
                let expected = if fed == stream.len() {
                    Progress::Ready
                } else {
                    Progress::Going
                };
                assert_eq!(tracker.advance(piece), expected);
            }
            let key = CancelKey::from_bytes(b"\0\0\x12\x34\xde\xad\xbe\xef").unwrap();
            assert_eq!(tracker.cancel_key(), Some(&key));
            assert_eq!(tracker.advance(b"D\0\0\0\0"), Progress::Ready);
        }
    }

    #[test]
    fn a_refusal_has_its_sqlstate() {
        let mut tracker = StartupTracker::new();
        let stream = [
            message(b'R', &[0, 0, 0, 10, 0]),
            error_response("28P01", "no"),
        ]
        .concat();
        assert_eq!(tracker.advance(&stream), Progress::Refused(*b"28P01"));
        assert_eq!(tracker.cancel_key(), None);
        let bare = message(b'E', b"SFATAL\0\0");
        assert_eq!(
            StartupTracker::new().advance(&bare),
            Progress::Refused(*b"?????")
        );
    }

    #[test]
    fn another_protocol_or_a_lying_length_is_malformed() {
        for bytes in [
            &b"HTTP/1.1 400"[..],
            b"R\0\0\0\x03",
            b"S\x7f\xff\xff\xff",
            b"S\xff\xff\xff\xff",
            b"D\0\0\0\x05x",
        ] {
            assert_eq!(
                StartupTracker::new().advance(bytes),
                Progress::Malformed,
                "{bytes:?}"
            );
        }
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
            let (mut whole, mut cut) = (StartupTracker::new(), StartupTracker::new());
            let (mut idle, mut idle_cut) = (IdleTracker::new(), IdleTracker::new());
            let progress = whole.advance(&bytes);
            idle.server_sent(&bytes);
            let mut last = Progress::Going;
            for piece in bytes.chunks(step) {
                last = cut.advance(piece);
                if idle_cut.streams.is_some() {
                    idle_cut.server_sent(piece);
                }
            }
            prop_assert_eq!(progress, last);
            prop_assert_eq!(whole.cancel_key(), cut.cancel_key());
            prop_assert_eq!(idle.is_idle(), idle_cut.is_idle());
        }
    }
}
