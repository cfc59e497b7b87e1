//! Which of the usable endpoints comes next.
//!
//! Arithmetic over weights and counts, without health, queues or time. Nearly half of the file is
//! tests. Invariants: a [`Chooser`] never changes except for its position; the endpoint it returns
//! has been entered (a slot taken), so a caller cannot pick one that filled up meanwhile. Built
//! when health or membership changes, asked once per pick.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rand::Rng;

use super::custom::{Custom, Rule};
use super::endpoint::{Endpoint, EndpointId};
use super::lock::lock;
use super::ring::Ring;
use super::weights::reduced;
use crate::config::Balance;

/// A choice among endpoints that are all usable.
#[derive(Debug)]
pub(super) struct Chooser {
    members: Box<[Arc<Endpoint>]>,
    plan: Plan,
    hashing: Option<Hashing>,
    custom: Option<Arc<Custom>>,
}

/// How the next member is found; what it finds is an index into the members.
#[derive(Debug)]
enum Plan {
    Turns(Turns),
    Random(Draw),
    LeastRequests(Draw),
}

/// A ring over a whole set, of which the members are the usable part.
#[derive(Debug)]
struct Hashing {
    ring: Arc<Ring>,
    /// The member in each slot of the set, or [`ABSENT`].
    member_of: Box<[u32]>,
}

const ABSENT: u32 = u32::MAX;

/// Points of the ring that are looked at before the next member in order is taken: bounds a pick
/// in an upstream where nearly everything is full.
const RING_STEPS: usize = 256;

/// Further choices of the plan before the next member in order is taken.
const CHOICES: usize = 8;

impl Chooser {
    /// `members`: the usable endpoints with their slots in the set of `slots` endpoints.
    /// `position`: where the balancer before this one stopped.
    pub(super) fn new(
        rule: Rule<'_>,
        members: Vec<(usize, Arc<Endpoint>)>,
        slots: usize,
        ring: Option<&Arc<Ring>>,
        position: usize,
    ) -> Chooser {
        let weights: Vec<u32> = members.iter().map(|(_, e)| e.weight().as_u32()).collect();
        let plan = match rule.balance {
            // A request without the hashed header or cookie is spread like any other.
            Balance::RoundRobin | Balance::Hash(_) | Balance::Custom { .. } => {
                Plan::Turns(Turns::new(&weights, position))
            }
            Balance::Random => Plan::Random(Draw::new(&weights)),
            Balance::LeastRequests => Plan::LeastRequests(Draw::new(&weights)),
        };
        let hashing = ring.map(|ring| {
            let mut member_of = vec![ABSENT; slots].into_boxed_slice();
            for (member, (slot, _)) in (0..).zip(&members) {
                member_of[*slot] = member;
            }
            Hashing {
                ring: Arc::clone(ring),
                member_of,
            }
        });
        Chooser {
            members: members.into_iter().map(|(_, endpoint)| endpoint).collect(),
            plan,
            hashing,
            custom: rule.custom.cloned(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether any endpoint would take one more.
    pub(super) fn has_room(&self) -> bool {
        self.members.iter().any(|endpoint| endpoint.has_room())
    }

    /// Whether any endpoint that is not among `tried` would take one more.
    pub(super) fn has_another(&self, tried: &[EndpointId]) -> bool {
        self.members
            .iter()
            .any(|endpoint| !tried.contains(&endpoint.id()) && endpoint.has_room())
    }

    /// Where a successor should go on.
    pub(super) fn position(&self) -> usize {
        match &self.plan {
            Plan::Turns(turns) => turns.position(),
            Plan::Random(_) | Plan::LeastRequests(_) => 0,
        }
    }

    /// Chooses and enters an endpoint; `None` when every one is full (or there is none).
    pub(super) fn choose(&self, hash: Option<u64>, avoid: &[EndpointId]) -> Option<&Arc<Endpoint>> {
        if self.members.is_empty() {
            return None;
        }
        let fresh = |member: &usize| !avoid.contains(&self.members[*member].id());
        let enter = |member: &usize| self.members[*member].enter();
        if let Some(custom) = &self.custom {
            let asked = custom.ask(&self.members, hash, avoid);
            if let Some(member) = asked.filter(enter) {
                return Some(&self.members[member]);
            }
        }
        let chosen = match (hash, &self.hashing) {
            (Some(key), Some(hashing)) => hashing
                .walk(key)
                .take(RING_STEPS)
                .find(|member| fresh(member) && enter(member)),
            _ => {
                let first = self.next();
                if fresh(&first) && enter(&first) {
                    Some(first)
                } else if self.members.len() == 1 {
                    None
                } else {
                    (0..CHOICES)
                        .map(|_| self.next())
                        .find(|member| fresh(member) && enter(member))
                }
            }
        };
        chosen
            .or_else(|| {
                let from = self.next();
                let round = || (from..self.members.len()).chain(0..from);
                round()
                    .find(|member| fresh(member) && enter(member))
                    // Nothing else is left: one that was tried already.
                    .or_else(|| {
                        let tried = |member: &usize| !fresh(member);
                        round().find(|member| tried(member) && enter(member))
                    })
            })
            .map(|member| &self.members[member])
    }

    fn next(&self) -> usize {
        match &self.plan {
            Plan::Turns(turns) => turns.next(),
            Plan::Random(draw) => draw.one(),
            Plan::LeastRequests(draw) => {
                let (one, other) = draw.two();
                // In flight per weight, without division. The first draw wins a tie, so that an
                // idle upstream is shared by weight.
                let load = |of: usize, by: usize| {
                    self.members[of].in_flight() as u64
                        * u64::from(self.members[by].weight().as_u32())
                };
                if load(one, other) <= load(other, one) {
                    one
                } else {
                    other
                }
            }
        }
    }
}

impl Hashing {
    fn walk(&self, key: u64) -> impl Iterator<Item = usize> + '_ {
        self.ring
            .walk(key)
            .map(|slot| self.member_of.get(slot).copied().unwrap_or(ABSENT))
            .filter(|member| *member != ABSENT)
            .map(|member| member as usize)
    }
}

/// Smooth weighted round robin: each in proportion to its weight, and evenly spread.
#[derive(Debug)]
enum Turns {
    /// Equal weights: one after the other.
    Even { next: AtomicUsize, members: usize },
    /// One period of the sequence, laid out beforehand: a pick is one atomic addition.
    Table {
        next: AtomicUsize,
        order: Box<[u16]>,
    },
    /// The period is too long to lay out: earliest deadline first, exact as well.
    Deadlines(Mutex<BinaryHeap<Reverse<(u128, u32, u32)>>>),
}

/// The most steps (members times period) that laying out a table may take: some 100 µs.
const TABLE_STEPS: u64 = 1 << 16;

impl Turns {
    fn new(weights: &[u32], position: usize) -> Turns {
        let weights = reduced(weights);
        let members = weights.len();
        let period: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        let next = AtomicUsize::new(position);
        if weights.iter().all(|w| *w == 1) {
            Turns::Even { next, members }
        } else if period * members as u64 <= TABLE_STEPS {
            Turns::Table {
                next,
                order: smooth_order(&weights, period),
            }
        } else {
            Turns::Deadlines(Mutex::new(
                (0..)
                    .zip(weights)
                    .map(|(member, weight)| Reverse((SECOND / u128::from(weight), member, weight)))
                    .collect(),
            ))
        }
    }

    /// Never called without members.
    fn next(&self) -> usize {
        match self {
            Turns::Even { next, members } => next.fetch_add(1, Ordering::Relaxed) % members,
            Turns::Table { next, order } => {
                usize::from(order[next.fetch_add(1, Ordering::Relaxed) % order.len()])
            }
            Turns::Deadlines(heap) => lock(heap).peek_mut().map_or(0, |mut first| {
                let Reverse((deadline, member, weight)) = *first;
                *first = Reverse((deadline + SECOND / u128::from(weight), member, weight));
                member as usize
            }),
        }
    }

    fn position(&self) -> usize {
        match self {
            Turns::Even { next, .. } | Turns::Table { next, .. } => next.load(Ordering::Relaxed),
            Turns::Deadlines(_) => 0,
        }
    }
}

/// One unit of the virtual time of [`Turns::Deadlines`]: a member of weight w comes w times in it.
const SECOND: u128 = 1 << 64;

/// One period of nginx's smooth weighted round robin: each step adds to all their weight, takes
/// the largest and subtracts the sum from it.
fn smooth_order(weights: &[u32], period: u64) -> Box<[u16]> {
    let sum = i64::try_from(period).unwrap_or(i64::MAX);
    let mut current = vec![0_i64; weights.len()];
    (0..period)
        .map(|_| {
            let mut best = 0;
            for (member, weight) in weights.iter().enumerate() {
                current[member] += i64::from(*weight);
                if current[member] > current[best] {
                    best = member;
                }
            }
            current[best] -= sum;
            u16::try_from(best).unwrap_or(0)
        })
        .collect()
}

/// Draws by weight.
#[derive(Debug)]
enum Draw {
    Even(usize),
    /// Sums of the weights up to and including each member.
    Weighted(Box<[u64]>),
}

impl Draw {
    fn new(weights: &[u32]) -> Draw {
        if weights.windows(2).all(|pair| pair[0] == pair[1]) {
            return Draw::Even(weights.len());
        }
        Draw::Weighted(
            weights
                .iter()
                .scan(0_u64, |sum, weight| {
                    *sum += u64::from(*weight);
                    Some(*sum)
                })
                .collect(),
        )
    }

    fn members(&self) -> usize {
        match self {
            Draw::Even(members) => *members,
            Draw::Weighted(sums) => sums.len(),
        }
    }

    /// Never called without members.
    fn one(&self) -> usize {
        let mut random = rand::rng();
        match self {
            Draw::Even(members) => random.random_range(0..*members),
            Draw::Weighted(sums) => {
                let ticket = random.random_range(0..sums[sums.len() - 1]);
                sums.partition_point(|sum| *sum <= ticket)
            }
        }
    }

    /// Two different members when there are two, the first of them drawn by weight.
    fn two(&self) -> (usize, usize) {
        let (one, members) = (self.one(), self.members());
        if members == 1 {
            return (one, one);
        }
        let other = self.one();
        if other != one {
            return (one, other);
        }
        let step = rand::rng().random_range(1..members);
        (one, (one + step) % members)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{EndpointSpec, HashOn, Target, UpstreamSpec};
    use crate::upstream::fixture::{any, avoiding, next, number, pick, spec, upstream, weighted};
    use crate::upstream::{Pick, Upstream, key};

    fn balanced(balance: Balance, weights: &[u16]) -> Arc<Upstream> {
        upstream(UpstreamSpec {
            balance,
            ..spec(weighted(weights))
        })
    }

    async fn shares(upstream: &Arc<Upstream>, picks: usize) -> HashMap<u8, f64> {
        let mut shares = HashMap::new();
        for _ in 0..picks {
            *shares.entry(next(upstream).await).or_insert(0.0) += 1.0 / picks as f64;
        }
        shares
    }

    #[tokio::test]
    async fn equal_weights_take_turns() {
        let upstream = balanced(Balance::RoundRobin, &[7, 7, 7]);
        let mut picked = Vec::new();
        for _ in 0..7 {
            picked.push(next(&upstream).await);
        }
        assert_eq!(picked, [1, 2, 3, 1, 2, 3, 1]);
    }

    #[tokio::test]
    async fn weights_5_1_1_give_nginx_order() {
        let upstream = balanced(Balance::RoundRobin, &[5, 1, 1]);
        let mut picked = Vec::new();
        for _ in 0..14 {
            picked.push(next(&upstream).await);
        }
        assert_eq!(picked, [1, 1, 2, 1, 3, 1, 1, 1, 1, 2, 1, 3, 1, 1]);
    }

    #[tokio::test]
    async fn random_and_idle_least_requests_honour_weights() {
        for balance in [Balance::Random, Balance::LeastRequests] {
            let shares = shares(&balanced(balance.clone(), &[5, 3, 2]), 100_000).await;
            for (number, share) in [(1, 0.5), (2, 0.3), (3, 0.2)] {
                assert!(
                    (shares[&number] - share).abs() < 0.01,
                    "{balance:?}: {shares:?}"
                );
            }
        }
    }

    #[tokio::test]
    async fn least_requests_takes_the_less_loaded_of_two_by_weight() {
        let upstream = balanced(Balance::LeastRequests, &[1, 3]);
        let mut held = Vec::new();
        for _ in 0..400 {
            held.push(pick(&upstream).await.unwrap());
        }
        let of_first = held.iter().filter(|lease| number(lease) == 1).count();
        assert!((99..=101).contains(&of_first), "{of_first}");
    }

    #[tokio::test]
    async fn another_is_one_that_was_not_tried_and_has_room() {
        let mut endpoints = weighted(&[1, 1]);
        endpoints[1].max_connections = Some(1);
        let upstream = upstream(spec(endpoints));
        let ids: Vec<_> = upstream.endpoints().iter().map(|e| e.id()).collect();
        let another = |tried: &[_]| upstream.has_another(Target::Any, tried);
        assert!(another(&[]) && another(&ids[..1]) && another(&ids[1..]));
        assert!(!another(&ids));
        let full = upstream.pick(avoiding(&ids[..1])).await.unwrap();
        assert!(!another(&ids[..1]), "the second one is full");
        drop(full);
        assert!(another(&ids[..1]));
    }

    #[tokio::test]
    async fn concurrent_turns_are_shared_exactly() {
        let upstream = balanced(Balance::RoundRobin, &[3, 2, 1]);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let upstream = Arc::clone(&upstream);
                tokio::task::spawn_blocking(move || {
                    let mut counts = [0; 4];
                    for _ in 0..6_000 {
                        let view = upstream.view();
                        let endpoint = view
                            .balancer(Target::Any)
                            .unwrap()
                            .choose(None, &[])
                            .unwrap();
                        counts[endpoint.addr().to_string().as_bytes()[7] as usize - 48] += 1;
                    }
                    counts
                })
            })
            .collect();
        let mut sum = [0; 4];
        for thread in threads {
            for (sum, count) in sum.iter_mut().zip(thread.await.unwrap()) {
                *sum += count;
            }
        }
        assert_eq!(sum, [0, 12_000, 8_000, 4_000]);
    }

    #[tokio::test]
    async fn avoided_endpoints_are_last_resort() {
        for balance in [
            Balance::RoundRobin,
            Balance::Random,
            Balance::LeastRequests,
            Balance::Hash(HashOn::Path),
        ] {
            let upstream = balanced(balance, &[1000, 1, 1]);
            let ids: Vec<_> = upstream.endpoints().iter().map(|e| e.id()).collect();
            for hash in 0..50 {
                let pick = |avoid| Pick {
                    hash: Some(hash),
                    ..avoiding(avoid)
                };
                let lease = upstream.pick(pick(&ids[..1])).await.unwrap();
                assert_ne!(number(&lease), 1);
                let lease = upstream.pick(pick(&ids[..2])).await.unwrap();
                assert_eq!(number(&lease), 3);
                assert!(upstream.pick(pick(&ids)).await.is_ok());
            }
        }
    }

    #[tokio::test]
    async fn a_full_endpoint_is_passed_over() {
        let mut endpoints = weighted(&[10, 1]);
        endpoints[0].max_connections = Some(2);
        let upstream = upstream(spec(endpoints));
        let mut held = Vec::new();
        for _ in 0..20 {
            held.push(pick(&upstream).await.unwrap());
        }
        assert_eq!(held.iter().filter(|lease| number(lease) == 1).count(), 2);
        held.clear();
        let mut of_first = 0;
        for _ in 0..11 {
            of_first += u32::from(next(&upstream).await == 1);
        }
        assert_eq!(of_first, 10);
    }

    #[tokio::test]
    async fn a_key_stays_with_its_endpoint_and_absent_keys_are_spread() {
        let upstream = balanced(Balance::Hash(HashOn::ClientIp), &[1; 5]);
        for key in 0..100 {
            let with = Pick {
                hash: Some(key),
                ..any()
            };
            let first = upstream.pick(with).await.unwrap().endpoint().id();
            let again = upstream.pick(with).await.unwrap().endpoint().id();
            assert_eq!(first, again);
        }
        assert_eq!(shares(&upstream, 50).await.len(), 5);
    }

    #[tokio::test]
    async fn a_key_has_the_endpoint_that_it_has_in_every_version() {
        let upstream = balanced(Balance::Hash(HashOn::Path), &[1; 5]);
        let mut picked = Vec::new();
        for nth in 0..12 {
            let with = Pick {
                hash: Some(key::fnv1a(format!("client-{nth}").as_bytes())),
                ..any()
            };
            picked.push(number(&upstream.pick(with).await.unwrap()));
        }
        // Computed apart from this code: CRC-32 of the hash's bytes, little-endian, on a ring of
        // CRC-32 as nginx draws it.
        assert_eq!(picked, [4, 3, 2, 5, 5, 5, 4, 5, 1, 2, 4, 2]);
    }

    #[tokio::test]
    async fn removing_one_of_ten_moves_few_keys() {
        let before = balanced(Balance::Hash(HashOn::ClientIp), &[1; 10]);
        let mut fewer = before.spec().as_ref().clone();
        let gone = fewer.endpoints.remove(4).url.label;
        let after = Upstream::new(Arc::new(fewer), Some(&before));
        let mut moved = 0;
        for key in 0..10_000_u64 {
            let with = Pick {
                // Spread: Ketama hashes the bytes once more, neighbours would do as well.
                hash: Some(key.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
                ..any()
            };
            let was = before.pick(with).await.unwrap();
            let is = after.pick(with).await.unwrap();
            if was.endpoint().label() == gone {
                moved += 1;
            } else {
                assert_eq!(was.endpoint().id(), is.endpoint().id());
            }
        }
        assert!((500..1_500).contains(&moved), "{moved} of 10000 moved");
    }

    #[tokio::test]
    async fn two_endpoints_with_one_address_share_a_ring() {
        let mut endpoints = weighted(&[1, 1]);
        endpoints[1].url = endpoints[0].url.clone();
        endpoints[1].url.path = "/b".to_owned();
        let upstream = upstream(UpstreamSpec {
            balance: Balance::Hash(HashOn::Path),
            ..spec(endpoints)
        });
        let mut paths = HashMap::new();
        for key in 0..1_000 {
            let with = Pick {
                hash: Some(key),
                ..any()
            };
            let lease = upstream.pick(with).await.unwrap();
            *paths.entry(lease.endpoint().path().to_owned()).or_insert(0) += 1;
        }
        assert!(paths[""] > 300 && paths["/b"] > 300, "{paths:?}");
    }

    #[test]
    fn the_ring_stays_small_with_large_weights() {
        let heavy: Vec<EndpointSpec> = weighted(&(0..100).map(|n| 900 + n).collect::<Vec<_>>());
        let upstream = upstream(UpstreamSpec {
            balance: Balance::Hash(HashOn::Path),
            ..spec(heavy)
        });
        let set = upstream.endpoints();
        let ring = set.ring(false).unwrap();
        assert_eq!(ring.walk(7).take(1_000_000).count(), 1_000_000);
        assert!(ring.weight() <= 2_100);
    }

    proptest! {
        #[test]
        fn every_period_honours_weights_exactly(weights in prop::collection::vec(1_u32..40, 1..12)) {
            let reduced = reduced(&weights);
            let period: u64 = reduced.iter().map(|w| u64::from(*w)).sum();
            let heap = Turns::Deadlines(Mutex::new(
                (0..)
                    .zip(&reduced)
                    .map(|(m, w)| Reverse((SECOND / u128::from(*w), m, *w)))
                    .collect(),
            ));
            for turns in [Turns::new(&weights, 0), heap] {
                let mut counts = vec![0; weights.len()];
                for _ in 0..period {
                    counts[turns.next()] += 1;
                }
                prop_assert_eq!(&counts, &reduced);
            }
        }

        #[test]
        fn no_prefix_of_the_order_strays_from_the_weights(
            weights in prop::collection::vec(1_u32..40, 2..8)
        ) {
            // Smoothness: at every step each has had its share, give or take less than the
            // number of members.
            let sum: f64 = weights.iter().map(|w| f64::from(*w)).sum();
            let turns = Turns::new(&weights, 0);
            let mut counts = vec![0.0; weights.len()];
            for step in 1..=200 {
                counts[turns.next()] += 1.0;
                for (count, weight) in counts.iter().zip(&weights) {
                    let due = f64::from(step) * f64::from(*weight) / sum;
                    prop_assert!((due - count).abs() < weights.len() as f64);
                }
            }
        }
    }

    #[test]
    fn many_uneven_weights_are_exact_without_a_table() {
        let weights: Vec<u32> = (1..=1000).collect();
        let turns = Turns::new(&weights, 0);
        assert!(matches!(turns, Turns::Deadlines(_)));
        let mut counts = vec![0; 1000];
        for _ in 0..500_500 {
            counts[turns.next()] += 1;
        }
        assert_eq!(counts, weights);
    }
}
