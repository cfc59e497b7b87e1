//! The silence of a source that was asked to wait until it has a good deal.
//!
//! A caller that asks for silence must end it: the last bytes of an answer may be too few for a
//! wake-up. Invariant: a source that was asked is known here until it is released; where it cannot
//! be asked, each byte wakes. Asked by `copy.rs` and `splice.rs` in a long streak; released by
//! `splice.rs` when that is over, and by `pair.rs` after [`GATHER`].

use std::time::Duration;

use crate::tcp::relay::socket::Socket;

/// Whether the source was asked.
#[derive(Default)]
pub(super) struct Gather {
    asked: bool,
}

impl Gather {
    /// Lets the source be silent until it has a good deal: to be woken costs more than the bytes
    /// do.
    pub(super) fn ask<S: Socket>(&mut self, source: &mut S) {
        if !self.asked {
            // Where it cannot be set, everything goes on as before.
            self.asked = source.set_low_water(LOW_WATER).is_ok();
        }
    }

    /// Whether the source may have bytes that it does not wake for.
    pub(super) fn is_asked(&self) -> bool {
        self.asked
    }

    /// The source wakes for every byte again, also of those it has already.
    pub(super) fn release<S: Socket>(&mut self, source: &mut S) {
        if std::mem::take(&mut self.asked) {
            // An error means that the socket is gone, which it reports by itself.
            let _gone = source.set_low_water(1);
        }
    }
}

/// What a long streak is woken for. The kernel wakes for less when its window is full.
const LOW_WATER: u32 = 256 * 1024;

/// How long a source may keep bytes to itself; the timer adds up to 1 ms.
pub(in crate::tcp::relay) const GATHER: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use bytes::Bytes;

    use super::*;
    use crate::tcp::relay::flow::Flow;
    use crate::tcp::relay::flow::mode::{LONG, SMALL_TURNS};
    use crate::tcp::relay::flow::script::{Read, Script, splices};
    use crate::tcp::relay::pipe::Pipes;

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
}
