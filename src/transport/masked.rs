//! A session for tests that stands where TLS does: it changes every byte, holds some back until it
//! is flushed, and has a close of its own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::TlsSession;

/// Each byte goes as [`mask`] has it, the end as [`CLOSE`].
pub(crate) struct Masked {
    stream: TcpStream,
    /// Read off the socket, not unmasked yet.
    arrived: Vec<u8>,
    is_closed: bool,
    /// Masked, not written yet.
    held: Vec<u8>,
    has_said_close: bool,
}

/// What stands for `close_notify`.
pub(crate) const CLOSE: [u8; 2] = [0, 0];

/// How bytes look on the wire.
pub(crate) fn mask(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| [1, byte ^ MASK]).collect()
}

impl Masked {
    pub(crate) fn new(stream: TcpStream) -> Masked {
        Masked {
            stream,
            arrived: Vec::new(),
            is_closed: false,
            held: Vec::new(),
            has_said_close: false,
        }
    }

    /// Moves what has arrived to `buf`. Whether there was anything, or the end.
    fn unmask(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        if self.is_closed {
            return true;
        }
        let pairs = self.arrived.chunks_exact(2).take(buf.remaining());
        let mut taken = 0;
        for pair in pairs {
            if pair == CLOSE {
                self.is_closed = true;
                break;
            }
            buf.put_slice(&[pair[1] ^ MASK]);
            taken += 2;
        }
        self.arrived.drain(..taken);
        taken > 0 || self.is_closed
    }

    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.held))?;
            self.held.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

impl TlsSession for Masked {
    fn socket(&self) -> &TcpStream {
        &self.stream
    }

    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(buffer);
        while !self.unmask(&mut buf) {
            let mut raw = [0; 4096];
            match self.stream.try_read(&mut raw)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self.arrived.extend_from_slice(&raw[..read]),
            }
        }
        Ok(buf.filled().len())
    }

    fn is_read_ahead(&self) -> bool {
        self.arrived.len() >= 2 || self.is_closed
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        while !self.held.is_empty() {
            let written = self.stream.try_write(&self.held)?;
            self.held.drain(..written);
        }
        self.held = mask(bytes);
        if let Ok(written) = self.stream.try_write(&self.held) {
            self.held.drain(..written);
        }
        Ok(bytes.len())
    }

    fn try_close(&mut self) {
        self.close_now();
    }
}

impl Masked {
    fn close_now(&mut self) {
        if !std::mem::replace(&mut self.has_said_close, true) {
            self.held.extend_from_slice(&CLOSE);
        }
        while let Ok(written @ 1..) = self.stream.try_write(&self.held) {
            self.held.drain(..written);
        }
    }
}

impl AsyncRead for Masked {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while !this.unmask(buf) {
            let mut raw = [0; 4096];
            let mut raw = ReadBuf::new(&mut raw);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut raw))?;
            if raw.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            this.arrived.extend_from_slice(raw.filled());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Masked {
    /// Takes one portion, and writes none of it before it is flushed.
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_held(cx))?;
        let portion = &bytes[..bytes.len().min(PORTION)];
        this.held = mask(portion);
        Poll::Ready(Ok(portion.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_held(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.has_said_close, true) {
            this.held.extend_from_slice(&CLOSE);
        }
        ready!(this.poll_held(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

const MASK: u8 = 0x5a;
const PORTION: usize = 16 * 1024;
