//! Which version a client without TLS begins with: `h2c` by prior knowledge (RFC 9113, section 3.3).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::transport::Transport;

/// What a client sent first.
pub(in crate::server::edge) struct FirstBytes {
    pub(in crate::server::edge) bytes: Vec<u8>,
    /// They are the whole preface of HTTP/2.
    pub(in crate::server::edge) is_http2: bool,
}

impl FirstBytes {
    /// Reads until it is known; for `within` at most, and then it is HTTP/1.
    pub(in crate::server::edge) async fn read(
        stream: &mut TcpStream,
        within: Duration,
    ) -> io::Result<FirstBytes> {
        let mut bytes = Vec::with_capacity(PREFACE.len());
        let reading = async {
            while bytes.len() < PREFACE.len() && PREFACE.starts_with(&bytes) {
                let left = PREFACE.len() - bytes.len();
                if (&mut *stream)
                    .take(left as u64)
                    .read_buf(&mut bytes)
                    .await?
                    == 0
                {
                    break;
                }
            }
            io::Result::Ok(())
        };
        if let Ok(read) = timeout(within, reading).await {
            read?;
        }
        let is_http2 = bytes == PREFACE;
        Ok(FirstBytes { bytes, is_http2 })
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection of which the first bytes were read before.
pub(in crate::server::edge) struct Prefixed {
    first: Vec<u8>,
    at: usize,
    transport: Transport,
}

impl Prefixed {
    pub(in crate::server::edge) fn new(first: Vec<u8>, transport: Transport) -> Prefixed {
        Prefixed {
            first,
            at: 0,
            transport,
        }
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let left = &this.first[this.at..];
        if left.is_empty() {
            return Pin::new(&mut this.transport).poll_read(cx, buf);
        }
        let given = left.len().min(buf.remaining());
        buf.put_slice(&left[..given]);
        this.at += given;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().transport).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().transport).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_shutdown(cx)
    }
}
