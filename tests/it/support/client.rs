//! A client on the level of bytes: libraries refuse to send what half of these tests must send.
//!
//! Nothing waits longer than [`PATIENCE`] unless the test says so.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::SockRef;

use super::http1::{self, Body, Framing, Response};

/// One connection to the gateway.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    method: String,
}

/// What can go wrong from a client's view.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    Connect,
    /// Closed before the first byte of a response.
    Closed,
    /// Ended by RST.
    Reset,
    /// Closed inside a response.
    Truncated,
    TimedOut,
    Malformed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl Client {
    #[track_caller]
    pub fn connect(addr: SocketAddr) -> Client {
        Client::try_connect(addr).unwrap_or_else(|e| panic!("connect to {addr}: {e}"))
    }

    pub fn try_connect(addr: SocketAddr) -> Result<Client, Failure> {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE).map_err(|_| Failure::Connect)?;
        stream.set_nodelay(true).map_err(|_| Failure::Connect)?;
        let client = Client {
            stream,
            buffer: Vec::new(),
            method: "GET".to_owned(),
        };
        client.patience(PATIENCE);
        Ok(client)
    }

    /// The longest silence this client waits for.
    pub fn patience(&self, longest: Duration) {
        for set in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
            set(&self.stream, Some(longest)).expect("a positive timeout");
        }
    }

    /// This end of the connection, as the gateway sees its client.
    pub fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr().expect("a connected socket")
    }

    /// Another handle of the same connection, to send while a response is being read.
    pub fn writer(&self) -> TcpStream {
        self.stream.try_clone().expect("a connected socket")
    }

    /// Sends bytes as they are. A peer that closed already is not an error: the answer shows it.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Sends a request with a Host field, and a Content-Length when there is a body.
    pub fn request(&mut self, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) {
        self.method = method.to_owned();
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        if !fields.iter().any(|(n, _)| n.eq_ignore_ascii_case("host")) {
            head.push_str("Host: gateway.test\r\n");
        }
        for (name, value) in fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        self.send([head.as_bytes(), body].concat());
    }

    /// A GET and its response.
    #[track_caller]
    pub fn get(&mut self, target: &str) -> Response {
        self.call("GET", target, &[], b"")
    }

    /// A request and its response.
    #[track_caller]
    pub fn call(
        &mut self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        self.request(method, target, fields, body);
        self.response()
            .unwrap_or_else(|e| panic!("{method} {target}: {e}"))
    }

    /// The next response, an interim one (1xx) included.
    pub fn response(&mut self) -> Result<Response, Failure> {
        let (mut response, framing) = self.head()?;
        response.body = self.body(framing)?;
        Ok(response)
    }

    /// The head of the next response; its body is still to be read with [`Client::body`].
    pub fn head(&mut self) -> Result<(Response, Framing), Failure> {
        let head = http1::read_head(&mut self.stream, &mut self.buffer)
            .map_err(failure)?
            .ok_or(Failure::Closed)?;
        http1::parse_response(&head, &self.method).map_err(Failure::Malformed)
    }

    pub fn body(&mut self, framing: Framing) -> Result<Body, Failure> {
        http1::read_body(&mut self.stream, &mut self.buffer, framing).map_err(failure)
    }

    /// Everything until the gateway closes, as it came.
    pub fn rest(&mut self) -> Result<Vec<u8>, Failure> {
        let mut rest = std::mem::take(&mut self.buffer);
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => Ok(rest),
            Err(e) => Err(failure(e)),
        }
    }

    /// Whatever single read gives; empty at the end.
    pub fn read_some(&mut self) -> Result<Vec<u8>, Failure> {
        if !self.buffer.is_empty() {
            return Ok(std::mem::take(&mut self.buffer));
        }
        let mut some = vec![0; 4096];
        let got = self.stream.read(&mut some).map_err(failure)?;
        some.truncate(got);
        Ok(some)
    }

    /// Whether the gateway closes this connection, without another byte, within `longest`.
    pub fn is_closed_within(&mut self, longest: Duration) -> bool {
        self.patience(longest);
        let mut byte = [0];
        self.buffer.is_empty()
            && match self.stream.read(&mut byte) {
                Ok(got) => got == 0,
                Err(e) => e.kind() == io::ErrorKind::ConnectionReset,
            }
    }

    /// No more bytes from this side; the other direction stays open.
    pub fn finish(&mut self) {
        // Already closed by the gateway: nothing left to finish.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Leaves with an RST.
    pub fn reset(self) {
        SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .expect("a socket takes SO_LINGER");
    }
}

fn failure(e: io::Error) -> Failure {
    match e.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Failure::Reset,
        io::ErrorKind::UnexpectedEof => Failure::Truncated,
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Failure::TimedOut,
        _ => Failure::Malformed(e.to_string()),
    }
}

/// A GET on a connection of its own.
#[track_caller]
pub fn get(addr: SocketAddr, target: &str) -> Response {
    Client::connect(addr).get(target)
}

const PATIENCE: Duration = Duration::from_secs(20);
