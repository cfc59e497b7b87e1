//! A closure as a filter, and a filter that several own.
//!
//! A closure takes part in one phase, so that the others cost nothing.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Context, End, Filter, Last, Phases, RequestHead, ResponseHead, Result, Verdict};

/// A closure that sees each request before an endpoint is picked.
pub fn from_fn<C>(call: C) -> FromFn<C>
where
    C: Fn(&mut Context<'_>) -> Result<Verdict> + Send + Sync + 'static,
{
    FromFn { call }
}

/// As [`from_fn`], for a closure or a function that waits: `from_async_fn(async move |cx| …)`.
///
/// It is cloned for each request, so what it captures is best behind an `Arc`. Its own function
/// because Rust cannot tell `|cx|` from `async |cx|` before it knows what `cx` is.
pub fn from_async_fn<C>(call: C) -> FromAsyncFn<C>
where
    C: AsyncFnOnce(&mut Context<'_>) -> Result<Verdict>,
    C: for<'f, 'c> CallAsync<&'f mut Context<'c>> + Clone + Send + Sync + 'static,
{
    FromAsyncFn { call }
}

/// A closure that sees the head of each response before the client does.
pub fn from_response_fn<C>(call: C) -> FromResponseFn<C>
where
    C: Fn(&mut Context<'_>, &mut ResponseHead<'_>) -> Result<()> + Send + Sync + 'static,
{
    FromResponseFn { call }
}

/// See [`from_fn`].
#[derive(Clone, Copy)]
pub struct FromFn<C> {
    call: C,
}

#[async_trait]
impl<C> Filter for FromFn<C>
where
    C: Fn(&mut Context<'_>) -> Result<Verdict> + Send + Sync + 'static,
{
    fn phases(&self) -> Phases {
        Phases::REQUEST
    }

    async fn request(&self, cx: &mut Context<'_>) -> Result<Verdict> {
        (self.call)(cx)
    }
}

/// See [`from_async_fn`].
#[derive(Clone, Copy)]
pub struct FromAsyncFn<C> {
    call: C,
}

#[async_trait]
impl<C> Filter for FromAsyncFn<C>
where
    C: for<'f, 'c> CallAsync<&'f mut Context<'c>> + Clone + Send + Sync + 'static,
{
    fn phases(&self) -> Phases {
        Phases::REQUEST
    }

    async fn request(&self, cx: &mut Context<'_>) -> Result<Verdict> {
        self.call.clone().call_async(cx).await
    }
}

/// What an async closure makes may go from one thread to another. `AsyncFn` itself cannot ask for
/// that: to name the future of a closure that borrows from itself takes return type notation
/// (rust-lang/rust#109417). A clone that is called once borrows nothing.
pub trait CallAsync<A> {
    type Future: Future<Output = Result<Verdict>> + Send;

    fn call_async(self, argument: A) -> Self::Future;
}

impl<A, C, F> CallAsync<A> for C
where
    C: FnOnce(A) -> F,
    F: Future<Output = Result<Verdict>> + Send,
{
    type Future = F;

    fn call_async(self, argument: A) -> F {
        self(argument)
    }
}

/// See [`from_response_fn`].
#[derive(Clone, Copy)]
pub struct FromResponseFn<C> {
    call: C,
}

impl<C> Filter for FromResponseFn<C>
where
    C: Fn(&mut Context<'_>, &mut ResponseHead<'_>) -> Result<()> + Send + Sync + 'static,
{
    fn phases(&self) -> Phases {
        Phases::RESPONSE
    }

    fn response(&self, cx: &mut Context<'_>, head: &mut ResponseHead<'_>) -> Result<()> {
        (self.call)(cx, head)
    }
}

/// One filter for several routes, or one whose state other code reads, too.
#[async_trait]
impl<F: Filter + ?Sized> Filter for Arc<F> {
    fn phases(&self) -> Phases {
        (**self).phases()
    }

    async fn request(&self, cx: &mut Context<'_>) -> Result<Verdict> {
        (**self).request(cx).await
    }

    fn request_body(
        &self,
        cx: &mut Context<'_>,
        body: &mut Option<Bytes>,
        last: Last,
    ) -> Result<()> {
        (**self).request_body(cx, body, last)
    }

    fn upstream_request(&self, cx: &mut Context<'_>, head: &mut RequestHead<'_>) -> Result<()> {
        (**self).upstream_request(cx, head)
    }

    fn response(&self, cx: &mut Context<'_>, head: &mut ResponseHead<'_>) -> Result<()> {
        (**self).response(cx, head)
    }

    fn response_body(
        &self,
        cx: &mut Context<'_>,
        body: &mut Option<Bytes>,
        last: Last,
    ) -> Result<()> {
        (**self).response_body(cx, body, last)
    }

    fn log(&self, cx: &mut Context<'_>, end: &End) {
        (**self).log(cx, end)
    }
}
