//! Splicing: bytes that go from socket to socket through a pipe and are never seen.
//!
//! Here a flow has bytes outside of its own memory. Invariants: a pipe is held only while there are
//! bytes in it, and then nothing is read before they are written; where there is no pipe, or the
//! system cannot splice, the same step copies instead.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::mode::Mode;
use super::past::Tail;
use super::{Flow, Step};
use crate::tcp::relay::pipe::Pipes;
use crate::tcp::relay::socket::{Loss, Socket};

impl Flow<'_> {
    /// Fills a pipe, and empties it as far as the sink takes it.
    pub(super) fn splice<S: Socket>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut S,
        pipes: &Arc<Pipes>,
    ) -> Step {
        let Some(mut pipe) = pipes.take() else {
            self.gather.release(source);
            self.mode = Mode::COPY;
            return self.copy(cx, source, sink);
        };
        match source.poll_fill(cx, &mut pipe) {
            Poll::Pending => {
                self.end_turn(source);
                Step::Pending
            }
            Poll::Ready(Ok(0)) => Step::Ended,
            Poll::Ready(Ok(n)) => {
                self.taken += n as u64;
                self.tail = Tail::default();
                self.mode.note_fill(n);
                self.pipe = Some(pipe);
                match self.drain(cx, sink) {
                    // The bytes did go somewhere: into the pipe.
                    Step::Pending => Step::Moved,
                    step => step,
                }
            }
            // A kernel, or a sandbox, in which this cannot be done. Nothing was taken.
            Poll::Ready(Err(error)) if cannot_splice(&error) => {
                self.gather.release(source);
                self.mode = Mode::COPY;
                self.copy(cx, source, sink)
            }
            Poll::Ready(Err(error)) => Step::SourceFailed(Loss::of(&error)),
        }
    }

    /// The source has nothing for now.
    fn end_turn<S: Socket>(&mut self, source: &mut S) {
        let is_large = self.mode.is_large_turn();
        self.mode = self.mode.after_turn();
        if !self.mode.splices() {
            self.gather.release(source);
        }
        if is_large && self.mode.is_long() {
            self.gather.ask(source);
        }
    }

    /// Empties the pipe as far as the sink takes it.
    pub(super) fn drain<S: Socket>(&mut self, cx: &mut Context<'_>, sink: &mut S) -> Step {
        let Some(pipe) = &mut self.pipe else {
            return Step::Moved;
        };
        loop {
            match sink.poll_drain(cx, pipe) {
                Poll::Pending => return Step::Pending,
                Poll::Ready(Ok(n)) => {
                    self.given += n as u64;
                    if pipe.filled() == 0 {
                        self.pipe = None;
                        return Step::Moved;
                    }
                }
                Poll::Ready(Err(error)) => return Step::SinkFailed(Loss::of(&error)),
            }
        }
    }
}

fn cannot_splice(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidInput
            | io::ErrorKind::Unsupported
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::OutOfMemory
    )
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::tcp::relay::flow::buffer::BUFFER;
    use crate::tcp::relay::flow::script::{Read, Script, drive, pattern};

    #[test]
    fn bulk_goes_on_without_pipes() {
        for pipes in [None, Some(Pipes::new(0))] {
            let (mut source, mut sink) =
                (Script::of(&[Read::Bytes(BUFFER * 30)]), Script::default());
            let mut flow = Flow::new(Bytes::new(), None);
            drive(&mut flow, &mut source, &mut sink, pipes.as_ref(), |_, _| {});
            assert_eq!(sink.written, pattern(0, BUFFER * 30));
        }
    }
}
