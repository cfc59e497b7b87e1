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
