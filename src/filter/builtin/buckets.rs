//! Token buckets of many clients in bounded memory.
//!
//! It knows neither HTTP nor clocks: a key, a time, and an answer. Invariants: no key ever gets
//! more than its own bucket holds, exactly; never more than `max_keys` are kept; no lock is held
//! across an await.
//!
//! A bucket is one number, the time at which it is full again (the "theoretical arrival time" of
//! the generic cell rate algorithm, ITU-T I.371): one that is full says nothing and is dropped.
//! When as many clients as are kept are all in debt, a newcomer takes the slot, and with it the
//! debt, of the one that owes least (as Space-Saving counts: Metwally, Agrawal, El Abbadi, 2005).
//! So a flood of addresses makes newcomers wait as if they had been there before, lets none in for
//! free, and locks no client out that had a slot; slots become free at the rate that is set.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How fast buckets fill, and how much they hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// Tokens in `per_secs` seconds; not 0.
    pub(super) requests: u64,
    /// Not 0.
    pub(super) per_secs: u64,
    /// Tokens in a full bucket; not 0.
    pub(super) burst: u64,
}

/// What became of a request for one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// `None`: the token is taken. Else how long it takes until there is one.
    pub(super) wait: Option<Duration>,
    /// Whole tokens that are left.
    pub(super) remaining: u64,
    /// How long it takes until the bucket is full.
    pub(super) full_in: Duration,
}

/// The buckets of all clients, by a number each.
#[derive(Debug)]
pub(super) struct Buckets {
    shards: Box<[Mutex<Shard>]>,
    /// Another one in each process: what it spreads is not shared, and clients choose the keys.
    spread: RandomState,
    rate: Rate,
}

impl Buckets {
    /// At most `max_keys`, which is not 0.
    pub(super) fn new(rate: Rate, max_keys: usize) -> Buckets {
        let count = (max_keys / KEYS_FOR_A_SHARD).clamp(1, MAX_SHARDS);
        let shard = |_| Mutex::new(Shard::new(max_keys / count));
        Buckets {
            shards: (0..count).map(shard).collect(),
            spread: RandomState::new(),
            rate,
        }
    }

    /// Takes a token out of the bucket of `key`. `now` counts from any moment, the same each time.
    pub(super) fn take(&self, key: u128, now: Duration) -> Taken {
        let shard = self.spread.hash_one(key) as usize % self.shards.len();
        let mut shard = self.shards[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        shard.take(key, now, self.rate)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        let shards = self.shards.iter();
        shards
            .map(|shard| shard.lock().unwrap().full_at.len())
            .sum()
    }
}

/// Times are in nanoseconds times `requests`: one token is worth `per_secs` seconds of them, a whole
/// number whatever the rate.
type Time = u128;

#[derive(Debug)]
struct Shard {
    most: usize,
    /// When the bucket of a key is full.
    full_at: HashMap<u128, Time>,
    /// Each key once, with a time at or before that of `full_at`: only the first is made exact.
    next_full: BinaryHeap<Reverse<(Time, u128)>>,
}

impl Shard {
    fn new(most: usize) -> Shard {
        Shard {
            most,
            full_at: HashMap::new(),
            next_full: BinaryHeap::new(),
        }
    }

    fn take(&mut self, key: u128, now: Duration, rate: Rate) -> Taken {
        let requests = Time::from(rate.requests);
        let token = Time::from(rate.per_secs) * NANOS_PER_SEC;
        let capacity = Time::from(rate.burst) * token;
        let now = now.as_nanos() * requests;
        let known = self.full_at.get(&key).copied();
        let full_at = match known {
            Some(full_at) => full_at,
            None => self.newcomer(now),
        };
        let debt = full_at.saturating_sub(now);
        let after = debt + token;
        let taken = after <= capacity;
        if taken {
            self.owe(key, known.is_some(), now + after);
        }
        let debt = if taken { after } else { debt };
        let real = |time: Time| {
            let nanos = time.div_ceil(requests);
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        };
        Taken {
            wait: (!taken).then(|| real(after - capacity)),
            // At most `burst`.
            remaining: (capacity.saturating_sub(debt) / token) as u64,
            full_in: real(debt),
        }
    }

    /// When the bucket of a key that is not kept is full: now, or, where there is no room, when the
    /// first of the others is.
    fn newcomer(&mut self, now: Time) -> Time {
        // Two for each that comes: what is no longer needed goes.
        for _ in 0..2 {
            match self.first() {
                Some((full_at, key)) if full_at <= now => {
                    self.full_at.remove(&key);
                    self.next_full.pop();
                }
                _ => break,
            }
        }
        match self.full_at.len() < self.most {
            true => now,
            false => self.first().map_or(now, |(full_at, _)| full_at),
        }
    }

    fn owe(&mut self, key: u128, known: bool, full_at: Time) {
        if !known {
            if self.full_at.len() >= self.most
                && let Some((_, first)) = self.first()
            {
                self.full_at.remove(&first);
                self.next_full.pop();
            }
            self.next_full.push(Reverse((full_at, key)));
        }
        self.full_at.insert(key, full_at);
    }

    /// The key that is full first, and when. Moves those down that have been used since they were
    /// put in: each use pays for one such move.
    fn first(&mut self) -> Option<(Time, u128)> {
        loop {
            let mut top = self.next_full.peek_mut()?;
            let Reverse((noted, key)) = *top;
            match self.full_at.get(&key) {
                Some(full_at) if *full_at > noted => *top = Reverse((*full_at, key)),
                _ => return Some((noted, key)),
            }
        }
    }
}

const NANOS_PER_SEC: Time = 1_000_000_000;

/// Fewer keys are not worth a lock of their own.
const KEYS_FOR_A_SHARD: usize = 1024;
const MAX_SHARDS: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn rate(requests: u64, per_secs: u64, burst: u64) -> Rate {
        Rate {
            requests,
            per_secs,
            burst,
        }
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_bucket_holds_its_burst_and_fills_at_its_rate() {
        let buckets = Buckets::new(rate(2, 1, 3), 10);
        for (at, wait, remaining, full_in) in [
            (0, None, 2, 500),
            (0, None, 1, 1000),
            (0, None, 0, 1500),
            (0, Some(500), 0, 1500),
            (499, Some(1), 0, 1001),
            (500, None, 0, 1500),
            (500, Some(500), 0, 1500),
            (1400, None, 0, 1100),
            (60_000, None, 2, 500),
        ] {
            let expected = Taken {
                wait: wait.map(ms),
                remaining,
                full_in: ms(full_in),
            };
            assert_eq!(buckets.take(1, ms(at)), expected, "at {at}");
        }
        assert_eq!(
            buckets.take(2, ms(60_000)).remaining,
            2,
            "a bucket of its own"
        );
    }

    #[test]
    fn a_rate_that_does_not_divide_a_second_is_exact() {
        let buckets = Buckets::new(rate(3, 7, 1), 10);
        let seconds = 7 * 1000;
        let day = Duration::from_secs(seconds).as_nanos() as u64;
        let mut taken = 0;
        let mut at = 0;
        while at < day {
            match buckets.take(1, Duration::from_nanos(at)).wait {
                None => taken += 1,
                Some(wait) => at += wait.as_nanos() as u64,
            }
        }
        assert_eq!(taken, 3000);
    }

    #[test]
    fn a_million_clients_neither_grow_memory_nor_come_in_for_free_nor_lock_out_all() {
        let most = 10_000;
        let buckets = Buckets::new(rate(1, 3600, 1), most);
        let regular = u128::MAX;
        assert_eq!(buckets.take(regular, ms(0)).wait, None);
        let hour = Duration::from_secs(3600);
        let flood = |from: u128, count: u128, at: Duration| {
            let clients = from..from + count;
            let let_in = clients.filter(|key| buckets.take(*key, at).wait.is_none());
            let let_in = let_in.count();
            assert!(buckets.len() <= most, "{} are kept", buckets.len());
            let_in
        };
        let first = flood(0, 1_000_000, ms(1));
        assert!((most * 9 / 10..=most).contains(&first), "{first} came in");
        assert_eq!(flood(0, 50_000, ms(2)), 0, "nobody twice");
        assert_eq!(
            flood(5_000_000, 50_000, ms(3)),
            0,
            "nor others in their place"
        );
        assert!(buckets.take(regular, ms(4)).wait.is_some());
        let again = flood(9_000_000, 50_000, hour + ms(5));
        assert!((most * 9 / 10..=most).contains(&again), "{again} came in");
    }

    #[test]
    fn who_has_a_place_keeps_his_tokens_in_a_flood() {
        let buckets = Buckets::new(rate(10, 1, 10), 100);
        for key in 0..100 {
            buckets.take(key, ms(0));
        }
        // Owes most, so the last one to lose its slot.
        for _ in 0..4 {
            assert_eq!(buckets.take(7, ms(0)).wait, None);
        }
        for key in 1000..1300 {
            buckets.take(key, ms(0));
        }
        assert_eq!(buckets.take(7, ms(0)).remaining, 4);
        assert_eq!(buckets.len(), 100);
    }

    #[test]
    fn what_is_full_again_is_forgotten() {
        let buckets = Buckets::new(rate(10, 1, 10), 1000);
        for key in 0..1000 {
            buckets.take(key, ms(0));
        }
        assert_eq!(buckets.len(), 1000);
        for key in 0..600 {
            buckets.take(5000 + key, Duration::from_secs(9));
        }
        assert_eq!(buckets.len(), 600);
    }

    proptest! {
        /// Whatever is evicted: those that were let in would have been by a bucket of their own.
        #[test]
        fn no_client_gets_more_than_its_own_bucket(
            requests in 1u64..5, per_secs in 1u64..4, burst in 1u64..5, most in 1usize..6,
            steps in proptest::collection::vec((0u128..12, 0u64..700), 1..300),
        ) {
            let rate = rate(requests, per_secs, burst);
            let buckets = Buckets::new(rate, most);
            let mut own: HashMap<u128, Shard> = HashMap::new();
            let mut now = Duration::ZERO;
            for (key, later) in steps {
                now += ms(later);
                let taken = buckets.take(key, now);
                prop_assert!(buckets.len() <= most);
                if taken.wait.is_none() {
                    let own = own.entry(key).or_insert_with(|| Shard::new(1));
                    prop_assert_eq!(own.take(key, now, rate).wait, None);
                }
            }
        }

        /// With room for all, the answers are those of a bucket alone.
        #[test]
        fn with_room_for_all_nobody_is_refused_wrongly(
            burst in 1u64..5, steps in proptest::collection::vec((0u128..12, 0u64..700), 1..300),
        ) {
            let rate = rate(2, 1, burst);
            let buckets = Buckets::new(rate, 12);
            let mut own: HashMap<u128, Shard> = HashMap::new();
            let mut now = Duration::ZERO;
            for (key, later) in steps {
                now += ms(later);
                let own = own.entry(key).or_insert_with(|| Shard::new(1));
                prop_assert_eq!(own.take(key, now, rate), buckets.take(key, now));
            }
        }
    }
}
