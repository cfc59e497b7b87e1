//! A filter of HTTP requests: the phases of a request, and what a filter may do in each.
//!
//! Invariant: a method that is not written does nothing and calls [`Context::take_no_part`].

use std::ops::BitOr;

use async_trait::async_trait;
use bytes::Bytes;

use super::context::{Context, RequestHead, ResponseHead};
use super::response::Response;
use super::result::Result;
use crate::error::Reason;

/// One step in an HTTP route's path. Every method does nothing unless it is written.
///
/// The phases, in order: [`request`](Filter::request) once; [`request_body`](Filter::request_body)
/// and [`upstream_request`](Filter::upstream_request) once for each try;
/// [`response`](Filter::response) and [`response_body`](Filter::response_body) for what the client
/// gets; [`log`](Filter::log) once, whatever happened. Requests pass through the filters of a route
/// in the order written, responses in reverse.
#[async_trait]
pub trait Filter: Send + Sync + 'static {
    /// The phases this filter takes part in. All, unless it says less: that spares the calls of
    /// methods that are not written.
    ///
    /// One that is left out is called once all the same. When it turns out to be written, that is
    /// an error in the log, and it goes on being called. A filter that has nothing to do in a phase
    /// because of its settings leaves it out here and says [`Context::take_no_part`] there.
    fn phases(&self) -> Phases {
        Phases::ALL
    }

    /// The request is matched, and no endpoint is picked yet. Its head and target may be changed; a
    /// [`Verdict::Respond`] answers it here.
    async fn request(&self, cx: &mut Context<'_>) -> Result<Verdict> {
        cx.take_no_part();
        Ok(Verdict::Continue)
    }

    /// The next part of the request's body on its way to the endpoint; `last` with the last one,
    /// which may be `None`. A try that is repeated begins anew: what belongs to one try is kept in
    /// [`Context::attempt`].
    fn request_body(
        &self,
        cx: &mut Context<'_>,
        _body: &mut Option<Bytes>,
        _last: Last,
    ) -> Result<()> {
        cx.take_no_part();
        Ok(())
    }

    /// The head as this try will send it, after the gateway's own changes.
    fn upstream_request(&self, cx: &mut Context<'_>, _head: &mut RequestHead<'_>) -> Result<()> {
        cx.take_no_part();
        Ok(())
    }

    /// The head of the response that the client gets, also of one that the gateway or a later
    /// filter made.
    fn response(&self, cx: &mut Context<'_>, _head: &mut ResponseHead<'_>) -> Result<()> {
        cx.take_no_part();
        Ok(())
    }

    /// The next part of the response's body on its way to the client; `last` with the last one,
    /// which may be `None`.
    fn response_body(
        &self,
        cx: &mut Context<'_>,
        _body: &mut Option<Bytes>,
        _last: Last,
    ) -> Result<()> {
        cx.take_no_part();
        Ok(())
    }

    /// The request is over. What it does with it must not wait.
    fn log(&self, cx: &mut Context<'_>, _end: &End) {
        cx.take_no_part();
    }
}

/// What becomes of a request after a filter saw it.
#[derive(Debug)]
pub enum Verdict {
    /// It goes on.
    Continue,
    /// It is answered with this, and goes no further.
    Respond(Response),
}

/// Whether a part of a body is its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// The body ends with this part, which may be empty.
    Yes,
    /// More parts follow, unless the client or the endpoint leaves first.
    No,
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// The status that the client got; 0 when it got none.
    pub status: u16,
    /// The word of the access log and of the `reason` label; `ok` where nothing went wrong.
    pub reason: Reason,
    /// From the whole head to here.
    pub duration: std::time::Duration,
}

/// A set of phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phases(u8);

impl Phases {
    /// No phase: for a filter whose settings leave it nothing to do.
    pub const NONE: Phases = Phases(0);
    /// [`Filter::request`]: once, before an endpoint is picked.
    pub const REQUEST: Phases = Phases(1);
    /// [`Filter::request_body`]: for each part, in each try.
    pub const REQUEST_BODY: Phases = Phases(1 << 1);
    /// [`Filter::upstream_request`]: once for each try.
    pub const UPSTREAM_REQUEST: Phases = Phases(1 << 2);
    /// [`Filter::response`]: once, for the head that the client gets.
    pub const RESPONSE: Phases = Phases(1 << 3);
    /// [`Filter::response_body`]: for each part that the client gets.
    pub const RESPONSE_BODY: Phases = Phases(1 << 4);
    /// [`Filter::log`]: once, when the request has ended.
    pub const LOG: Phases = Phases(1 << 5);
    /// Every phase; what [`Filter::phases`] returns unless it is written.
    pub const ALL: Phases = Phases((1 << 6) - 1);

    pub(crate) const fn bits(self) -> u8 {
        self.0
    }

    /// Whether all of `phases` are in it.
    pub const fn contains(self, phases: Phases) -> bool {
        self.0 & phases.0 == phases.0
    }

    /// Those of either, as `|`.
    pub const fn or(self, phases: Phases) -> Phases {
        Phases(self.0 | phases.0)
    }
}

impl BitOr for Phases {
    type Output = Phases;

    fn bitor(self, other: Phases) -> Phases {
        self.or(other)
    }
}
