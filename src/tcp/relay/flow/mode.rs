//! How a flow moves its bytes at present, and what makes it change that.
//!
//! The one part of a flow that guesses what comes next; every number of the guess is here.
//! Invariant: it knows lengths only, neither bytes nor sockets, so a wrong guess costs time and
//! never a byte. `flow.rs` reports what was read, `splice.rs` the rest.

use super::buffer::BUFFER;

/// Through a buffer, or through a pipe.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mode {
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

impl Mode {
    /// Copying, and nothing seen so far that speaks for more.
    pub(super) const COPY: Mode = Mode::Copy { full: 0, streak: 0 };

    /// After a read of so many bytes into a buffer.
    pub(super) fn after_read(self, read: usize) -> Mode {
        let Mode::Copy { full, streak } = self else {
            return Mode::COPY;
        };
        if read < SMALL_READ {
            return Mode::COPY;
        }
        let full = if read == BUFFER { full + 1 } else { 0 };
        let streak = lengthen(streak, read);
        if full < FULL_READS && streak < LONG {
            Mode::Copy { full, streak }
        } else {
            Mode::Splice {
                turn: 0,
                small: 0,
                streak,
            }
        }
    }

    /// So many bytes went into a pipe.
    pub(super) fn note_fill(&mut self, filled: usize) {
        if let Mode::Splice { turn, streak, .. } = self {
            *turn = lengthen(*turn, filled);
            *streak = lengthen(*streak, filled);
        }
    }

    /// After a turn: the source has nothing for now.
    pub(super) fn after_turn(self) -> Mode {
        let Mode::Splice {
            turn,
            small,
            streak,
        } = self
        else {
            return self;
        };
        let small = if turn < SMALL_TURN { small + 1 } else { 0 };
        if small < SMALL_TURNS {
            Mode::Splice {
                turn: 0,
                small,
                streak,
            }
        } else {
            Mode::COPY
        }
    }

    pub(super) fn splices(self) -> bool {
        matches!(self, Mode::Splice { .. })
    }

    /// Whether this turn is cheaper to splice than to copy.
    pub(super) fn is_large_turn(self) -> bool {
        matches!(self, Mode::Splice { turn, .. } if turn >= SMALL_TURN)
    }

    /// Whether so much came in a row that more is to be expected.
    pub(super) fn is_long(self) -> bool {
        matches!(self, Mode::Splice { streak, .. } if streak >= LONG)
    }
}

fn lengthen(streak: u32, by: usize) -> u32 {
    streak.saturating_add(u32::try_from(by).unwrap_or(u32::MAX))
}

/// Reads of a whole buffer in a row after which a flow is bulk and is spliced.
const FULL_READS: u8 = 8;

/// A turn (all there is until the source has nothing for now) that is smaller than this is cheaper
/// to copy.
const SMALL_TURN: u32 = 32 * 1024;

/// Small turns in a row after which a flow is copied again.
pub(super) const SMALL_TURNS: u8 = 4;

/// A read below this ends a streak: it is an answer, not a part of bulk.
const SMALL_READ: usize = 4 * 1024;

/// A streak of so many bytes will go on for a while. At the speed of a disk it has taken 20 ms, to
/// which the wait for its last bytes ([`GATHER`](super::GATHER)) adds little.
pub(super) const LONG: u32 = 8 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::tcp::relay::flow::script::{Read, Script, drive, pattern, splices};
    use crate::tcp::relay::flow::{Flow, Step};
    use crate::tcp::relay::pipe::Pipes;

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
}
