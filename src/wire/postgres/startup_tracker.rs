//! The start of a session: the cancel key and the first ReadyForQuery in what a server sends.

use super::error_field;
use super::frame::{Event, Frame, READY};
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

/// What a server may send before its first ReadyForQuery.
fn known_at_start(kind: u8) -> bool {
    matches!(kind, b'R' | b'S' | b'N' | b'v' | KEY_DATA | READY | ERROR)
}

const KEY_DATA: u8 = b'K';
const ERROR: u8 = b'E';

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

    proptest! {
        #[test]
        fn cuts_change_nothing(
            bytes in prop::collection::vec(prop::sample::select(b"ZRKES\0\0\0\0\0\x05\x09I".to_vec()), 0..120),
            step in 1_usize..9,
        ) {
            let (mut whole, mut cut) = (StartupTracker::new(), StartupTracker::new());
            let progress = whole.advance(&bytes);
            let mut last = Progress::Going;
            for piece in bytes.chunks(step) {
                last = cut.advance(piece);
            }
            prop_assert_eq!(progress, last);
            prop_assert_eq!(whole.cancel_key(), cut.cancel_key());
        }
    }
}
