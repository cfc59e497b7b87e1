//! Leaving without dropping anybody: the steps of a drain, and the count of who is still here.
//!
//! Pingora's own shutdown sleeps its whole grace period and cannot notice that no connection is
//! left. Ours runs inside the signal watch that Pingora asks (`recv`), which returns only when all
//! is over. Invariant: a connection is counted from accept to close by one RAII guard, and the
//! waiter is armed before the count is read, so that the end of the last connection is never
//! missed.

pub mod stages;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use log::{info, warn};
use pingora_core::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::error::Reason;
use crate::server::drain::stages::{Stage, StageWatch, Stages};

/// How many client connections stand. Cloning shares the count.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    inner: Arc<Count>,
}

#[derive(Debug, Default)]
struct Count {
    open: AtomicUsize,
    empty: Notify,
}

/// One counted client connection; given back by Drop.
#[derive(Debug)]
pub struct OpenConnection {
    inner: Arc<Count>,
}

impl Connections {
    /// Counts one more, or `None` when `most` are open already.
    pub fn open(&self, most: usize) -> Option<OpenConnection> {
        let open = &self.inner.open;
        open.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
            (now < most).then_some(now + 1)
        })
        .ok()?;
        Some(OpenConnection {
            inner: self.inner.clone(),
        })
    }

    /// Connections open at this moment, on all HTTP and TCP listeners; the admin listener's not.
    pub fn count(&self) -> usize {
        self.inner.open.load(Ordering::Acquire)
    }

    /// Returns when none is open.
    pub async fn none_left(&self) {
        loop {
            let mut empty = std::pin::pin!(self.inner.empty.notified());
            empty.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            empty.await;
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        if self.inner.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.inner.empty.notify_waiters();
        }
    }
}

/// The steps of a drain as everybody else sees them. Receivers are cloned before the flip, because
/// one made after it never fires.
#[derive(Debug)]
pub struct Drain {
    /// Client connections of all HTTP and TCP listeners, bounded by `max_connections`.
    pub connections: Connections,
    ready: AtomicBool,
    stop_accepting: watch::Sender<bool>,
    announce: watch::Sender<bool>,
    stages: Stages,
    /// As the last stage, with the reason that records name.
    cut_off: watch::Sender<Option<Reason>>,
    leave: watch::Sender<Exit>,
    stopped: Notify,
    accepting: AtomicUsize,
}

impl Default for Drain {
    fn default() -> Self {
        Drain {
            connections: Connections::default(),
            ready: AtomicBool::new(false),
            stop_accepting: watch::Sender::new(false),
            announce: watch::Sender::new(false),
            stages: Stages::default(),
            cut_off: watch::Sender::new(None),
            leave: watch::Sender::new(Exit::Stay),
            stopped: Notify::new(),
            accepting: AtomicUsize::new(0),
        }
    }
}

/// Why a gateway leaves by itself, with nobody having stopped it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It does not leave by itself: only a stop ends it.
    Stay,
    /// Another process accepts on the same sockets.
    HandedOver,
    /// It could not take over from another process, whose sockets these are.
    TakeoverFailed,
}

/// One running accept loop; its end is what the drain waits for before it goes on.
#[derive(Debug)]
pub struct AcceptLoop {
    drain: Arc<Drain>,
}

impl Drop for AcceptLoop {
    fn drop(&mut self) {
        self.drain.accepting.fetch_sub(1, Ordering::AcqRel);
        self.drain.stopped.notify_waiters();
    }
}

impl Drain {
    /// Whether `/readyz` says yes.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// All listeners are bound and about to accept.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Turns true when listeners stop accepting.
    pub fn stop_accepting(&self) -> watch::Receiver<bool> {
        self.stop_accepting.subscribe()
    }

    /// Turns true when responses must say `Connection: close`.
    pub fn announce(&self) -> watch::Receiver<bool> {
        self.announce.subscribe()
    }

    /// When idle connections close, and when whatever still runs is cut off.
    pub fn stages(&self) -> StageWatch {
        self.stages.watch()
    }

    /// Turns to a reason, that of the last record, when a drain has waited long enough: whatever
    /// still runs is cut off, and database sessions say goodbye.
    pub fn cut_off(&self) -> watch::Receiver<Option<Reason>> {
        self.cut_off.subscribe()
    }

    /// Makes the gateway drain and end, as a stop would.
    pub fn leave(&self, why: Exit) {
        self.leave.send_replace(why);
    }

    /// Whether and why it does so. Unlike after a stop, the sockets are another process's, and this
    /// one accepts on them no more; the admin listener neither.
    pub fn left(&self) -> watch::Receiver<Exit> {
        self.leave.subscribe()
    }

    /// The word for connections that end because of the drain.
    pub fn reason(&self) -> Reason {
        match *self.leave.borrow() {
            Exit::HandedOver => Reason::HandedOver,
            Exit::Stay | Exit::TakeoverFailed => Reason::Drained,
        }
    }

    /// Registers an accept loop.
    pub fn accept_loop(self: &Arc<Self>) -> AcceptLoop {
        self.accepting.fetch_add(1, Ordering::AcqRel);
        AcceptLoop {
            drain: self.clone(),
        }
    }

    /// The whole way out. Ends as soon as nobody is left, at the latest after `timeout`.
    pub async fn run(&self, delay: Duration, timeout: Duration) {
        // Who is asked on a socket that was handed over answers for the successor, too.
        if *self.leave.borrow() != Exit::HandedOver {
            self.ready.store(false, Ordering::Release);
        }
        if !delay.is_zero() {
            info!("draining: not ready, listeners close in {delay:?}");
            tokio::time::sleep(delay).await;
        }
        let deadline = Instant::now() + timeout;
        self.stop_accepting.send_replace(true);
        self.accept_loops_ended().await;
        self.announce.send_replace(true);
        let open = self.connections.count();
        info!("draining: listeners closed, {open} connections open");
        // Keep-alive clients get the chance to receive `close` in a response before an idle
        // connection goes under their feet.
        let linger = LINGER.min(timeout);
        let _ = tokio::time::timeout(linger, self.connections.none_left()).await;
        self.stages.begin(Stage::IdleCloses);
        let empty = tokio::time::timeout_at(deadline, self.connections.none_left()).await;
        match empty {
            Ok(()) => info!("drained"),
            Err(_) => {
                let open = self.connections.count();
                warn!("drain timeout: {open} connections are cut off");
            }
        }
    }

    /// Cuts off who is left and waits, for a moment only, until their end is recorded.
    pub async fn cut(&self) {
        self.cut_off.send_replace(Some(self.reason()));
        self.stages.begin(Stage::Cut);
        let _ = tokio::time::timeout(LAST_WORDS, self.connections.none_left()).await;
    }

    async fn accept_loops_ended(&self) {
        loop {
            let mut stopped = std::pin::pin!(self.stopped.notified());
            stopped.as_mut().enable();
            if self.accepting.load(Ordering::Acquire) == 0 {
                return;
            }
            stopped.await;
        }
    }
}

/// How long idle keep-alive connections are left open after listeners closed.
const LINGER: Duration = Duration::from_secs(1);
/// How long those who are cut off may take for their last record, and for a goodbye.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What ends the gateway: a signal, or a call in the same process.
pub type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What Pingora asks for its shutdown signal: waits for the stop, drains, and only then answers.
pub struct StopWatch {
    /// The first TERM or INT, or the embedder's stop; `None` once the drain has taken it.
    pub stop: Mutex<Option<Stop>>,
    /// A second stop during the drain ends it at once.
    pub again: Mutex<Option<Stop>>,
    /// The drain that a stop, or a handover, starts.
    pub drain: Arc<Drain>,
    /// `server.drain_delay_secs`: from `/readyz` answering 503 to closing listeners; stops only.
    pub delay: Duration,
    /// `server.drain_timeout_secs`: how long open connections may go on after `delay`.
    pub timeout: Duration,
}

#[async_trait]
impl ShutdownSignalWatch for StopWatch {
    async fn recv(&self) -> ShutdownSignal {
        if let Some(stop) = take(&self.stop) {
            let again = take(&self.again).unwrap_or_else(|| Box::pin(std::future::pending()));
            self.follow(stop, again).await;
        }
        ShutdownSignal::FastShutdown
    }
}

impl StopWatch {
    async fn follow(&self, mut stop: Stop, again: Stop) {
        let mut left = self.drain.left();
        let delay = tokio::select! {
            () = &mut stop => Some(self.delay),
            // Clients already find the other process: there is nothing to wait for.
            _ = left.wait_for(|left| *left != Exit::Stay) => None,
        };
        let again = async {
            if delay.is_none() {
                stop.await;
                info!("draining already");
            }
            again.await;
        };
        tokio::select! {
            () = self.drain.run(delay.unwrap_or_default(), self.timeout) => {}
            () = again => warn!("second signal: not waiting any longer"),
        }
        self.drain.cut().await;
    }
}

fn take(slot: &Mutex<Option<Stop>>) -> Option<Stop> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_has_a_limit_and_comes_back_by_drop() {
        let connections = Connections::default();
        let first = connections.open(2).unwrap();
        let second = connections.open(2).unwrap();
        assert!(connections.open(2).is_none());
        drop(first);
        assert_eq!(connections.count(), 1);
        assert!(connections.open(2).is_some());
        drop(second);
        assert_eq!(connections.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_gateway_drains_at_once() {
        let drain = Drain::default();
        let started = Instant::now();
        drain.run(Duration::ZERO, Duration::from_secs(30)).await;
        assert!(started.elapsed() < Duration::from_millis(10));
        assert!(!drain.is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connections_are_closed_after_the_linger_only() {
        let drain = Arc::new(Drain::default());
        let open = drain.connections.open(10).unwrap();
        let stages = drain.stages();
        let announce = drain.announce();
        let started = Instant::now();
        let client = async {
            std::future::poll_fn(|cx| stages.poll(Stage::IdleCloses, cx)).await;
            assert!(*announce.borrow());
            assert_eq!(started.elapsed(), LINGER);
            drop(open);
        };
        tokio::join!(client, drain.run(Duration::ZERO, Duration::from_secs(30)));
        assert_eq!(started.elapsed(), LINGER);
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_ends_a_drain() {
        let drain = Drain::default();
        let _open = drain.connections.open(10).unwrap();
        let started = Instant::now();
        drain.run(Duration::ZERO, Duration::from_secs(5)).await;
        assert_eq!(started.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn the_drain_waits_for_accept_loops_to_end() {
        let drain = Arc::new(Drain::default());
        let accepting = drain.accept_loop();
        let mut stop = drain.stop_accepting();
        let announced = drain.announce();
        let listener = async move {
            stop.changed().await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(!*announced.borrow(), "nothing goes on while one accepts");
            drop(accepting);
        };
        tokio::join!(listener, drain.run(Duration::ZERO, Duration::from_secs(5)));
    }
}
