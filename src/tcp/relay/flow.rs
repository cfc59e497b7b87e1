//! One direction of a relay: from a source to a sink.
//!
//! It fixes the order of the steps, so that no byte is lost, doubled or reordered, whether they are
//! copied or spliced and whenever it changes from one to the other. Invariants: nothing is read
//! while something read before is still to be written, so what a slow sink costs is bounded; a flow
//! at rest holds no memory but itself; the end of the stream is passed on after the last byte.
//!
//! `copy` and `splice` are the two ways to move a portion, `mode` chooses between them, `gather`
//! lets the source of a long streak wait, `past` is what is remembered of the bytes.

mod buffer;
mod copy;
mod gather;
mod mode;
mod past;
#[cfg(test)]
mod script;
mod splice;

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

pub(super) use self::gather::GATHER;

use self::gather::Gather;
use self::mode::Mode;
use self::past::{Kept, TAIL, Tail};
use super::options::{Observer, Seen};
use super::pipe::{Pipe, Pipes};
use super::socket::{Loss, Socket};

/// One direction, without its sockets.
pub(super) struct Flow<'a> {
    /// Read, and to be written before anything else is read.
    owed: Bytes,
    /// The same, in a pipe: never empty between two steps.
    pipe: Option<Pipe>,
    observer: Option<Observer<'a>>,
    /// All that was read, until it is more than may be kept.
    kept: Option<Box<Kept>>,
    taken: u64,
    given: u64,
    tail: Tail,
    /// The sink has taken bytes that it has not sent: only where it is not plain.
    is_flushing: bool,
    stage: Stage,
    mode: Mode,
    /// Whether the source was asked to be silent until it has a good deal. Its owner has to
    /// [release](Flow::release) it when it was silent for [`GATHER`].
    gather: Gather,
}

/// What came of one step.
#[derive(Debug)]
pub(super) enum Step {
    /// Bytes went on; there may be more.
    Moved,
    /// Nothing to do until the task is woken.
    Pending,
    /// The source has no more. The next step passes the end on to the sink.
    Ended,
    /// The sink has received the end. The flow is over.
    Finished,
    /// The source broke. The flow is over.
    SourceFailed(Loss),
    /// The sink takes no more bytes. The flow is over.
    SinkFailed(Loss),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Open,
    /// The end has been read, and has to be passed on.
    Ending,
    /// The end has been passed on.
    Finished,
    /// The source broke, or the sink took no more.
    Failed,
}

impl<'a> Flow<'a> {
    /// `first` goes before everything that is read from the source; the observer does not see it.
    pub(super) fn new(first: Bytes, observer: Option<Observer<'a>>) -> Flow<'a> {
        Flow {
            taken: first.len() as u64,
            owed: first,
            pipe: None,
            observer,
            kept: None,
            given: 0,
            tail: Tail::default(),
            is_flushing: false,
            stage: Stage::Open,
            mode: Mode::COPY,
            gather: Gather::default(),
        }
    }

    /// Counts so many bytes that were read and written before.
    pub(super) fn having_passed(mut self, bytes: u64) -> Flow<'a> {
        self.taken += bytes;
        self.given += bytes;
        self
    }

    /// Writes `preface`, which is not the source's, before all else.
    pub(super) fn after(mut self, preface: Bytes) -> Flow<'a> {
        if !preface.is_empty() {
            self.owed = [preface, self.owed].concat().into();
        }
        self
    }

    /// Keeps a copy of all bytes while they are not more than `most`.
    pub(super) fn keeping(mut self, most: usize) -> Flow<'a> {
        self.kept =
            (most > 0 && self.owed.len() <= most).then(|| Box::new(Kept::new(&self.owed, most)));
        self
    }

    /// Bytes read so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.taken
    }

    /// Bytes written so far.
    pub(super) fn bytes_written(&self) -> u64 {
        self.given
    }

    /// The last bytes read, when they passed through a buffer and are as many.
    pub(super) fn tail(&self) -> Option<[u8; TAIL]> {
        self.tail.whole()
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Finished | Stage::Failed)
    }

    /// Whether bytes were read that are not written yet.
    pub(super) fn has_pending(&self) -> bool {
        !self.owed.is_empty() || self.pipe.is_some() || self.is_flushing
    }

    pub(super) fn keeps(&self) -> bool {
        self.kept.is_some()
    }

    /// All bytes so far, when they were kept; keeps them no longer.
    pub(super) fn take_kept(&mut self) -> Option<Bytes> {
        self.kept.take().map(|kept| kept.into_bytes())
    }

    /// Whether the source may have bytes that it does not wake for.
    pub(super) fn gathers(&self) -> bool {
        self.gather.is_asked()
    }

    /// The source wakes for every byte again, also of those it has already.
    pub(super) fn release<S: Socket>(&mut self, source: &mut S) {
        self.gather.release(source);
    }

    /// Moves one portion, at most a buffer or a pipe full.
    pub(super) fn step<S: Socket>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut S,
        pipes: Option<&Arc<Pipes>>,
    ) -> Step {
        let step = match self.stage {
            Stage::Finished | Stage::Failed => Step::Pending,
            _ if !self.owed.is_empty() => self.give_owed(cx, sink),
            _ if self.pipe.is_some() => self.drain(cx, sink),
            Stage::Ending => match sink.poll_finish(cx) {
                Poll::Pending => Step::Pending,
                // A sink that is gone already has been given everything all the same.
                Poll::Ready(Ok(()) | Err(_)) => Step::Finished,
            },
            Stage::Open => match sink.poll_flush(cx) {
                Poll::Pending => {
                    self.is_flushing = true;
                    Step::Pending
                }
                Poll::Ready(Err(error)) => Step::SinkFailed(Loss::of(&error)),
                Poll::Ready(Ok(())) => {
                    self.is_flushing = false;
                    match (self.mode, pipes) {
                        (Mode::Splice { .. }, Some(pipes)) => self.splice(cx, source, sink, pipes),
                        _ => self.copy(cx, source, sink),
                    }
                }
            },
        };
        match step {
            Step::Moved | Step::Pending => {}
            Step::Ended => self.stage = Stage::Ending,
            Step::Finished => self.stage = Stage::Finished,
            Step::SourceFailed(_) | Step::SinkFailed(_) => {
                self.stage = Stage::Failed;
                self.owed = Bytes::new();
                self.pipe = None;
                self.is_flushing = false;
            }
        }
        step
    }

    /// What every read through a buffer leaves behind.
    fn note_read(&mut self, bytes: &[u8]) {
        self.taken += bytes.len() as u64;
        self.tail.note(bytes);
        self.kept.take_if(|kept| !kept.note(bytes));
        if let Some(observer) = &mut self.observer
            && observer(bytes) == Seen::Enough
        {
            self.observer = None;
        }
        // What is observed has to pass through a buffer.
        self.mode = if self.observer.is_some() {
            Mode::COPY
        } else {
            self.mode.after_read(bytes.len())
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::buffer::BUFFER;
    use super::script::{Read, Script, Write, drive, pattern, splices};
    use super::*;

    #[test]
    fn what_is_observed_is_not_spliced_before_it_was_enough() {
        let pipes = Pipes::new(1);
        let mut seen = 0;
        let observer = |bytes: &[u8]| {
            seen += bytes.len();
            if seen < BUFFER * 20 {
                Seen::More
            } else {
                Seen::Enough
            }
        };
        let (mut source, mut sink) = (Script::of(&[Read::Bytes(BUFFER * 40)]), Script::default());
        let mut flow = Flow::new(Bytes::from_static(b"first"), Some(Box::new(observer)));
        let mut spliced_from = 0;
        drive(
            &mut flow,
            &mut source,
            &mut sink,
            Some(&pipes),
            |flow, _| {
                if splices(flow) && spliced_from == 0 {
                    spliced_from = flow.bytes_read();
                }
            },
        );
        assert!(spliced_from as usize >= BUFFER * 27);
        assert_eq!(sink.written[..5], *b"first");
        assert_eq!(sink.written[5..], pattern(0, BUFFER * 40));
        drop(flow);
        assert_eq!(seen, BUFFER * 20);
    }

    fn read() -> impl Strategy<Value = Read> {
        prop_oneof![
            3 => (1_usize..3000).prop_map(Read::Bytes),
            2 => (1_usize..16).prop_map(|n| Read::Bytes(n * BUFFER)),
            1 => (1_usize..200_000).prop_map(Read::Bytes),
            4 => Just(Read::Nothing),
        ]
    }

    fn write() -> impl Strategy<Value = Write> {
        prop_oneof![
            2 => (1_usize..5000).prop_map(Write::Take),
            2 => (1_usize..300_000).prop_map(Write::Take),
            3 => Just(Write::Full),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        /// Whatever comes and goes in whatever portions: the same bytes come out, then the end, or
        /// all that came before the break; and not more than a buffer or a pipe is held.
        #[test]
        fn any_schedule_passes_every_byte_on(
            mut reads in prop::collection::vec(read(), 0..60),
            writes in prop::collection::vec(write(), 0..120),
            first in 0_usize..100,
            end in prop_oneof![Just(Read::End), Just(Read::Break)],
        ) {
            reads.push(end);
            let pipes = Pipes::new(1);
            let mut source = Script { read: first, ..Script::of(&reads) };
            let mut sink = Script { writes: writes.into(), ..Script::default() };
            let mut flow = Flow::new(pattern(0, first).into(), None);
            let step = drive(&mut flow, &mut source, &mut sink, Some(&pipes), |flow, _| {
                assert!(flow.owed.len() <= BUFFER);
                assert!(flow.bytes_written() <= flow.bytes_read());
                assert_eq!(flow.has_pending(), flow.bytes_written() < flow.bytes_read());
            });
            let ended = matches!(end, Read::End);
            prop_assert_eq!(matches!(step, Step::Finished), ended);
            prop_assert_eq!(sink.finished, ended);
            prop_assert!(sink.written == pattern(0, source.read), "other bytes came out");
            prop_assert_eq!(flow.bytes_written(), source.read as u64);
        }
    }
}
