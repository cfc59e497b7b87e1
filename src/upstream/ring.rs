//! Consistent hashing: Pingora's Ketama ring over the endpoints of a set.
//!
//! The only place of balancing that needs Pingora. Invariant: the ring depends on addresses and
//! weights only (its points are CRC-32 of them), so two gateways with one configuration agree.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use pingora_load_balancing::selection::consistent::{KetamaHashing, OwnedNodeIterator};
use pingora_load_balancing::selection::{BackendIter, BackendSelection};
use pingora_load_balancing::{Backend, Extensions};

use super::weights::reduced;
use crate::config::Weight;

/// The most weight a ring carries before weights are scaled down: Ketama makes 160 points of 8
/// bytes for each unit of it.
const MOST_WEIGHT: u64 = 2_000;

/// A ring of endpoints, named by their slots in the set.
pub(super) struct Ring {
    ketama: Arc<KetamaHashing>,
    weight: u32,
}

impl Ring {
    pub(super) fn new(members: impl Iterator<Item = (usize, SocketAddr, Weight)>) -> Ring {
        let members: Vec<_> = members.collect();
        let weights: Vec<u32> = members.iter().map(|(_, _, w)| w.as_u32()).collect();
        let mut seen: HashMap<SocketAddr, u16> = HashMap::new();
        let weights = scaled(reduced(&weights));
        let weight = weights.iter().sum();
        let backends: BTreeSet<Backend> = members
            .iter()
            .zip(weights)
            .map(|((slot, addr, _), weight)| {
                let twins = seen.entry(*addr).or_default();
                let place = place(*addr, *twins);
                *twins = twins.saturating_add(1);
                let mut ext = Extensions::new();
                ext.insert(*slot);
                Backend {
                    addr: pingora_core::protocols::l4::socket::SocketAddr::Inet(place),
                    weight: weight as usize,
                    ext,
                }
            })
            .collect();
        Ring {
            ketama: Arc::new(KetamaHashing::build(&backends)),
            weight,
        }
    }

    /// The slots from the key's point onwards, round and round, with repetitions. Empty for an
    /// empty ring.
    pub(super) fn walk(&self, key: u64) -> Walk {
        Walk(self.ketama.iter(&key.to_le_bytes()))
    }

    /// The weight on the ring: its size is 160 points for each unit.
    #[cfg(test)]
    pub(super) fn weight(&self) -> u32 {
        self.weight
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("weight", &self.weight)
            .finish_non_exhaustive()
    }
}

/// See [`Ring::walk`].
pub(super) struct Walk(OwnedNodeIterator);

impl Iterator for Walk {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.0
            .next()
            .and_then(|backend| backend.ext.get::<usize>().copied())
    }
}

/// Weights that sum up to about [`MOST_WEIGHT`] at most, none below 1.
fn scaled(weights: Vec<u32>) -> Vec<u32> {
    let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    if sum <= MOST_WEIGHT {
        return weights;
    }
    weights
        .into_iter()
        .map(|w| u32::try_from((u64::from(w) * MOST_WEIGHT + sum / 2) / sum).unwrap_or(w))
        .map(|w| w.max(1))
        .collect()
}

/// Where an endpoint stands on the ring. Pingora's ring knows nodes by address, so the second
/// endpoint with one address (another path) needs an address of its own there.
fn place(addr: SocketAddr, twin: u16) -> SocketAddr {
    if twin == 0 {
        return addr;
    }
    let mut segments = match addr.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().segments(),
        IpAddr::V6(ip) => ip.segments(),
    };
    segments[0] ^= twin;
    SocketAddr::new(IpAddr::V6(Ipv6Addr::from(segments)), addr.port())
}
