//! The plain socket out of a stream of Pingora's.
//!
//! Pingora 0.9 gives its streams' sockets back as bare numbers only; making one ours needs the one
//! line of `unsafe` here. Invariant: from the socket's first byte on, nothing is lost and nothing
//! is read twice: what Pingora's stream holds in its buffers comes along.
#![allow(unsafe_code)]

use std::future::poll_fn;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::task::Poll;

use bytes::BytesMut;
use pingora_core::protocols::Stream;
use pingora_core::protocols::l4::stream::Stream as PlainStream;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

/// A connection that is ours from here on.
pub(super) struct Taken {
    pub stream: TcpStream,
    pub client: SocketAddr,
    /// What was read of it already.
    pub first: BytesMut,
}

/// Why a stream's socket cannot be had.
#[derive(Debug)]
pub(super) enum NotTaken {
    /// It is not plain TCP, or a lot of it was read before: this is a mistake in the program.
    Unfit(&'static str),
    /// The system says no, mostly because the client is gone.
    Gone(std::io::Error),
}

/// Takes the socket out of `stream`, which is closed without the client noticing.
pub(super) async fn take(stream: Stream) -> Result<Taken, NotTaken> {
    let plain = stream.into_any().downcast::<PlainStream>();
    let mut plain = plain.map_err(|_| NotTaken::Unfit(NOT_PLAIN))?;
    if plain.as_raw_fd() < 0 {
        return Err(NotTaken::Unfit(NOT_PLAIN));
    }
    // SAFETY: `plain` owns this open descriptor, which is not -1, and outlives the borrow.
    let socket = unsafe { BorrowedFd::borrow_raw(plain.as_raw_fd()) };
    let socket = socket.try_clone_to_owned().map_err(NotTaken::Gone)?;
    let kind = socket2::SockRef::from(&socket).domain();
    if !matches!(kind, Ok(socket2::Domain::IPV4 | socket2::Domain::IPV6)) {
        return Err(NotTaken::Unfit(NOT_PLAIN));
    }
    let first = buffered(&mut plain).await?;
    // Closes its descriptor, not the connection; it must be gone before there can be a reset.
    drop(plain);
    let stream = TcpStream::from_std(socket.into()).map_err(NotTaken::Gone)?;
    let client = stream.peer_addr().map_err(NotTaken::Gone)?;
    Ok(Taken {
        stream,
        client,
        first,
    })
}

/// What can be read without waiting: when nothing more can, no buffer of Pingora's holds a byte.
async fn buffered(plain: &mut PlainStream) -> Result<BytesMut, NotTaken> {
    let mut first = BytesMut::new();
    let mut piece = vec![0; PIECE_BYTES];
    while first.len() < MAX_BYTES {
        let mut read = ReadBuf::new(&mut piece);
        let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut *plain).poll_read(cx, &mut read)));
        match polled.await {
            Poll::Pending => return Ok(first),
            Poll::Ready(Err(error)) => return Err(NotTaken::Gone(error)),
            // The end, which the next read reports again.
            Poll::Ready(Ok(())) if read.filled().is_empty() => return Ok(first),
            Poll::Ready(Ok(())) => first.extend_from_slice(read.filled()),
        }
    }
    Err(NotTaken::Unfit(TOO_MUCH))
}

const NOT_PLAIN: &str = "it is not plain TCP (TLS of a database begins inside its protocol and \
                         passes through: give this app to `add_tcp`, not to `add_tls`)";
const TOO_MUCH: &str = "more than a megabyte of it came before it was taken over";
/// Pingora's own read buffer is not larger, so that reads go past it.
const PIECE_BYTES: usize = 64 * 1024;
/// What may have been read, or put back, before.
const MAX_BYTES: usize = 1024 * 1024;
