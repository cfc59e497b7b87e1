//! The message boundaries of one direction of a PostgreSQL session, without keeping messages.
//!
//! A few nanoseconds for each message and no allocation. Invariant: bodies are skipped by their
//! length, never searched.

/// Where a stream of messages stands.
#[derive(Debug, Default)]
pub(super) struct Frame {
    header: [u8; 5],
    header_length: usize,
    /// Bytes of the body still to come; meant only when the header is whole.
    left: usize,
}

pub(super) enum Event<'a> {
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
    pub(super) fn is_at_boundary(&self) -> bool {
        self.header_length == 0
    }

    /// The next thing in `bytes`, which moves on; `None` when they are used up.
    pub(super) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Event<'a>> {
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

/// ReadyForQuery.
pub(super) const READY: u8 = b'Z';

/// PostgreSQL's `MaxAllocSize`: no message is longer.
const MAX_MESSAGE: usize = 0x3fff_ffff;
