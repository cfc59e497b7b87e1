//! How long a label lives: as long as a handle of it is held.
//!
//! The same for routes, listeners and endpoints. Invariant: a child is in the output as long as it is
//! held; so memory stays flat however often the configuration changes.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::IntCounter;

use super::families::Families;

/// The children under one label (or pair of labels).
pub(super) trait Child: Sized {
    type Key: Hash + Eq;

    fn key(&self) -> &Self::Key;

    /// Takes everything that was made out of the output.
    fn remove(&self, families: &Families);
}

/// The children that are in use, each with the number of its holders. Adding and removing happen
/// under the lock, so a label that goes and comes back at the same time is never half of both.
pub(super) struct Children<C: Child>(Mutex<HashMap<C::Key, Counted<C>>>);

struct Counted<C> {
    holders: usize,
    child: Arc<C>,
}

impl<C: Child> Default for Children<C> {
    fn default() -> Self {
        Children(Mutex::new(HashMap::new()))
    }
}

/// One hold on a child; the last to go takes the child out of the output.
pub(super) struct Held<C: Child> {
    pub(super) child: Arc<C>,
    pub(super) families: Arc<Families>,
    all: Arc<Children<C>>,
}

impl<C: Child> Held<C> {
    /// Takes the child of this key, or the one that `make` makes.
    pub(super) fn take(
        all: &Arc<Children<C>>,
        families: &Arc<Families>,
        key: C::Key,
        make: impl FnOnce() -> C,
    ) -> Arc<Held<C>> {
        let mut children = locked(&all.0);
        let kept = children.entry(key).or_insert_with(|| Counted {
            holders: 0,
            child: Arc::new(make()),
        });
        kept.holders += 1;
        Arc::new(Held {
            child: Arc::clone(&kept.child),
            families: Arc::clone(families),
            all: Arc::clone(all),
        })
    }
}

impl<C: Child> Drop for Held<C> {
    fn drop(&mut self) {
        let mut children = locked(&self.all.0);
        let Some(kept) = children.get_mut(self.child.key()) else {
            return;
        };
        kept.holders -= 1;
        if kept.holders == 0 {
            self.child.remove(&self.families);
            children.remove(self.child.key());
        }
    }
}

/// Counters of one label that is in use and another that takes few values: a short list, searched
/// under a lock. For what does not happen with every request.
pub(super) struct Counters<K>(Mutex<Vec<(K, IntCounter)>>);

impl<K> Default for Counters<K> {
    fn default() -> Self {
        Counters(Mutex::new(Vec::new()))
    }
}

impl<K: Copy + Eq> Counters<K> {
    /// Adds one to the counter of `key`, made when it is the first.
    pub(super) fn inc(&self, key: K, make: impl FnOnce() -> IntCounter) {
        let mut counters = locked(&self.0);
        match counters.iter().find(|(made, _)| *made == key) {
            Some((_, counter)) => counter.inc(),
            None => {
                let counter = make();
                counter.inc();
                counters.push((key, counter));
            }
        }
    }

    /// The keys that were ever counted.
    pub(super) fn made(&self) -> Vec<K> {
        locked(&self.0).iter().map(|(key, _)| *key).collect()
    }
}

/// Nothing that runs under these locks leaves its list half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
