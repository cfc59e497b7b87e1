//! One request's total deadline, which Pingora does not offer: its `read_timeout` starts anew with
//! each read, so an endpoint that drips its header never runs out of it.
//!
//! Its own file because it is the only place that closes a socket behind Pingora's back. A
//! [`Cutoff`] belongs to one request. While a try waits for its response header it holds the time
//! and what the try goes over: a socket of its own, or one stream of a shared connection. [`watch`]
//! polls the request and, when the time has passed, cuts that off, so that Pingora's pending read
//! ends and the retry decision is asked. Then it listens whether the body goes on coming: Pingora
//! can do that, too, but makes a timer and reads the clock for each read, which was a fiftieth of a
//! small request.
//! Invariants: arming, disarming and cutting all happen in the request's own task, so a socket that
//! Pingora released is never the one that is shut down; a connection that requests share is never
//! shut down for one of them. Requests of an HTTP/1 connection come one after the other and have one
//! cut-off in turn, which each of them disarms at its end. One timer serves all requests of an HTTP/1 connection, and the waits
//! between them: see [`Clock`].

use std::future::{Future, poll_fn};
use std::os::fd::RawFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use nix::sys::socket::{Shutdown, shutdown};
use nix::time::{ClockId, clock_gettime};
use tokio::time::Sleep;

/// The deadline of the try in flight of one request.
#[derive(Debug, Default)]
pub struct Cutoff {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
enum State {
    /// There is nothing to cut off.
    #[default]
    Off,
    /// A try whose clock does not run.
    Held(CutTarget),
    /// A response header must come until then.
    Waiting { target: CutTarget, until: Instant },
    /// A response body comes, and may be silent for so long.
    Listening {
        target: Option<CutTarget>,
        /// `None`: the clock does not run.
        until: Option<Instant>,
        silence: Duration,
        /// When a part of it came last that was not the end.
        heard: Option<Coarse>,
    },
    /// The deadline had passed.
    Fired,
}

/// What a try is cut off at.
#[derive(Clone, Debug)]
pub enum CutTarget {
    /// A connection that carries nothing else.
    Socket(RawFd),
    /// One stream of a connection that others share, which goes on.
    Stream(Arc<StreamCut>),
}

impl CutTarget {
    fn cut(&self) {
        match self {
            CutTarget::Socket(socket) => {
                // An error means the peer was faster; the pending read ends either way.
                let _ = shutdown(*socket, Shutdown::Both);
            }
            CutTarget::Stream(stream) => stream.cut(),
        }
    }
}

/// Ends the reads of one stream.
#[derive(Debug, Default)]
pub struct StreamCut(Mutex<Reading>);

#[derive(Debug, Default)]
enum Reading {
    #[default]
    Nobody,
    Waits(Waker),
    Cut,
}

impl StreamCut {
    /// Ready once the stream is cut off. For whoever reads it, before each read.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut reading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*reading {
            Reading::Cut => return Poll::Ready(()),
            Reading::Waits(reader) if reader.will_wake(cx.waker()) => {}
            Reading::Waits(_) | Reading::Nobody => *reading = Reading::Waits(cx.waker().clone()),
        }
        Poll::Pending
    }

    fn cut(&self) {
        let before = {
            let mut reading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *reading, Reading::Cut)
        };
        if let Reading::Waits(reader) = before {
            reader.wake();
        }
    }
}

/// Whether a client takes what it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientReads {
    /// It takes what it gets.
    Yes,
    /// It does again, since then.
    Since(Coarse),
    /// Something waits to be sent.
    No,
}

/// A time of the clock that costs little to read and is some milliseconds late: since the machine
/// was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Coarse(Duration);

impl Coarse {
    /// Read from the system's coarse clock, a few milliseconds late at most.
    pub fn now() -> Coarse {
        // Every Linux since 2.6.32 has this clock.
        Coarse(clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::ZERO, Into::into))
    }

    /// `wait` later.
    pub fn after(self, wait: Duration) -> Coarse {
        Coarse(self.0.saturating_add(wait))
    }

    /// To be kept in an atomic: milliseconds.
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    /// As [`as_millis`](Coarse::as_millis) wrote it.
    pub fn from_millis(millis: u64) -> Coarse {
        Coarse(Duration::from_millis(millis))
    }
}

impl Cutoff {
    /// Cuts `target` off at `until`, unless disarmed before.
    pub fn arm(&self, until: Instant, target: CutTarget) {
        *self.lock() = State::Waiting { target, until };
    }

    /// Remembers the target of a try whose clock does not run yet: the client still uploads.
    pub fn hold(&self, target: CutTarget) {
        *self.lock() = State::Held(target);
    }

    /// Stops the clock and goes on holding the target: the client uploads now.
    pub fn pause(&self) {
        let mut state = self.lock();
        match &mut *state {
            State::Waiting { target, .. } => *state = State::Held(target.clone()),
            State::Listening { until, .. } => *until = None,
            State::Off | State::Held(_) | State::Fired => {}
        }
    }

    /// Starts the clock of a held target.
    pub fn start(&self, at: Instant) {
        let mut state = self.lock();
        match &mut *state {
            State::Held(target) => {
                let target = target.clone();
                *state = State::Waiting { target, until: at };
            }
            State::Waiting { until, .. } => *until = at,
            State::Listening {
                target: Some(_),
                until,
                ..
            } => *until = Some(at),
            State::Listening { .. } | State::Off | State::Fired => {}
        }
    }

    /// The header is there, and its body may be silent for `silence` at a time, from `now` on: the
    /// target is cut off when it is for longer. Time in which the client does not take what is there
    /// does not count. Tells whether the deadline had passed and cut the try off.
    pub fn listen(&self, now: Instant, silence: Duration) -> bool {
        let mut state = self.lock();
        let target = match std::mem::take(&mut *state) {
            State::Fired => {
                *state = State::Fired;
                return true;
            }
            State::Off => None,
            State::Held(target) | State::Waiting { target, .. } => Some(target),
            State::Listening { target, .. } => target,
        };
        *state = State::Listening {
            target,
            until: now.checked_add(silence),
            silence,
            heard: None,
        };
        false
    }

    /// A part of the body came, and not the last.
    pub fn heard(&self) {
        if let State::Listening { heard, .. } = &mut *self.lock() {
            *heard = Some(Coarse::now());
        }
    }

    /// The header is there, or the try is over: nothing is cut off any more. Tells whether the
    /// deadline had passed and cut the try off.
    pub fn disarm(&self) -> bool {
        matches!(std::mem::take(&mut *self.lock()), State::Fired)
    }

    fn next(&self) -> Option<Instant> {
        match &*self.lock() {
            State::Waiting { until, .. } => Some(*until),
            State::Listening { until, .. } => *until,
            State::Off | State::Held(_) | State::Fired => None,
        }
    }

    fn expire(&self, now: Instant, client_reads: impl Fn() -> ClientReads) {
        let mut state = self.lock();
        match &mut *state {
            State::Waiting { target, until } if *until <= now => target.cut(),
            State::Listening {
                target,
                until,
                silence,
                heard,
            } if until.is_some_and(|until| until <= now) => {
                if let Some(left) = silence_left(*silence, *heard, client_reads()) {
                    *until = now.checked_add(left);
                    return;
                }
                if let Some(target) = target {
                    target.cut();
                }
            }
            _ => return,
        }
        *state = State::Fired;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For how long a body may still be silent, of which a part was `heard` last.
fn silence_left(silence: Duration, heard: Option<Coarse>, reads: ClientReads) -> Option<Duration> {
    let since = match reads {
        ClientReads::No => return Some(silence),
        ClientReads::Since(then) => heard.max(Some(then))?,
        ClientReads::Yes => heard?,
    };
    let silent = Coarse::now().0.saturating_sub(since.0);
    silence.checked_sub(silent).filter(|left| !left.is_zero())
}

/// The timer of one client connection, kept from request to request.
#[derive(Debug, Default)]
pub struct Clock {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Clock {
    /// Ready once `at` has passed. The timer is moved only to an earlier time, and re-armed when it
    /// fires too early: a connection that is in use touches it once in a while.
    pub fn poll(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let at = tokio::time::Instant::from_std(at);
        loop {
            let sleep = self
                .sleep
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            if sleep.deadline() > at || sleep.is_elapsed() {
                sleep.as_mut().reset(at);
            }
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= at {
                return Poll::Ready(());
            }
        }
    }
}

/// Polls `request` to its end, cutting its try off when `cutoff` says so. `client_reads` says whether
/// the request's client takes what it is sent.
pub async fn watch<F: Future>(
    cutoff: &Cutoff,
    clock: &mut Clock,
    client_reads: impl Fn() -> ClientReads,
    request: F,
) -> F::Output {
    let mut request = std::pin::pin!(request);
    poll_fn(|cx| {
        if let Poll::Ready(output) = request.as_mut().poll(cx) {
            return Poll::Ready(output);
        }
        while let Some(at) = cutoff.next() {
            match clock.poll(at, cx) {
                Poll::Pending => break,
                Poll::Ready(()) => cutoff.expire(Instant::now(), &client_reads),
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(addr), listener.accept());
        (client.unwrap(), accepted.unwrap().0)
    }

    #[tokio::test]
    async fn a_silent_read_ends_at_the_deadline() {
        let (mut stream, _peer) = pair().await;
        let (cutoff, mut clock) = (Cutoff::default(), Clock::default());
        let started = Instant::now();
        cutoff.arm(
            started + Duration::from_millis(100),
            CutTarget::Socket(stream.as_raw_fd()),
        );
        let read = watch(&cutoff, &mut clock, || ClientReads::Yes, stream.read_u8()).await;
        assert!(read.is_err());
        assert!(started.elapsed() >= Duration::from_millis(100));
        assert!(cutoff.disarm(), "the deadline says that it fired");
        assert!(!cutoff.disarm(), "and says so once");
    }

    #[tokio::test]
    async fn a_disarmed_deadline_leaves_the_socket_alone() {
        let (mut stream, mut peer) = pair().await;
        let (cutoff, mut clock) = (Cutoff::default(), Clock::default());
        cutoff.arm(
            Instant::now() + Duration::from_millis(50),
            CutTarget::Socket(stream.as_raw_fd()),
        );
        let read = watch(&cutoff, &mut clock, || ClientReads::Yes, async {
            assert!(!cutoff.disarm());
            tokio::time::sleep(Duration::from_millis(120)).await;
            tokio::io::AsyncWriteExt::write_all(&mut peer, b"x")
                .await
                .unwrap();
            stream.read_u8().await
        })
        .await;
        assert_eq!(read.unwrap(), b'x');
    }

    #[tokio::test]
    async fn an_earlier_deadline_moves_the_timer_of_the_connection() {
        let (mut stream, _peer) = pair().await;
        let (cutoff, mut clock) = (Cutoff::default(), Clock::default());
        let started = Instant::now();
        cutoff.arm(
            started + Duration::from_secs(30),
            CutTarget::Socket(stream.as_raw_fd()),
        );
        watch(
            &cutoff,
            &mut clock,
            || ClientReads::Yes,
            tokio::task::yield_now(),
        )
        .await;
        cutoff.arm(
            started + Duration::from_millis(60),
            CutTarget::Socket(stream.as_raw_fd()),
        );
        assert!(
            watch(&cutoff, &mut clock, || ClientReads::Yes, stream.read_u8())
                .await
                .is_err()
        );
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_was_set_to_an_earlier_time_is_armed_again() {
        let start = tokio::time::Instant::now();
        let after = |wait| (start + wait).into_std();
        let (early, late) = (Duration::from_millis(50), Duration::from_secs(75));
        let mut clock = Clock::default();
        let polled = poll_fn(|cx| Poll::Ready(clock.poll(after(early), cx))).await;
        assert!(polled.is_pending());
        poll_fn(|cx| clock.poll(after(late), cx)).await;
        assert!(start.elapsed() >= late);
        assert!(start.elapsed() < late + early);
    }

    /// A read of a stream of a connection that others share: its own cut-off ends it, too.
    async fn read_shared(connection: &TcpStream, cut: &StreamCut) -> Option<u8> {
        loop {
            let mut readable = std::pin::pin!(connection.readable());
            let is_cut = poll_fn(|cx| {
                if cut.poll(cx).is_ready() {
                    return Poll::Ready(true);
                }
                readable.as_mut().poll(cx).map(|_| false)
            });
            if is_cut.await {
                return None;
            }
            let mut byte = [0];
            if let Ok(1) = connection.try_read(&mut byte) {
                return Some(byte[0]);
            }
        }
    }

    #[tokio::test]
    async fn of_two_requests_on_one_connection_one_is_cut_off_alone() {
        let (connection, mut peer) = pair().await;
        let (cut, other) = (Arc::<StreamCut>::default(), Arc::<StreamCut>::default());
        let (mine, theirs) = (Cutoff::default(), Cutoff::default());
        let soon = Instant::now() + Duration::from_millis(50);
        let late = soon + Duration::from_secs(60);
        mine.arm(soon, CutTarget::Stream(cut.clone()));
        theirs.arm(late, CutTarget::Stream(other.clone()));
        let mut clocks = (Clock::default(), Clock::default());
        let reads = || ClientReads::Yes;
        let (mut first, mut second) = (
            Box::pin(watch(
                &mine,
                &mut clocks.0,
                reads,
                read_shared(&connection, &cut),
            )),
            Box::pin(watch(
                &theirs,
                &mut clocks.1,
                reads,
                read_shared(&connection, &other),
            )),
        );
        tokio::select! {
            read = &mut first => assert_eq!(read, None),
            read = &mut second => panic!("the other one ended with {read:?}"),
        }
        assert!(Instant::now() >= soon);
        // The connection is whole, and the other one goes on with it.
        tokio::io::AsyncWriteExt::write_all(&mut peer, b"x")
            .await
            .unwrap();
        assert_eq!(second.await, Some(b'x'));
        drop(first);
        assert!(mine.disarm());
        assert!(!theirs.disarm());
    }

    #[tokio::test]
    async fn a_held_socket_is_cut_only_after_its_clock_started() {
        let (mut stream, _peer) = pair().await;
        let (cutoff, mut clock) = (Cutoff::default(), Clock::default());
        cutoff.hold(CutTarget::Socket(stream.as_raw_fd()));
        let read = watch(&cutoff, &mut clock, || ClientReads::Yes, async {
            let silent = tokio::time::timeout(Duration::from_millis(50), stream.read_u8()).await;
            assert!(silent.is_err());
            cutoff.start(Instant::now() + Duration::from_millis(30));
            stream.read_u8().await
        })
        .await;
        assert!(read.is_err());
    }

    /// How long a body of three parts, the last of them after a silence, is listened to.
    async fn listened(client_reads: impl Fn() -> ClientReads, silence: u64) -> (bool, Duration) {
        let (mut stream, mut peer) = pair().await;
        let (cutoff, mut clock) = (Cutoff::default(), Clock::default());
        cutoff.arm(
            Instant::now() + Duration::from_secs(10),
            CutTarget::Socket(stream.as_raw_fd()),
        );
        let started = Instant::now();
        assert!(!cutoff.listen(started, Duration::from_millis(100)));
        let body = async {
            for pause in [60, 60, silence] {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                if tokio::io::AsyncWriteExt::write_all(&mut peer, b"x")
                    .await
                    .is_err()
                    || stream.read_u8().await.is_err()
                {
                    return;
                }
                cutoff.heard();
            }
        };
        watch(&cutoff, &mut clock, client_reads, body).await;
        (cutoff.disarm(), started.elapsed())
    }

    #[tokio::test]
    async fn a_body_that_goes_on_is_left_alone() {
        assert!(!listened(|| ClientReads::Yes, 60).await.0);
    }

    #[tokio::test]
    async fn a_body_that_stops_is_cut_off() {
        let (cut, after) = listened(|| ClientReads::Yes, 400).await;
        assert!(cut, "silent for longer than it may be");
        // Two parts came before; the clock may be some milliseconds late.
        assert!(after >= Duration::from_millis(60 + 60 + 90), "{after:?}");
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_not_the_endpoints_silence() {
        assert!(!listened(|| ClientReads::No, 400).await.0);
        let start = Coarse::now().as_millis();
        // Its time begins when the client took something again.
        let since = move || ClientReads::Since(Coarse::from_millis(start + 380));
        assert!(!listened(since, 300).await.0);
        assert!(
            listened(move || ClientReads::Since(Coarse::from_millis(start)), 400)
                .await
                .0
        );
    }
}
