//! Why a request head or body does not pass: the status and the words.

use crate::error::Reason;

/// Why a head does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status of the answer.
    pub status: u16,
    /// The word for access log and metrics.
    pub reason: Reason,
    /// Which rule was broken, for the log and for the client. Holds nothing of what was sent.
    pub why: &'static str,
}

impl Refusal {
    /// The head was not whole when its time was over.
    pub const TIMEOUT: Refusal = Refusal {
        status: 408,
        reason: Reason::HeaderTimeout,
        why: "head not whole in time",
    };
}

pub(super) const fn bad(why: &'static str) -> Refusal {
    Refusal {
        status: 400,
        reason: Reason::BadRequest,
        why,
    }
}

pub(super) const fn too_large(why: &'static str) -> Refusal {
    Refusal {
        status: 431,
        reason: Reason::HeaderTooLarge,
        why,
    }
}
