//! How many connections a thread carries, HTTP and TCP alike.
//!
//! The thread that accepts counts up; a guard counts down when it is dropped, a TCP session's
//! before the session has fully ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The count of one thread. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Load(Arc<AtomicUsize>);

/// A connection in it, until it is dropped.
#[derive(Debug)]
pub struct Carried(Load);

impl Load {
    /// Connections carried now, HTTP and TCP together; may be out of date when it is read.
    pub fn connections(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// One more.
    pub fn carry(&self) -> Carried {
        self.0.fetch_add(1, Ordering::Relaxed);
        Carried(self.clone())
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
