//! The IO type under every HTTP/1 connection: the gate.
//!
//! Pingora reads whatever a stream gives it, so the stream decides what there is to read. A
//! [`GateStream`] gives nothing until a whole head was scanned, then that head, then the bytes of
//! that request's body, then nothing until the next head was scanned. Invariants: the bytes of a
//! following request never reach the session of the one before; an idle connection holds no buffer.
//! Long because both directions and their shared state are one type.

use std::fmt;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::SystemTime;

use nix::sys::socket::{Shutdown, shutdown};
use pingora_core::protocols::SocketDigest;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::buffers::{Inbox, Outbox};
pub(in crate::server) use self::gate::{Gate, HeadBounds, RefusedHead};
use crate::http::deadline::{ClientReads, Coarse};
use crate::tls::ClientTls;
use crate::transport::Transport;
use crate::wire::http1::{BodyFraming, BodyTracker};

/// A client's connection with the gate in front of it.
pub struct GateStream {
    /// There until Drop.
    socket: Option<Transport>,
    client: SocketAddr,
    local: SocketAddr,
    digest: Arc<SocketDigest>,
    established: SystemTime,
    inbox: Inbox,
    outbox: Outbox,
    /// Bytes of the head under way that Pingora has not read.
    head_left: usize,
    body: BodyTracker,
    upgrade: Upgrade,
    /// The client will send nothing more.
    eof: bool,
    /// The socket failed: there is nobody to linger for.
    broken: bool,
    /// The last write did not go out, or not all of it.
    stuck: bool,
    /// The outbox holds something, as `note_holding` reported last.
    holding: bool,
    /// Who polled for bytes that were held back; there is no readiness event for them.
    held_reader: Option<Waker>,
    socket_handle: SocketHandle,
    /// What its handshake settled.
    tls: Option<Arc<ClientTls>>,
}

/// Where a dropped [`GateStream`] leaves its socket when the client is still sending: Pingora drops
/// streams, and whoever started the session closes them with care. Meanwhile it can cut the stream
/// off that a session holds.
#[derive(Clone, Debug)]
pub(in crate::server) struct SocketHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    held: Mutex<Held>,
    /// See [`SocketHandle::client_reads`]: 0 for yes, the largest number for no, else since when.
    client_reads: AtomicU64,
    /// See [`SocketHandle::send_on`]: one of the three below.
    outbox: AtomicU8,
}

/// Who holds the socket.
#[derive(Debug)]
enum Held {
    /// The stream does; whoever closes the descriptor notes it here.
    Stream(RawFd),
    Left(Transport),
    Gone,
}

impl GateStream {
    /// Wraps an accepted connection, which has TCP_NODELAY from its listener. `client` is from
    /// `accept`, or from a PROXY header.
    ///
    /// # Errors
    /// The socket is already gone.
    pub fn new(socket: impl Into<Transport>, client: SocketAddr) -> io::Result<Self> {
        let socket = socket.into();
        let local = socket.socket().local_addr()?;
        let descriptor = socket.socket().as_raw_fd();
        let held = Held::Stream(descriptor);
        let digest = SocketDigest::from_raw_fd(descriptor);
        // Known already: spares Pingora two system calls, and `client` may be a PROXY header's.
        let _ = digest.peer_addr.set(Some(client.into()));
        let _ = digest.local_addr.set(Some(local.into()));
        Ok(GateStream {
            socket: Some(socket),
            client,
            local,
            digest: Arc::new(digest),
            established: SystemTime::now(),
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            head_left: 0,
            body: BodyTracker::new(BodyFraming::None, 0),
            upgrade: Upgrade::No,
            eof: false,
            broken: false,
            held_reader: None,
            stuck: false,
            holding: false,
            socket_handle: SocketHandle(Arc::new(Shared {
                held: Mutex::new(held),
                client_reads: AtomicU64::new(0),
                outbox: AtomicU8::new(EMPTY),
            })),
            tls: None,
        })
    }

    /// The same after this handshake.
    pub fn in_tls(mut self, tls: Arc<ClientTls>) -> Self {
        self.tls = Some(tls);
        self
    }

    /// The same, of which these bytes were read before.
    pub fn after(mut self, first: &[u8]) -> Self {
        self.inbox.push(first);
        self
    }

    /// What its handshake settled; `None` without TLS.
    pub fn tls(&self) -> Option<&Arc<ClientTls>> {
        self.tls.as_ref()
    }

    /// The other end, as given to [`new`](Self::new).
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// Our end.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    pub(in crate::server) fn socket_handle(&self) -> SocketHandle {
        self.socket_handle.clone()
    }

    /// Whether a request is over so cleanly that another one may follow.
    pub(in crate::server) fn is_reusable(&self) -> bool {
        self.head_left == 0
            && self.body.is_done()
            && self.upgrade != Upgrade::Done
            && !self.broken
            && self.is_flushed()
    }

    /// Whether everything written was given to the socket.
    pub(in crate::server) fn is_flushed(&self) -> bool {
        self.outbox.is_empty()
    }

    /// The socket, when nobody needs the gate any more: to refuse what it held back.
    pub(in crate::server) fn into_socket(mut self: Box<Self>) -> Option<Transport> {
        *self.socket_handle.lock() = Held::Gone;
        self.socket.take()
    }

    /// Reads once into the inbox; `Ok(0)` when the client will send nothing more.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.eof {
            return Poll::Ready(Ok(0));
        }
        let mut space = [MaybeUninit::<u8>::uninit(); READ_BYTES];
        let mut buf = ReadBuf::uninit(&mut space);
        ready!(self.poll_socket(cx, &mut buf))?;
        self.inbox.push(buf.filled());
        Poll::Ready(Ok(buf.filled().len()))
    }

    /// Reads from the socket itself and remembers how it ended.
    fn poll_socket(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(socket) = &mut self.socket else {
            return Poll::Ready(Ok(()));
        };
        let before = buf.filled().len();
        let read = ready!(Pin::new(socket).poll_read(cx, buf));
        self.eof |= read.is_ok() && buf.filled().len() == before;
        self.broken |= read.is_err();
        Poll::Ready(read)
    }

    /// A read while there is nothing to give: Pingora only wants to know whether the client leaves.
    /// What arrives now is the next request's. One read of it is kept; then the socket is left
    /// alone, which also means that the end of stream behind it is reported after it, in order.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.inbox.is_empty() && ready!(self.poll_fill(cx))? == 0 {
            return Poll::Ready(Ok(()));
        }
        self.held_reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// A read of the body under way.
    fn poll_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.inbox.is_empty() {
            let held = self.inbox.unread();
            let held = &held[..held.len().min(buf.remaining())];
            let ours = self.body.advance(held).map_err(malformed)?;
            buf.put_slice(&held[..ours]);
            self.inbox.consume(ours);
            return Poll::Ready(Ok(()));
        }
        // A body that broke before stays broken, and is not waited for.
        self.body.advance(&[]).map_err(malformed)?;
        if self.eof {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(self.poll_socket(cx, buf))?;
        let read = &buf.filled()[before..];
        let ours = self.body.advance(read).map_err(malformed)?;
        self.inbox.push(&read[ours..]);
        buf.set_filled(before + ours);
        Poll::Ready(Ok(()))
    }

    /// A read of a connection that does not speak HTTP any more.
    fn poll_raw(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.inbox.is_empty() {
            self.inbox.give(usize::MAX, buf);
            return Poll::Ready(Ok(()));
        }
        if self.eof {
            return Poll::Ready(Ok(()));
        }
        self.poll_socket(cx, buf)
    }

    /// Looks for the status line of the final response to an upgrade request. Pingora writes each
    /// head with one call, so it can only stand at the start of `bytes`.
    fn notice_status(&mut self, bytes: &[u8]) {
        let Some([class, rest @ ..]) = bytes.strip_prefix(b"HTTP/1.1 ") else {
            return;
        };
        if bytes.starts_with(b"HTTP/1.1 101") {
            self.upgrade = Upgrade::Done;
            if let Some(reader) = self.held_reader.take() {
                reader.wake();
            }
        } else if *class != b'1' && !rest.is_empty() {
            self.upgrade = Upgrade::No;
        }
    }

    fn note_stuck(&mut self, stuck: bool) {
        if self.stuck != stuck {
            self.stuck = stuck;
            let client_reads = match stuck {
                true => u64::MAX,
                false => Coarse::now().as_millis(),
            };
            self.socket_handle
                .0
                .client_reads
                .store(client_reads, Ordering::Relaxed);
        }
    }

    /// Reports whether bytes are kept that may wait for others.
    fn note_holding(&mut self) {
        let holding = !self.outbox.is_empty();
        if self.holding != holding {
            self.holding = holding;
            let state = if holding { HOLDS } else { EMPTY };
            self.socket_handle.0.outbox.store(state, Ordering::Relaxed);
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.upgrade == Upgrade::Asked
            && let Some(first) = bufs.iter().find(|buf| !buf.is_empty())
        {
            self.notice_status(first);
        }
        let Some(socket) = &mut self.socket else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let sent = self.outbox.poll_send(cx, socket, bufs);
        self.note_stuck(sent.is_pending());
        self.note_holding();
        let sent = ready!(sent);
        self.broken |= sent.is_err();
        Poll::Ready(sent)
    }
}

impl Drop for GateStream {
    fn drop(&mut self) {
        let Some(mut socket) = self.socket.take() else {
            return;
        };
        self.outbox.try_flush(&mut socket);
        // Closing now would answer what the client still sends with a RST, which can overtake the
        // response.
        let still_sending = !self.body.is_done() || !self.inbox.is_empty();
        let left = still_sending && !self.broken && !self.eof && self.upgrade != Upgrade::Done;
        if !left && !self.broken {
            socket.try_close();
        }
        // Closed only behind this: until then the descriptor is nobody else's.
        *self.socket_handle.lock() = match left {
            true => Held::Left(socket),
            false => Held::Gone,
        };
    }
}

impl SocketHandle {
    pub(in crate::server) fn take(&self) -> Option<Transport> {
        let mut held = self.lock();
        match std::mem::replace(&mut *held, Held::Gone) {
            Held::Left(socket) => Some(socket),
            still @ Held::Stream(_) => {
                *held = still;
                None
            }
            Held::Gone => None,
        }
    }

    /// Shuts the connection down under whoever reads and writes it.
    pub(in crate::server) fn cut(&self) {
        if let Held::Stream(socket) = *self.lock() {
            // An error means that the client was faster.
            let _ = shutdown(socket, Shutdown::Both);
        }
    }

    /// Asks for what is kept in the outbox to be sent, if anything is. The next read does it: the
    /// session has the stream, and reads whenever it waits for something else.
    pub(in crate::server) fn send_on(&self) -> bool {
        let holds = self.0.outbox.load(Ordering::Relaxed) != EMPTY;
        if holds {
            self.0.outbox.store(SENT_ON, Ordering::Relaxed);
        }
        holds
    }

    /// Whether the client takes what it is sent.
    pub(in crate::server) fn client_reads(&self) -> ClientReads {
        match self.0.client_reads.load(Ordering::Relaxed) {
            0 => ClientReads::Yes,
            u64::MAX => ClientReads::No,
            since => ClientReads::Since(Coarse::from_millis(since)),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for GateStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if this.socket_handle.0.outbox.load(Ordering::Relaxed) == SENT_ON {
            // Its result is reported to the next write, or ends this read.
            let _ = Pin::new(&mut *this).poll_flush(cx);
        }
        if this.head_left > 0 {
            this.head_left -= this.inbox.give(this.head_left, buf);
            return Poll::Ready(Ok(()));
        }
        if this.upgrade == Upgrade::Done {
            this.poll_raw(cx, buf)
        } else if this.body.is_done() {
            this.poll_idle(cx)
        } else {
            this.poll_body(cx, buf)
        }
    }
}

impl AsyncWrite for GateStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(socket) = &mut this.socket else {
            return Poll::Ready(Ok(()));
        };
        let flushed = this.outbox.poll_flush(cx, socket);
        this.note_stuck(flushed.is_pending());
        this.note_holding();
        let flushed = ready!(flushed);
        this.broken |= flushed.is_err();
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        match &mut self.get_mut().socket {
            Some(socket) => Pin::new(socket).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

/// Without what the client sent: it may be secret.
impl fmt::Debug for GateStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GateStream")
            .field("client", &self.client)
            .field("local", &self.local)
            .field("head_left", &self.head_left)
            .field("body", &self.body)
            .field("upgrade", &self.upgrade)
            .field("eof", &self.eof)
            .finish_non_exhaustive()
    }
}

/// Whether the connection will go on speaking HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upgrade {
    No,
    /// A 101 to this request would end HTTP.
    Asked,
    /// It did. Every byte passes.
    Done,
}

fn malformed(cause: crate::wire::http1::Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}

// The states of an outbox, as reported to the other end of `SocketHandle`.
const EMPTY: u8 = 0;
const HOLDS: u8 = 1;
/// As `HOLDS`, and it was asked for.
const SENT_ON: u8 = 2;

/// One read into the inbox.
const READ_BYTES: usize = 8 * 1024;

mod buffers;
mod digest;
mod gate;
#[cfg(test)]
pub(in crate::server) mod tests;
