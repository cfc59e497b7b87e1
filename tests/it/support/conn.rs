//! One connection of an [`Origin`](super::Origin): what a script can do with it.
//!
//! Every byte that is read here is recorded first.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use serde_json::json;
use socket2::SockRef;

use super::http1::{self, Body, Framing, Request};
use super::origin::{Record, Shared, held};

/// One accepted connection, as a script sees it.
pub struct Conn {
    /// Which connection of its origin this is, from 0.
    pub nth: usize,
    /// Which request of this connection the last head was, from 1.
    pub served: usize,
    stream: TcpStream,
    buffer: Vec<u8>,
    record: Arc<Record>,
    shared: Arc<Shared>,
    pending: Framing,
    expects_continue: bool,
    head_only: bool,
}

/// What becomes of a connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Keep,
    Close,
    Reset,
}

impl Conn {
    pub(super) fn new(stream: TcpStream, shared: &Arc<Shared>) -> Option<Conn> {
        let record = Arc::new(Record::default());
        let mut records = held(&shared.records);
        let mut open = held(&shared.open);
        if shared.stopped.load(Ordering::SeqCst) {
            return None;
        }
        let nth = records.len();
        records.push(Arc::clone(&record));
        open.insert(nth, stream.try_clone().ok()?);
        stream.set_nodelay(true).ok()?;
        Some(Conn {
            nth,
            served: 0,
            stream,
            buffer: Vec::new(),
            record,
            shared: Arc::clone(shared),
            pending: Framing::None,
            expects_continue: false,
            head_only: false,
        })
    }

    /// The next request's head, after what was left of the body before it; `None` at the end.
    pub fn request(&mut self) -> io::Result<Option<Request>> {
        self.expects_continue = false;
        self.body()?;
        let head = {
            let mut tap = Tap(&self.stream, &self.record);
            http1::read_head(&mut tap, &mut self.buffer)?
        };
        let Some(head) = head else { return Ok(None) };
        let (request, framing) = http1::parse_request(&head).map_err(http1::malformed)?;
        self.pending = framing;
        self.served += 1;
        self.head_only = request.method == "HEAD";
        self.expects_continue = request.headers.first("expect") == Some("100-continue");
        self.shared.requests.fetch_add(1, Ordering::SeqCst);
        let mut heads = held(&self.shared.heads);
        if heads.len() < 1000 {
            heads.push(request.clone());
        }
        Ok(Some(request))
    }

    /// The body of the last request; asks for it with 100 when the client waits for that.
    pub fn body(&mut self) -> io::Result<Body> {
        let framing = std::mem::replace(&mut self.pending, Framing::None);
        if std::mem::take(&mut self.expects_continue) && framing != Framing::None {
            self.send("HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut tap = Tap(&self.stream, &self.record);
        http1::read_body(&mut tap, &mut self.buffer, framing)
    }

    /// The first bytes of the body that are here; the rest is still to be read with [`Conn::body`].
    pub fn some_bytes(&mut self) -> io::Result<Vec<u8>> {
        if self.buffer.is_empty() {
            let mut some = [0; 4096];
            let got = Tap(&self.stream, &self.record).read(&mut some)?;
            self.buffer.extend_from_slice(&some[..got]);
        }
        Ok(self.buffer.clone())
    }

    /// What a read gives, not to be read again; empty at the end.
    pub fn next_bytes(&mut self) -> io::Result<Vec<u8>> {
        self.some_bytes()?;
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Waits for bytes that end with `last`, and leaves them unread.
    pub fn leave_unread(&mut self, last: &[u8]) -> io::Result<()> {
        let mut seen = [0; 4096];
        loop {
            let count = self.stream.peek(&mut seen)?;
            if count == 0 || seen[..count].ends_with(last) {
                return Ok(());
            }
            // A peek does not wait for more than there is.
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Sends `bytes` one by one, `pause` after each.
    pub fn drip(&mut self, bytes: &[u8], pause: Duration) -> io::Result<()> {
        for byte in bytes {
            self.send([*byte])?;
            thread::sleep(pause);
        }
        Ok(())
    }

    /// A whole answer with a Content-Length, in one write.
    pub fn answer(
        &mut self,
        status: u16,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Next> {
        let mut answer = format!(
            "HTTP/1.1 {status} Test\r\nContent-Length: {}\r\n",
            body.len()
        );
        for (name, value) in fields {
            answer.push_str(&format!("{name}: {value}\r\n"));
        }
        answer.push_str("\r\n");
        let body = if self.head_only { &[][..] } else { body };
        self.send([answer.as_bytes(), body].concat())?;
        Ok(Next::Keep)
    }

    /// The answer of [`Origin::echo`].
    pub fn answer_json(&mut self, request: &Request, body: &Body) -> io::Result<Next> {
        let text = json!({
            "method": request.method,
            "target": request.target,
            "version": request.version,
            "headers": request.headers.0,
            "body": String::from_utf8_lossy(&body.bytes),
            "body_len": body.len,
            "body_hash": body.hash,
            "connection": self.nth,
        });
        let fields = [("Content-Type", "application/json")];
        self.answer(200, &fields, text.to_string().as_bytes())
    }

    /// A 200 with `len` bytes, made as they are sent.
    pub fn stream(&mut self, len: u64) -> io::Result<Next> {
        self.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n"))?;
        let block = vec![b'x'; 256 * 1024];
        let mut left = len;
        while left > 0 {
            let now = left.min(block.len() as u64);
            self.send(&block[..now as usize])?;
            left -= now;
        }
        Ok(Next::Keep)
    }

    /// Sends back what comes, until the peer is done.
    pub fn echo_bytes(&mut self) -> io::Result<()> {
        let mut bytes = std::mem::take(&mut self.buffer);
        loop {
            self.send(&bytes)?;
            bytes.resize(16 * 1024, 0);
            let got = self.stream.read(&mut bytes)?;
            if got == 0 {
                return Ok(());
            }
            bytes.truncate(got);
        }
    }

    /// Blocks until the peer closes; bytes that still come are dropped.
    pub fn until_closed(&mut self) -> io::Result<()> {
        while Tap(&self.stream, &self.record).read(&mut [0; 4096])? > 0 {}
        Ok(())
    }

    /// Ends the connection with an RST. Always an error, so that a script can return it.
    pub fn reset(&mut self) -> io::Result<()> {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        held(&self.shared.open).remove(&self.nth);
        self.record.closed.store(true, Ordering::SeqCst);
    }
}

/// Reads from a socket and keeps the first bytes of what came.
struct Tap<'a>(&'a TcpStream, &'a Record);

impl Read for Tap<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let got = self.0.read(into)?;
        let mut bytes = held(&self.1.bytes);
        let room = http1::KEPT.saturating_sub(bytes.len()).min(got);
        bytes.extend_from_slice(&into[..room]);
        Ok(got)
    }
}
