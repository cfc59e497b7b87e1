//! How far a drain is, for connections and requests that must end with it.
//!
//! Each HTTP connection asks at each of its polls: a `watch` channel adds and removes an entry in a
//! shared list each time, which was a hundredth of a small request. Here a connection has one waker
//! slot for as long as it lives, and asking is a load. Invariant: a task that asked before a stage
//! began is woken when it does.

use std::collections::HashMap;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// The stages of a drain that connections end by, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// No connection has to end yet: no drain, or one that has just closed its listeners.
    Serving,
    /// Connections between two requests close.
    IdleCloses,
    /// Whatever still runs is cut off.
    Cut,
}

/// The stage that a drain is in. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Stages {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    stage: AtomicU8,
    next: AtomicU64,
    slots: Mutex<HashMap<u64, Arc<WakerSlot>>>,
}

/// Who is to be woken.
#[derive(Debug, Default)]
struct WakerSlot {
    waker: Mutex<Option<Waker>>,
    /// What the waker wakes, to see without the lock that it is the same; null where there is none.
    /// Written under the lock.
    wakes: AtomicPtr<()>,
}

/// One who ends with a drain; cloning makes another one.
#[derive(Debug)]
pub struct StageWatch {
    stages: Stages,
    number: u64,
    slot: Arc<WakerSlot>,
}

impl Stages {
    /// Begins a stage.
    pub fn begin(&self, stage: Stage) {
        self.inner.stage.fetch_max(stage as u8, Ordering::SeqCst);
        let slots: Vec<Arc<WakerSlot>> = locked(&self.inner.slots).values().cloned().collect();
        for slot in slots {
            // Nobody is woken under a lock.
            let waker = slot.take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// A watch of these stages, with a waker slot of its own until it is dropped.
    pub fn watch(&self) -> StageWatch {
        let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let slot = Arc::new(WakerSlot::default());
        locked(&self.inner.slots).insert(number, slot.clone());
        StageWatch {
            stages: self.clone(),
            number,
            slot,
        }
    }
}

impl StageWatch {
    /// Ready once `stage` or a later one has begun. Wakes who asked last.
    pub fn poll(&self, stage: Stage, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_begun(stage) {
            return Poll::Ready(());
        }
        let wakes = cx.waker().data().cast_mut();
        if !wakes.is_null() && self.slot.wakes.load(Ordering::SeqCst) == wakes {
            // A stage that begins now finds this waker, or has found it: that is a wake-up more.
            return Poll::Pending;
        }
        self.slot.put(cx.waker());
        // It may have begun before it could have found the waker.
        match self.has_begun(stage) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    fn has_begun(&self, stage: Stage) -> bool {
        self.stages.inner.stage.load(Ordering::SeqCst) >= stage as u8
    }
}

impl WakerSlot {
    fn put(&self, waker: &Waker) {
        let mut held = locked(&self.waker);
        *held = Some(waker.clone());
        self.wakes.store(waker.data().cast_mut(), Ordering::SeqCst);
    }

    fn take(&self) -> Option<Waker> {
        let mut held = locked(&self.waker);
        self.wakes.store(ptr::null_mut(), Ordering::SeqCst);
        held.take()
    }
}

impl Clone for StageWatch {
    fn clone(&self) -> StageWatch {
        self.stages.watch()
    }
}

impl Drop for StageWatch {
    fn drop(&mut self) {
        locked(&self.stages.inner.slots).remove(&self.number);
    }
}

/// Nothing that runs under these locks leaves its value half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn whoever_waits_is_woken_at_its_stage() {
        let stages = Stages::default();
        let waiting = [Stage::IdleCloses, Stage::Cut].map(|stage| {
            let watch = stages.watch();
            tokio::spawn(async move { poll_fn(|cx| watch.poll(stage, cx)).await })
        });
        tokio::task::yield_now().await;
        let [idle, cut] = waiting;
        stages.begin(Stage::IdleCloses);
        idle.await.expect("no panic");
        assert!(!cut.is_finished());
        stages.begin(Stage::Cut);
        cut.await.expect("no panic");
        // What has begun is reported at once.
        let late = stages.watch();
        poll_fn(|cx| late.poll(Stage::IdleCloses, cx)).await;
    }

    #[test]
    fn who_is_gone_has_no_place() {
        let stages = Stages::default();
        let one = stages.watch();
        let two = one.clone();
        assert_eq!(locked(&stages.inner.slots).len(), 2);
        drop((one, two));
        assert!(locked(&stages.inner.slots).is_empty());
    }

    #[test]
    fn nobody_misses_a_stage_that_begins_meanwhile() {
        for _ in 0..200 {
            let stages = Stages::default();
            let watch = stages.watch();
            let waiting = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build()
                    .expect("a runtime");
                runtime.block_on(async {
                    let woken = poll_fn(|cx| watch.poll(Stage::Cut, cx));
                    tokio::time::timeout(Duration::from_secs(10), woken).await
                })
            });
            stages.begin(Stage::Cut);
            let woken = waiting.join().expect("no panic");
            assert!(woken.is_ok(), "not woken");
        }
    }
}
