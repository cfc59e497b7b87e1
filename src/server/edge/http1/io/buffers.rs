//! The two buffers of a [`GateStream`](super::GateStream).
//!
//! Invariants: what goes in comes out, once and in order; a buffer that is empty can be released. A
//! connection releases its buffers before each wait, so that thousands of idle ones hold none; a
//! thread keeps one of each kind that was released, for the next connection that needs it. Bounds:
//! the inbox holds a head, or one read's bytes of a following request; the outbox [`OUTBOX_BYTES`].

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::thread::LocalKey;

use tokio::io::{AsyncWrite, ReadBuf};

use crate::transport::Transport;

/// Bytes that arrived and were not given on.
#[derive(Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    given: usize,
}

impl Inbox {
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub(super) fn unread(&self) -> &[u8] {
        &self.bytes[self.given..]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.given == self.bytes.len()
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.bytes.capacity() == 0 {
            self.bytes = spare(&SPARE_INBOX);
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Gives on at most `limit` bytes and as many as fit; answers how many.
    pub(super) fn give(&mut self, limit: usize, buf: &mut ReadBuf<'_>) -> usize {
        let given = self.unread().len().min(limit).min(buf.remaining());
        buf.put_slice(&self.unread()[..given]);
        self.consume(given);
        given
    }

    /// Puts `bytes` in the place of some that are unread.
    pub(super) fn replace(&mut self, unread: Range<usize>, bytes: &[u8]) {
        let place = self.given + unread.start..self.given + unread.end;
        self.bytes.splice(place, bytes.iter().copied());
    }

    /// Forgets the first `count` unread bytes.
    pub(super) fn consume(&mut self, count: usize) {
        self.given += count;
        if self.is_empty() {
            self.bytes.clear();
            self.given = 0;
            if self.bytes.capacity() > KEPT_BYTES {
                self.release();
            }
        }
    }

    /// Gives the memory back, if it is not in use.
    pub(super) fn release(&mut self) {
        if self.bytes.is_empty() {
            let bytes = std::mem::take(&mut self.bytes);
            if bytes.capacity() <= KEPT_BYTES {
                keep(&SPARE_INBOX, bytes);
            }
        }
    }
}

/// Bytes to be sent with the next ones: Pingora writes a response's head and its body in two calls.
#[derive(Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    /// A transport that is not plain may hold back what was written last.
    unflushed: bool,
}

impl Outbox {
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Whether all of it is on its way: the transport holds nothing back either.
    pub(super) fn is_empty(&self) -> bool {
        self.is_written() && !self.unflushed
    }

    /// Whether the transport has all of it.
    fn is_written(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Keeps `bufs` if they fit, else sends what is kept and them in one system call.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut Transport,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        loop {
            if self.bytes.len() + length <= OUTBOX_BYTES {
                if self.bytes.capacity() == 0 {
                    self.bytes = spare(&SPARE_OUTBOX);
                    self.bytes.reserve_exact(OUTBOX_BYTES);
                }
                for buf in bufs {
                    self.bytes.extend_from_slice(buf);
                }
                return Poll::Ready(Ok(length));
            }
            let kept = &self.bytes[self.sent..];
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut count = 0;
            for slice in std::iter::once(kept).chain(bufs.iter().map(|buf| &**buf)) {
                if !slice.is_empty() && count < SLICES {
                    slices[count] = IoSlice::new(slice);
                    count += 1;
                }
            }
            let kept = kept.len();
            let sent = ready!(Pin::new(&mut *socket).poll_write_vectored(cx, &slices[..count]))?;
            self.unflushed |= socket.plain().is_none();
            self.forget(sent.min(kept));
            if sent > kept {
                return Poll::Ready(Ok(sent - kept));
            }
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
    }

    pub(super) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut Transport,
    ) -> Poll<io::Result<()>> {
        while !self.is_written() {
            let sent = ready!(Pin::new(&mut *socket).poll_write(cx, &self.bytes[self.sent..]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.forget(sent);
        }
        ready!(Pin::new(socket).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// Sends what the socket takes at once. Drop cannot wait.
    pub(super) fn try_flush(&mut self, socket: &mut Transport) {
        if !self.is_written()
            && let Ok(sent) = socket.try_write(&self.bytes[self.sent..])
        {
            self.forget(sent);
        }
    }

    fn forget(&mut self, count: usize) {
        self.sent += count;
        if self.is_written() {
            self.bytes.clear();
            self.sent = 0;
        }
    }

    /// Gives the memory back, if it is not in use.
    pub(super) fn release(&mut self) {
        if self.is_written() {
            keep(&SPARE_OUTBOX, std::mem::take(&mut self.bytes));
            self.sent = 0;
        }
    }
}

/// The spare buffer of this thread, or a new one.
fn spare(of: &'static LocalKey<Cell<Vec<u8>>>) -> Vec<u8> {
    of.try_with(Cell::take).unwrap_or_default()
}

/// Makes a buffer the spare one of this thread.
fn keep(of: &'static LocalKey<Cell<Vec<u8>>>, mut bytes: Vec<u8>) {
    if bytes.capacity() > 0 {
        bytes.clear();
        // Fails only while the thread ends.
        let _ = of.try_with(|spare| spare.set(bytes));
    }
}

thread_local! {
    static SPARE_INBOX: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static SPARE_OUTBOX: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// An emptied inbox of at most this capacity is kept for the next head.
const KEPT_BYTES: usize = 512;

/// A response's head and a small body go out in one send. More in one write is not copied.
pub(super) const OUTBOX_BYTES: usize = 4 * 1024;

/// Slices in one vectored write.
const SLICES: usize = 16;
