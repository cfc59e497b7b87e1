//! An upstream: its endpoints, and what its generations share.
//!
//! Invariants: making an upstream has no effect on the one it replaces; `deciding` is held while a
//! view is built, and while an endpoint is ejected or taken in again. Longer than most files, as
//! all that changes the set or the view has to keep the same order of locks and counts.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::budget::RetryBudget;
use super::custom::{Balancers, Custom, Rule};
use super::encryption::Encryption;
use super::endpoint::{Endpoint, Role};
use super::endpoint_addr::EndpointAddr;
use super::failure_log::UpstreamFailures;
use super::last_error::LastError;
use super::limit::Limit;
use super::lock::lock;
use super::set::{Addresses, EndpointSet, known_addresses};
use super::view::{GROUPS, Regime, View};
use crate::config::{Ejection, HealthCheck, Host, UpstreamSpec, UpstreamUrl};

/// A group of endpoints as one generation of the configuration describes it.
#[derive(Debug)]
pub struct Upstream {
    spec: Arc<UpstreamSpec>,
    /// Whether this generation limits anything; when not, a pick never touches the queue.
    pub(super) limited: bool,
    /// The balancer that `spec.balance` names, where it is not built in.
    custom: Option<Arc<Custom>>,
    pub(super) lineage: Lineage,
    set: ArcSwap<EndpointSet>,
    view: ArcSwap<View>,
    /// What discovery has said so far. Its lock also orders changes of `set`.
    addresses: Mutex<Addresses>,
}

/// What all generations of one upstream share.
#[derive(Clone, Debug, Default)]
pub(super) struct Lineage {
    pub(super) limit: Arc<Limit>,
    /// Goes up whenever an endpoint goes in or out; views built from another count are stale.
    changes: Arc<AtomicU64>,
    /// The next endpoint id.
    ids: Arc<AtomicU64>,
    budget: Arc<RetryBudget>,
    pub(super) failures: Arc<UpstreamFailures>,
    /// Why names have no address, by label.
    unresolved: Arc<Mutex<HashMap<String, LastError>>>,
    /// Held while a view is built, and while an endpoint is ejected or taken in again.
    deciding: Arc<Mutex<()>>,
    /// The log has named primaries that nothing ranks.
    pub(super) tied: Arc<AtomicBool>,
}

impl Upstream {
    /// `previous`: the upstream of this name in the snapshot before. Its endpoints are taken over
    /// where label and address are equal, with health and in-flight counts, and so is its queue.
    /// Resolves nothing: a name that `previous` does not know has no endpoint until
    /// [`discovery`](super::discovery) has an answer.
    pub fn new(spec: Arc<UpstreamSpec>, previous: Option<&Upstream>) -> Arc<Upstream> {
        Upstream::balanced(spec, &Balancers::default(), previous)
    }

    /// As [`new`](Upstream::new); `balance` may name one of `balancers`.
    pub fn balanced(
        spec: Arc<UpstreamSpec>,
        balancers: &Balancers,
        previous: Option<&Upstream>,
    ) -> Arc<Upstream> {
        let lineage = previous.map_or_else(Lineage::default, |p| p.lineage.clone());
        let known = previous.map(Upstream::endpoints);
        let addresses = known_addresses(&spec, known.as_deref());
        let set = EndpointSet::new(&spec, &addresses, known.as_deref(), &lineage.ids);
        let changes = lineage.changes.load(Ordering::SeqCst);
        let custom = balancers.of(&spec);
        let rule = Rule::new(&spec.balance, custom.as_ref());
        let mut view = View::new(&set, rule, changes, Instant::now(), None);
        if let Some(previous) = previous {
            // Entering fail-open is said by the pick that sees it first, not by a reload.
            view = view.stale(previous.view.load().regimes());
        }
        let limited = spec.max_connections.is_some()
            || spec.endpoints.iter().any(|e| e.max_connections.is_some());
        Arc::new(Upstream {
            limited,
            custom,
            lineage,
            set: ArcSwap::from_pointee(set),
            view: ArcSwap::from_pointee(view),
            addresses: Mutex::new(addresses),
            spec,
        })
    }

    /// Whether `max_connections` holds for it or for one of its endpoints.
    pub fn is_limited(&self) -> bool {
        self.limited
    }

    /// Its name in `upstreams`, or the key of its route: the `upstream` label.
    pub fn label(&self) -> &str {
        &self.spec.name
    }

    /// The configuration that it was made of; a reload makes another upstream of another one.
    pub fn spec(&self) -> &Arc<UpstreamSpec> {
        &self.spec
    }

    /// What `http/retry.rs` may spend, shared by all routes onto this upstream.
    pub fn retry_budget(&self) -> &RetryBudget {
        &self.lineage.budget
    }

    /// The endpoints of this moment; discovery replaces the whole set.
    pub fn endpoints(&self) -> Arc<EndpointSet> {
        self.set.load_full()
    }

    /// Each configured endpoint, by label, and whether any of its addresses is healthy. A name
    /// without an address is not.
    pub fn health(&self) -> Vec<(String, bool)> {
        let set = self.endpoints();
        let healthy: HashSet<&str> = set
            .iter()
            .filter(|endpoint| endpoint.is_healthy())
            .map(|endpoint| endpoint.label())
            .collect();
        self.spec
            .endpoints
            .iter()
            .map(|e| (e.url.label.clone(), healthy.contains(e.url.label.as_str())))
            .collect()
    }

    /// What its servers answer to clients that ask for TLS: yes, where one of them has said so.
    /// `None`: no client has asked one, nor has a check.
    pub fn encryption(&self) -> Option<Encryption> {
        let set = self.endpoints();
        let mut answers = set.iter().filter_map(|endpoint| endpoint.encryption());
        let first = answers.next()?;
        let offered = first == Encryption::Offered || answers.any(|a| a == Encryption::Offered);
        Some(match offered {
            true => Encryption::Offered,
            false => Encryption::Declined,
        })
    }

    /// Whether each of its servers that can be picked has declined TLS of late, and none has ever
    /// offered it last: then the answer is known before a server is picked.
    pub fn declines_encryption(&self) -> bool {
        let set = self.endpoints();
        let mut declined = false;
        for endpoint in set.iter() {
            match endpoint.declines_encryption() {
                true => declined = true,
                false if endpoint.is_healthy() => return false,
                false if endpoint.encryption() == Some(Encryption::Offered) => return false,
                false => {}
            }
        }
        declined
    }

    /// Leases held now, those of earlier generations of the configuration included.
    pub fn in_flight(&self) -> usize {
        self.lineage.limit.in_flight()
    }

    /// How many wait for a lease now.
    pub fn queued(&self) -> usize {
        self.lineage.limit.waiting()
    }

    /// The view as of now. Costs one atomic load more than reading it, and the clock only while
    /// something is ejected.
    pub(super) fn view(&self) -> arc_swap::Guard<Arc<View>> {
        let view = self.view.load();
        let stale = view.changes != self.lineage.changes.load(Ordering::SeqCst)
            || view.until.is_some_and(|until| until <= Instant::now());
        if !stale {
            return view;
        }
        drop(view);
        let _deciding = lock(&self.lineage.deciding);
        self.rebuild_view();
        self.view.load()
    }

    /// Builds the view anew. The caller holds `deciding`.
    fn rebuild_view(&self) {
        let old = self.view.load_full();
        let now = Instant::now();
        // Read before the endpoints are: a change in between makes the new view stale, not wrong.
        let changes = self.lineage.changes.load(Ordering::SeqCst);
        if old.changes == changes && old.until.is_none_or(|until| until > now) {
            return;
        }
        let set = self.endpoints();
        for endpoint in set.iter() {
            if endpoint.ejected_until().is_some_and(|until| until <= now)
                && endpoint.ejector().reinstate(now)
            {
                log::info!(
                    "ejection is over: upstream={} endpoint={} addr={}",
                    self.label(),
                    endpoint.label(),
                    endpoint.addr()
                );
            }
        }
        let rule = Rule::new(&self.spec.balance, self.custom.as_ref());
        let view = View::new(&set, rule, changes, now, Some(&old));
        let regimes = old.regimes().into_iter().zip(view.regimes());
        for (group, (old, new)) in GROUPS.into_iter().zip(regimes) {
            match (old, new) {
                (Regime::Normal, Regime::FailOpen) => log::warn!(
                    "fewer than half of the endpoints would be left, ejected ones serve again: \
                     upstream={} of={group}",
                    self.label()
                ),
                (Regime::FailOpen, Regime::Normal) => log::info!(
                    "enough endpoints again, ejection is back in force: upstream={} of={group}",
                    self.label()
                ),
                _ => {}
            }
        }
        self.view.store(Arc::new(view));
    }

    /// Takes the resolver's answer for a name. Endpoints whose address stays are kept.
    pub(super) fn note_addresses(&self, host: &str, port: u16, answer: &[EndpointAddr]) {
        let mut addresses = lock(&self.addresses);
        let mut news = false;
        for (endpoint, known) in self.spec.endpoints.iter().zip(addresses.iter_mut()) {
            let url = &endpoint.url;
            let asked = matches!(&url.host, Host::Name(name) if name == host) && url.port == port;
            if asked && known.as_deref() != Some(answer) {
                *known = Some(answer.to_vec());
                news = true;
            }
        }
        if news {
            let old = self.endpoints();
            let set = EndpointSet::new(&self.spec, &addresses, Some(&old), &self.lineage.ids);
            self.set.store(Arc::new(set));
            drop(addresses);
            self.changed();
        }
    }

    /// Takes note that a name could not be resolved, this time.
    pub(super) fn note_unresolved(&self, host: &str, port: u16, why: &LastError) {
        let is_it = |url: &UpstreamUrl| {
            matches!(&url.host, Host::Name(name) if name == host) && url.port == port
        };
        let set = self.endpoints();
        for endpoint in set.iter().filter(|endpoint| is_it(endpoint.url())) {
            endpoint.remember(why.clone());
        }
        let mut unresolved = lock(&self.lineage.unresolved);
        let configured = &self.spec.endpoints;
        unresolved.retain(|label, _| configured.iter().any(|e| e.url.label == *label));
        for endpoint in configured.iter().filter(|endpoint| is_it(&endpoint.url)) {
            unresolved.insert(endpoint.url.label.clone(), why.clone());
        }
    }

    /// The configured endpoints without an address, by label, and why they have none.
    pub fn unresolved(&self) -> Vec<(String, Option<LastError>)> {
        let set = self.endpoints();
        let known: HashSet<&str> = set.iter().map(|endpoint| endpoint.label()).collect();
        let unresolved = lock(&self.lineage.unresolved);
        let labels = self.spec.endpoints.iter().map(|e| e.url.label.as_str());
        labels
            .filter(|label| !known.contains(label))
            .map(|label| (label.to_owned(), unresolved.get(label).cloned()))
            .collect()
    }

    /// Takes the result of an active check. Returns the new verdict when it has changed.
    pub(super) fn note_check(
        &self,
        endpoint: &Endpoint,
        policy: &HealthCheck,
        result: &Result<Role, String>,
    ) -> Option<bool> {
        // Before the verdict: who comes back never does so in the role it had.
        let new_role = match result {
            Ok(role) => endpoint.note_role(*role).then_some(*role),
            Err(why) => {
                endpoint.note_error(format_args!("check: {why}"));
                None
            }
        };
        if let Some(role) = new_role {
            log::info!(
                "endpoint has another role: upstream={} endpoint={} addr={} role={}",
                self.label(),
                endpoint.label(),
                endpoint.addr(),
                role.as_str()
            );
        }
        let settled = self.settle_primaries();
        let needed = match result {
            Ok(_) => policy.healthy_after,
            Err(_) => policy.unhealthy_after,
        };
        let verdict = endpoint.note_check(result.is_ok(), needed);
        let reinstated = result.is_ok() && endpoint.ejected_until().is_some() && {
            let _deciding = lock(&self.lineage.deciding);
            endpoint.ejector().reinstate(Instant::now())
        };
        if reinstated {
            log::info!(
                "ejection ends, a check passed: upstream={} endpoint={} addr={}",
                self.label(),
                endpoint.label(),
                endpoint.addr()
            );
        }
        if reinstated || verdict.is_some() || new_role.is_some() || settled {
            self.changed();
        }
        verdict
    }

    /// Makes every generation look again at who is usable.
    fn changed(&self) {
        self.lineage.changes.fetch_add(1, Ordering::SeqCst);
        self.lineage.limit.wake();
    }

    /// How many sockets may be connected ahead: none that a lease could want.
    pub(super) fn room_ahead(&self) -> usize {
        match self.spec.max_connections {
            _ if self.queued() > 0 => 0,
            None => usize::MAX,
            Some(max) => max.saturating_sub(self.in_flight()),
        }
    }

    pub(super) fn limit(&self) -> &Limit {
        &self.lineage.limit
    }

    /// Whether an answer with this status counts towards an ejection; one that does not ends the
    /// row, as with Envoy's consecutive gateway failures.
    pub(super) fn counts_as_failure(&self, status: u16) -> bool {
        let policy = self.spec.ejection.as_ref();
        policy.is_some_and(|policy| policy.statuses.contains(status))
    }

    /// A lease ended with a failure of its endpoint.
    pub(super) fn note_failure(&self, endpoint: &Arc<Endpoint>) {
        endpoint.count_failure();
        if let Some(policy) = &self.spec.ejection
            && endpoint.ejector().note_failure(policy)
        {
            self.eject(endpoint, policy);
        }
    }

    fn eject(&self, endpoint: &Endpoint, policy: &Ejection) {
        let out = {
            let _deciding = lock(&self.lineage.deciding);
            let set = self.endpoints();
            let all = set.len() + set.unresolved();
            let most = (all * policy.max_percent as usize / 100).max(1);
            if endpoint.is_ejected() || set.iter().filter(|e| e.is_ejected()).count() >= most {
                return;
            }
            endpoint.ejector().eject(policy, Instant::now())
        };
        log::warn!(
            "ejected for {} ms after {} failures in a row: upstream={} endpoint={} addr={}",
            out.as_millis(),
            policy.consecutive_failures,
            self.label(),
            endpoint.label(),
            endpoint.addr()
        );
        self.changed();
    }
}
