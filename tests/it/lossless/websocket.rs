//! A WebSocket session and its origin, as far as a gateway sees of it: an upgrade, then bytes.

use std::net::SocketAddr;

use crate::support::{Client, Origin};

/// Switches protocols and sends everything back.
pub fn origin() -> Origin {
    Origin::raw(|conn| {
        let Some(_upgrade) = conn.request()? else {
            return Ok(());
        };
        conn.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: x\r\n\r\n",
        )?;
        conn.echo_bytes()
    })
}

/// The client's side.
pub struct WebSocket(Client);

impl WebSocket {
    #[track_caller]
    pub fn open(addr: SocketAddr, target: &str) -> WebSocket {
        let mut client = Client::connect(addr);
        let fields = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "eA=="),
        ];
        let switched = client.call("GET", target, &fields, b"");
        assert_eq!(switched.status, 101);
        WebSocket(client)
    }

    /// Sends `message` and reads it back.
    #[track_caller]
    pub fn echo(&mut self, message: &str) {
        assert!(self.0.send(message), "it is open");
        let mut echo = Vec::new();
        while echo.len() < message.len() {
            let some = self.0.read_some().expect("the echo comes");
            assert!(!some.is_empty(), "it is open");
            echo.extend(some);
        }
        assert_eq!(echo, message.as_bytes());
    }
}
