//! What a relay does to a socket, and how sockets of sessions are torn down.
//!
//! Its own file because it is the only one of the relay that knows `TcpStream`: what is in
//! `flow` runs over anything that is a [`Socket`], in tests over a schedule. Invariant: readiness
//! is given up only after the system said `WouldBlock`, so no event is lost.

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

/// One side of a session.
pub(super) trait Socket {
    /// Nothing filled in: the end of the stream.
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>>;

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

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

impl Socket for TcpStream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(self), cx, buf)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // Tokio writes only what it has heard is writable, and of a socket that is new to this
        // runtime it has heard nothing: mostly there is room.
        match send(&*self, bytes, SendFlags::NOSIGNAL) {
            Ok(written) => Poll::Ready(Ok(written)),
            Err(Errno::AGAIN | Errno::INTR) => AsyncWrite::poll_write(Pin::new(self), cx, bytes),
            // The system tells it once: another write would be told of a broken pipe.
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(self), cx)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_read_ready(cx))?;
            match self.try_io(Interest::READABLE, || pipe.fill(&*self)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_write_ready(cx))?;
            match self.try_io(Interest::WRITABLE, || pipe.drain(&*self)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn set_low_water(&mut self, bytes: u32) -> io::Result<()> {
        // tcp(7): Linux wakes for SO_RCVLOWAT since 2.6, and raises the buffer to hold twice that.
        Ok(setsockopt(self, LowWater, &bytes)?)
    }
}

/// Closes with RST, so that the peer hears of a failure and not of an end. What has not left yet is
/// thrown away.
pub fn close_with_reset(stream: TcpStream) {
    // A socket that cannot be set so has nobody left who could be told.
    let _gone = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

sockopt_impl!(
    /// socket(7): the least number of bytes that makes a socket readable.
    LowWater,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_RCVLOWAT,
    u32
);
