//! Passive ejection of one endpoint: how often it failed in a row, and until when it is out.
//!
//! Invariant: `until` is read without a lock and zero means "in"; how many of an upstream may be
//! out at once is the upstream's business.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::lock::lock;
use crate::config::Ejection;

/// The longest ejection, unless `base` alone is longer (as Envoy's `max_ejection_time`).
const LONGEST: Duration = Duration::from_secs(300);

/// Ejection state of one endpoint.
#[derive(Debug)]
pub(super) struct Ejector {
    /// `until` counts from here.
    born: Instant,
    /// Failures since the last success.
    streak: AtomicU32,
    /// Nanoseconds since `born`; 0: not ejected.
    until: AtomicU64,
    history: Mutex<History>,
}

#[derive(Debug)]
struct History {
    /// Ejections that have not been forgiven yet: the factor of the next one.
    times: u32,
    /// When the last one ended.
    ended: Instant,
}

impl Ejector {
    pub(super) fn new() -> Ejector {
        let born = Instant::now();
        Ejector {
            born,
            streak: AtomicU32::new(0),
            until: AtomicU64::new(0),
            history: Mutex::new(History {
                times: 0,
                ended: born,
            }),
        }
    }

    /// When the ejection ends or ended; `None` when not ejected.
    pub(super) fn until(&self) -> Option<Instant> {
        match self.until.load(Ordering::SeqCst) {
            0 => None,
            nanos => Some(self.born + Duration::from_nanos(nanos)),
        }
    }

    /// A success ends the streak. Writes only when there is one: this runs for every request.
    pub(super) fn note_success(&self) {
        if self.streak.load(Ordering::Relaxed) != 0 {
            self.streak.store(0, Ordering::Relaxed);
        }
    }

    /// Counts a failure. True when it is time to eject: `consecutive_failures` in a row while in.
    pub(super) fn note_failure(&self, policy: &Ejection) -> bool {
        if self.until().is_some_and(|until| until > Instant::now()) {
            // What fails now was sent before the ejection, or while it is undone for all.
            return false;
        }
        self.streak.fetch_add(1, Ordering::Relaxed) + 1 >= policy.consecutive_failures
    }

    /// Puts the endpoint out and returns for how long: `base` times the number of ejections, at
    /// most five minutes. That number goes down by one for each `base` of time spent in.
    pub(super) fn eject(&self, policy: &Ejection, now: Instant) -> Duration {
        let mut history = lock(&self.history);
        if let Some(until) = self.until() {
            // It ended by itself and nobody has looked since.
            history.ended = until.min(now);
        }
        let spent_in = now.saturating_duration_since(history.ended);
        let forgiven = spent_in.as_nanos() / policy.base.as_nanos().max(1);
        history.times = history
            .times
            .saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
            .saturating_add(1);
        let out = policy
            .base
            .saturating_mul(history.times)
            .min(LONGEST.max(policy.base));
        let until = now.saturating_duration_since(self.born).saturating_add(out);
        let nanos = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        self.streak.store(0, Ordering::Relaxed);
        self.until.store(nanos.max(1), Ordering::SeqCst);
        out
    }

    /// Takes the endpoint in again. False when it was not out.
    pub(super) fn reinstate(&self, now: Instant) -> bool {
        let mut history = lock(&self.history);
        let Some(until) = self.until() else {
            return false;
        };
        history.ended = until.min(now);
        self.streak.store(0, Ordering::Relaxed);
        self.until.store(0, Ordering::SeqCst);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{StatusSet, UpstreamSpec};
    use crate::upstream::fixture::{ejecting, next, number, pick, upstream, weighted};
    use crate::upstream::{Endpoint, Outcome, Upstream};

    fn first(upstream: &Upstream) -> Arc<Endpoint> {
        Arc::clone(upstream.endpoints().iter().next().unwrap())
    }

    /// Ends `times` leases of the first endpoint with `outcome`.
    async fn end(upstream: &Arc<Upstream>, times: usize, outcome: Outcome) {
        let mut left = times;
        while left > 0 {
            let lease = pick(upstream).await.unwrap();
            if number(&lease) == 1 {
                lease.finish(outcome);
                left -= 1;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_put_an_endpoint_out_for_the_base_time() {
        let upstream = upstream(ejecting(3, weighted(&[1, 1])));
        end(&upstream, 2, Outcome::Failed).await;
        assert!(first(&upstream).is_healthy());
        end(&upstream, 1, Outcome::ConnectFailed).await;
        assert!(!first(&upstream).is_healthy());
        for _ in 0..10 {
            assert_eq!(next(&upstream).await, 2);
        }
        tokio::time::advance(Duration::from_millis(999)).await;
        assert_eq!(next(&upstream).await, 2);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(first(&upstream).is_healthy());
        let picked = [next(&upstream).await, next(&upstream).await];
        assert!(picked.contains(&1), "{picked:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_in_between_starts_the_count_anew() {
        let upstream = upstream(ejecting(3, weighted(&[1, 1])));
        for _ in 0..5 {
            end(&upstream, 2, Outcome::Failed).await;
            end(&upstream, 1, Outcome::Ok).await;
        }
        assert!(first(&upstream).is_healthy());
        assert_eq!(first(&upstream).failures(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_counts_by_its_status_and_ends_the_row_when_it_does_not_count() {
        for (statuses, counted, others) in [
            (
                "502-504",
                &[502, 503, 504][..],
                &[200, 404, 429, 500, 501, 505, 507][..],
            ),
            ("500-599", &[500, 501, 505, 507, 599], &[200, 404, 429]),
            ("429,503", &[429, 503], &[500, 502, 504]),
        ] {
            let spec = || {
                let mut spec = ejecting(2, weighted(&[1, 1]));
                spec.ejection = spec.ejection.map(|ejection| Ejection {
                    statuses: StatusSet::parse(statuses).unwrap(),
                    ..ejection
                });
                upstream(spec)
            };
            for status in counted {
                let upstream = spec();
                end(&upstream, 1, Outcome::Answered(*status)).await;
                end(&upstream, 1, Outcome::Failed).await;
                assert!(first(&upstream).is_ejected(), "{statuses} {status}");
            }
            for status in others {
                let upstream = spec();
                for _ in 0..3 {
                    end(&upstream, 1, Outcome::Failed).await;
                    end(&upstream, 1, Outcome::Answered(*status)).await;
                }
                assert!(!first(&upstream).is_ejected(), "{statuses} {status}");
                assert_eq!(first(&upstream).failures(), 3);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_leave_and_leases_without_outcome_count_as_nothing() {
        let upstream = upstream(ejecting(3, weighted(&[1, 1])));
        end(&upstream, 2, Outcome::Failed).await;
        end(&upstream, 5, Outcome::Neutral).await;
        drop(pick(&upstream).await.unwrap());
        assert!(first(&upstream).is_healthy());
        // Neither did they start the count anew.
        end(&upstream, 1, Outcome::Failed).await;
        assert!(!first(&upstream).is_healthy());
    }

    #[tokio::test(start_paused = true)]
    async fn without_ejection_nothing_is_put_out() {
        let upstream = upstream(UpstreamSpec {
            ejection: None,
            ..ejecting(3, weighted(&[1, 1]))
        });
        end(&upstream, 50, Outcome::Failed).await;
        assert!(first(&upstream).is_healthy());
    }

    #[tokio::test(start_paused = true)]
    async fn each_ejection_is_longer_up_to_five_minutes_and_time_in_is_forgiven() {
        let policy = Ejection {
            base: Duration::from_secs(60),
            ..ejecting(1, Vec::new()).ejection.unwrap()
        };
        let ejector = Ejector::new();
        let mut lengths = Vec::new();
        for _ in 0..7 {
            assert!(ejector.note_failure(&policy));
            lengths.push(ejector.eject(&policy, Instant::now()).as_secs());
            assert!(!ejector.note_failure(&policy), "it is out already");
            tokio::time::advance(Duration::from_secs(lengths[lengths.len() - 1])).await;
        }
        assert_eq!(lengths, [60, 120, 180, 240, 300, 300, 300]);
        // Seven times; four minutes in forgive four.
        tokio::time::advance(Duration::from_secs(240)).await;
        assert_eq!(ejector.eject(&policy, Instant::now()).as_secs(), 240);
        assert!(ejector.reinstate(Instant::now()));
        assert!(!ejector.reinstate(Instant::now()));
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(ejector.eject(&policy, Instant::now()).as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_max_percent_are_out_but_one_may_always_be() {
        for (max_percent, out) in [(0, 1), (10, 1), (40, 2), (100, 5)] {
            let mut spec = ejecting(1, weighted(&[1; 5]));
            spec.ejection = spec.ejection.map(|ejection| Ejection {
                max_percent,
                ..ejection
            });
            let upstream = upstream(spec);
            let mut leases = Vec::new();
            for _ in 0..5 {
                leases.push(pick(&upstream).await.unwrap());
            }
            for lease in leases {
                lease.finish(Outcome::Failed);
            }
            let set = upstream.endpoints();
            assert_eq!(set.iter().filter(|e| e.is_ejected()).count(), out);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_ejection_survives_a_reload() {
        let old = upstream(ejecting(1, weighted(&[1, 1])));
        end(&old, 1, Outcome::Failed).await;
        let new = Upstream::new(Arc::new(ejecting(2, weighted(&[5, 1, 1]))), Some(&old));
        assert!(first(&new).is_ejected());
        assert_eq!(first(&new).weight().as_u32(), 5);
        for _ in 0..20 {
            assert_ne!(next(&new).await, 1);
        }
        let off = UpstreamSpec {
            ejection: None,
            ..new.spec().as_ref().clone()
        };
        let off = Upstream::new(Arc::new(off), Some(&new));
        assert_eq!(next(&off).await, 1);
    }
}
