//! From a wish to a lease: one try, or a place in the queue and then one try after the other.
//!
//! The request path of `upstream`. Invariants: no lock is held across an await; an upstream without
//! limits never touches the queue; with limits every try happens under the queue's lock, and only
//! the first in the queue tries.

use std::sync::Arc;

use tokio::time::Instant;

use super::Upstream;
use super::balance::Chooser;
use super::endpoint::EndpointId;
use super::lease::Lease;
use super::limit::{Queue, Ticket};
use crate::config::Target;
use crate::error::Reason;

/// What a request wants of a pick.
#[derive(Clone, Copy, Debug)]
pub struct Pick<'a> {
    /// For `balance: hash`; `None` (no such header) is spread by weight.
    pub hash: Option<u64>,
    /// Tried already: others are preferred, but these are used again when nothing else is left.
    pub avoid: &'a [EndpointId],
    /// The role that the endpoint must have, or had better have.
    pub target: Target,
    /// Looked at only when the pick has to wait.
    pub deadline: Instant,
}

/// Why there is no lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickError {
    /// Every endpoint is out or unresolved, or none of those in has the role.
    NoHealthyEndpoint,
    /// Everything was in use for `queue_timeout`, or too many wait already.
    QueueTimeout,
    /// Everything was in use until the request's own deadline.
    Deadline,
}

impl PickError {
    /// The word for logs and metrics.
    pub const fn reason(self) -> Reason {
        match self {
            PickError::NoHealthyEndpoint => Reason::NoHealthyEndpoint,
            PickError::QueueTimeout => Reason::QueueTimeout,
            PickError::Deadline => Reason::Timeout,
        }
    }

    /// What happened, for the log.
    pub const fn as_words(self) -> &'static str {
        match self {
            PickError::NoHealthyEndpoint => {
                "every endpoint of the upstream is down or has no address"
            }
            PickError::QueueTimeout => {
                "no connection of the upstream became free in `queue_timeout_ms`"
            }
            PickError::Deadline => "no connection of the upstream became free in `timeout_ms`",
        }
    }
}

/// What one try came to.
enum Try {
    Leased(Lease),
    NoneHealthy,
    /// All in use; an ejection may end at the given time.
    AllFull(Option<Instant>),
}

impl Upstream {
    /// Picks an endpoint. Waits, in the order of arrival, only while everything usable is in use:
    /// at most `queue_timeout`, and not past `want.deadline`. Dropping the future while it waits
    /// frees its place in the queue.
    pub async fn pick(self: &Arc<Self>, want: Pick<'_>) -> Result<Lease, PickError> {
        let picked = match self.limited {
            true => self.pick_limited(want).await,
            false => match self.attempt(&want) {
                Try::Leased(lease) => Ok(lease),
                // Nothing is limited, so nothing can be full.
                Try::NoneHealthy | Try::AllFull(_) => Err(PickError::NoHealthyEndpoint),
            },
        };
        self.picked(&picked);
        picked
    }

    /// Whether a pick could give an endpoint that is not among `tried`, now.
    pub fn has_another(&self, target: Target, tried: &[EndpointId]) -> bool {
        let view = self.view();
        view.balancer(target)
            .is_some_and(|balancer| balancer.has_another(tried))
    }

    async fn pick_limited(self: &Arc<Self>, want: Pick<'_>) -> Result<Lease, PickError> {
        let limit = &self.lineage.limit;
        let waiter = {
            let mut queue = limit.queue();
            if !queue.has_waiters(want.target) && !self.would_overtake(&queue, None) {
                match self.attempt(&want) {
                    Try::Leased(lease) => return Ok(lease),
                    Try::NoneHealthy => return Err(PickError::NoHealthyEndpoint),
                    Try::AllFull(_) => {}
                }
            }
            limit
                .join(&mut queue, want.target)
                .ok_or(PickError::QueueTimeout)?
        };
        let joined = Instant::now();
        let patience = joined + self.spec().queue_timeout;
        let (end, late) = if want.deadline <= patience {
            (want.deadline, PickError::Deadline)
        } else {
            (patience, PickError::QueueTimeout)
        };
        loop {
            // The first round repeats the try above: a lease given back in between did not see
            // this waiter.
            let mut wake_at = end;
            {
                let queue = limit.queue();
                if waiter.is_first(&queue) && !self.would_overtake(&queue, Some(waiter.ticket())) {
                    match self.attempt(&want) {
                        Try::Leased(lease) => {
                            drop(queue);
                            return Ok(lease.after(joined.elapsed()));
                        }
                        Try::NoneHealthy => {
                            drop(queue);
                            return Err(PickError::NoHealthyEndpoint);
                        }
                        Try::AllFull(change) => wake_at = change.map_or(end, |at| at.min(end)),
                    }
                }
            }
            tokio::select! {
                biased;
                () = waiter.turn() => {}
                () = tokio::time::sleep_until(wake_at) => {
                    if wake_at == end {
                        return Err(late);
                    }
                }
            }
        }
    }

    /// Whether a caller that came before `ticket`, or before now, could be served at this moment.
    fn would_overtake(&self, queue: &Queue, ticket: Option<Ticket>) -> bool {
        queue.firsts_before(ticket).any(|target| {
            let view = self.view();
            view.balancer(target).is_some_and(Chooser::has_room)
        })
    }

    /// One try, now. Limited upstreams call it under the lock of their queue.
    fn attempt(self: &Arc<Self>, want: &Pick<'_>) -> Try {
        let view = self.view();
        let Some(balancer) = view.balancer(want.target) else {
            return Try::NoneHealthy;
        };
        let limit = &self.lineage.limit;
        if let Some(max) = self.spec().max_connections
            && limit.in_flight() >= max
        {
            return Try::AllFull(None);
        }
        match balancer.choose(want.hash, want.avoid) {
            Some(endpoint) => {
                limit.enter();
                Try::Leased(Lease::new(Arc::clone(self), Arc::clone(endpoint)))
            }
            None => Try::AllFull(view.until),
        }
    }
}
