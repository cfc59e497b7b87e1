//! Origins that do what a test tells them, and remember what they were sent.
//!
//! Its own file because every topic needs an endpoint that misbehaves at a chosen point. One thread
//! for each connection, so that a script reads from top to bottom. Invariant: dropping an origin
//! closes its sockets and its port.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use serde_json::json;
use socket2::{Domain, SockRef, Socket, Type};

use super::http1::{self, Body, Framing, Request};

/// A server on a port of 127.0.0.1 that the kernel chose.
pub struct Origin {
    addr: SocketAddr,
    script: Script,
    shared: Arc<Shared>,
    /// Bound and not listening while stopped, so that nobody else takes the port.
    socket: Socket,
}

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

/// How far each connection was recorded at one moment.
pub struct Mark(Vec<usize>);

type Script = Arc<dyn Fn(&mut Conn) -> io::Result<()> + Send + Sync>;

#[derive(Default)]
struct Shared {
    records: Mutex<Vec<Arc<Record>>>,
    open: Mutex<HashMap<usize, TcpStream>>,
    heads: Mutex<Vec<Request>>,
    requests: AtomicUsize,
    stopped: AtomicBool,
}

#[derive(Default)]
struct Record {
    bytes: Mutex<Vec<u8>>,
    closed: AtomicBool,
}

impl Origin {
    /// An origin whose every connection is left to `script`. An error ends the connection.
    pub fn raw(script: impl Fn(&mut Conn) -> io::Result<()> + Send + Sync + 'static) -> Origin {
        let socket = bound(SocketAddr::from(([127, 0, 0, 1], 0)));
        let addr = address(&socket);
        let mut origin = Origin {
            addr,
            script: Arc::new(script),
            shared: Arc::default(),
            socket,
        };
        origin.start();
        origin
    }

    /// An origin that answers request after request with `answer`. What is left unread of a body is
    /// read before the next request.
    pub fn serve(
        answer: impl Fn(&Request, &mut Conn) -> io::Result<Next> + Send + Sync + 'static,
    ) -> Origin {
        Origin::raw(move |conn| {
            while let Some(request) = conn.request()? {
                match answer(&request, conn)? {
                    Next::Keep => {}
                    Next::Close => return Ok(()),
                    Next::Reset => return conn.reset(),
                }
            }
            Ok(())
        })
    }

    /// Answers 200 and `body` to everything.
    pub fn ok(body: &str) -> Origin {
        Origin::status(200, body)
    }

    /// Answers `status` and `body` to everything, after the request's body was read.
    pub fn status(status: u16, body: &str) -> Origin {
        let body = body.to_owned();
        Origin::serve(move |_, conn| {
            conn.body()?;
            conn.answer(status, &[], body.as_bytes())
        })
    }

    /// Answers with the request as JSON: method, target, version, headers (pairs), body (text),
    /// body_len, body_hash, connection.
    pub fn echo() -> Origin {
        Origin::serve(|request, conn| {
            let body = conn.body()?;
            conn.answer_json(request, &body)
        })
    }

    /// Accepts into a full backlog: a connect to it neither succeeds nor fails.
    pub fn unreachable() -> Unreachable {
        let socket = bound(SocketAddr::from(([127, 0, 0, 1], 0)));
        socket.listen(0).expect("a bound socket listens");
        let addr = address(&socket);
        let mut waiting = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(150)) {
            waiting.push(stream);
            assert!(waiting.len() < 64, "the backlog never fills");
        }
        Unreachable {
            addr,
            _socket: socket,
            _waiting: waiting,
        }
    }

    /// A port where nobody listens, kept from everybody else.
    pub fn refusing() -> Refusing {
        let socket = bound(SocketAddr::from(([127, 0, 0, 1], 0)));
        Refusing {
            addr: address(&socket),
            _socket: socket,
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        held(&self.shared.records).len()
    }

    /// Whole request heads received so far.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// The first thousand requests, without their bodies.
    pub fn heads(&self) -> Vec<Request> {
        held(&self.shared.heads).clone()
    }

    /// Heads received with this method.
    pub fn requests_with(&self, method: &str) -> usize {
        self.heads().iter().filter(|r| r.method == method).count()
    }

    /// Connections that neither side has closed.
    pub fn open_connections(&self) -> usize {
        held(&self.shared.records)
            .iter()
            .filter(|r| !r.closed.load(Ordering::SeqCst))
            .count()
    }

    /// Remembers how much every connection has received.
    pub fn mark(&self) -> Mark {
        let records = held(&self.shared.records);
        Mark(records.iter().map(|r| held(&r.bytes).len()).collect())
    }

    /// The bytes received since `mark`, one entry for each connection that received any.
    pub fn since(&self, mark: &Mark) -> Vec<Vec<u8>> {
        let records = held(&self.shared.records);
        let bytes = records.iter().enumerate().map(|(nth, record)| {
            let from = mark.0.get(nth).copied().unwrap_or(0);
            held(&record.bytes)[from..].to_vec()
        });
        bytes.filter(|b| !b.is_empty()).collect()
    }

    /// The first 256 KiB that each connection received.
    pub fn received(&self) -> Vec<Vec<u8>> {
        self.since(&Mark(Vec::new()))
    }

    /// Closes the port and every connection, as a killed process would.
    pub fn stop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let old = std::mem::replace(&mut self.socket, unbound());
        // Wakes the accepting thread, which holds the other handle of this socket.
        let _ = old.shutdown(Shutdown::Both);
        drop(old);
        for (_, stream) in held(&self.shared.open).drain() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.socket = bound(self.addr);
    }

    /// Listens again on the same port.
    pub fn start(&mut self) {
        self.shared.stopped.store(false, Ordering::SeqCst);
        self.socket.listen(1024).expect("a bound socket listens");
        let listener: TcpListener = self.socket.try_clone().expect("a spare descriptor").into();
        let (script, shared) = (Arc::clone(&self.script), Arc::clone(&self.shared));
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let Some(mut conn) = Conn::new(stream, &shared) else {
                    return;
                };
                let script = Arc::clone(&script);
                thread::spawn(move || {
                    // The peer left or the script gave up: either way the connection is over.
                    let _ = script(&mut conn);
                });
            }
        });
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = self.socket.shutdown(Shutdown::Both);
        for stream in held(&self.shared.open).values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// See [`Origin::unreachable`].
pub struct Unreachable {
    addr: SocketAddr,
    _socket: Socket,
    _waiting: Vec<TcpStream>,
}

impl Unreachable {
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

/// See [`Origin::refusing`].
pub struct Refusing {
    addr: SocketAddr,
    _socket: Socket,
}

impl Refusing {
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

impl Conn {
    fn new(stream: TcpStream, shared: &Arc<Shared>) -> Option<Conn> {
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

/// The values of header `name` in an answer of [`Origin::echo`].
pub fn echoed(echo: &serde_json::Value, name: &str) -> Vec<String> {
    let pairs = echo["headers"]
        .as_array()
        .expect("an echo lists its headers");
    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
    let pairs = pairs.iter().map(|p| (text(&p[0]), text(&p[1])));
    pairs
        .filter(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, v)| v)
        .collect()
}

fn unbound() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a spare descriptor");
    socket.set_reuse_address(true).expect("SO_REUSEADDR");
    socket
}

fn bound(addr: SocketAddr) -> Socket {
    let socket = unbound();
    super::eventually(Duration::from_secs(5), "a port is bound", || {
        socket.bind(&addr.into()).is_ok()
    });
    socket
}

fn address(socket: &Socket) -> SocketAddr {
    let addr = socket.local_addr().expect("a bound socket has an address");
    addr.as_socket().expect("an internet address")
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while held")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::{Client, Failure, client};

    #[test]
    fn counts_and_echoes_and_records() {
        let origin = Origin::echo();
        let mut client = Client::connect(origin.addr());
        let mark = origin.mark();
        let echo = client
            .call("POST", "/a?b", &[("X-One", "1")], b"hello")
            .json();
        assert_eq!(echo["target"], "/a?b");
        assert_eq!(echo["body"], "hello");
        assert_eq!(client.call("HEAD", "/", &[], b"").body.len, 0);
        assert_eq!((origin.connections(), origin.requests()), (1, 2));
        let seen = http1::whole_requests(&origin.since(&mark)[0]).unwrap();
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0].headers.first("x-one"), Some("1"));
    }

    #[test]
    fn stops_and_comes_back_on_the_same_port() {
        let mut origin = Origin::ok("alive");
        let mut kept = Client::connect(origin.addr());
        assert_eq!(kept.get("/").text(), "alive");
        origin.stop();
        assert!(kept.is_closed_within(Duration::from_secs(5)));
        assert_eq!(
            Client::try_connect(origin.addr()).err(),
            Some(Failure::Connect)
        );
        origin.start();
        assert_eq!(client::get(origin.addr(), "/").text(), "alive");
        assert_eq!(origin.requests(), 2);
    }

    #[test]
    fn resets_refuses_and_never_accepts_as_told() {
        let origin = Origin::serve(|_, _| Ok(Next::Reset));
        let mut client = Client::connect(origin.addr());
        client.request("GET", "/", &[], b"");
        assert_eq!(client.response().unwrap_err(), Failure::Reset);
        let refusing = Origin::refusing();
        assert!(TcpStream::connect(refusing.addr()).is_err());
        let unreachable = Origin::unreachable();
        let tried = TcpStream::connect_timeout(&unreachable.addr, Duration::from_millis(100));
        assert_eq!(tried.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
