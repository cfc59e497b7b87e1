//! The retry budget of one upstream: at most a fifth of its requests in flight may be retries,
//! but three always.
//!
//! Invariant: a permit is given back by Drop. Source of the numbers: Envoy's retry budget (20 %,
//! minimum 3).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many requests of one upstream are being retried right now.
#[derive(Debug, Default)]
pub struct RetryBudget {
    retrying: Arc<AtomicUsize>,
}

/// One request that may be sent again.
#[derive(Debug)]
pub struct RetryPermit {
    retrying: Arc<AtomicUsize>,
}

impl RetryBudget {
    /// A permit, unless the budget for `in_flight` requests is used up.
    pub fn take(&self, in_flight: usize) -> Option<RetryPermit> {
        let most = (in_flight / SHARE).max(ALWAYS);
        self.retrying
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
                (now < most).then_some(now + 1)
            })
            .ok()?;
        Some(RetryPermit {
            retrying: self.retrying.clone(),
        })
    }
}

impl Drop for RetryPermit {
    fn drop(&mut self) {
        self.retrying.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One in five.
const SHARE: usize = 5;
const ALWAYS: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_the_requests_in_flight_but_three() {
        let budget = RetryBudget::default();
        let permits: Vec<_> = std::iter::from_fn(|| budget.take(2)).collect();
        assert_eq!(permits.len(), 3);
        drop(permits);
        let permits: Vec<_> = std::iter::from_fn(|| budget.take(64)).collect();
        assert_eq!(permits.len(), 12);
        drop(permits);
        assert!(budget.take(0).is_some());
    }
}
