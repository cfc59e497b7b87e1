//! A TLS session over a socket, as the rest of the gateway uses connections.

use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::ServerConnection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::transport::TlsSession;

/// The server's side of a session.
pub(super) struct RustlsSession {
    stream: TlsStream<TcpStream>,
    /// The last read may have left something of a record behind.
    read_ahead: bool,
}

impl RustlsSession {
    pub(super) fn new(stream: TlsStream<TcpStream>) -> RustlsSession {
        RustlsSession {
            stream,
            // A client may send its first request with the end of its handshake.
            read_ahead: true,
        }
    }

    /// Reads what was decrypted; `WouldBlock` where nothing is.
    fn read_plain(connection: &mut ServerConnection, buffer: &mut [u8]) -> io::Result<usize> {
        connection.reader().read(buffer)
    }
}

/// A socket as rustls reads and writes it: what it takes at once, or `WouldBlock`.
struct Now<'s>(&'s TcpStream);

impl Read for Now<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Now<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TlsSession for RustlsSession {
    fn socket(&self) -> &TcpStream {
        self.stream.get_ref().0
    }

    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (socket, connection) = self.stream.get_mut();
        let read = loop {
            match RustlsSession::read_plain(connection, buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => break read,
            }
            match connection.read_tls(&mut Now(socket)) {
                // Its end without `close_notify` is the error of the next read of what is plain.
                Ok(_) => {}
                Err(error) => break Err(error),
            }
            if let Err(error) = connection.process_new_packets() {
                // The alert, if the socket takes it.
                let _ = connection.write_tls(&mut Now(socket));
                break Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        };
        let blocked = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        self.read_ahead = !read.as_ref().is_err_and(blocked);
        read
    }

    fn is_read_ahead(&self) -> bool {
        self.read_ahead
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (socket, connection) = self.stream.get_mut();
        while connection.wants_write() {
            connection.write_tls(&mut Now(socket))?;
        }
        let written = connection.writer().write(bytes)?;
        while connection.wants_write() {
            match connection.write_tls(&mut Now(socket)) {
                Ok(_) => {}
                // What was taken goes with the next write or flush.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    fn try_close(&mut self) {
        let (socket, connection) = self.stream.get_mut();
        connection.send_close_notify();
        while connection.wants_write() {
            if !matches!(connection.write_tls(&mut Now(socket)), Ok(1..)) {
                return;
            }
        }
    }
}

impl AsyncRead for RustlsSession {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        this.read_ahead = read.is_ready();
        read
    }
}

impl AsyncWrite for RustlsSession {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
