//! What a relay does to a socket, and how sockets of sessions are torn down.
//!
//! The one place of the relay that reads and writes a [`Transport`]: what is in `flow` runs over
//! anything that is a [`Socket`], in tests over a schedule. Invariant: readiness is given up only
//! after the system answered `WouldBlock`, so no event is lost.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::{setsockopt_impl, sockopt_impl};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::pipe::Pipe;
use crate::transport::Transport;

/// One side of a session.
pub(super) trait Socket {
    /// Nothing filled in: the end of the stream.
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>>;

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Sends what was taken and not sent. Nothing to do for a plain socket.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Says that nothing more will be written.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Into an empty pipe; 0 is the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>>;

    fn poll_drain(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>>;

    /// Not ready to be read before it has so many bytes, has ended or broken, or can take no more.
    /// Ready at once if that is the case already.
    fn set_low_water(&mut self, bytes: u32) -> io::Result<()>;
}

/// Why a socket is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Its peer reset it, or takes no more.
    Broken,
    /// Its peer is not there: it answered neither probes nor bytes for as long as the system waits.
    NoAnswer,
}

impl Loss {
    /// tcp(7): ETIMEDOUT, or what a router said of the peer meanwhile.
    pub(super) fn of(error: &io::Error) -> Loss {
        match error.kind() {
            io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable => Loss::NoAnswer,
            _ => Loss::Broken,
        }
    }
}

impl Socket for Transport {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(self), cx, buf)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(stream) = self.plain() {
            // Tokio writes only after an event says writable, and a socket that is new to this
            // runtime has had none: mostly there is room.
            match send(stream, bytes, SendFlags::NOSIGNAL) {
                Ok(written) => return Poll::Ready(Ok(written)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                // The system reports it once: another write would get a broken pipe.
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        AsyncWrite::poll_write(Pin::new(self), cx, bytes)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Transport::Plain(_) => Poll::Ready(Ok(())),
            Transport::Tls(session) => Pin::new(session).poll_flush(cx),
        }
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(self), cx)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        let stream = spliceable(self)?;
        loop {
            ready!(stream.poll_read_ready(cx))?;
            match stream.try_io(Interest::READABLE, || pipe.fill(stream)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        let stream = spliceable(self)?;
        loop {
            ready!(stream.poll_write_ready(cx))?;
            match stream.try_io(Interest::WRITABLE, || pipe.drain(stream)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn set_low_water(&mut self, bytes: u32) -> io::Result<()> {
        // tcp(7): Linux wakes for SO_RCVLOWAT since 2.6, and raises the buffer to hold twice that.
        Ok(setsockopt(spliceable(self)?, LowWater, &bytes)?)
    }
}

/// What moves bytes unseen, or counts those that arrive, is for plain sockets.
fn spliceable(transport: &Transport) -> io::Result<&TcpStream> {
    transport
        .plain()
        .ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Closes with RST, so that the peer sees a failure and not an end. What has not left yet is
/// thrown away.
pub fn close_with_reset(stream: Transport) {
    // A socket that cannot be set so has no peer left to notify.
    let _gone = SockRef::from(stream.socket()).set_linger(Some(Duration::ZERO));
}

sockopt_impl!(
    /// socket(7): the least number of bytes that makes a socket readable.
    LowWater,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_RCVLOWAT,
    u32
);
