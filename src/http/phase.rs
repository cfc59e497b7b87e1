//! A phase of Pingora's that is over, as the future that its trait wants.
//!
//! Pingora's trait has each phase return a boxed future, and an `async fn` in it pays for a box that
//! holds what the phase was given: a twentieth of a small request, all of them together. A box of
//! nothing takes no memory.

use std::future::{Future, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use pingora_core::Result;

/// A phase, as Pingora awaits it.
pub(super) type Phase<'f, T> = Pin<Box<dyn Future<Output = T> + Send + 'f>>;

/// A phase that is over.
pub(super) fn over<'f>(result: Result<()>) -> Phase<'f, Result<()>> {
    match result {
        Ok(()) => Box::pin(Over),
        Err(error) => Box::pin(ready(Err(error))),
    }
}

/// A phase that lets the request go on to its endpoint.
pub(super) fn go_on<'f>() -> Phase<'f, Result<bool>> {
    Box::pin(GoOn)
}

/// The last phase.
pub(super) fn logged<'f>() -> Phase<'f, ()> {
    Box::pin(Logged)
}

// These hold nothing, so that their boxes are not allocated.
struct Over;
struct GoOn;
struct Logged;

impl Future for Over {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Future for GoOn {
    type Output = Result<bool>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<bool>> {
        Poll::Ready(Ok(true))
    }
}

impl Future for Logged {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}
