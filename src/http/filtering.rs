//! What the filters of one request keep with it.

use http::Extensions;

use crate::filter::{Attempt, RequestId};

/// Kept from phase to phase.
#[derive(Default)]
pub(super) struct Filtering {
    pub(super) extensions: Extensions,
    pub(super) attempt: Attempt,
    /// How many filters of the chain have let the request pass: those that see its response.
    pub(super) passed: usize,
}

impl Filtering {
    /// A new try begins.
    pub(super) fn begin_try(&mut self) {
        self.attempt.extensions.clear();
    }

    /// The id that a filter gave the request.
    pub(super) fn request_id(&self) -> Option<&RequestId> {
        self.extensions.get()
    }
}
