//! Which of several primaries is the one: after a promotion while the old primary lives, both
//! report that they take writes.
//!
//! The only verdict on an endpoint that others have a part in. Invariants: only primaries of one
//! group are compared, and the higher term wins; a primary that was outranked stays out, also while
//! the winner is down, until it is no primary any more or the winner leaves the configuration,
//! because what is written to it is lost. Settled after each check.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Upstream;
use super::endpoint::Endpoint;
use super::term::Term;

impl Upstream {
    /// Compares the primaries. True when one of them is out, or no longer, because of it.
    pub(super) fn settle_primaries(&self) -> bool {
        let set = self.endpoints();
        let claims: Vec<(&Arc<Endpoint>, Term)> = set
            .iter()
            .filter_map(|endpoint| Some((endpoint, endpoint.claim()?)))
            .collect();
        let mut news = false;
        for endpoint in set.iter() {
            let winner = endpoint.claim().and_then(|term| {
                let rivals = claims.iter().filter(|(_, other)| other.group == term.group);
                let winner = rivals.max_by_key(|(_, other)| other.number)?;
                (winner.1.number > term.number).then_some((term, *winner))
            });
            if endpoint.outrank(winner.is_some()) == winner.is_some() {
                continue;
            }
            news = true;
            match winner {
                Some((term, winner)) => self.tell_of_two(endpoint, term, winner),
                None => log::info!(
                    "endpoint is no rival of another primary any more: upstream={} endpoint={} addr={}",
                    self.label(),
                    endpoint.label(),
                    endpoint.addr()
                ),
            }
        }
        self.tell_of_equals(&claims);
        news
    }

    fn tell_of_two(&self, endpoint: &Endpoint, term: Term, winner: (&Arc<Endpoint>, Term)) {
        let (winner, higher) = winner;
        let why = format!(
            "another primary was promoted after it: this one has timeline or term {}, {} has {}; it is \
             out until it follows, or until {} is no longer configured",
            term.number,
            winner.addr(),
            higher.number,
            winner.label(),
        );
        log::error!(
            "two primaries: upstream={} endpoint={} addr={}: {why}",
            self.label(),
            endpoint.label(),
            endpoint.addr()
        );
        endpoint.note_error(why);
    }

    /// Copies that were started beside each other have equal terms: nothing says which is the one.
    fn tell_of_equals(&self, claims: &[(&Arc<Endpoint>, Term)]) {
        let tied = claims.iter().enumerate().find_map(|(nth, (one, term))| {
            let mut others = claims[nth + 1..].iter();
            let other = others.find(|(other, its)| {
                its == term && !one.is_outranked() && other.label() != one.label()
            });
            other.map(|(other, _)| (one, other))
        });
        let was_tied = self.lineage.tied.swap(tied.is_some(), Ordering::Relaxed);
        if let (Some((one, other)), false) = (tied, was_tied) {
            log::warn!(
                "two primaries with equal timelines or terms, both are used: upstream={} endpoints={} {}",
                self.label(),
                one.label(),
                other.label()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{DbType, HealthCheck, Probe, Target, UpstreamSpec};
    use crate::upstream::fixture::{any, number, spec, upstream, weighted};
    use crate::upstream::{Pick, Role};

    /// Three databases that are asked for their role.
    fn databases(endpoints: usize) -> UpstreamSpec {
        UpstreamSpec {
            health_check: Some(HealthCheck {
                probe: Probe::Tcp {
                    db_type: DbType::Postgres,
                    user: Some("probe".to_owned()),
                    password: None,
                },
                interval: Duration::from_secs(5),
                timeout: Duration::from_secs(1),
                healthy_after: 1,
                unhealthy_after: 1,
            }),
            ..spec(weighted(&vec![1; endpoints]))
        }
    }

    /// A check of the endpoint with this number.
    fn check(upstream: &Upstream, number: usize, result: Result<(Role, Option<Term>), &str>) {
        let set = upstream.endpoints();
        let endpoint = set.iter().nth(number - 1).unwrap();
        let policy = upstream.spec().health_check.clone().unwrap();
        let result = result.map_err(str::to_owned).map(|(role, term)| {
            endpoint.note_term(term);
            role
        });
        upstream.note_check(endpoint, &policy, &result);
    }

    fn primary(group: u64, number: u64) -> Result<(Role, Option<Term>), &'static str> {
        Ok((Role::Primary, Some(Term { group, number })))
    }

    async fn picked(upstream: &Arc<Upstream>, target: Target) -> Vec<u8> {
        let mut picked = Vec::new();
        for _ in 0..12 {
            let want = Pick { target, ..any() };
            picked.extend(upstream.pick(want).await.ok().map(|lease| number(&lease)));
        }
        picked.sort_unstable();
        picked.dedup();
        picked
    }

    #[tokio::test]
    async fn the_primary_that_was_promoted_last_is_the_only_one() {
        let upstream = upstream(databases(3));
        check(&upstream, 1, primary(7, 1));
        check(&upstream, 2, Ok((Role::Replica, None)));
        check(&upstream, 3, Ok((Role::Replica, None)));
        assert_eq!(picked(&upstream, Target::Primary).await, [1]);
        check(&upstream, 2, primary(7, 2));
        assert_eq!(picked(&upstream, Target::Primary).await, [2]);
        // Nobody reads from it either.
        assert_eq!(picked(&upstream, Target::Any).await, [2, 3]);
        let set = upstream.endpoints();
        let old = set.iter().next().unwrap();
        assert!(!old.is_healthy() && old.role() == Role::Primary);
        let why = old.last_error().unwrap().text;
        assert!(why.contains("term 1, 10.0.0.2:80 has 2"), "{why}");
        // Checks that it passes change nothing.
        check(&upstream, 1, primary(7, 1));
        assert_eq!(picked(&upstream, Target::Primary).await, [2]);
        // It follows.
        check(&upstream, 1, Ok((Role::Replica, None)));
        assert_eq!(picked(&upstream, Target::Replica).await, [1, 3]);
        assert_eq!(picked(&upstream, Target::Primary).await, [2]);
    }

    #[tokio::test]
    async fn who_was_outranked_stays_out_while_the_winner_is_down_and_over_a_reload() {
        let old = upstream(databases(2));
        check(&old, 1, primary(7, 1));
        check(&old, 2, primary(7, 2));
        check(&old, 2, Err("connect: refused"));
        assert!(picked(&old, Target::Primary).await.is_empty());
        assert!(picked(&old, Target::Any).await.is_empty());
        let mut other = databases(2);
        other.queue_timeout = Duration::from_secs(1);
        let new = Upstream::new(Arc::new(other), Some(&old));
        assert!(picked(&new, Target::Primary).await.is_empty());
        // Without the winner it is the one.
        let alone = Upstream::new(Arc::new(databases(1)), Some(&new));
        check(&alone, 1, primary(7, 1));
        assert_eq!(picked(&alone, Target::Primary).await, [1]);
    }

    #[tokio::test]
    async fn primaries_that_cannot_be_compared_all_serve() {
        for terms in [
            [primary(7, 1), primary(8, 2)],
            [primary(7, 2), primary(7, 2)],
            [primary(7, 1), Ok((Role::Primary, None))],
            [Ok((Role::Primary, None)), Ok((Role::Primary, None))],
        ] {
            let upstream = upstream(databases(2));
            check(&upstream, 1, terms[0]);
            check(&upstream, 2, terms[1]);
            assert_eq!(
                picked(&upstream, Target::Primary).await,
                [1, 2],
                "{terms:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_configuration_that_asks_for_no_role_keeps_nobody_out() {
        let old = upstream(databases(2));
        check(&old, 1, primary(7, 1));
        check(&old, 2, primary(7, 2));
        assert_eq!(picked(&old, Target::Any).await, [2]);
        let mut blind = databases(2);
        if let Some(check) = &mut blind.health_check {
            check.probe = Probe::Tcp {
                db_type: DbType::Postgres,
                user: None,
                password: None,
            };
        }
        let new = Upstream::new(Arc::new(blind), Some(&old));
        assert_eq!(picked(&new, Target::Any).await, [1, 2]);
    }
}
