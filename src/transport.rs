//! A connection below its protocol: a plain TCP socket, or TLS on top of one.
//!
//! Shared by the HTTP gate and the database sessions, on both sides of the gateway. Invariants: a
//! plain connection is matched for, never called through a table; whatever concerns the socket
//! itself (options, resets, errors) goes by [`Transport::socket`], and bytes never do.

#[cfg(test)]
pub(crate) mod masked;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// One connection. Its end is written by `shutdown`, which sends `close_notify` where there is TLS.
pub enum Transport {
    /// What is read and written is what is on the wire.
    Plain(TcpStream),
    /// What is on the wire is encrypted.
    Tls(Box<dyn TlsSession>),
}

/// TLS over a TCP socket, after its handshake.
///
/// As an [`AsyncWrite`] it may hold records back until it is flushed. An end of the socket without
/// `close_notify` is an error of the read (RFC 8446, 6.1).
pub trait TlsSession: AsyncRead + AsyncWrite + Send + Sync + Unpin {
    /// The socket below, for its options, never for bytes.
    fn socket(&self) -> &TcpStream;

    /// Reads what is there, or fails with `WouldBlock`. 0 is the end of the stream.
    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Whether something, or the end, can be read although the socket has nothing new.
    fn is_read_ahead(&self) -> bool;

    /// Writes what the socket takes at once, or fails with `WouldBlock`.
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Sends `close_notify` if the socket takes it at once: whoever drops the session cannot wait.
    fn try_close(&mut self);
}

impl Transport {
    /// The TCP socket, for its options, never for bytes.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Transport::Plain(stream) => stream,
            Transport::Tls(session) => session.socket(),
        }
    }

    /// The socket, where its bytes are the connection's: it may be spliced and peeked at.
    pub fn plain(&self) -> Option<&TcpStream> {
        match self {
            Transport::Plain(stream) => Some(stream),
            Transport::Tls(_) => None,
        }
    }

    /// The socket, where its bytes are the connection's; otherwise the connection as it was.
    pub fn into_plain(self) -> Result<TcpStream, Transport> {
        match self {
            Transport::Plain(stream) => Ok(stream),
            tls @ Transport::Tls(_) => Err(tls),
        }
    }

    /// Waits until a `try_read` may find something; where there is TLS it may find nothing still.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Transport::Plain(stream) => stream.readable().await,
            Transport::Tls(session) if session.is_read_ahead() => Ok(()),
            Transport::Tls(session) => session.socket().readable().await,
        }
    }

    /// As [`try_read`](Transport::try_read), into the room that `buffer` has.
    pub fn try_read_buf(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Transport::Plain(stream) => stream.try_read_buf(buffer),
            Transport::Tls(session) => {
                let mut read = [0; 1024];
                let n = session.try_read(&mut read)?;
                buffer.extend_from_slice(&read[..n]);
                Ok(n)
            }
        }
    }

    /// Reads what is there, or fails with `WouldBlock`. 0 is the end of the stream.
    pub fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(stream) => stream.try_read(buffer),
            Transport::Tls(session) => session.try_read(buffer),
        }
    }

    /// Writes what the socket takes at once, or fails with `WouldBlock`.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(stream) => stream.try_write(bytes),
            Transport::Tls(session) => session.try_write(bytes),
        }
    }

    /// Before a drop without `shutdown`: tells the other side that this is the end, if it can be told
    /// at once. A plain connection needs nothing.
    pub fn try_close(&mut self) {
        match self {
            Transport::Plain(_) => {}
            Transport::Tls(session) => session.try_close(),
        }
    }
}

impl From<TcpStream> for Transport {
    fn from(stream: TcpStream) -> Transport {
        Transport::Plain(stream)
    }
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self {
            Transport::Plain(_) => "Plain",
            Transport::Tls(_) => "Tls",
        };
        f.debug_tuple(name).field(self.socket()).finish()
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(session) => Pin::new(session).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Tls(session) => Pin::new(session).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(session) => Pin::new(session).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(session) => Pin::new(session).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Transport::Tls(session) => Pin::new(session).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(session) => session.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::masked::{CLOSE, Masked, mask};
    use super::*;

    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap());
        let (near, (far, _)) = tokio::try_join!(near, listener.accept()).unwrap();
        (near, far)
    }

    #[tokio::test]
    async fn a_plain_transport_is_its_socket() {
        let (near, mut far) = connection().await;
        let port = near.local_addr().unwrap();
        let mut near = Transport::from(near);
        assert_eq!(near.plain().unwrap().local_addr().unwrap(), port);
        assert_eq!(near.try_write(b"one ").unwrap(), 4);
        near.write_all(b"two").await.unwrap();
        near.shutdown().await.unwrap();
        let mut heard = Vec::new();
        far.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"one two");
        assert!(near.into_plain().is_ok());
    }

    #[tokio::test]
    async fn a_session_stands_between_the_bytes_and_the_socket() {
        let (near, mut far) = connection().await;
        let port = near.local_addr().unwrap();
        let mut near = Transport::Tls(Box::new(Masked::new(near)));
        assert!(near.plain().is_none());
        assert_eq!(near.socket().local_addr().unwrap(), port);
        let nothing = near.try_read(&mut [0; 8]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        far.write_all(&mask(b"hello")).await.unwrap();
        let mut heard = [0; 5];
        near.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        near.write_all(b"bye").await.unwrap();
        near.shutdown().await.unwrap();
        let mut heard = Vec::new();
        far.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, [mask(b"bye"), CLOSE.to_vec()].concat());
        let mut near = near.into_plain().unwrap_err();
        drop(far);
        let cut = near.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
    }
}
