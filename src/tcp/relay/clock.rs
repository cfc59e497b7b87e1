//! The timer of a relay: when nothing has moved for too long.
//!
//! A timer that is set anew with every read costs more than the read is worth. Invariants: moving
//! bytes only notes the time; the timer is touched when it fires, or when it has to fire earlier
//! than it would; a session that waits for nothing has none.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// When bytes last moved, and a timer once there is something to wait for.
pub(super) struct Clock {
    last: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Clock {
    pub(super) fn new() -> Clock {
        Clock {
            last: Instant::now(),
            timer: None,
        }
    }

    /// Bytes have moved.
    pub(super) fn note(&mut self) {
        self.last = Instant::now();
    }

    /// There is nothing to wait for. A timer that still runs may be of use later.
    pub(super) fn rest(&mut self) {
        self.timer.take_if(|timer| timer.is_elapsed());
    }

    /// Ready when nothing has moved for `patience`.
    pub(super) fn poll_quiet(&mut self, cx: &mut Context<'_>, patience: Duration) -> Poll<()> {
        loop {
            // Later than time can express: never.
            let Some(due) = self.last.checked_add(patience) else {
                return Poll::Pending;
            };
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if timer.deadline() > due {
                timer.as_mut().reset(due);
            }
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
            if due <= Instant::now() {
                return Poll::Ready(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn fires_when_nothing_moved_for_as_long_as_told() {
        let start = Instant::now();
        let mut clock = Clock::new();
        poll_fn(|cx| clock.poll_quiet(cx, PATIENCE)).await;
        assert_eq!(start.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn movement_puts_it_off_and_less_patience_brings_it_forward() {
        let start = Instant::now();
        let mut clock = Clock::new();
        for _ in 0..3 {
            let quiet = poll_fn(|cx| clock.poll_quiet(cx, PATIENCE));
            let waited = tokio::time::timeout(Duration::from_secs(9), quiet).await;
            assert!(waited.is_err(), "moved a second ago at most");
            clock.note();
        }
        poll_fn(|cx| clock.poll_quiet(cx, Duration::from_secs(1))).await;
        assert_eq!(start.elapsed(), Duration::from_secs(28));
    }

    #[tokio::test(start_paused = true)]
    async fn can_be_asked_again_after_it_fired() {
        let mut clock = Clock::new();
        poll_fn(|cx| clock.poll_quiet(cx, PATIENCE)).await;
        clock.note();
        let start = Instant::now();
        poll_fn(|cx| clock.poll_quiet(cx, PATIENCE)).await;
        assert_eq!(start.elapsed(), PATIENCE);
    }
}
