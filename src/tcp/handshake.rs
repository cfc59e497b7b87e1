//! The end of a MySQL handshake that its client abandoned.
//!
//! MySQL and MariaDB block an address after `max_connect_errors` handshakes that it did not finish,
//! and all clients of a gateway come from one address. Measured with MariaDB 10.11: once the
//! greeting is sent, a connection that ends counts, by FIN and by RST alike; a login that is refused
//! does not. So the gateway finishes what a client began that left without a word: with a login
//! that nobody has. The server notes it as [`USER`].
//!
//! Its own file because it is the one time that the gateway speaks to a server in its own name on a
//! session. Invariant: it takes bounded time and reads bounded bytes. Called by `session.rs`.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::DbType;
use crate::tcp::relay::{Seen, close_with_reset};
use crate::wire::login::{LoginStep, login};

/// What the server has said so far; its greeting is needed to answer it.
#[derive(Debug, Default)]
pub struct Greeting {
    bytes: Vec<u8>,
}

impl Greeting {
    /// Takes the first bytes of a server.
    pub fn see(&mut self, bytes: &[u8]) -> Seen {
        let room = MAX_GREETING_BYTES - self.bytes.len();
        self.bytes
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
        match self.is_whole() {
            true => Seen::Enough,
            false => Seen::More,
        }
    }

    fn is_whole(&self) -> bool {
        let length = match *self.bytes.as_slice() {
            [low, middle, high, _, ..] => u32::from_le_bytes([low, middle, high, 0]) as usize,
            _ => return false,
        };
        self.bytes.len() >= (PACKET_HEADER_BYTES + length).min(MAX_GREETING_BYTES)
    }
}

/// Finishes the handshake on `server`, of which the client has been sent `greeting` and has
/// answered nothing.
pub async fn finish(mut server: TcpStream, greeting: Greeting) {
    match timeout(PATIENCE, log_in(&mut server, &greeting.bytes)).await {
        Ok(Ok(())) => {}
        // It counts or it does not: nothing more can be done about it.
        Ok(Err(error)) => {
            log::debug!("the handshake of a client that left is not finished: {error}");
        }
        Err(_) => close_with_reset(server),
    }
}

async fn log_in(server: &mut TcpStream, greeting: &[u8]) -> std::io::Result<()> {
    let Some(mut login) = login(DbType::Mysql, Some(USER), None) else {
        return Ok(());
    };
    let mut step = login.advance(greeting);
    let mut buffer = [0; 1024];
    loop {
        match step {
            LoginStep::NeedMore => {}
            LoginStep::Send(bytes) => server.write_all(&bytes).await?,
            LoginStep::Done { farewell, .. } => return server.write_all(&farewell).await,
            // Refused, as it should be; or the server was full, or has blocked us already.
            LoginStep::Failed(_) => return Ok(()),
        }
        let read = server.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        step = login.advance(&buffer[..read]);
    }
}

/// In whose name: the server's log tells what happened.
const USER: &str = "client-left-before-login";
/// Of all of it. Servers can be set to answer a wrong login late.
const PATIENCE: Duration = Duration::from_secs(5);
const PACKET_HEADER_BYTES: usize = 4;
/// Greetings have about a hundred bytes; more is not kept.
const MAX_GREETING_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_is_kept_until_it_is_whole() {
        let mut greeting = Greeting::default();
        assert_eq!(greeting.see(b"\x03\0"), Seen::More);
        assert_eq!(greeting.see(b"\0\0\x0a1"), Seen::More);
        assert_eq!(greeting.see(b"2"), Seen::Enough);
        assert_eq!(greeting.bytes, b"\x03\0\0\0\x0a12");
    }

    #[test]
    fn no_more_than_a_bound_is_kept() {
        let mut greeting = Greeting::default();
        assert_eq!(greeting.see(b"\xff\xff\xff\0"), Seen::More);
        assert_eq!(greeting.see(&[7; 5000]), Seen::Enough);
        assert_eq!(greeting.bytes.len(), MAX_GREETING_BYTES);
        assert_eq!(greeting.see(&[7; 5000]), Seen::Enough);
        assert_eq!(greeting.bytes.len(), MAX_GREETING_BYTES);
    }
}
