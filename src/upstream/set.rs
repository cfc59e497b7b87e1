//! The endpoints of an upstream as the last answers of the resolver have them.
//!
//! It is made in two ways, by a reload and by discovery, under one rule: an address that stays
//! keeps its endpoint. Invariant: a set never changes; another replaces it. The hash rings are
//! built with it, so never per request and not when health changes.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::endpoint::Endpoint;
use super::endpoint_addr::EndpointAddr;
use super::ring::Ring;
use crate::config::{Balance, Host, UpstreamSpec};

/// The addresses each configured endpoint has, in the order of the configuration; `None` for a
/// name that has never been resolved.
pub(super) type Addresses = Vec<Option<Vec<EndpointAddr>>>;

/// An immutable list of endpoints, in the order of the configuration.
#[derive(Debug)]
pub struct EndpointSet {
    endpoints: Box<[Arc<Endpoint>]>,
    unresolved: usize,
    /// For `balance: hash`: of those without and of those with `backup`.
    rings: Option<[Arc<Ring>; 2]>,
}

impl EndpointSet {
    /// `known`: endpoints to take over where label and address are equal.
    pub(super) fn new(
        spec: &UpstreamSpec,
        addresses: &Addresses,
        known: Option<&EndpointSet>,
        ids: &AtomicU64,
    ) -> EndpointSet {
        let mut kept: HashMap<(&str, SocketAddr), VecDeque<&Arc<Endpoint>>> = HashMap::new();
        for endpoint in known.into_iter().flat_map(EndpointSet::iter) {
            kept.entry((endpoint.label(), endpoint.addr()))
                .or_default()
                .push_back(endpoint);
        }
        let mut endpoints = Vec::new();
        let mut unresolved = 0;
        for (of, addresses) in spec.endpoints.iter().zip(addresses) {
            match addresses {
                None => unresolved += 1,
                Some(servers) => endpoints.extend(servers.iter().map(|&server| {
                    kept.get_mut(&(of.url.label.as_str(), server.name))
                        .and_then(VecDeque::pop_front)
                        .map_or_else(
                            || Endpoint::new(spec, of, server, ids),
                            |endpoint| endpoint.carried(spec, of, server),
                        )
                })),
            }
        }
        let rings = matches!(spec.balance, Balance::Hash(_)).then(|| {
            [false, true].map(|backup| {
                Arc::new(Ring::new(
                    endpoints
                        .iter()
                        .enumerate()
                        .filter(|(_, endpoint)| endpoint.is_backup() == backup)
                        .map(|(slot, endpoint)| (slot, endpoint.addr(), endpoint.weight())),
                ))
            })
        });
        EndpointSet {
            endpoints: endpoints.into_boxed_slice(),
            unresolved,
            rings,
        }
    }

    /// In the order of the configuration; the servers of one name one after the other.
    pub fn iter(&self) -> std::slice::Iter<'_, Arc<Endpoint>> {
        self.endpoints.iter()
    }

    /// Resolved endpoints, backups and unhealthy ones included; see `unresolved`.
    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// Whether no configured name has an address yet.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// Configured names that have no address yet. Each counts as one endpoint that is down.
    pub fn unresolved(&self) -> usize {
        self.unresolved
    }

    pub(super) fn ring(&self, backup: bool) -> Option<&Arc<Ring>> {
        self.rings.as_ref().map(|rings| &rings[usize::from(backup)])
    }
}

impl<'a> IntoIterator for &'a EndpointSet {
    type Item = &'a Arc<Endpoint>;
    type IntoIter = std::slice::Iter<'a, Arc<Endpoint>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// What is known without asking anybody: addresses as such, names from the same name in the set
/// of the previous generation.
pub(super) fn known_addresses(spec: &UpstreamSpec, previous: Option<&EndpointSet>) -> Addresses {
    spec.endpoints
        .iter()
        .map(|endpoint| match &endpoint.url.host {
            Host::Ip(ip) => Some(vec![EndpointAddr::alone(SocketAddr::new(
                *ip,
                endpoint.url.port,
            ))]),
            Host::Name(_) => {
                let mut servers: Vec<EndpointAddr> = previous?
                    .iter()
                    .filter(|known| known.label() == endpoint.url.label)
                    .map(|known| known.resolved())
                    .collect();
                servers.sort_unstable_by_key(|server| server.name);
                servers.dedup_by_key(|server| server.name);
                (!servers.is_empty()).then_some(servers)
            }
        })
        .collect()
}
