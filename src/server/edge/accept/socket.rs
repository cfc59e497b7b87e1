//! A listening socket, watched in one thread for connections that may be carried in another.
//!
//! Tokio's listener registers what it accepts in the thread that accepts, and its watch for any
//! other descriptor needs the one line of `unsafe` here.
#![allow(unsafe_code)]

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The socket, in the runtime that it was made in.
pub(super) struct Watched(AsyncFd<Arc<TcpListener>>);

impl Watched {
    pub(super) fn new(socket: Arc<TcpListener>) -> io::Result<Watched> {
        // SAFETY: the listener owns its descriptor and is never given another one; this keeps it
        // open for as long as it is watched, and nobody can take it out.
        let watched = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        Ok(Watched(watched?))
    }

    /// The next connection, which no runtime has registered yet.
    pub(super) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accept = |socket: &Arc<TcpListener>| Ok(acceptfrom_with(socket, flags)?);
        let (stream, client) = self.0.async_io(Interest::READABLE, accept).await?;
        // Linux names the peer of every TCP connection.
        let client = client.ok_or(io::ErrorKind::NotConnected)?;
        let client = SocketAddr::try_from(client)?;
        // On a socket for both families an IPv4 client comes as `::ffff:a.b.c.d` (RFC 4291,
        // 2.5.5.2); to everybody from here on it is what it is.
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        Ok((TcpStream::from(stream), client))
    }
}
