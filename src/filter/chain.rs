//! The filters of one HTTP route, in order, and how they are called.
//!
//! Invariants: a filter that fails or panics costs its own request and nothing else; a phase that no
//! filter takes part in costs one look at an empty list.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use log::error;
use tokio::runtime::Handle;

use super::build::MadeWith;
use super::catch_panic::{catch_panic, catch_panic_future};
use super::registry::Author;
use super::skipped_phases::{Found, SkippedPhases};
use super::{Context, End, Filter, Last, Phases, RequestHead, ResponseHead, Result, Verdict};
use crate::config::{Config, FilterSpec, OnError, Settings};

/// The filters of an HTTP route.
#[derive(Clone, Debug)]
pub struct Chain {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    steps: Vec<Step<dyn Filter>>,
    skipped: SkippedPhases,
}

/// One filter and its place in the configuration.
pub(super) struct Step<F: ?Sized> {
    pub(super) name: Arc<str>,
    pub(super) on_error: OnError,
    pub(super) filter: Arc<F>,
    pub(super) author: Author,
    /// `None`: it is in no configuration.
    pub(super) origin: Option<Origin>,
}

/// What a filter was made from.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) settings: Settings,
    pub(super) with: MadeWith,
}

/// A filter that failed, and ended its request with that.
#[derive(Debug)]
pub struct Failed {
    /// Its name, as in the configuration.
    pub filter: Arc<str>,
    /// The method of `Filter` or `TcpFilter` that failed, such as `request` or `connect`.
    pub phase: &'static str,
    /// What the filter returned, or its panic's message.
    pub error: Box<dyn std::error::Error + Send + Sync>,
    /// Its place in the chain: how many come before it.
    pub nth: usize,
}

/// Normalises a path and query, or says why it cannot be one.
pub type Normalise = fn(&str) -> std::result::Result<String, String>;

impl Chain {
    pub(super) fn new(steps: Vec<Step<dyn Filter>>) -> Chain {
        let skipped = SkippedPhases::new(steps.iter().map(|step| step.filter.phases()));
        Chain {
            inner: Arc::new(Inner { steps, skipped }),
        }
    }

    pub(super) fn steps(&self) -> &[Step<dyn Filter>] {
        &self.inner.steps
    }

    /// Whether the route has no filters; every phase then costs one look at an empty list.
    pub fn is_empty(&self) -> bool {
        self.inner.steps.is_empty()
    }

    /// How many filters it has.
    pub fn len(&self) -> usize {
        self.inner.steps.len()
    }

    /// Whether any filter may take part in this one phase.
    pub fn takes_part(&self, phase: Phases) -> bool {
        self.inner.skipped.any_in(phase)
    }

    /// The name of a filter by its place.
    pub fn name(&self, nth: usize) -> &str {
        self.steps().get(nth).map_or("", |step| &step.name)
    }

    /// The request phase, up to the first answer. `passed` counts the filters that it has passed:
    /// those whose response phase sees the response.
    ///
    /// # Errors
    /// The filter that failed, unless it is passed over.
    pub async fn request(
        &self,
        cx: &mut Context<'_>,
        passed: &mut usize,
        normalise: Normalise,
    ) -> std::result::Result<Verdict, Failed> {
        for (nth, step) in self.of(Phases::REQUEST) {
            *passed = nth;
            cx.idle = false;
            let result = catch_panic_future(|| step.filter.request(cx)).await;
            self.called(nth, Phases::REQUEST, "request", cx);
            match result.and_then(|verdict| settled(cx, normalise).map(|()| verdict)) {
                Ok(Verdict::Continue) => {}
                Ok(answer) => return Ok(answer),
                Err(error) => step.failed(nth, "request", error, cx.route)?,
            }
        }
        *passed = self.len();
        Ok(Verdict::Continue)
    }

    /// A part of the request's body.
    ///
    /// # Errors
    /// The filter that failed, unless it is passed over.
    pub fn request_body(
        &self,
        cx: &mut Context<'_>,
        body: &mut Option<Bytes>,
        last: Last,
    ) -> std::result::Result<(), Failed> {
        for (nth, step) in self.of(Phases::REQUEST_BODY) {
            let before = step.before(body);
            cx.idle = false;
            let result = catch_panic(|| step.filter.request_body(cx, body, last));
            self.called(nth, Phases::REQUEST_BODY, "request_body", cx);
            if let Err(error) = result {
                step.failed(nth, "request_body", error, cx.route)?;
                *body = before;
            }
        }
        Ok(())
    }

    /// The head of one try.
    ///
    /// # Errors
    /// The filter that failed, unless it is passed over.
    pub fn upstream_request(
        &self,
        cx: &mut Context<'_>,
        head: &mut RequestHead<'_>,
    ) -> std::result::Result<(), Failed> {
        for (nth, step) in self.of(Phases::UPSTREAM_REQUEST) {
            cx.idle = false;
            let result = catch_panic(|| step.filter.upstream_request(cx, head));
            self.called(nth, Phases::UPSTREAM_REQUEST, "upstream_request", cx);
            if let Err(error) = result {
                step.failed(nth, "upstream_request", error, cx.route)?;
            }
        }
        Ok(())
    }

    /// The head of the response, for the first `among` filters, the last of them first.
    ///
    /// # Errors
    /// The filter that failed, unless it is passed over.
    pub fn response(
        &self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead<'_>,
        among: usize,
    ) -> std::result::Result<(), Failed> {
        for (nth, step) in self.reversed(Phases::RESPONSE, among) {
            cx.idle = false;
            let result = catch_panic(|| step.filter.response(cx, head));
            self.called(nth, Phases::RESPONSE, "response", cx);
            if let Err(error) = result {
                step.failed(nth, "response", error, cx.route)?;
            }
        }
        Ok(())
    }

    /// A part of the response's body, for the first `among` filters, the last of them first.
    ///
    /// # Errors
    /// The filter that failed, unless it is passed over.
    pub fn response_body(
        &self,
        cx: &mut Context<'_>,
        body: &mut Option<Bytes>,
        last: Last,
        among: usize,
    ) -> std::result::Result<(), Failed> {
        for (nth, step) in self.reversed(Phases::RESPONSE_BODY, among) {
            let before = step.before(body);
            cx.idle = false;
            let result = catch_panic(|| step.filter.response_body(cx, body, last));
            self.called(nth, Phases::RESPONSE_BODY, "response_body", cx);
            if let Err(error) = result {
                step.failed(nth, "response_body", error, cx.route)?;
                *body = before;
            }
        }
        Ok(())
    }

    /// The end of the request.
    pub fn log(&self, cx: &mut Context<'_>, end: &End) {
        for (nth, step) in self.of(Phases::LOG) {
            cx.idle = false;
            let logged = catch_panic(|| {
                step.filter.log(cx, end);
                Ok(())
            });
            self.called(nth, Phases::LOG, "log", cx);
            if let Err(error) = logged {
                report(&step.name, "log", &*error, cx.route);
            }
        }
    }

    /// The filters that are called in `phase`.
    fn of(&self, phase: Phases) -> impl DoubleEndedIterator<Item = (usize, &Step<dyn Filter>)> {
        let all = self.steps().iter().enumerate();
        all.filter(move |(nth, _)| self.inner.skipped.is_called(*nth, phase))
    }

    fn reversed(
        &self,
        phase: Phases,
        among: usize,
    ) -> impl Iterator<Item = (usize, &Step<dyn Filter>)> {
        let all = self.of(phase).rev();
        all.skip_while(move |(nth, _)| *nth >= among)
    }

    /// A filter was called in `phase`. Where it says that it skips that, its first call shows
    /// whether it does.
    fn called(&self, nth: usize, phase: Phases, named: &str, cx: &Context<'_>) {
        if let Found::Work = self.inner.skipped.called(nth, phase, cx.idle) {
            error!(
                "filter `{}` has work in `{named}`, which its `phases()` leaves out: it is called \
                 all the same. Name the phase, or leave `phases` out (route {})",
                self.name(nth),
                cx.route
            );
        }
    }
}

impl Default for Chain {
    fn default() -> Chain {
        Chain::new(Vec::new())
    }
}

impl<F: ?Sized> Step<F> {
    /// Whether it would be the same if it were made from `spec` now.
    pub(super) fn is_made_from(&self, spec: &FilterSpec, config: &Config) -> bool {
        self.origin.as_ref().is_some_and(|origin| {
            *self.name == *spec.kind
                && origin.settings == spec.settings
                && origin.with.is_still_in(config)
        })
    }

    pub(super) fn start_tasks(&self, runtime: &Handle) {
        let with = self.origin.as_ref().map(|origin| &origin.with);
        if let Some(tasks) = with.and_then(|with| with.tasks.as_ref()) {
            tasks.start(&self.name, runtime);
        }
    }

    /// Logs the failure; an error of the chain, unless the filter is to be passed over.
    pub(super) fn failed(
        &self,
        nth: usize,
        phase: &'static str,
        error: Box<dyn std::error::Error + Send + Sync>,
        route: &str,
    ) -> std::result::Result<(), Failed> {
        report(&self.name, phase, &*error, route);
        match self.on_error {
            OnError::Continue => Ok(()),
            OnError::Refuse => Err(Failed {
                filter: self.name.clone(),
                phase,
                error,
                nth,
            }),
        }
    }

    /// The body as it is, where it may be needed again.
    fn before(&self, body: &Option<Bytes>) -> Option<Bytes> {
        match self.on_error {
            OnError::Continue => body.clone(),
            OnError::Refuse => None,
        }
    }
}

impl<F: ?Sized> Clone for Step<F> {
    fn clone(&self) -> Self {
        Step {
            name: self.name.clone(),
            on_error: self.on_error,
            filter: self.filter.clone(),
            author: self.author,
            origin: self.origin.clone(),
        }
    }
}

impl<F: ?Sized> fmt::Debug for Step<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "filter `{}` failed in {}", self.filter, self.phase)
    }
}

impl std::error::Error for Failed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.error)
    }
}

/// Normalises the target that a filter chose; one that is bad is as if it had not been chosen.
pub(super) fn settled(cx: &mut Context<'_>, normalise: Normalise) -> Result<()> {
    let Some(before) = cx.replaced.take() else {
        return Ok(());
    };
    match normalise(cx.target) {
        Ok(target) => *cx.target = target,
        Err(why) => {
            let wrong = std::mem::replace(cx.target, before);
            return Err(format!("cannot send {wrong:?}: {why}").into());
        }
    }
    Ok(())
}

pub(super) fn report(
    filter: &str,
    phase: &str,
    error: &(dyn std::error::Error + Send + Sync + 'static),
    route: &str,
) {
    // Its text may hold what a client sent.
    let said: String = error
        .to_string()
        .chars()
        .take(MAX_SAID)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    error!("filter `{filter}` failed in {phase}: {said} (route {route})");
}

/// Characters of an error that the log shows.
const MAX_SAID: usize = 1000;
