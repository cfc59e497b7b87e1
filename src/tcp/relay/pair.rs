//! Both directions of one session, with their sockets and what ends them.
//!
//! The two directions meet here: whose end or failure means what for the other, for the session's
//! reason, and for how each socket is closed. Invariants: both get their turn in equal portions; a
//! failed sink does not end the session before the other direction has delivered what its source
//! still had. Long because each way to end needs the state of both directions.

use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

use super::clock::Clock;
use super::ended::{Ended, Rest};
use super::flow::{Flow, GATHER, Stage, Step};
use super::options::{Asking, GracefulEnd, Idle, Relay, ServerBehavior, SilentClient};
use super::pipe::Pipes;
use super::socket::{Loss, close_with_reset};
use crate::error::Reason;
use crate::telemetry::Carried;
use crate::telemetry::Direction;
use crate::transport::Transport;

/// A running relay.
pub(super) struct Pair<'a> {
    client: Transport,
    server: Transport,
    up: Flow<'a>,
    down: Flow<'a>,
    /// Which direction was over first.
    first: Option<Direction>,
    clock: Clock,
    /// How often a source was looked at since bytes last moved.
    checks: u32,
    /// The client has sent something since the server last did.
    client_spoke: bool,
    idle_timeout: Option<Duration>,
    /// The server is asked to come to an end. In a box: few sessions are.
    asking: Option<Box<Asking>>,
    half_open_timeout: Duration,
    pipes: Option<Arc<Pipes>>,
    count: &'a (dyn Fn(Direction, u64) + Send + Sync),
    silent_client: SilentClient,
    carried: Option<Carried>,
    /// How the first side that was lost was.
    loss: Option<Loss>,
    opening: Opening,
    behavior: &'a ServerBehavior<'a>,
}

/// What a server may leave unread when it closes on the first words of a session, which makes its
/// close a reset (RFC 9293, 3.6.1) that the client has done nothing for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    /// Bytes of ours.
    Preface,
    /// What the client said before the server did, which was held back until that was connected.
    Words,
    /// Nothing of that: the client has spoken since.
    Over,
}

/// Why a session ends.
#[derive(Clone, Copy)]
pub(super) enum End {
    /// Both directions are over.
    Over,
    /// The client broke.
    ClientFailed,
    /// The server broke.
    ServerFailed,
    /// The client left without a byte, and the server is to be handed back.
    ClientSilent,
    /// The server left without a byte, and what the client sent is kept.
    Unanswered,
    Idle,
    HalfOpen,
    Stopped,
}

impl<'a> Relay<'a> {
    /// Relays until both sides have ended, one breaks, time is up, or `stop` is ready (`pin!` it: a
    /// future that is moved in would be stored twice). Both streams should be
    /// [tuned](crate::upstream::tune).
    ///
    /// Less than 500 bytes while it runs. A task that keeps the [`Relay`] in a block which ends
    /// before the `await` has no room for that, too.
    pub fn run<S>(
        self,
        client: Transport,
        server: Transport,
        mut stop: S,
    ) -> impl Future<Output = Ended> + use<'a, S>
    where
        S: Future<Output = ()> + Unpin,
    {
        let mut pair = Pair::new(self, client, server);
        async move {
            let end = poll_fn(|cx| pair.poll(cx, Pin::new(&mut stop))).await;
            pair.close(end)
        }
    }
}

impl<'a> Pair<'a> {
    pub(super) fn new(relay: Relay<'a>, client: Transport, server: Transport) -> Pair<'a> {
        let keep = if relay.to_client.is_empty() {
            relay.keep_unanswered
        } else {
            0
        };
        let opening = match relay.preface.is_empty() && !relay.behavior.was_prefaced {
            false => Opening::Preface,
            true => Opening::Words,
        };
        // Only bytes that nobody has to change can stay in the kernel.
        let are_plain = client.plain().is_some() && server.plain().is_some();
        let pipes = relay.pipes.filter(|_| are_plain);
        Pair {
            client,
            server,
            up: Flow::new(relay.to_server, relay.on_client_bytes)
                .having_passed(relay.passed_up)
                // Before the preface, which is not of the client and is not sent again as if it
                // were.
                .keeping(keep)
                .after(relay.preface),
            down: Flow::new(relay.to_client, relay.on_server_bytes)
                .having_passed(relay.passed_down),
            first: None,
            clock: Clock::new(),
            checks: 0,
            client_spoke: true,
            idle_timeout: relay.idle_timeout,
            asking: None,
            half_open_timeout: relay.half_open_timeout,
            pipes,
            count: relay.count,
            silent_client: relay.silent_client,
            carried: relay.carried,
            loss: None,
            opening,
            behavior: relay.behavior,
        }
    }

    pub(super) fn poll<S>(&mut self, cx: &mut Context<'_>, stop: Pin<&mut S>) -> Poll<End>
    where
        S: Future<Output = ()>,
    {
        let before = (
            self.up.bytes_written(),
            self.down.bytes_written(),
            self.first,
        );
        let taken = (self.up.bytes_read(), self.down.bytes_read());
        let end = self.move_bytes(cx);
        if self.up.bytes_read() > taken.0 {
            self.client_spoke = true;
            // What is said to a server that has closed changes nothing of what it closed on.
            if taken.1 > 0 && self.first != Some(Direction::Downstream) {
                self.opening = Opening::Over;
            }
        } else if self.down.bytes_read() > taken.1 {
            self.client_spoke = false;
        }
        let up = self.up.bytes_written() - before.0;
        if up > 0 {
            (self.count)(Direction::Upstream, up);
        }
        let down = self.down.bytes_written() - before.1;
        if down > 0 {
            (self.count)(Direction::Downstream, down);
        }
        if let Some(end) = end {
            return Poll::Ready(end);
        }
        if let Some(end) = self.poll_stop(cx, stop) {
            return end.map(|()| End::Stopped);
        }
        if up + down > 0 || self.first != before.2 {
            self.clock.note();
            self.checks = 0;
        }
        self.poll_clock(cx)
    }

    /// `None`: nobody stops the session.
    fn poll_stop<S>(&mut self, cx: &mut Context<'_>, stop: Pin<&mut S>) -> Option<Poll<()>>
    where
        S: Future<Output = ()>,
    {
        if self.asking.is_none() {
            if stop.poll(cx).is_pending() {
                return None;
            }
            let asking = match self.behavior.graceful_end {
                Some(graceful_end) if !self.is_answered(graceful_end) => (graceful_end.ask)(),
                _ => None,
            };
            let Some(asking) = asking else {
                return Some(Poll::Ready(()));
            };
            self.asking = Some(Box::new(asking));
        }
        let is_answered = self
            .behavior
            .graceful_end
            .is_some_and(|graceful_end| self.is_answered(graceful_end));
        let asking = self.asking.as_mut()?;
        Some(match asking.as_mut().as_mut().poll(cx) {
            Poll::Pending if !is_answered => Poll::Pending,
            _ => Poll::Ready(()),
        })
    }

    /// Whether the server has answered everything, as far as can be seen.
    fn is_answered(&self, graceful_end: GracefulEnd<'a>) -> bool {
        match self.behavior.idle {
            Idle::When(is_idle) => is_idle(),
            Idle::Silent | Idle::Answered => {
                !self.client_spoke && self.down.tail().is_some_and(graceful_end.is_over)
            }
        }
    }

    /// Whether the server may still have something to say, although nothing moves.
    fn is_busy(&self) -> bool {
        match self.behavior.idle {
            Idle::Silent => false,
            // An answer that a slow client has not taken is still due.
            Idle::Answered => {
                (self.client_spoke && self.up.bytes_read() > 0) || self.down.has_pending()
            }
            Idle::When(is_idle) => !is_idle(),
        }
    }

    /// Moves what can be moved, in turns.
    fn move_bytes(&mut self, cx: &mut Context<'_>) -> Option<End> {
        let (mut up, mut down) = (!self.up.is_over(), !self.down.is_over());
        for _ in 0..TURNS {
            if up {
                let (client, server) = (&mut self.client, &mut self.server);
                let step = self.up.step(cx, client, server, self.pipes.as_ref());
                up = matches!(step, Step::Moved | Step::Ended);
                if let Some(end) = self.after(Direction::Upstream, step) {
                    return Some(end);
                }
            }
            if down {
                let (client, server) = (&mut self.client, &mut self.server);
                let step = self.down.step(cx, server, client, self.pipes.as_ref());
                down = matches!(step, Step::Moved | Step::Ended);
                if let Some(end) = self.after(Direction::Downstream, step) {
                    return Some(end);
                }
            }
            if !up && !down {
                return None;
            }
        }
        // There is more, but others have to have their turn.
        cx.waker().wake_by_ref();
        None
    }

    /// What a step means for the session.
    fn after(&mut self, direction: Direction, step: Step) -> Option<End> {
        if let Step::SourceFailed(loss) | Step::SinkFailed(loss) = step {
            self.loss.get_or_insert(loss);
        }
        match (direction, step) {
            (Direction::Downstream, Step::Moved) if self.up.keeps() => {
                self.up.take_kept();
                None
            }
            (_, Step::Moved | Step::Pending) => None,
            (Direction::Upstream, Step::Ended) => self.is_silent().then_some(End::ClientSilent),
            (Direction::Downstream, Step::Ended) => {
                self.can_be_replayed().then_some(End::Unanswered)
            }
            (Direction::Upstream, Step::SourceFailed(_)) if self.is_silent() => {
                Some(End::ClientSilent)
            }
            (Direction::Upstream, Step::SourceFailed(_)) => Some(End::ClientFailed),
            (Direction::Downstream, Step::SourceFailed(_)) => Some(if self.can_be_replayed() {
                End::Unanswered
            } else {
                End::ServerFailed
            }),
            // A sink that failed may have sent something before: the other direction goes on to
            // its end, and only then is the session over.
            (direction, Step::Finished | Step::SinkFailed(_)) => {
                self.first.get_or_insert(direction);
                self.carried = None;
                (self.up.is_over() && self.down.is_over()).then_some(End::Over)
            }
        }
    }

    /// Whether the client has said nothing, and its server is to be handed back for that.
    fn is_silent(&self) -> bool {
        self.up.bytes_read() == 0 && self.silent_client == SilentClient::HandBack
    }

    fn poll_clock(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.up.gathers() || self.down.gathers() {
            ready!(self.clock.poll_quiet(cx, GATHER));
            self.up.release(&mut self.client);
            self.down.release(&mut self.server);
        }
        let half_open = self.first.is_some();
        let limit = match (half_open, self.idle_timeout) {
            (false, idle) => idle,
            (true, None) => Some(self.half_open_timeout),
            (true, Some(idle)) => Some(idle.min(self.half_open_timeout)),
        };
        loop {
            // A source is not read while its sink is slow, so its reset would not be noticed.
            let stuck = self.up.has_pending() || self.down.has_pending();
            let check = stuck.then(|| STUCK * self.checks.saturating_add(1));
            let patience = match (limit, check) {
                (Some(limit), Some(check)) => limit.min(check),
                (Some(patience), None) | (None, Some(patience)) => patience,
                (None, None) => {
                    self.clock.rest();
                    return Poll::Pending;
                }
            };
            ready!(self.clock.poll_quiet(cx, patience));
            if limit == Some(patience) {
                if !half_open && self.is_busy() {
                    self.clock.note();
                    self.checks = 0;
                    continue;
                }
                return Poll::Ready(if half_open { End::HalfOpen } else { End::Idle });
            }
            self.checks = self.checks.saturating_add(1);
            let lost = |stream: &Transport| match stream.socket().take_error() {
                Ok(None) => None,
                Ok(Some(error)) | Err(error) => Some(Loss::of(&error)),
            };
            if self.up.has_pending()
                && let Some(loss) = lost(&self.client)
            {
                self.loss.get_or_insert(loss);
                return Poll::Ready(End::ClientFailed);
            }
            if self.down.has_pending()
                && let Some(loss) = lost(&self.server)
            {
                self.loss.get_or_insert(loss);
                return Poll::Ready(End::ServerFailed);
            }
        }
    }

    /// Whether another server could take over unseen, and there is a client to take over for.
    fn can_be_replayed(&self) -> bool {
        self.up.keeps() && (self.up.bytes_read() > 0 || self.up.stage() == Stage::Open)
    }

    pub(super) fn close(mut self, end: End) -> Ended {
        let (up, down) = (self.up.bytes_written(), self.down.bytes_written());
        // Before anything is sent to the client.
        let is_left = matches!(end, End::Over | End::ServerFailed) && self.client_has_left();
        let over = matches!(end, End::Over).then(|| self.reason_when_over(is_left));
        let has_last_words = !is_left && self.are_last_words(end);
        let kept = self.up.take_kept();
        let cut = self.down.has_pending();
        let silent = self.up.bytes_read() == 0;
        let last = self.down.tail();
        let (client, server) = (self.client, self.server);
        let (reason, rest) = match (end, kept) {
            (End::Over | End::ServerFailed, _) if has_last_words => {
                (Reason::UpstreamError, Rest::LastWords { client })
            }
            (End::Over, _) => {
                let failed = |flow: &Flow| flow.stage() == Stage::Failed;
                // The sink that failed is gone; the other side receives a reset.
                if failed(&self.up) {
                    close_with_reset(client);
                }
                if failed(&self.down) {
                    close_with_reset(server);
                }
                (over.unwrap_or(Reason::Ok), Rest::Closed)
            }
            (End::ClientFailed, _) => {
                close_with_reset(server);
                (Reason::ClientClosed, Rest::Closed)
            }
            (End::ClientSilent, _) => (Reason::ClientClosed, Rest::Abandoned { server }),
            (End::Unanswered, Some(sent)) => {
                (Reason::UpstreamReset, Rest::Unanswered { client, sent })
            }
            (End::ServerFailed | End::Unanswered, _) => {
                // It may only have closed its own direction.
                close_with_reset(client);
                match is_left {
                    true => (Reason::Ok, Rest::Closed),
                    false => (Reason::UpstreamReset, Rest::Closed),
                }
            }
            (End::HalfOpen, _) => {
                // Whoever still waits must not take this for an end in order.
                close_with_reset(client);
                close_with_reset(server);
                (Reason::HalfOpen, Rest::Closed)
            }
            (End::Idle | End::Stopped, _) => {
                let reason = if matches!(end, End::Idle) {
                    Reason::IdleTimeout
                } else {
                    Reason::Drained
                };
                let rest = Rest::Open {
                    client,
                    server,
                    cut,
                    last,
                    silent,
                };
                (reason, rest)
            }
        };
        let is_unheard = self.loss == Some(Loss::NoAnswer) && matches!(rest, Rest::Closed);
        Ended {
            reason: match is_unheard {
                true => Reason::PeerTimeout,
                false => reason,
            },
            up,
            down,
            rest,
        }
    }

    /// Whether the client ended in order after it was answered, without having lost anything: then
    /// what becomes of the server is no failure.
    fn client_has_left(&mut self) -> bool {
        let answered = self.down.bytes_read() > 0 && !self.down.has_pending();
        answered && (self.up.stage() == Stage::Finished || is_at_end(&mut self.client))
    }

    /// Whether the server said something and closed without reading what the session began with:
    /// the client has all of it, and its end is to be one in order.
    fn are_last_words(&self, end: End) -> bool {
        let is_server_lost = match end {
            End::Over => self.up.stage() == Stage::Failed && self.down.stage() == Stage::Finished,
            End::ServerFailed => self.loss == Some(Loss::Broken),
            _ => false,
        };
        let are_whole = match self.opening {
            Opening::Preface => true,
            Opening::Words => self.down.tail().is_some_and(self.behavior.are_whole),
            Opening::Over => false,
        };
        let heard = self.down.bytes_read();
        is_server_lost && are_whole && (1..=LAST_WORDS).contains(&heard) && !self.down.has_pending()
    }

    /// Of a session in which both directions came to an end.
    fn reason_when_over(&self, is_left: bool) -> Reason {
        let failed = |flow: &Flow| flow.stage() == Stage::Failed;
        let client_first = self.first == Some(Direction::Upstream);
        // It closed in order, and answers with a reset to what the client says to that.
        let server_first =
            self.first == Some(Direction::Downstream) && self.down.stage() == Stage::Finished;
        match (failed(&self.up), failed(&self.down)) {
            (true, _) if is_left || server_first => Reason::Ok,
            // Both failed: the first has caused the other.
            (true, true) if client_first => Reason::UpstreamReset,
            (true, false) => Reason::UpstreamReset,
            (_, true) => Reason::ClientClosed,
            (false, false) if client_first && self.up.bytes_read() == 0 => Reason::ClientClosed,
            (false, false) if client_first => Reason::Ok,
            (false, false) if self.down.bytes_read() == 0 => Reason::UpstreamReset,
            (false, false) if self.up.bytes_read() == 0 => Reason::UpstreamError,
            (false, false) => Reason::Ok,
        }
    }
}

/// Whether nothing but the end is to come from `stream`. What it sent before is lost, so this is
/// for when nobody is there to take it.
fn is_at_end(stream: &mut Transport) -> bool {
    if let Some(stream) = stream.plain() {
        return is_socket_at_end(stream);
    }
    let mut dropped = [0; 1024];
    for _ in 0..LAST_READS {
        match stream.try_read(&mut dropped) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::ConnectionReset,
        }
    }
    false
}

/// Asks the system itself: tokio may not have noticed the end yet.
fn is_socket_at_end(stream: &TcpStream) -> bool {
    let socket = SockRef::from(stream);
    let mut dropped = [MaybeUninit::uninit(); 1024];
    for _ in 0..LAST_READS {
        match socket.recv(&mut dropped) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::ConnectionReset,
        }
    }
    false
}

/// Reads after which a client is taken to be still talking.
const LAST_READS: usize = 16;

/// Who says more than so many bytes has answered something.
const LAST_WORDS: u64 = 4 * 1024;

/// How often a source is looked at while its sink takes nothing.
const STUCK: Duration = Duration::from_secs(5);

/// Portions (a buffer, or a pipe full) of each direction before the runtime gets its thread back.
const TURNS: usize = 8;
