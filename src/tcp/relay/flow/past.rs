//! What a flow remembers of the bytes that have passed: the first of them and the last.
//!
//! Both are copies, for what a session does when its server is gone or when it is stopped; no byte
//! is moved with them. Invariants: [`Kept`] never holds more than it may, nor has a gap among the
//! reads that were reported to it; [`Tail`] shows six bytes or none. Noted by `flow.rs` with each
//! read into a buffer; `splice.rs` clears the [`Tail`].

use bytes::Bytes;

/// A copy of the first bytes, to be sent once more.
pub(super) struct Kept {
    bytes: Vec<u8>,
    most: usize,
}

impl Kept {
    /// Begins with `first`, and holds at most `most` bytes.
    pub(super) fn new(first: &[u8], most: usize) -> Kept {
        Kept {
            bytes: first.to_vec(),
            most,
        }
    }

    /// Whether there is room for `read` as well. Without that it is of no use any more.
    pub(super) fn note(&mut self, read: &[u8]) -> bool {
        let fits = self.bytes.len() + read.len() <= self.most;
        if fits {
            self.bytes.extend_from_slice(read);
        }
        fits
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.bytes.into()
    }
}

/// The last bytes read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tail {
    bytes: [u8; TAIL],
    known: usize,
}

impl Tail {
    pub(super) fn note(&mut self, read: &[u8]) {
        let fresh = &read[read.len().saturating_sub(TAIL)..];
        self.bytes.copy_within(fresh.len().., 0);
        self.bytes[TAIL - fresh.len()..].copy_from_slice(fresh);
        self.known = (self.known + fresh.len()).min(TAIL);
    }

    /// All of them, when there were as many.
    pub(super) fn whole(&self) -> Option<[u8; TAIL]> {
        (self.known == TAIL).then_some(self.bytes)
    }
}

/// How many of the last bytes are remembered: a whole ReadyForQuery of PostgreSQL.
pub(super) const TAIL: usize = 6;

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;
    use crate::tcp::relay::flow::Flow;
    use crate::tcp::relay::flow::script::{Read, Script, pattern};

    #[test]
    fn keeps_first_bytes_as_long_as_all_of_them_fit() {
        let mut cx = Context::from_waker(Waker::noop());
        let reads = [
            Read::Bytes(3),
            Read::Nothing,
            Read::Bytes(2),
            Read::Bytes(1),
        ];
        let (mut source, mut sink) = (Script::of(&reads), Script::default());
        let mut flow = Flow::new(Bytes::from_static(b"ab"), None).keeping(7);
        for _ in 0..4 {
            flow.step(&mut cx, &mut source, &mut sink, None);
        }
        assert_eq!(source.read, 5);
        assert!(flow.keeps());
        let mut sent = b"ab".to_vec();
        sent.extend(pattern(0, 5));
        assert_eq!(flow.take_kept().unwrap(), sent);

        let (mut source, mut sink) = (Script::of(&reads), Script::default());
        let mut flow = Flow::new(Bytes::from_static(b"ab"), None).keeping(7);
        for _ in 0..5 {
            flow.step(&mut cx, &mut source, &mut sink, None);
        }
        assert_eq!(source.read, 6);
        assert!(!flow.keeps());
    }
}
