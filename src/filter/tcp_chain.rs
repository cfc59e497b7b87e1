//! The filters of one TCP route, in order, and how they are called.
//!
//! Invariants: a filter that fails or panics costs its own session and nothing else; one that saw a
//! session begin sees it end.

use std::sync::Arc;

use super::catch_panic::{catch_panic, catch_panic_future};
use super::chain::{Failed, Step, report};
use super::{TcpContext, TcpEnd, TcpFilter, TcpVerdict};

/// The filters of a TCP route.
#[derive(Clone, Debug)]
pub struct TcpChain {
    steps: Arc<[Step<dyn TcpFilter>]>,
}

/// What the filters of a route say of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passage<R> {
    /// Every filter lets it go on: an endpoint is picked next.
    Allowed,
    /// A filter refused it: the client gets its protocol's refusal, reason `filter_refused`.
    Refused,
    /// It goes on to another route.
    To(R),
}

impl TcpChain {
    pub(super) fn new(steps: Vec<Step<dyn TcpFilter>>) -> TcpChain {
        TcpChain {
            steps: steps.into(),
        }
    }

    pub(super) fn steps(&self) -> &[Step<dyn TcpFilter>] {
        &self.steps
    }

    /// Whether the route has no filters.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The name of a filter by its place.
    pub fn name(&self, nth: usize) -> &str {
        self.steps.get(nth).map_or("", |step| &step.name)
    }

    /// The beginning of a session, up to the first verdict other than to allow it. `asked` counts
    /// the filters that were asked, the last one included; `find` finds a route by its name, or
    /// says why it cannot be taken.
    ///
    /// # Errors
    /// The filter that failed, unless it is passed over.
    pub async fn connect<R>(
        &self,
        session: &TcpContext<'_>,
        asked: &mut usize,
        find: impl Fn(&str) -> Result<R, String>,
    ) -> Result<Passage<R>, Failed> {
        for (nth, step) in self.steps.iter().enumerate() {
            *asked = nth + 1;
            let verdict = catch_panic_future(|| step.filter.connect(session)).await;
            let passage = verdict.and_then(|verdict| match verdict {
                TcpVerdict::Allow => Ok(Passage::Allowed),
                TcpVerdict::Refuse => Ok(Passage::Refused),
                TcpVerdict::Route(name) => Ok(Passage::To(find(&name)?)),
            });
            match passage {
                Ok(Passage::Allowed) => {}
                Ok(passage) => return Ok(passage),
                Err(error) => step.failed(nth, "connect", error, session.route)?,
            }
        }
        Ok(Passage::Allowed)
    }

    /// The end of a session, for the first `asked` filters, the last of them first.
    pub fn close(&self, session: &TcpContext<'_>, end: &TcpEnd, asked: usize) {
        for step in self.steps.iter().take(asked).rev() {
            let closed = catch_panic(|| {
                step.filter.close(session, end);
                Ok(())
            });
            if let Err(error) = closed {
                report(&step.name, "close", &*error, session.route);
            }
        }
    }
}

impl Default for TcpChain {
    fn default() -> TcpChain {
        TcpChain::new(Vec::new())
    }
}
