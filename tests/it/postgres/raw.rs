//! A Postgres client that sends only what a test gives it, byte by byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::Postgres;

pub struct Raw(TcpStream);

impl Raw {
    #[track_caller]
    pub fn connect(addr: SocketAddr) -> Raw {
        let stream = TcpStream::connect(addr).expect("the gateway accepts");
        let patience = Some(Duration::from_secs(10));
        stream.set_read_timeout(patience).expect("a socket of ours");
        Raw(stream)
    }

    /// Connects and begins a session; what the server asks of it is still to be read.
    #[track_caller]
    pub fn login(addr: SocketAddr) -> Raw {
        let mut client = Raw::connect(addr);
        client.startup();
        client
    }

    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the gateway reads");
    }

    /// Reads until `last` has come.
    #[track_caller]
    pub fn read_until(&mut self, last: &[u8]) {
        let mut read = Vec::new();
        while !read.ends_with(last) {
            read.push(self.byte());
        }
    }

    /// Says nothing more, and goes on reading.
    pub fn close_half(&mut self) {
        let closed = self.0.shutdown(std::net::Shutdown::Write);
        closed.expect("a socket of ours");
    }

    /// A StartupMessage.
    #[track_caller]
    pub fn startup(&mut self) {
        self.send(&startup());
    }

    #[track_caller]
    pub fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.0.read_exact(&mut byte).expect("one more byte");
        byte[0]
    }

    /// The kind and the body of the next message.
    #[track_caller]
    pub fn message(&mut self) -> (u8, Vec<u8>) {
        let kind = self.byte();
        let mut length = [0; 4];
        self.0.read_exact(&mut length).expect("a length");
        let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
        self.0.read_exact(&mut body).expect("a body");
        (kind, body)
    }

    /// Sends a query, in clear.
    #[track_caller]
    pub fn query(&mut self, text: &str) {
        let length = u32::try_from(text.len() + 5).expect("short").to_be_bytes();
        self.send(&[b"Q", &length[..], text.as_bytes(), b"\0"].concat());
    }

    /// Reads the kind of the next message.
    #[track_caller]
    pub fn expect(&mut self, kind: u8) {
        let byte = self.byte();
        assert_eq!(char::from(byte), char::from(kind));
    }

    /// SQLSTATE and text of an ErrorResponse, after which the connection ends in order.
    #[track_caller]
    pub fn refusal(&mut self) -> (String, String) {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).expect("an end, no reset");
        assert_eq!(bytes[0], b'E', "{bytes:?}");
        let length = u32::from_be_bytes(bytes[1..5].try_into().expect("four bytes"));
        assert_eq!(
            length as usize + 1,
            bytes.len(),
            "one message and nothing else"
        );
        let field = |kind: u8| {
            let fields = bytes[5..].split(|byte| *byte == 0);
            let found = fields
                .into_iter()
                .find(|field| field.first() == Some(&kind));
            let text = found.expect("every error has it")[1..].to_vec();
            String::from_utf8(text).expect("text")
        };
        assert_eq!(field(b'S'), "FATAL");
        (field(b'C'), field(b'M'))
    }

    /// Whether nothing is there to be read, not even the end.
    pub fn is_silent(&mut self) -> bool {
        self.0.set_nonblocking(true).expect("a socket of ours");
        let peeked = self.0.peek(&mut [0]);
        self.0.set_nonblocking(false).expect("a socket of ours");
        peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Reads until the end, which may also be a reset.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = self.0.read_to_end(&mut bytes);
        bytes
    }
}

/// The StartupMessage of the superuser.
pub fn startup() -> Vec<u8> {
    let mut message = b"\0\x03\0\0".to_vec();
    for text in ["user", Postgres::USER, "database", "postgres", ""] {
        message.extend(text.as_bytes());
        message.push(0);
    }
    let length = u32::try_from(message.len() + 4).expect("short");
    [&length.to_be_bytes()[..], &message].concat()
}
