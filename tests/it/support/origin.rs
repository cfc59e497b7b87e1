//! Origins that do what a test says, and remember what they were sent.
//!
//! There is one thread for each connection, so that a script reads from top to bottom. Dropping an
//! origin closes its sockets and its port.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::conn::{Conn, Next};
use super::http1::Request;

/// A server on a port that the kernel chose, of 127.0.0.1 unless said.
pub struct Origin {
    addr: SocketAddr,
    script: Script,
    shared: Arc<Shared>,
    /// Bound and not listening while stopped, so that nobody else takes the port.
    socket: Socket,
}

/// How far each connection was recorded at one moment.
pub struct Mark(Vec<usize>);

type Script = Arc<dyn Fn(&mut Conn) -> io::Result<()> + Send + Sync>;

#[derive(Default)]
pub(super) struct Shared {
    pub records: Mutex<Vec<Arc<Record>>>,
    pub open: Mutex<HashMap<usize, TcpStream>>,
    pub heads: Mutex<Vec<Request>>,
    pub requests: AtomicUsize,
    pub stopped: AtomicBool,
}

#[derive(Default)]
pub(super) struct Record {
    pub bytes: Mutex<Vec<u8>>,
    pub closed: AtomicBool,
}

impl Origin {
    /// An origin whose every connection is left to `script`. An error ends the connection.
    pub fn raw(script: impl Fn(&mut Conn) -> io::Result<()> + Send + Sync + 'static) -> Origin {
        Origin::raw_at(LOCAL, script)
    }

    /// As [`raw`](Origin::raw), at this address.
    pub fn raw_at(
        addr: SocketAddr,
        script: impl Fn(&mut Conn) -> io::Result<()> + Send + Sync + 'static,
    ) -> Origin {
        let socket = bound(addr);
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
        Origin::serve_at(LOCAL, answer)
    }

    fn serve_at(
        addr: SocketAddr,
        answer: impl Fn(&Request, &mut Conn) -> io::Result<Next> + Send + Sync + 'static,
    ) -> Origin {
        Origin::raw_at(addr, move |conn| {
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
        Origin::answering(LOCAL, status, body)
    }

    /// As [`ok`](Origin::ok), at this address.
    pub fn ok_at(addr: SocketAddr, body: &str) -> Origin {
        Origin::answering(addr, 200, body)
    }

    fn answering(addr: SocketAddr, status: u16, body: &str) -> Origin {
        let body = body.to_owned();
        Origin::serve_at(addr, move |_, conn| {
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
        Origin::unreachable_at(LOCAL)
    }

    /// As [`unreachable`](Origin::unreachable), at this address.
    pub fn unreachable_at(addr: SocketAddr) -> Unreachable {
        let socket = bound(addr);
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
        let socket = bound(LOCAL);
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
        let old = std::mem::replace(&mut self.socket, unbound(self.addr));
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
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

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

fn unbound(addr: SocketAddr) -> Socket {
    let socket =
        Socket::new(Domain::for_address(addr), Type::STREAM, None).expect("a spare descriptor");
    socket.set_reuse_address(true).expect("SO_REUSEADDR");
    socket
}

fn bound(addr: SocketAddr) -> Socket {
    let socket = unbound(addr);
    super::eventually(Duration::from_secs(5), "a port is bound", || {
        socket.bind(&addr.into()).is_ok()
    });
    socket
}

const LOCAL: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

fn address(socket: &Socket) -> SocketAddr {
    let addr = socket.local_addr().expect("a bound socket has an address");
    addr.as_socket().expect("an internet address")
}

pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while held")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::{Client, Failure, client, http1};

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
