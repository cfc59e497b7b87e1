//! A route's filters at the right moments of a request.
//!
//! Its own file because it is the seam between Pingora's session, our exchange and user code.
//! Invariants: without a filter in a phase nothing is done and nothing allocated; a filter sees the
//! response of every request that it has let pass, and of no other; whoever fails, the client gets
//! one whole answer or a closed connection.

use bytes::Bytes;
use log::error;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use crate::error::Reason;
use crate::filter::{
    self, Chain, Context, Failed, Last, Phases, RequestHead, ResponseHead, Verdict,
};
use crate::http::end::End;
use crate::http::exchange::Exchange;
use crate::http::filtering::Filtering;
use crate::http::respond::{self, Answer};
use crate::route::{Route, normalise, with_slashes};
use crate::wire::http1::escaped;

/// What became of a request in its request phase.
pub enum Requested {
    /// No filter saw it.
    Unfiltered,
    /// All of them have let it pass.
    Passed,
    /// A filter answers it.
    Answered {
        /// What is sent.
        answer: Box<Answer>,
        /// What is logged.
        reason: Reason,
    },
    /// It ends like this.
    Ended(Reason),
}

/// The request phase. At most until the request's deadline.
pub async fn request(session: &mut Session, ctx: &mut Exchange) -> Requested {
    let Some(route) = ctx.route.as_deref() else {
        return Requested::Unfiltered;
    };
    if !route.filters.takes_part(Phases::REQUEST) {
        ctx.filters.passed = route.filters.len();
        return Requested::Unfiltered;
    }
    let deadline = tokio::time::Instant::from_std(ctx.times.deadline);
    let normalised = normaliser(route);
    let Some((chain, mut cx, passed)) = context(session, ctx) else {
        return Requested::Unfiltered;
    };
    let run = chain.request(&mut cx, passed, normalised);
    let result = tokio::time::timeout_at(deadline, run).await;
    match result {
        Ok(Ok(Verdict::Continue)) => Requested::Passed,
        Ok(Ok(Verdict::Respond(response))) => answered(response, chain.name(*passed), cx.route()),
        Ok(Err(_)) => Requested::Ended(Reason::FilterError),
        Err(_) => {
            let (name, route) = (chain.name(*passed), cx.route());
            error!("filter `{name}` was not done in time (route {route})");
            Requested::Ended(Reason::Timeout)
        }
    }
}

/// What becomes of a target that a filter of this route chooses.
pub fn normaliser(route: &Route) -> filter::Normalise {
    match route.merge_slashes {
        true => merged,
        false => kept,
    }
}

/// What a filter wants to be sent, as a client would have to send it.
fn merged(target: &str) -> std::result::Result<String, String> {
    let target = escaped(target.as_bytes());
    let target = String::from_utf8_lossy(&target);
    let target = normalise(&target).map_err(|bad| bad.to_string())?;
    Ok(target.into_target().into_owned())
}

/// The same with its doubled slashes.
fn kept(target: &str) -> std::result::Result<String, String> {
    let target = escaped(target.as_bytes());
    let target = String::from_utf8_lossy(&target);
    let target = with_slashes(&target).map_err(|bad| bad.to_string())?;
    Ok(target.into_target().into_owned())
}

fn answered(response: filter::Response, name: &str, route: &str) -> Requested {
    let reason = response.reason;
    match respond::of_filter(response) {
        Ok(answer) => Requested::Answered {
            answer: Box::new(answer),
            reason,
        },
        Err(wrong) => {
            error!("filter `{name}` cannot answer like that: {wrong} (route {route})");
            Requested::Ended(Reason::FilterError)
        }
    }
}

/// A part of the request's body, on its way up.
pub fn request_body(
    session: &mut Session,
    ctx: &mut Exchange,
    body: &mut Option<Bytes>,
    end_of_stream: bool,
) -> Result<()> {
    let last = last(end_of_stream);
    let Some((chain, mut cx, passed)) = taking_part(session, ctx, Phases::REQUEST_BODY) else {
        return Ok(());
    };
    let result = chain.request_body(&mut cx, body, last);
    if last == Last::No && body.is_none() {
        // Pingora takes nothing for the end.
        *body = Some(Bytes::new());
    }
    result
        .map_err(|failed| noted(failed, passed))
        .map_err(|e| ended(ctx, e))
}

/// The head of a try, as it will be sent.
pub fn upstream_request(
    session: &mut Session,
    ctx: &mut Exchange,
    head: &mut RequestHeader,
) -> Result<()> {
    let Some((chain, mut cx, passed)) = taking_part(session, ctx, Phases::UPSTREAM_REQUEST) else {
        return Ok(());
    };
    let result = chain.upstream_request(&mut cx, &mut RequestHead::of_try(head));
    result
        .map_err(|failed| noted(failed, passed))
        .map_err(|e| ended(ctx, e))
}

/// The head of an endpoint's response.
pub fn response(
    session: &mut Session,
    ctx: &mut Exchange,
    head: &mut ResponseHeader,
) -> Result<()> {
    let Some((chain, mut cx, passed)) = taking_part(session, ctx, Phases::RESPONSE) else {
        return Ok(());
    };
    let result = chain.response(&mut cx, &mut ResponseHead::new(head), *passed);
    result
        .map_err(|failed| noted(failed, passed))
        .map_err(|e| ended(ctx, e))
}

/// A part of the body of an endpoint's response.
pub fn response_body(
    session: &mut Session,
    ctx: &mut Exchange,
    body: &mut Option<Bytes>,
    end_of_stream: bool,
) -> Result<()> {
    let last = last(end_of_stream);
    let Some((chain, mut cx, passed)) = taking_part(session, ctx, Phases::RESPONSE_BODY) else {
        return Ok(());
    };
    let result = chain.response_body(&mut cx, body, last, *passed);
    result
        .map_err(|failed| noted(failed, passed))
        .map_err(|e| ended(ctx, e))
}

/// The end of a request.
pub fn log(session: &mut Session, ctx: &mut Exchange, end: &filter::End) {
    if let Some((chain, mut cx, _)) = taking_part(session, ctx, Phases::LOG) {
        chain.log(&mut cx, end);
    }
}

/// Sends the gateway's own response, as the filters leave it. Returns its status.
pub async fn refuse(session: &mut Session, ctx: &mut Exchange, end: End) -> Result<u16> {
    let answer = respond::refusal(end)?;
    deliver(session, ctx, answer).await
}

/// Sends an answer of the gateway's or of a filter's, as the filters leave it. Returns its status.
pub async fn deliver(session: &mut Session, ctx: &mut Exchange, mut answer: Answer) -> Result<u16> {
    while let Err(Failed { .. }) = filtered(session, ctx, &mut answer) {
        // One filter less sees the next one.
        ctx.end = Some(Reason::FilterError.into());
        answer = respond::refusal(Reason::FilterError.into())?;
    }
    respond::write(session, answer).await
}

/// The response phases over an answer that is whole.
fn filtered(
    session: &mut Session,
    ctx: &mut Exchange,
    answer: &mut Answer,
) -> std::result::Result<(), Failed> {
    let with_body = respond::has_body(session, &answer.head);
    let Some((chain, mut cx, passed)) = context(session, ctx) else {
        return Ok(());
    };
    let head = &mut ResponseHead::new(&mut answer.head);
    let mut result = chain.response(&mut cx, head, *passed);
    if result.is_ok() && with_body && chain.takes_part(Phases::RESPONSE_BODY) {
        let mut body = Some(std::mem::take(&mut answer.body));
        result = chain.response_body(&mut cx, &mut body, Last::Yes, *passed);
        answer.body = body.unwrap_or_default();
    }
    result.map_err(|failed| noted(failed, passed))
}

/// Keeps in mind that the filter which failed has no part in the answer, nor those behind it.
fn noted(failed: Failed, passed: &mut usize) -> Failed {
    *passed = failed.nth.min(*passed);
    failed
}

/// The request's end, and Pingora's messenger of it.
fn ended(ctx: &mut Exchange, failed: Failed) -> Box<Error> {
    ctx.end = Some(End::from(Reason::FilterError));
    let mut error = Error::because(ErrorType::InternalError, "a filter", failed);
    error.set_retry(false);
    error
}

/// As [`context`], when a filter takes part in the phase.
fn taking_part<'a>(
    session: &'a mut Session,
    ctx: &'a mut Exchange,
    phase: Phases,
) -> Option<(&'a Chain, Context<'a>, &'a mut usize)> {
    // Asked first: most routes have no filter, and what one would see is not put together for them.
    let filters = &ctx.route.as_deref()?.filters;
    if !filters.takes_part(phase) {
        return None;
    }
    context(session, ctx)
}

/// What a filter sees, and how many filters have let the request pass. `None` without a route.
fn context<'a>(
    session: &'a mut Session,
    ctx: &'a mut Exchange,
) -> Option<(&'a Chain, Context<'a>, &'a mut usize)> {
    let route = ctx.route.as_deref()?;
    let Filtering {
        extensions,
        attempt,
        passed,
    } = &mut ctx.filters;
    let cx = Context {
        session,
        client: ctx.client.ip(),
        trusted: ctx.trusted,
        route: &route.label,
        upstream: route.upstream.label(),
        endpoint: ctx
            .attempt
            .endpoint
            .as_deref()
            .map(|endpoint| endpoint.label()),
        tries: ctx.tries.counted,
        target: &mut ctx.target,
        stripped: route.stripped(),
        replaced: None,
        extensions,
        attempt,
        tls: ctx
            .arrival
            .as_ref()
            .and_then(|arrival| arrival.connection.tls.as_deref()),
        idle: false,
    };
    Some((&route.filters, cx, passed))
}

fn last(end_of_stream: bool) -> Last {
    match end_of_stream {
        true => Last::Yes,
        false => Last::No,
    }
}
