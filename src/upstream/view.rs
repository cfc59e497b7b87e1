//! The usable part of a set of endpoints at one moment, ready to be picked from.
//!
//! Its own file because it is where health becomes a decision: who is in, whether ejection is
//! undone for all, whether the backups serve. Invariant: a view never changes; it is valid until
//! the upstream's change count moves or `until` passes. Built by the upstream, off the common path.

use std::sync::Arc;

use tokio::time::Instant;

use super::balance::Balancer;
use super::endpoint::Endpoint;
use super::set::EndpointSet;
use crate::config::Balance;

/// See the module.
#[derive(Debug)]
pub(super) struct View {
    pub(super) balancer: Balancer,
    /// The change count this was built from.
    pub(super) changes: u64,
    /// The earliest end of an ejection.
    pub(super) until: Option<Instant>,
    pub(super) regime: Regime,
}

/// Whether ejected endpoints are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Regime {
    Normal,
    /// Fewer than half would be left without the ejected ones: they serve, too.
    FailOpen,
}

impl View {
    pub(super) fn new(
        set: &EndpointSet,
        balance: &Balance,
        changes: u64,
        now: Instant,
        position: usize,
    ) -> View {
        let ejected_until =
            |endpoint: &Arc<Endpoint>| endpoint.ejected_until().filter(|until| *until > now);
        let passing = set.iter().filter(|e| e.passes_checks()).count();
        let left = set
            .iter()
            .filter(|e| e.passes_checks() && ejected_until(e).is_none())
            .count();
        let all = set.len() + set.unresolved();
        let regime = if left < passing && left * 2 < all {
            Regime::FailOpen
        } else {
            Regime::Normal
        };
        let usable = |backup: bool| -> Vec<(usize, Arc<Endpoint>)> {
            set.iter()
                .enumerate()
                .filter(|(_, e)| e.is_backup() == backup && e.passes_checks())
                .filter(|(_, e)| regime == Regime::FailOpen || ejected_until(e).is_none())
                .map(|(slot, e)| (slot, Arc::clone(e)))
                .collect()
        };
        let first = usable(false);
        let backup = first.is_empty();
        let members = if backup { usable(true) } else { first };
        View {
            balancer: Balancer::new(balance, members, set.len(), set.ring(backup), position),
            changes,
            until: set.iter().filter_map(ejected_until).min(),
            regime,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{HashOn, HealthCheck, Probe, StatusSet, UpstreamSpec};
    use crate::upstream::fixture::{
        any, ejecting, endpoint, next, number, pick, upstream, weighted,
    };
    use crate::upstream::{Outcome, Pick, PickError, Upstream};

    fn checked(spec: UpstreamSpec) -> UpstreamSpec {
        UpstreamSpec {
            health_check: Some(HealthCheck {
                probe: Probe::Http {
                    path: "/".to_owned(),
                    status: StatusSet::parse("200-399").unwrap(),
                },
                interval: Duration::from_secs(5),
                timeout: Duration::from_secs(1),
                healthy_after: 1,
                unhealthy_after: 1,
            }),
            ..spec
        }
    }

    /// Lets the endpoints with these numbers fail their check, or pass.
    fn check(upstream: &Upstream, numbers: &[usize], result: &Result<(), String>) {
        let policy = upstream.spec().health_check.clone().unwrap();
        let set = upstream.endpoints();
        for number in numbers {
            let endpoint = set.iter().nth(number - 1).unwrap();
            upstream.note_check(endpoint, &policy, result);
        }
    }

    async fn fail(upstream: &Arc<Upstream>, victim: u8) {
        loop {
            let lease = pick(upstream).await.unwrap();
            if number(&lease) == victim {
                return lease.finish(Outcome::Failed);
            }
        }
    }

    fn regime(upstream: &Upstream) -> Regime {
        upstream.view().regime
    }

    async fn picked(upstream: &Arc<Upstream>) -> Vec<u8> {
        let mut picked = Vec::new();
        for _ in 0..20 {
            picked.push(next(upstream).await);
        }
        picked.sort_unstable();
        picked.dedup();
        picked
    }

    #[tokio::test(start_paused = true)]
    async fn ejection_is_undone_while_fewer_than_half_would_be_left() {
        let upstream = upstream(ejecting(1, weighted(&[1; 4])));
        fail(&upstream, 1).await;
        fail(&upstream, 2).await;
        // Half is enough.
        assert_eq!(picked(&upstream).await, [3, 4]);
        assert_eq!(regime(&upstream), Regime::Normal);
        tokio::time::advance(Duration::from_millis(500)).await;
        fail(&upstream, 3).await;
        assert_eq!(picked(&upstream).await, [1, 2, 3, 4]);
        assert_eq!(regime(&upstream), Regime::FailOpen);
        // The first two are in again by themselves: the third stays out.
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(picked(&upstream).await, [1, 2, 4]);
        assert_eq!(regime(&upstream), Regime::Normal);
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_endpoint_is_never_without_traffic_because_of_ejection() {
        let upstream = upstream(ejecting(1, weighted(&[1])));
        for _ in 0..10 {
            fail(&upstream, 1).await;
        }
        assert_eq!(next(&upstream).await, 1);
        assert!(!upstream.health()[0].1);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_checks_keep_out_even_when_ejection_is_undone() {
        let upstream = upstream(checked(ejecting(1, weighted(&[1; 4]))));
        check(&upstream, &[1, 2], &Err("refused".to_owned()));
        assert_eq!(picked(&upstream).await, [3, 4]);
        fail(&upstream, 3).await;
        assert_eq!(regime(&upstream), Regime::FailOpen);
        assert_eq!(picked(&upstream).await, [3, 4]);
        check(&upstream, &[3, 4], &Err("refused".to_owned()));
        assert_eq!(
            pick(&upstream).await.unwrap_err(),
            PickError::NoHealthyEndpoint
        );
        check(&upstream, &[2], &Ok(()));
        assert_eq!(picked(&upstream).await, [2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_passed_check_ends_an_ejection() {
        let upstream = upstream(checked(ejecting(1, weighted(&[1, 1]))));
        fail(&upstream, 1).await;
        assert_eq!(picked(&upstream).await, [2]);
        check(&upstream, &[1], &Ok(()));
        assert_eq!(picked(&upstream).await, [1, 2]);
    }

    #[tokio::test]
    async fn a_name_without_address_counts_as_down() {
        let mut endpoints = weighted(&[1, 1]);
        endpoints.push(endpoint("a.example:80"));
        endpoints.push(endpoint("b.example:80"));
        let upstream = upstream(ejecting(1, endpoints));
        fail(&upstream, 1).await;
        assert_eq!(regime(&upstream), Regime::FailOpen);
    }

    #[tokio::test]
    async fn backups_serve_only_while_nothing_else_is_usable() {
        for balance in [Balance::RoundRobin, Balance::Hash(HashOn::Path)] {
            let mut endpoints = weighted(&[1; 4]);
            endpoints[2].backup = true;
            endpoints[3].backup = true;
            let upstream = upstream(UpstreamSpec {
                balance,
                ..checked(ejecting(1, endpoints))
            });
            let ids: Vec<_> = upstream.endpoints().iter().map(|e| e.id()).collect();
            assert_eq!(picked(&upstream).await, [1, 2]);
            // Having been tried is no reason to use a backup.
            let again = Pick {
                avoid: &ids[..2],
                hash: Some(1),
                ..any()
            };
            assert!(number(&upstream.pick(again).await.unwrap()) <= 2);
            check(&upstream, &[1], &Err("refused".to_owned()));
            assert_eq!(picked(&upstream).await, [2]);
            check(&upstream, &[2], &Err("refused".to_owned()));
            assert_eq!(picked(&upstream).await, [3, 4]);
            check(&upstream, &[1], &Ok(()));
            assert_eq!(picked(&upstream).await, [1]);
        }
    }

    #[tokio::test]
    async fn who_waits_hears_that_nothing_is_left_or_that_something_came_back() {
        let mut endpoints = weighted(&[1, 1]);
        endpoints[0].max_connections = Some(1);
        endpoints[1].max_connections = Some(1);
        let upstream = upstream(checked(ejecting(1, endpoints)));
        check(&upstream, &[2], &Err("refused".to_owned()));
        let _held = pick(&upstream).await.unwrap();
        let wait = |upstream: &Arc<Upstream>| {
            let upstream = Arc::clone(upstream);
            tokio::spawn(async move { pick(&upstream).await.map(|lease| number(&lease)) })
        };
        let waiting = wait(&upstream);
        crate::upstream::fixture::eventually("queued", || upstream.queued() == 1).await;
        check(&upstream, &[2], &Ok(()));
        assert_eq!(waiting.await.unwrap(), Ok(2));

        check(&upstream, &[2], &Err("refused".to_owned()));
        let waiting = [wait(&upstream), wait(&upstream)];
        crate::upstream::fixture::eventually("queued", || upstream.queued() == 2).await;
        check(&upstream, &[1], &Err("refused".to_owned()));
        for waiting in waiting {
            assert_eq!(waiting.await.unwrap(), Err(PickError::NoHealthyEndpoint));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_the_endpoint_whose_ejection_ends() {
        let mut endpoints = weighted(&[1, 1]);
        endpoints[1].max_connections = Some(1);
        let upstream = upstream(ejecting(1, endpoints));
        fail(&upstream, 1).await;
        let held = pick(&upstream).await.unwrap();
        assert_eq!(number(&held), 2);
        let lease = pick(&upstream).await.unwrap();
        assert_eq!(number(&lease), 1);
        assert_eq!(lease.queued_for(), Duration::from_secs(1));
    }

    #[tokio::test]
    async fn a_reload_without_checks_takes_back_what_they_kept_out() {
        let old = upstream(checked(ejecting(1, weighted(&[1, 1]))));
        check(&old, &[1, 2], &Err("refused".to_owned()));
        let same = Upstream::new(
            Arc::new(checked(ejecting(2, weighted(&[1, 1])))),
            Some(&old),
        );
        assert!(pick(&same).await.is_err());
        let without = Upstream::new(Arc::new(ejecting(1, weighted(&[1, 1]))), Some(&same));
        assert_eq!(picked(&without).await, [1, 2]);
        // Making it has changed nothing for the one it replaces.
        assert!(pick(&same).await.is_err());
    }
}
