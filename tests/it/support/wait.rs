//! Waiting for a condition, and keeping tests that measure time apart from tests that make load.
//!
//! No test sleeps and hopes.

use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

/// Returns once `condition` holds; panics with `what` when it still does not after `within`.
#[track_caller]
pub fn eventually(within: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + within;
    while !condition() {
        assert!(Instant::now() < end, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Held by a test that keeps both cores busy: no test that holds [`timed`] runs beside it.
pub fn loaded() -> RwLockWriteGuard<'static, ()> {
    TURN.write()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Held by a test that asserts an upper bound in the range of milliseconds.
pub fn timed() -> RwLockReadGuard<'static, ()> {
    TURN.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

static TURN: RwLock<()> = RwLock::new(());
