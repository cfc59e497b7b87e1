//! What a filter does in the background.
//!
//! Invariants: a task begins when the configuration that its filter is in is in force, so never for
//! one that is refused or only checked; it ends with the filter, or with the gateway; one that fails
//! or panics ends alone.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use log::error;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::Result;
use super::catch_panic::catch_panic_future;

/// The tasks of one filter. Dropped with it, which ends them.
#[derive(Default)]
pub(super) struct Tasks {
    waiting: Mutex<Vec<Task>>,
    running: Mutex<Vec<AbortHandle>>,
}

pub(super) struct Task {
    pub(super) name: String,
    pub(super) future: Pin<Box<dyn Future<Output = Result<()>> + Send>>,
}

impl Tasks {
    pub(super) fn new(waiting: Vec<Task>) -> Tasks {
        Tasks {
            waiting: Mutex::new(waiting),
            running: Mutex::default(),
        }
    }

    /// Starts those that have not been. `filter` is for the log.
    pub(super) fn start(&self, filter: &str, runtime: &Handle) {
        for Task { name, future } in locked(&self.waiting).drain(..) {
            let filter = filter.to_owned();
            let running = runtime.spawn(async move {
                if let Err(why) = catch_panic_future(|| future).await {
                    error!("filter `{filter}`: background task `{name}` ended: {why}");
                }
            });
            locked(&self.running).push(running.abort_handle());
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in locked(&self.running).drain(..) {
            task.abort();
        }
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").finish_non_exhaustive()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
