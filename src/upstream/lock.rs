//! How a lock is taken on this floor.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks; what these locks guard is whole between two statements, so a panic elsewhere while one
/// was held does not matter.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
