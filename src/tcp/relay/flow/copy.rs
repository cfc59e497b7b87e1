//! Copying: a read into the buffer of the thread, and a write out of it.
//!
//! What a byte costs that is not spliced. Invariants: the buffer is lent for one step, so it is
//! never more than one for each thread and holds nothing between two steps; memory is taken only
//! for what a slow sink leaves over.

use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::ReadBuf;

use super::buffer::Buffer;
use super::{Flow, Step};
use crate::tcp::relay::socket::{Loss, Socket};

impl Flow<'_> {
    /// Reads once, and writes what the sink takes of it. The rest is owed.
    pub(super) fn copy<S: Socket>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut S,
    ) -> Step {
        let mut buffer = Buffer::take();
        let mut buf = ReadBuf::new(&mut buffer.0);
        match source.poll_read(cx, &mut buf) {
            Poll::Pending => return Step::Pending,
            Poll::Ready(Err(error)) => return Step::SourceFailed(Loss::of(&error)),
            Poll::Ready(Ok(())) => {}
        }
        let mut bytes = buf.filled();
        if bytes.is_empty() {
            return Step::Ended;
        }
        self.note_read(bytes);
        if self.mode.is_long() {
            self.gather.ask(source);
        }
        loop {
            match sink.poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => return Step::SinkFailed(Loss::Broken),
                Poll::Ready(Err(error)) => return Step::SinkFailed(Loss::of(&error)),
                Poll::Ready(Ok(n)) => {
                    self.given += n as u64;
                    bytes = &bytes[n..];
                    if bytes.is_empty() {
                        return Step::Moved;
                    }
                }
                Poll::Pending => {
                    self.owed = Bytes::copy_from_slice(bytes);
                    return Step::Moved;
                }
            }
        }
    }

    /// Writes what a slow sink has left over.
    pub(super) fn give_owed<S: Socket>(&mut self, cx: &mut Context<'_>, sink: &mut S) -> Step {
        match sink.poll_write(cx, &self.owed) {
            Poll::Pending => Step::Pending,
            Poll::Ready(Ok(0)) => Step::SinkFailed(Loss::Broken),
            Poll::Ready(Err(error)) => Step::SinkFailed(Loss::of(&error)),
            Poll::Ready(Ok(n)) => {
                self.given += n as u64;
                // An empty slice would still hold the memory.
                self.owed = if n == self.owed.len() {
                    Bytes::new()
                } else {
                    self.owed.slice(n..)
                };
                Step::Moved
            }
        }
    }
}
