//! One direction of a relay: from a source to a sink.
//!
//! Its own file because every rule about bytes is here: none is lost, doubled or reordered, whether
//! they are copied or spliced and whenever it changes from one to the other. Invariants: nothing is
//! read while something read before is still to be written, so what a slow sink costs is bounded; a
//! flow at rest holds no memory but itself; the end of the stream is passed on after the last byte.
//! Driven by `relay.rs`, which decides what an end or a failure means for the session.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::ReadBuf;

use super::pipe::{Pipe, Pipes};
use super::socket::Socket;
use super::{Observer, Seen};

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
    stage: Stage,
    mode: Mode,
    /// The source was asked to be silent until it has a good deal. Its owner has to
    /// [release](Flow::release) it when it was silent for [`GATHER`].
    gathers: bool,
}

/// What came of one step.
#[derive(Debug)]
pub(super) enum Step {
    /// Bytes went on; there may be more.
    Moved,
    /// Nothing to do until the task is woken.
    Pending,
    /// The source has no more. The next step tells the sink.
    Ended,
    /// The sink was told. The flow is over.
    Finished,
    /// The source broke. The flow is over.
    SourceFailed,
    /// The sink takes no more bytes. The flow is over.
    SinkFailed,
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

#[derive(Clone, Copy, Debug)]
enum Mode {
    Copy {
        /// Full reads in a row.
        full: u8,
        /// Bytes of reads in a row that are not [small](SMALL_READ); stops at the largest number.
        streak: u32,
    },
    Splice {
        /// Bytes since the source last had nothing; stops at the largest number.
        turn: u32,
        /// Small turns in a row.
        small: u8,
        /// Bytes since the streak began; stops at the largest number.
        streak: u32,
    },
}

const COPY: Mode = Mode::Copy { full: 0, streak: 0 };

/// How many of the last bytes are remembered: a whole ReadyForQuery of PostgreSQL.
pub(super) const TAIL: usize = 6;

/// The last bytes read.
#[derive(Clone, Copy, Debug, Default)]
struct Tail {
    bytes: [u8; TAIL],
    known: usize,
}

impl Tail {
    fn note(&mut self, read: &[u8]) {
        let fresh = &read[read.len().saturating_sub(TAIL)..];
        self.bytes.copy_within(fresh.len().., 0);
        self.bytes[TAIL - fresh.len()..].copy_from_slice(fresh);
        self.known = (self.known + fresh.len()).min(TAIL);
    }
}

/// A copy of the first bytes, to be sent once more.
struct Kept {
    bytes: Vec<u8>,
    most: usize,
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
            stage: Stage::Open,
            mode: COPY,
            gathers: false,
        }
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
        self.kept = (most > 0 && self.owed.len() <= most).then(|| {
            Box::new(Kept {
                bytes: self.owed.to_vec(),
                most,
            })
        });
        self
    }

    /// Bytes read so far.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Bytes written so far.
    pub(super) fn given(&self) -> u64 {
        self.given
    }

    /// The last bytes read, when they passed through a buffer and are as many.
    pub(super) fn tail(&self) -> Option<[u8; TAIL]> {
        (self.tail.known == TAIL).then_some(self.tail.bytes)
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Finished | Stage::Failed)
    }

    /// Whether bytes were read that are not written yet.
    pub(super) fn owes(&self) -> bool {
        !self.owed.is_empty() || self.pipe.is_some()
    }

    pub(super) fn keeps(&self) -> bool {
        self.kept.is_some()
    }

    /// All bytes so far, when they were kept; keeps them no longer.
    pub(super) fn take_kept(&mut self) -> Option<Bytes> {
        self.kept.take().map(|kept| kept.bytes.into())
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
            Stage::Open => match (self.mode, pipes) {
                (Mode::Splice { .. }, Some(pipes)) => self.splice(cx, source, sink, pipes),
                _ => self.copy(cx, source, sink),
            },
        };
        match step {
            Step::Moved | Step::Pending => {}
            Step::Ended => self.stage = Stage::Ending,
            Step::Finished => self.stage = Stage::Finished,
            Step::SourceFailed | Step::SinkFailed => {
                self.stage = Stage::Failed;
                self.owed = Bytes::new();
                self.pipe = None;
            }
        }
        step
    }

    fn copy<S: Socket>(&mut self, cx: &mut Context<'_>, source: &mut S, sink: &mut S) -> Step {
        let mut buffer = Buffer::take();
        let mut buf = ReadBuf::new(&mut buffer.0);
        match source.poll_read(cx, &mut buf) {
            Poll::Pending => return Step::Pending,
            Poll::Ready(Err(_)) => return Step::SourceFailed,
            Poll::Ready(Ok(())) => {}
        }
        let mut bytes = buf.filled();
        if bytes.is_empty() {
            return Step::Ended;
        }
        self.note_read(bytes);
        if self.is_long() {
            self.gather(source);
        }
        loop {
            match sink.poll_write(cx, bytes) {
                Poll::Ready(Ok(0) | Err(_)) => return Step::SinkFailed,
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

    fn note_read(&mut self, bytes: &[u8]) {
        self.taken += bytes.len() as u64;
        self.tail.note(bytes);
        if let Some(kept) = &mut self.kept {
            if kept.bytes.len() + bytes.len() > kept.most {
                self.kept = None;
            } else {
                kept.bytes.extend_from_slice(bytes);
            }
        }
        if let Some(observer) = &mut self.observer
            && observer(bytes) == Seen::Enough
        {
            self.observer = None;
        }
        // What is observed has to pass through a buffer.
        let Mode::Copy { full, streak } = self.mode else {
            self.mode = COPY;
            return;
        };
        if self.observer.is_some() || bytes.len() < SMALL_READ {
            self.mode = COPY;
            return;
        }
        let full = if bytes.len() == BUFFER { full + 1 } else { 0 };
        let streak = lengthen(streak, bytes.len());
        self.mode = if full < FULL_READS && streak < LONG {
            Mode::Copy { full, streak }
        } else {
            Mode::Splice {
                turn: 0,
                small: 0,
                streak,
            }
        };
    }

    /// Whether so much came in a row that more is to be expected.
    fn is_long(&self) -> bool {
        matches!(self.mode, Mode::Splice { streak, .. } if streak >= LONG)
    }

    /// Lets the source be silent until it has a good deal: to be woken costs more than the bytes do.
    fn gather<S: Socket>(&mut self, source: &mut S) {
        if !self.gathers {
            // Where it cannot be set, everything goes on as before.
            self.gathers = source.set_low_water(LOW_WATER).is_ok();
        }
    }

    /// Whether the source may have bytes that it does not tell of.
    pub(super) fn gathers(&self) -> bool {
        self.gathers
    }

    /// The source tells of every byte again, also of those it has already.
    pub(super) fn release<S: Socket>(&mut self, source: &mut S) {
        if std::mem::take(&mut self.gathers) {
            // An error means that the socket is gone, which it tells by itself.
            let _gone = source.set_low_water(1);
        }
    }

    fn give_owed<S: Socket>(&mut self, cx: &mut Context<'_>, sink: &mut S) -> Step {
        match sink.poll_write(cx, &self.owed) {
            Poll::Pending => Step::Pending,
            Poll::Ready(Ok(0) | Err(_)) => Step::SinkFailed,
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

    fn splice<S: Socket>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut S,
        pipes: &Arc<Pipes>,
    ) -> Step {
        let Some(mut pipe) = pipes.take() else {
            self.release(source);
            self.mode = COPY;
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
                if let Mode::Splice { turn, streak, .. } = &mut self.mode {
                    *turn = lengthen(*turn, n);
                    *streak = lengthen(*streak, n);
                }
                self.pipe = Some(pipe);
                match self.drain(cx, sink) {
                    // The bytes did go somewhere: into the pipe.
                    Step::Pending => Step::Moved,
                    step => step,
                }
            }
            // A kernel, or a sandbox, in which this cannot be done. Nothing was taken.
            Poll::Ready(Err(error)) if cannot_splice(&error) => {
                self.release(source);
                self.mode = COPY;
                self.copy(cx, source, sink)
            }
            Poll::Ready(Err(_)) => Step::SourceFailed,
        }
    }

    /// The source has nothing for now.
    fn end_turn<S: Socket>(&mut self, source: &mut S) {
        let Mode::Splice {
            turn,
            small,
            streak,
        } = self.mode
        else {
            return;
        };
        let is_small = turn < SMALL_TURN;
        let small = if is_small { small + 1 } else { 0 };
        if small < SMALL_TURNS {
            self.mode = Mode::Splice {
                turn: 0,
                small,
                streak,
            };
        } else {
            self.release(source);
            self.mode = COPY;
        }
        if !is_small && self.is_long() {
            self.gather(source);
        }
    }

    fn drain<S: Socket>(&mut self, cx: &mut Context<'_>, sink: &mut S) -> Step {
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
                Poll::Ready(Err(_)) => return Step::SinkFailed,
            }
        }
    }
}

fn lengthen(streak: u32, by: usize) -> u32 {
    streak.saturating_add(u32::try_from(by).unwrap_or(u32::MAX))
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

/// The buffer of this thread, for as long as one step takes.
struct Buffer(Box<[u8]>);

thread_local! {
    /// Not state: what is in it means nothing between two steps.
    static SPARE: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

impl Buffer {
    fn take() -> Buffer {
        let spare = SPARE.try_with(Cell::take).ok().flatten();
        Buffer(spare.unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice()))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // An error means that the thread ends; then the buffer goes, too.
        let _ending = SPARE.try_with(|spare| spare.set(Some(std::mem::take(&mut self.0))));
    }
}

/// What is copied at once, in bytes.
const BUFFER: usize = 64 * 1024;

/// Reads of a whole buffer in a row after which a flow is bulk and is spliced.
const FULL_READS: u8 = 8;

/// A turn (all there is until the source has nothing for now) that is smaller than this is cheaper
/// to copy.
const SMALL_TURN: u32 = 32 * 1024;

/// Small turns in a row after which a flow is copied again.
const SMALL_TURNS: u8 = 4;

/// A read below this ends a streak: it is an answer, not a part of bulk.
const SMALL_READ: usize = 4 * 1024;

/// A streak of so many bytes will go on for a while. At the speed of a disk it has taken 20 ms, to
/// which the wait for its last bytes ([`GATHER`]) adds little.
const LONG: u32 = 8 * 1024 * 1024;

/// What a long streak is woken for. The kernel wakes for less when its window is full.
const LOW_WATER: u32 = 256 * 1024;

/// How long a source may keep bytes to itself; the timer adds up to 1 ms.
pub(super) const GATHER: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;

    /// A socket that does what is written down.
    #[derive(Default)]
    struct Script {
        reads: VecDeque<Read>,
        writes: VecDeque<Write>,
        /// Bytes read so far: the next one follows from it.
        read: usize,
        written: Vec<u8>,
        finished: bool,
        low_water: Option<u32>,
    }

    #[derive(Clone, Copy, Debug)]
    enum Read {
        Bytes(usize),
        Nothing,
        End,
        Break,
    }

    #[derive(Clone, Copy, Debug)]
    enum Write {
        /// At most so many.
        Take(usize),
        Full,
    }

    /// The bytes that every script reads.
    fn pattern(from: usize, len: usize) -> Vec<u8> {
        let byte = |n: usize| ((n as u32 % 65_537).wrapping_mul(2_654_435_761) >> 24) as u8;
        (from..from + len).map(byte).collect()
    }

    impl Script {
        fn of(reads: &[Read]) -> Script {
            Script {
                reads: reads.iter().copied().collect(),
                ..Script::default()
            }
        }

        fn next(&mut self, most: usize) -> Poll<io::Result<Vec<u8>>> {
            match self.reads.pop_front() {
                None | Some(Read::End) => Poll::Ready(Ok(Vec::new())),
                Some(Read::Nothing) => Poll::Pending,
                Some(Read::Break) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Some(Read::Bytes(n)) => {
                    let now = n.min(most);
                    if n > now {
                        self.reads.push_front(Read::Bytes(n - now));
                    }
                    let bytes = pattern(self.read, now);
                    self.read += now;
                    Poll::Ready(Ok(bytes))
                }
            }
        }

        /// How many of `n` it takes now.
        fn room(&mut self, n: usize) -> Poll<usize> {
            match self.writes.pop_front() {
                None => Poll::Ready(n),
                Some(Write::Full) => Poll::Pending,
                Some(Write::Take(most)) => Poll::Ready(n.min(most)),
            }
        }
    }

    impl Socket for Script {
        fn poll_read(
            &mut self,
            _cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.next(buf.remaining())
                .map_ok(|bytes| buf.put_slice(&bytes))
        }

        fn poll_write(&mut self, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            assert!(!self.finished, "written after the end");
            self.room(bytes.len()).map(|n| {
                self.written.extend_from_slice(&bytes[..n]);
                Ok(n)
            })
        }

        fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.finished = true;
            Poll::Ready(Ok(()))
        }

        fn poll_fill(&mut self, _cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
            // A sixth of what a pipe holds: packets seldom fill their pages.
            self.next(80_000).map_ok(|bytes| {
                if bytes.is_empty() {
                    0
                } else {
                    pipe.put(&bytes).unwrap()
                }
            })
        }

        fn poll_drain(
            &mut self,
            _cx: &mut Context<'_>,
            pipe: &mut Pipe,
        ) -> Poll<io::Result<usize>> {
            assert!(!self.finished, "written after the end");
            self.room(pipe.filled()).map(|n| {
                let mut bytes = vec![0; n];
                assert_eq!(pipe.get(&mut bytes).unwrap(), n);
                self.written.extend_from_slice(&bytes);
                Ok(n)
            })
        }

        fn set_low_water(&mut self, bytes: u32) -> io::Result<()> {
            self.low_water = Some(bytes);
            Ok(())
        }
    }

    /// Drives a flow to its end; calls `look` after each step.
    fn drive(
        flow: &mut Flow<'_>,
        source: &mut Script,
        sink: &mut Script,
        pipes: Option<&Arc<Pipes>>,
        mut look: impl FnMut(&Flow<'_>, &Step),
    ) -> Step {
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..1_000_000 {
            let step = flow.step(&mut cx, source, sink, pipes);
            look(flow, &step);
            if flow.is_over() {
                return step;
            }
        }
        panic!("does not come to an end");
    }

    fn splices(flow: &Flow<'_>) -> bool {
        matches!(flow.mode, Mode::Splice { .. })
    }

    #[test]
    fn bulk_is_spliced_and_small_talk_after_it_copied_again() {
        let pipes = Pipes::new(1);
        let mut reads = vec![Read::Bytes(BUFFER * 12), Read::Nothing];
        reads.extend([Read::Bytes(100), Read::Nothing].repeat(SMALL_TURNS as usize + 2));
        let (mut source, mut sink) = (Script::of(&reads), Script::default());
        let mut flow = Flow::new(Bytes::new(), None);
        let mut modes = Vec::new();
        let step = drive(
            &mut flow,
            &mut source,
            &mut sink,
            Some(&pipes),
            |flow, _| {
                modes.push(splices(flow));
                modes.dedup();
            },
        );
        assert!(matches!(step, Step::Finished));
        assert_eq!(modes, [false, true, false]);
        assert!(sink.finished);
        assert_eq!(sink.written, pattern(0, source.read));
        assert!(pipes.take().is_some(), "the pipe went back");
    }

    #[test]
    fn a_long_streak_waits_for_a_good_deal_at_a_time_until_it_ends() {
        let pipes = Pipes::new(1);
        let mut reads = [Read::Bytes(8_000), Read::Nothing].repeat(LONG as usize / 8_000);
        let (mut source, mut sink) = (Script::of(&reads), Script::default());
        let mut flow = Flow::new(Bytes::new(), None);
        let mut cx = Context::from_waker(Waker::noop());
        let mut go = |flow: &mut Flow<'_>, source: &mut Script| {
            while !source.reads.is_empty() {
                flow.step(&mut cx, source, &mut sink, Some(&pipes));
            }
        };
        go(&mut flow, &mut source);
        assert!(!flow.gathers(), "not quite long");
        assert_eq!(source.low_water, None);
        reads.truncate(2);
        source.reads.extend(&reads);
        go(&mut flow, &mut source);
        assert!(flow.gathers());
        assert_eq!(source.low_water, Some(LOW_WATER));

        flow.release(&mut source);
        assert!(!flow.gathers());
        assert_eq!(source.low_water, Some(1), "the rest of it is told of");
        source
            .reads
            .extend([Read::Bytes(LOW_WATER as usize), Read::Nothing]);
        go(&mut flow, &mut source);
        assert!(flow.gathers(), "it went on after all");

        flow.release(&mut source);
        let small = [Read::Bytes(100), Read::Nothing];
        source.reads.extend(small.repeat(SMALL_TURNS as usize));
        go(&mut flow, &mut source);
        assert!(!flow.gathers() && !splices(&flow));
        assert_eq!(source.low_water, Some(1));
    }

    #[test]
    fn answers_are_no_streak_however_many() {
        let reads =
            [Read::Bytes(SMALL_READ - 1), Read::Nothing].repeat(LONG as usize / SMALL_READ * 2);
        let (mut source, mut sink) = (Script::of(&reads), Script::default());
        let mut flow = Flow::new(Bytes::new(), None);
        drive(
            &mut flow,
            &mut source,
            &mut sink,
            Some(&Pipes::new(1)),
            |flow, _| {
                assert!(!splices(flow));
            },
        );
        assert_eq!(source.low_water, None);
    }

    #[test]
    fn a_message_of_a_few_buffers_is_not_bulk() {
        let pipes = Pipes::new(1);
        let reads = [Read::Bytes(BUFFER * 7), Read::Bytes(10), Read::Nothing].repeat(3);
        let (mut source, mut sink) = (Script::of(&reads), Script::default());
        let mut flow = Flow::new(Bytes::new(), None);
        drive(
            &mut flow,
            &mut source,
            &mut sink,
            Some(&pipes),
            |flow, _| assert!(!splices(flow)),
        );
        assert_eq!(sink.written, pattern(0, (BUFFER * 7 + 10) * 3));
    }

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
                    spliced_from = flow.taken();
                }
            },
        );
        assert!(spliced_from as usize >= BUFFER * 27);
        assert_eq!(sink.written[..5], *b"first");
        assert_eq!(sink.written[5..], pattern(0, BUFFER * 40));
        drop(flow);
        assert_eq!(seen, BUFFER * 20);
    }

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
                assert!(flow.given() <= flow.taken());
                assert_eq!(flow.owes(), flow.given() < flow.taken());
            });
            let ended = matches!(end, Read::End);
            prop_assert_eq!(matches!(step, Step::Finished), ended);
            prop_assert_eq!(sink.finished, ended);
            prop_assert!(sink.written == pattern(0, source.read), "other bytes came out");
            prop_assert_eq!(flow.given(), source.read as u64);
        }
    }
}
