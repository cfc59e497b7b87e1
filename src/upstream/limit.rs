//! How many leases an upstream has out, and the one queue of those who wait for one.
//!
//! A lost wake-up or slot is a bug that stays invisible; most of the file are tests of just that.
//! Invariants: slots are given in the order of arrival, except that nobody waits behind a caller
//! whose target is full when his own is not; so there is a lane for each target, only the first of
//! a lane tries, and not while an earlier first could be served. A caller that leaves the queue
//! (served, late or dropped) wakes the firsts; a lease given back after a try failed always does.
//! Tries of limited upstreams happen under the queue's lock, so that no try sees what another holds
//! for a moment.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use super::lock::lock;
use crate::config::Target;

/// How many may wait for one upstream. Who comes then is refused at once.
pub const MAX_WAITERS: usize = 10_000;

/// The count of leases and the queue of one upstream, over all generations of its configuration.
#[derive(Debug, Default)]
pub(super) struct Limit {
    in_flight: AtomicUsize,
    /// The length of the queue, so that giving back a lease costs no lock while nobody waits.
    waiting: AtomicUsize,
    queue: Mutex<Queue>,
}

/// Those who wait, by target and arrival.
#[derive(Debug, Default)]
pub(super) struct Queue {
    next: u64,
    lanes: [BTreeMap<Ticket, Arc<Notify>>; TARGETS.len()],
}

/// Lower ones came earlier.
pub(super) type Ticket = u64;

/// One for each lane.
const TARGETS: [Target; 4] = [
    Target::Any,
    Target::Primary,
    Target::Replica,
    Target::PreferReplica,
];

/// One place in the queue; dropping it gives the place up.
#[derive(Debug)]
pub(super) struct Waiter {
    limit: Arc<Limit>,
    target: Target,
    ticket: Ticket,
    turn: Arc<Notify>,
}

impl Limit {
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Counts one lease.
    pub(super) fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes back what [`Limit::enter`] counted. The endpoint's place must be free already.
    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.wake();
    }

    /// Makes the firsts in the queue try again.
    pub(super) fn wake(&self) {
        // Sequentially consistent, like the counts: either this sees the waiter, or the waiter's
        // try, made after it joined, sees the free place.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.queue().wake();
        }
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    /// The last place in the queue; `None` when it is full.
    pub(super) fn join(self: &Arc<Limit>, queue: &mut Queue, target: Target) -> Option<Waiter> {
        if queue.len() >= MAX_WAITERS {
            return None;
        }
        let ticket = queue.next;
        queue.next += 1;
        let turn = Arc::new(Notify::new());
        queue.lane_mut(target).insert(ticket, Arc::clone(&turn));
        self.waiting.store(queue.len(), Ordering::SeqCst);
        Some(Waiter {
            limit: Arc::clone(self),
            target,
            ticket,
            turn,
        })
    }
}

impl Queue {
    fn len(&self) -> usize {
        self.lanes.iter().map(BTreeMap::len).sum()
    }

    fn lane(&self, target: Target) -> &BTreeMap<Ticket, Arc<Notify>> {
        &self.lanes[lane(target)]
    }

    fn lane_mut(&mut self, target: Target) -> &mut BTreeMap<Ticket, Arc<Notify>> {
        &mut self.lanes[lane(target)]
    }

    /// Whether a caller waits for `target`.
    pub(super) fn has_waiters(&self, target: Target) -> bool {
        !self.lane(target).is_empty()
    }

    /// The targets of the firsts that came before `ticket`; all firsts when it is `None`.
    pub(super) fn firsts_before(&self, ticket: Option<Ticket>) -> impl Iterator<Item = Target> {
        let firsts = TARGETS.into_iter().zip(&self.lanes);
        firsts.filter_map(move |(target, lane)| {
            let (first, _) = lane.first_key_value()?;
            ticket
                .is_none_or(|ticket| *first < ticket)
                .then_some(target)
        })
    }

    fn wake(&self) {
        for (_, turn) in self.lanes.iter().filter_map(BTreeMap::first_key_value) {
            turn.notify_one();
        }
    }
}

/// Where a target stands in [`TARGETS`].
fn lane(target: Target) -> usize {
    match target {
        Target::Any => 0,
        Target::Primary => 1,
        Target::Replica => 2,
        Target::PreferReplica => 3,
    }
}

impl Waiter {
    pub(super) fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Whether nobody has waited longer for the same target.
    pub(super) fn is_first(&self, queue: &Queue) -> bool {
        let lane = queue.lane(self.target);
        lane.first_key_value()
            .is_some_and(|(ticket, _)| *ticket == self.ticket)
    }

    /// Returns when it may be this waiter's turn. A wake-up sent before the call is not lost.
    pub(super) async fn turn(&self) {
        self.turn.notified().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut queue = self.limit.queue();
        let was_first = self.is_first(&queue);
        queue.lane_mut(self.target).remove(&self.ticket);
        self.limit.waiting.store(queue.len(), Ordering::SeqCst);
        if was_first {
            queue.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Waker};
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::MAX_WAITERS;
    use crate::config::{Target, UpstreamSpec};
    use crate::upstream::fixture::{any, number, pick, spec, upstream, weighted};
    use crate::upstream::{Lease, Outcome, Pick, PickError, Upstream};

    fn limited(max: usize, weights: &[u16]) -> UpstreamSpec {
        UpstreamSpec {
            max_connections: Some(max),
            ..spec(weighted(weights))
        }
    }

    /// A pick that is polled by hand.
    type Pending = Pin<Box<dyn Future<Output = Result<Lease, PickError>> + Send>>;

    fn start(upstream: &Arc<Upstream>) -> Pending {
        let upstream = Arc::clone(upstream);
        Box::pin(async move { upstream.pick(any()).await })
    }

    fn poll(pending: &mut Pending) -> Option<Result<Lease, PickError>> {
        match pending
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            std::task::Poll::Ready(result) => Some(result),
            std::task::Poll::Pending => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waits_until_queue_timeout() {
        let upstream = upstream(limited(1, &[1]));
        let held = pick(&upstream).await.unwrap();
        assert_eq!(held.queued_for(), Duration::ZERO);
        let start = Instant::now();
        let late = pick(&upstream).await;
        assert_eq!(late.unwrap_err(), PickError::QueueTimeout);
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        assert_eq!((upstream.queued(), upstream.in_flight()), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn waits_no_longer_than_the_request_may_take() {
        let upstream = upstream(limited(1, &[1]));
        let _held = pick(&upstream).await.unwrap();
        let want = Pick {
            deadline: Instant::now() + Duration::from_millis(300),
            ..any()
        };
        let start = Instant::now();
        assert_eq!(upstream.pick(want).await.unwrap_err(), PickError::Deadline);
        assert_eq!(start.elapsed(), Duration::from_millis(300));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_given_back_goes_to_who_waits() {
        let upstream = upstream(limited(1, &[1]));
        let held = pick(&upstream).await.unwrap();
        let waiting = tokio::spawn(start(&upstream));
        tokio::time::sleep(Duration::from_millis(700)).await;
        held.finish(Outcome::Ok);
        let lease = waiting.await.unwrap().unwrap();
        assert_eq!(lease.queued_for(), Duration::from_millis(700));
    }

    #[tokio::test]
    async fn the_queue_is_first_in_first_out_and_nobody_overtakes() {
        let upstream = upstream(limited(1, &[1]));
        let held = pick(&upstream).await.unwrap();
        let mut waiting: Vec<_> = (0..5).map(|_| start(&upstream)).collect();
        assert!(waiting.iter_mut().all(|w| poll(w).is_none()));
        drop(held);
        // Free, but the first in the queue has not run yet: who comes now goes to the end.
        let mut newcomer = start(&upstream);
        assert!(poll(&mut newcomer).is_none());
        for n in (1..5).rev() {
            assert!(poll(&mut waiting[n]).is_none());
        }
        for mut turn in waiting {
            assert!(poll(&mut newcomer).is_none());
            assert!(poll(&mut turn).expect("its turn").is_ok());
        }
        assert!(poll(&mut newcomer).expect("its turn").is_ok());
        assert_eq!((upstream.queued(), upstream.in_flight()), (0, 0));
    }

    #[tokio::test]
    async fn a_waiter_that_was_woken_and_dropped_passes_its_turn_on() {
        let upstream = upstream(limited(1, &[1]));
        let held = pick(&upstream).await.unwrap();
        let mut first = start(&upstream);
        assert!(poll(&mut first).is_none());
        let second = tokio::spawn(start(&upstream));
        while upstream.queued() < 2 {
            tokio::task::yield_now().await;
        }
        drop(held);
        drop(first);
        assert!(second.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn several_places_freed_at_once_serve_several() {
        let upstream = upstream(limited(3, &[1]));
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(pick(&upstream).await.unwrap());
        }
        let waiting: Vec<_> = (0..3).map(|_| tokio::spawn(start(&upstream))).collect();
        while upstream.queued() < 3 {
            tokio::task::yield_now().await;
        }
        held.clear();
        for waiting in waiting {
            held.push(waiting.await.unwrap().unwrap());
        }
        assert_eq!(upstream.in_flight(), 3);
    }

    #[tokio::test]
    async fn waits_for_a_place_at_an_endpoint() {
        let mut endpoints = weighted(&[1, 1]);
        endpoints[0].max_connections = Some(1);
        endpoints[1].max_connections = Some(2);
        let upstream = upstream(spec(endpoints));
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(pick(&upstream).await.unwrap());
        }
        let mut waiting = start(&upstream);
        assert!(poll(&mut waiting).is_none());
        let freed = held.iter().position(|lease| number(lease) == 1).unwrap();
        drop(held.remove(freed));
        assert_eq!(number(&poll(&mut waiting).unwrap().unwrap()), 1);
    }

    #[tokio::test]
    async fn who_comes_when_the_queue_is_full_is_refused_at_once() {
        let upstream = upstream(limited(1, &[1]));
        let _held = pick(&upstream).await.unwrap();
        let mut waiting: Vec<_> = (0..MAX_WAITERS).map(|_| start(&upstream)).collect();
        assert!(waiting.iter_mut().all(|w| poll(w).is_none()));
        assert_eq!(upstream.queued(), MAX_WAITERS);
        let refused = poll(&mut start(&upstream)).expect("it does not wait");
        assert_eq!(refused.unwrap_err(), PickError::QueueTimeout);
        waiting.pop();
        assert!(poll(&mut start(&upstream)).is_none());
    }

    #[tokio::test]
    async fn a_reload_keeps_queue_and_counts() {
        let old = upstream(limited(1, &[1]));
        let held = pick(&old).await.unwrap();
        let mut before = start(&old);
        assert!(poll(&mut before).is_none());
        let new = Upstream::new(Arc::new(limited(2, &[1, 1])), Some(&old));
        assert_eq!((new.in_flight(), new.queued()), (1, 1));
        // There is a second place now, but someone has waited longer.
        let mut after = start(&new);
        assert!(poll(&mut after).is_none());
        drop(held);
        let served = poll(&mut before).expect("its turn").unwrap();
        let _second = poll(&mut after).expect("its turn").unwrap();
        assert_eq!(new.in_flight(), 2);
        drop(served);
        assert_eq!(new.in_flight(), 1);
    }

    #[tokio::test]
    async fn a_lease_from_before_limits_wakes_who_waits_under_them() {
        let old = upstream(spec(weighted(&[1])));
        let held = pick(&old).await.unwrap();
        let new = Upstream::new(Arc::new(limited(1, &[1])), Some(&old));
        let waiting = tokio::spawn(start(&new));
        while new.queued() < 1 {
            tokio::task::yield_now().await;
        }
        drop(held);
        assert!(waiting.await.unwrap().is_ok());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_storm_of_cancellations_leaks_and_loses_nothing() {
        let mut endpoints = weighted(&[1, 2, 3]);
        endpoints[2].max_connections = Some(2);
        let upstream = upstream(UpstreamSpec {
            max_connections: Some(5),
            queue_timeout: Duration::from_secs(60),
            ..spec(endpoints)
        });
        let tasks: Vec<_> = (0..64_u64)
            .map(|task| {
                let upstream = Arc::clone(&upstream);
                // Two lanes, to the same endpoints.
                let target = [Target::Any, Target::PreferReplica][usize::from(task % 3 == 0)];
                tokio::spawn(async move {
                    for round in 0..160 {
                        let mix = (task * 160 + round).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
                        let patience =
                            Duration::from_micros(if mix < 8 { mix * 20 } else { 60_000_000 });
                        let pick = upstream.pick(Pick { target, ..any() });
                        if let Ok(lease) = tokio::time::timeout(patience, pick).await {
                            let lease = lease.unwrap();
                            assert!(upstream.in_flight() <= 5);
                            assert!(
                                lease.endpoint().max_connections() != Some(2)
                                    || lease.endpoint().in_flight() <= 2
                            );
                            tokio::task::yield_now().await;
                            lease.finish(Outcome::Ok);
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            // A lost wake-up would leave a task waiting for a minute.
            tokio::time::timeout(Duration::from_secs(30), task)
                .await
                .unwrap()
                .unwrap();
        }
        assert_eq!((upstream.in_flight(), upstream.queued()), (0, 0));
        assert!(upstream.endpoints().iter().all(|e| e.in_flight() == 0));
    }

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Arrive,
        Cancel(usize),
        GiveBack(usize),
        PollOne(usize),
        PollAll,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => Just(Op::Arrive),
            1 => (0_usize..1000).prop_map(Op::Cancel),
            3 => (0_usize..1000).prop_map(Op::GiveBack),
            2 => (0_usize..1000).prop_map(Op::PollOne),
            1 => Just(Op::PollAll),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

        /// Whatever happens in whatever order: places are given by arrival, never more than there
        /// are, and once everybody has had a chance to run either nobody waits or nothing is free.
        #[test]
        fn any_order_of_events_is_fair_and_leaks_nothing(
            max in 1_usize..6,
            ops in prop::collection::vec(op(), 1..500)
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let _entered = runtime.enter();
            let upstream = upstream(limited(max, &[2, 1]));
            let mut held = Vec::new();
            // In the order of arrival.
            let mut waiting: Vec<Pending> = Vec::new();
            for op in ops.into_iter().chain([Op::PollAll]) {
                match op {
                    Op::Arrive => {
                        let free = waiting.is_empty() && held.len() < max;
                        let mut pending = start(&upstream);
                        match poll(&mut pending) {
                            Some(lease) => {
                                prop_assert!(free, "overtook the queue or the limit");
                                held.push(lease.unwrap());
                            }
                            None => {
                                prop_assert!(!free, "waits although there is a place");
                                waiting.push(pending);
                            }
                        }
                    }
                    Op::Cancel(n) if !waiting.is_empty() => drop(waiting.remove(n % waiting.len())),
                    Op::GiveBack(n) if !held.is_empty() => drop(held.swap_remove(n % held.len())),
                    Op::PollOne(n) if !waiting.is_empty() => {
                        let n = n % waiting.len();
                        if let Some(lease) = poll(&mut waiting[n]) {
                            prop_assert_eq!(n, 0, "was not the first");
                            drop(waiting.remove(0));
                            held.push(lease.unwrap());
                        }
                    }
                    Op::PollAll => {
                        while let Some(lease) = waiting.first_mut().and_then(poll) {
                            drop(waiting.remove(0));
                            held.push(lease.unwrap());
                        }
                        prop_assert!(waiting.is_empty() || held.len() == max, "a wake-up was lost");
                    }
                    Op::Cancel(_) | Op::GiveBack(_) | Op::PollOne(_) => {}
                }
                prop_assert!(held.len() <= max);
                prop_assert_eq!(upstream.in_flight(), held.len());
                prop_assert_eq!(upstream.queued(), waiting.len());
            }
            held.clear();
            drop(waiting);
            prop_assert_eq!((upstream.in_flight(), upstream.queued()), (0, 0));
            prop_assert!(upstream.endpoints().iter().all(|e| e.in_flight() == 0));
        }
    }
}
