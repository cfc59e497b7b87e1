//! A socket that does what is written down, and how a flow is driven between two of them.
//!
//! Every part of a flow is tested against the same schedules.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::io::ReadBuf;

use super::{Flow, Step};
use crate::tcp::relay::pipe::{Pipe, Pipes};
use crate::tcp::relay::socket::Socket;

/// A socket that does what is written down.
#[derive(Default)]
pub(super) struct Script {
    pub(super) reads: VecDeque<Read>,
    pub(super) writes: VecDeque<Write>,
    /// Bytes read so far: the next one follows from it.
    pub(super) read: usize,
    pub(super) written: Vec<u8>,
    pub(super) finished: bool,
    pub(super) low_water: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Read {
    Bytes(usize),
    Nothing,
    End,
    Break,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Write {
    /// At most so many.
    Take(usize),
    Full,
}

/// The bytes that every script reads.
pub(super) fn pattern(from: usize, len: usize) -> Vec<u8> {
    let byte = |n: usize| ((n as u32 % 65_537).wrapping_mul(2_654_435_761) >> 24) as u8;
    (from..from + len).map(byte).collect()
}

impl Script {
    pub(super) fn of(reads: &[Read]) -> Script {
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
    fn poll_read(&mut self, _cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
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

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
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

    fn poll_drain(&mut self, _cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
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
pub(super) fn drive(
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

pub(super) fn splices(flow: &Flow<'_>) -> bool {
    flow.mode.splices()
}
