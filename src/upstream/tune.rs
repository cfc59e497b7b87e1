//! How the sockets of database sessions are set up, on either side.
//!
//! Its own file because listeners, warm sockets and sessions all do it: what a listener has, the
//! connections it accepts have from the start, which spares five system calls for each.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// No delay for small writes, and a peer that is gone without a word is found out after a minute
/// and a half.
pub fn tune(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_AFTER)
            .with_interval(KEEPALIVE_EVERY)
            .with_retries(KEEPALIVE_TRIES),
    )?;
    // Keep-alive is silent while written bytes wait for their acknowledgement; this is not.
    socket.set_tcp_user_timeout(Some(KEEPALIVE_AFTER + KEEPALIVE_EVERY * KEEPALIVE_TRIES))
}

/// Of silence, before the first probe.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_TRIES: u32 = 3;

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_a_listener_has_its_connections_have() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        tune(&listener).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let accepted = SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), KEEPALIVE_AFTER);
        assert_eq!(accepted.tcp_keepalive_interval().unwrap(), KEEPALIVE_EVERY);
        assert_eq!(accepted.tcp_keepalive_retries().unwrap(), KEEPALIVE_TRIES);
        let timeout = accepted.tcp_user_timeout().unwrap();
        assert_eq!(timeout, Some(Duration::from_secs(90)));
    }
}
