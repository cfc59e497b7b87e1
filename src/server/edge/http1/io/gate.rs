//! The wait for a head: deadlines, scanning, and the verdict.
//!
//! The only part of reading that knows time. Invariants: a deadline is absolute, so dripping bytes
//! does not move it; a head that is there is served, even if the connection was to close.

use std::future::poll_fn;
use std::ops::Range;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{GateStream, Upgrade};
use crate::error::Reason;
use crate::http::deadline::Clock;
use crate::server::drain::stages::{Stage, StageWatch};
use crate::wire::http1::{BodyTracker, HeadScanner, HeadSummary, Refusal, Scan};

/// How long and how large a head may be.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct HeadBounds {
    pub max_bytes: usize,
    /// Until the first byte.
    pub idle: Duration,
    /// From the first byte to the last.
    pub whole: Duration,
}

/// What came of waiting for a head.
#[derive(Debug)]
pub(in crate::server) enum Gate {
    Head(PassedHead),
    Refused(Box<RefusedHead>),
    /// The client was done and closed.
    Left,
    /// There will be no head, for another reason.
    Closed(Reason),
}

/// A head that passed; the stream now gives it to whoever reads.
#[derive(Debug)]
pub(in crate::server) struct PassedHead {
    /// When it was whole.
    pub read: Instant,
    /// The client will not send another one.
    pub connection_close: bool,
}

#[derive(Debug)]
pub(in crate::server) struct RefusedHead {
    pub refusal: Refusal,
    pub started: Instant,
    /// Bytes of the head that arrived.
    pub bytes: usize,
    pub method: Option<String>,
    pub target: Option<String>,
}

impl GateStream {
    /// Waits for the next head: until its first byte for `bounds.idle` or until idle connections
    /// close, then until it is whole for `bounds.whole`.
    pub(in crate::server) async fn await_head(
        &mut self,
        bounds: &HeadBounds,
        stages: &StageWatch,
        clock: &mut Clock,
    ) -> Gate {
        if self.inbox.is_empty()
            && let Some(end) = self.await_first_byte(bounds.idle, stages, clock).await
        {
            return end;
        }
        self.await_whole_head(bounds).await
    }

    async fn await_first_byte(
        &mut self,
        idle: Duration,
        stages: &StageWatch,
        clock: &mut Clock,
    ) -> Option<Gate> {
        let end = Instant::now().checked_add(idle).map(Instant::into_std);
        poll_fn(|cx| {
            // In this order: a request that is there already is served whatever else happened.
            match self.poll_fill(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Some(Gate::Left)),
                Poll::Ready(Ok(_)) => return Poll::Ready(None),
                Poll::Ready(Err(_)) => {
                    return Poll::Ready(Some(Gate::Closed(Reason::ClientClosed)));
                }
                Poll::Pending => {}
            }
            self.inbox.release();
            self.outbox.release();
            if stages.poll(Stage::IdleCloses, cx).is_ready() {
                return Poll::Ready(Some(Gate::Closed(Reason::Drained)));
            }
            // No end is after all time there is.
            let idled = end.is_some_and(|end| clock.poll(end, cx).is_ready());
            match idled {
                true => Poll::Ready(Some(Gate::Closed(Reason::IdleTimeout))),
                false => Poll::Pending,
            }
        })
        .await
    }

    async fn await_whole_head(&mut self, bounds: &HeadBounds) -> Gate {
        let started = Instant::now();
        let mut scanner = HeadScanner::new(bounds.max_bytes);
        let mut pieces = 0;
        loop {
            pieces += 1;
            match scanner.scan(self.inbox.unread()) {
                Scan::NeedMore => {}
                Scan::Complete(summary) => {
                    self.open(&summary, bounds.max_bytes);
                    let read = match pieces {
                        1 => started,
                        _ => Instant::now(),
                    };
                    return Gate::Head(PassedHead {
                        read,
                        connection_close: summary.connection_close,
                    });
                }
                Scan::Refused(refusal) => return self.refused(refusal, &scanner, started),
            }
            let read = poll_fn(|cx| self.poll_fill(cx));
            match timeout_at(started + bounds.whole, read).await {
                Ok(Ok(0) | Err(_)) => return Gate::Closed(Reason::ClientClosed),
                Ok(Ok(_)) => {}
                Err(_) if scanner.has_begun() => {
                    return self.refused(Refusal::TIMEOUT, &scanner, started);
                }
                // Some clients send an empty line too much after a body.
                Err(_) => return Gate::Closed(Reason::IdleTimeout),
            }
        }
    }

    /// Lets the scanned head and its body pass.
    fn open(&mut self, summary: &HeadSummary, max_trailer_bytes: usize) {
        self.head_left = summary.head.len();
        if let Some(head) = summary.rewritten(self.inbox.unread()) {
            self.head_left = head.len();
            self.inbox.replace(summary.head.clone(), &head);
        }
        self.inbox.consume(summary.head.start);
        self.body = BodyTracker::new(summary.body, max_trailer_bytes);
        self.held_reader = None;
        self.upgrade = if summary.upgrade {
            Upgrade::Asked
        } else {
            Upgrade::No
        };
    }

    fn refused(&self, refusal: Refusal, scanner: &HeadScanner, started: Instant) -> Gate {
        let bytes = self.inbox.unread();
        let text = |range: Range<usize>| Some(String::from_utf8_lossy(&bytes[range]).into_owned());
        let (method, target) = match scanner.request_line() {
            Some((method, target)) => (text(method), text(target)),
            None => (None, None),
        };
        Gate::Refused(Box::new(RefusedHead {
            refusal,
            started,
            bytes: bytes.len(),
            method,
            target,
        }))
    }
}
