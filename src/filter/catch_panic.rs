//! A call into code that is not ours: a panic is its error.
//!
//! Every call of a filter goes through it. Invariant: what panics in here ends here; the worker and
//! its other connections go on.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::Poll;

use super::Result;

/// Calls `call`.
pub(super) fn catch_panic<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    // What a filter may have left half done is its request's, which ends, or its own.
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| Err(panic_text(&*panic).into()))
}

/// Polls what `call` makes to its end.
pub(super) async fn catch_panic_future<'f, T>(
    call: impl FnOnce() -> Pin<Box<dyn Future<Output = Result<T>> + Send + 'f>>,
) -> Result<T> {
    let mut future = catch_panic(|| Ok(call()))?;
    poll_fn(|task| {
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(task)));
        polled.unwrap_or_else(|panic| Poll::Ready(Err(panic_text(&*panic).into())))
    })
    .await
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let said = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text.as_str(),
        _ => "something that is no text",
    };
    format!("it panicked: {said}")
}
