//! The usable part of a set of endpoints at one moment, ready to be picked from.
//!
//! Health becomes a decision here: who is in, whether ejection is undone for all, whether the
//! backups serve, who has the role that is asked for. Invariant: a view never changes; it is valid
//! until the upstream's change count moves or `until` passes. Built off the request path. Long
//! because two thirds of it are tests.

use std::sync::Arc;

use tokio::time::Instant;

use super::balance::Chooser;
use super::custom::Rule;
use super::endpoint::{Endpoint, Role};
use super::set::EndpointSet;
use crate::config::Target;

/// See the module.
#[derive(Debug)]
pub(super) struct View {
    any: Choice,
    /// `None` while no role is known, as it is with everything but databases.
    by_role: Option<Box<ByRole>>,
    /// The change count this was built from.
    pub(super) changes: u64,
    /// The earliest end of an ejection.
    pub(super) until: Option<Instant>,
}

/// What is picked from by role.
#[derive(Debug)]
struct ByRole {
    primary: Choice,
    replica: Choice,
    /// `None`: no replica is usable, any endpoint will do.
    preferred: Option<Chooser>,
}

/// The usable ones of some endpoints.
#[derive(Debug)]
struct Choice {
    balancer: Chooser,
    regime: Regime,
}

/// Whether ejected endpoints are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Regime {
    Normal,
    /// Fewer than half would be left without the ejected ones: they serve, too.
    FailOpen,
}

/// The regimes among all endpoints, the primaries and the replicas.
pub(super) type Regimes = [Regime; 3];

/// What the members of [`Regimes`] are called in the log.
pub(super) const GROUPS: [&str; 3] = ["all", "primary", "replica"];

impl View {
    /// `before`: the view that this one follows, for who is next in turn.
    pub(super) fn new(
        set: &EndpointSet,
        rule: Rule<'_>,
        changes: u64,
        now: Instant,
        before: Option<&View>,
    ) -> View {
        let build = Build { set, rule, now };
        let position = |target: Target| {
            let before = before.and_then(|view| view.balancer(target));
            before.map_or(0, Chooser::position)
        };
        let regime = build.regime(|_| true, set.unresolved());
        let any = Choice {
            balancer: build.balancer(regime, |_| true, position(Target::Any)),
            regime,
        };
        let with_role = |role: Role, target: Target| {
            let regime = build.regime(|e| e.role() == role, 0);
            Choice {
                balancer: build.balancer(regime, |e| e.role() == role, position(target)),
                regime,
            }
        };
        let by_role = set.iter().any(|e| e.role() != Role::Unknown).then(|| {
            // An ejected replica is worse than a primary: here the regime is that of all.
            let position = position(Target::PreferReplica);
            let preferred = build.balancer(regime, |e| e.role() == Role::Replica, position);
            Box::new(ByRole {
                primary: with_role(Role::Primary, Target::Primary),
                replica: with_role(Role::Replica, Target::Replica),
                preferred: (!preferred.is_empty()).then_some(preferred),
            })
        });
        View {
            any,
            by_role,
            changes,
            until: set.iter().filter_map(|e| ejected_until(e, now)).min(),
        }
    }

    /// A view that is replaced by the next pick, which so says what changes from `regimes`.
    pub(super) fn stale(mut self, regimes: Regimes) -> View {
        let [all, primary, replica] = regimes;
        self.changes = self.changes.wrapping_sub(1);
        self.any.regime = all;
        if let Some(by_role) = &mut self.by_role {
            by_role.primary.regime = primary;
            by_role.replica.regime = replica;
        }
        self
    }

    /// What to pick from; `None` when nothing is usable. Never an empty balancer.
    pub(super) fn balancer(&self, target: Target) -> Option<&Chooser> {
        let balancer = match (target, &self.by_role) {
            (Target::Any, _) | (Target::PreferReplica, None) => &self.any.balancer,
            (Target::PreferReplica, Some(roles)) => {
                roles.preferred.as_ref().unwrap_or(&self.any.balancer)
            }
            (Target::Primary, Some(roles)) => &roles.primary.balancer,
            (Target::Replica, Some(roles)) => &roles.replica.balancer,
            (Target::Primary | Target::Replica, None) => return None,
        };
        (!balancer.is_empty()).then_some(balancer)
    }

    pub(super) fn regimes(&self) -> Regimes {
        let of = |choice: Option<&Choice>| choice.map_or(Regime::Normal, |c| c.regime);
        let by_role = self.by_role.as_ref();
        [
            self.any.regime,
            of(by_role.map(|roles| &roles.primary)),
            of(by_role.map(|roles| &roles.replica)),
        ]
    }
}

/// What all parts of a view are built from.
struct Build<'a> {
    set: &'a EndpointSet,
    rule: Rule<'a>,
    now: Instant,
}

impl Build<'_> {
    /// The regime among the endpoints that `fits`; `missing` more are down for certain.
    fn regime(&self, fits: impl Fn(&Endpoint) -> bool, missing: usize) -> Regime {
        let (mut all, mut passing, mut left) = (missing, 0, 0);
        for endpoint in self.set.iter().filter(|e| fits(e)) {
            all += 1;
            if endpoint.passes_checks() {
                passing += 1;
                left += usize::from(ejected_until(endpoint, self.now).is_none());
            }
        }
        if left < passing && left * 2 < all {
            Regime::FailOpen
        } else {
            Regime::Normal
        }
    }

    /// Of those that `fits` the usable ones; backups only when there is nobody else.
    fn balancer(
        &self,
        regime: Regime,
        fits: impl Fn(&Endpoint) -> bool,
        position: usize,
    ) -> Chooser {
        let set = self.set;
        let usable = |backup: bool| -> Vec<(usize, Arc<Endpoint>)> {
            set.iter()
                .enumerate()
                .filter(|(_, e)| e.is_backup() == backup && fits(e) && e.passes_checks())
                .filter(|(_, e)| regime == Regime::FailOpen || ejected_until(e, self.now).is_none())
                .map(|(slot, e)| (slot, Arc::clone(e)))
                .collect()
        };
        let first = usable(false);
        let backup = first.is_empty();
        let members = if backup { usable(true) } else { first };
        Chooser::new(self.rule, members, set.len(), set.ring(backup), position)
    }
}

/// When the ejection of an endpoint that is ejected ends.
fn ejected_until(endpoint: &Endpoint, now: Instant) -> Option<Instant> {
    endpoint.ejected_until().filter(|until| *until > now)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Balance, DbType, HashOn, HealthCheck, Probe, StatusSet, UpstreamSpec};
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
    fn check(upstream: &Upstream, numbers: &[usize], result: &Result<Role, String>) {
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
        upstream.view().regimes()[0]
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
        check(&upstream, &[2], &Ok(Role::Unknown));
        assert_eq!(picked(&upstream).await, [2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_passed_check_ends_an_ejection() {
        let upstream = upstream(checked(ejecting(1, weighted(&[1, 1]))));
        fail(&upstream, 1).await;
        assert_eq!(picked(&upstream).await, [2]);
        check(&upstream, &[1], &Ok(Role::Unknown));
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
            check(&upstream, &[1], &Ok(Role::Unknown));
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
        check(&upstream, &[2], &Ok(Role::Unknown));
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

    /// Endpoints whose checks report the role, with the roles they have.
    fn with_roles(spec: UpstreamSpec, roles: &[Role]) -> Arc<Upstream> {
        let upstream = upstream(asking(spec));
        for (number, role) in (1..).zip(roles) {
            check(&upstream, &[number], &Ok(*role));
        }
        upstream
    }

    fn asking(spec: UpstreamSpec) -> UpstreamSpec {
        let mut spec = checked(spec);
        if let Some(policy) = &mut spec.health_check {
            policy.probe = Probe::Tcp {
                db_type: DbType::Redis,
                user: None,
                password: None,
            };
        }
        spec
    }

    fn of(target: Target) -> Pick<'static> {
        Pick { target, ..any() }
    }

    /// Who is picked for `target`, each once; empty when nobody can be.
    async fn with_target(upstream: &Arc<Upstream>, target: Target) -> Vec<u8> {
        let mut picked = Vec::new();
        // Enough for a random choice to leave nobody out.
        for _ in 0..200 {
            match upstream.pick(of(target)).await {
                Ok(lease) => picked.push(number(&lease)),
                Err(error) => assert_eq!(error, PickError::NoHealthyEndpoint),
            }
        }
        picked.sort_unstable();
        picked.dedup();
        picked
    }

    use Role::{Primary, Replica, Unknown};

    const NOBODY: [u8; 0] = [];

    #[tokio::test]
    async fn a_target_is_met_only_by_endpoints_known_to_have_the_role() {
        for balance in [
            Balance::RoundRobin,
            Balance::Random,
            Balance::LeastRequests,
            Balance::Hash(HashOn::ClientIp),
        ] {
            let spec = UpstreamSpec {
                balance,
                ..ejecting(1, weighted(&[3, 1, 2, 1]))
            };
            let upstream = with_roles(spec, &[Unknown, Primary, Replica, Replica]);
            assert_eq!(with_target(&upstream, Target::Any).await, [1, 2, 3, 4]);
            assert_eq!(with_target(&upstream, Target::Primary).await, [2]);
            assert_eq!(with_target(&upstream, Target::Replica).await, [3, 4]);
            assert_eq!(with_target(&upstream, Target::PreferReplica).await, [3, 4]);
        }
    }

    #[tokio::test]
    async fn without_known_roles_only_a_preference_is_met() {
        let upstream = with_roles(ejecting(1, weighted(&[1, 1])), &[]);
        assert_eq!(with_target(&upstream, Target::Primary).await, NOBODY);
        assert_eq!(with_target(&upstream, Target::Replica).await, NOBODY);
        assert_eq!(with_target(&upstream, Target::PreferReplica).await, [1, 2]);
    }

    #[tokio::test]
    async fn roles_that_change_places_are_followed() {
        let upstream = with_roles(ejecting(1, weighted(&[1, 1])), &[Primary, Replica]);
        assert_eq!(with_target(&upstream, Target::Primary).await, [1]);
        check(&upstream, &[1], &Err("gone".to_owned()));
        assert_eq!(with_target(&upstream, Target::Primary).await, NOBODY);
        check(&upstream, &[2], &Ok(Primary));
        assert_eq!(with_target(&upstream, Target::Primary).await, [2]);
        assert_eq!(with_target(&upstream, Target::Replica).await, NOBODY);
        assert_eq!(with_target(&upstream, Target::PreferReplica).await, [2]);
        // The old primary comes back as what it is now.
        check(&upstream, &[1], &Ok(Replica));
        assert_eq!(with_target(&upstream, Target::Primary).await, [2]);
        assert_eq!(with_target(&upstream, Target::PreferReplica).await, [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_ejected_replica_is_replaced_where_any_will_do_and_serves_where_it_must() {
        let upstream = with_roles(ejecting(1, weighted(&[1, 1])), &[Primary, Replica]);
        fail(&upstream, 2).await;
        assert_eq!(with_target(&upstream, Target::PreferReplica).await, [1]);
        assert_eq!(with_target(&upstream, Target::Replica).await, [2]);
        assert_eq!(
            upstream.view().regimes(),
            [Regime::Normal, Regime::Normal, Regime::FailOpen]
        );
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(with_target(&upstream, Target::PreferReplica).await, [2]);
        assert_eq!(upstream.view().regimes(), [Regime::Normal; 3]);
    }

    #[tokio::test]
    async fn a_backup_replica_serves_while_no_other_replica_does() {
        let mut endpoints = weighted(&[1; 3]);
        endpoints[2].backup = true;
        let upstream = with_roles(ejecting(1, endpoints), &[Primary, Replica, Replica]);
        assert_eq!(with_target(&upstream, Target::Replica).await, [2]);
        check(&upstream, &[2], &Err("refused".to_owned()));
        assert_eq!(with_target(&upstream, Target::Replica).await, [3]);
        assert_eq!(with_target(&upstream, Target::PreferReplica).await, [3]);
        assert_eq!(with_target(&upstream, Target::Any).await, [1]);
    }

    #[tokio::test]
    async fn roles_survive_a_reload_for_as_long_as_checks_ask() {
        let spec = ejecting(1, weighted(&[1, 1]));
        let old = with_roles(spec.clone(), &[Primary, Replica]);
        let same = Upstream::new(
            Arc::new(UpstreamSpec {
                balance: Balance::Random,
                ..asking(spec.clone())
            }),
            Some(&old),
        );
        assert_eq!(with_target(&same, Target::Primary).await, [1]);
        let without = Upstream::new(Arc::new(checked(spec)), Some(&same));
        assert!(without.endpoints().iter().all(|e| e.role() == Unknown));
        assert_eq!(with_target(&without, Target::Primary).await, NOBODY);
        assert_eq!(with_target(&same, Target::Primary).await, [1]);
    }

    #[tokio::test]
    async fn who_waits_for_a_primary_gets_the_one_that_was_promoted() {
        let mut endpoints = weighted(&[1, 1]);
        endpoints[0].max_connections = Some(1);
        let upstream = with_roles(ejecting(1, endpoints), &[Primary, Replica]);
        let _held = upstream.pick(of(Target::Primary)).await.unwrap();
        let waiting = {
            let upstream = Arc::clone(&upstream);
            tokio::spawn(async move { upstream.pick(of(Target::Primary)).await })
        };
        crate::upstream::fixture::eventually("queued", || upstream.queued() == 1).await;
        check(&upstream, &[2], &Ok(Primary));
        assert_eq!(number(&waiting.await.unwrap().unwrap()), 2);
    }

    #[tokio::test]
    async fn who_waits_for_a_primary_does_not_hold_up_who_wants_a_replica() {
        let mut endpoints = weighted(&[1, 1]);
        endpoints[0].max_connections = Some(1);
        endpoints[1].max_connections = Some(1);
        let upstream = with_roles(ejecting(1, endpoints), &[Primary, Replica]);
        let wait = |target| {
            let upstream = Arc::clone(&upstream);
            tokio::spawn(async move { upstream.pick(of(target)).await })
        };
        let held = upstream.pick(of(Target::Primary)).await.unwrap();
        let first = wait(Target::Primary);
        crate::upstream::fixture::eventually("queued", || upstream.queued() == 1).await;
        let replica = upstream.pick(of(Target::Replica)).await.unwrap();
        assert_eq!((number(&replica), upstream.queued()), (2, 1));
        // Its own target is full now: who comes for it waits, and is served before the first.
        let second = wait(Target::PreferReplica);
        crate::upstream::fixture::eventually("queued", || upstream.queued() == 2).await;
        drop(replica);
        assert_eq!(number(&second.await.unwrap().unwrap()), 2);
        assert_eq!(upstream.queued(), 1);
        drop(held);
        assert_eq!(number(&first.await.unwrap().unwrap()), 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_place_for_all_targets_is_given_by_arrival() {
        let upstream = with_roles(
            UpstreamSpec {
                max_connections: Some(1),
                queue_timeout: Duration::from_secs(60),
                ..ejecting(1, weighted(&[1, 1]))
            },
            &[Primary, Replica],
        );
        let held = pick(&upstream).await.unwrap();
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for nth in 0..40 {
            let targets = [
                Target::Replica,
                Target::Any,
                Target::Primary,
                Target::PreferReplica,
            ];
            let (upstream_, order) = (Arc::clone(&upstream), Arc::clone(&order));
            waiting.push(tokio::spawn(async move {
                let lease = upstream_.pick(of(targets[nth % 4])).await.unwrap();
                order.lock().unwrap().push(nth);
                drop(lease);
            }));
            crate::upstream::fixture::eventually("queued", || upstream.queued() == nth + 1).await;
        }
        drop(held);
        for waiting in waiting {
            waiting.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), (0..40).collect::<Vec<_>>());
    }
}
