//! How the sockets of database sessions are set up, on either side.
//!
//! Listeners, warm sockets and sessions all do it: what a listener has, the connections it accepts
//! have from the start, which spares five system calls for each.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// No delay for small writes, and keep-alive: a peer that is gone without a word is found out after
/// a minute and a half of silence.
///
/// There is no limit (`TCP_USER_TIMEOUT`) for written bytes that wait for their acknowledgement: it
/// would also end a session whose peer is there and takes nothing for now (RFC 9293, 3.8.6.1: a
/// window may stay at zero for as long as the peer answers probes). A peer that is gone and owes
/// acknowledgements is found out by the system (tcp(7), `tcp_retries2`).
pub fn tune(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_AFTER)
            .with_interval(KEEPALIVE_EVERY)
            .with_retries(KEEPALIVE_TRIES),
    )
}

/// The same for what its connections inherit. The process that handed a listener over may have set
/// a limit.
pub fn tune_listener(listener: &impl AsFd) -> io::Result<()> {
    SockRef::from(listener).set_tcp_user_timeout(None)?;
    tune(listener)
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
        let of_before = Some(Duration::from_secs(90));
        SockRef::from(&listener)
            .set_tcp_user_timeout(of_before)
            .unwrap();
        tune_listener(&listener).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let accepted = SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), KEEPALIVE_AFTER);
        assert_eq!(accepted.tcp_keepalive_interval().unwrap(), KEEPALIVE_EVERY);
        assert_eq!(accepted.tcp_keepalive_retries().unwrap(), KEEPALIVE_TRIES);
        assert_eq!(accepted.tcp_user_timeout().unwrap(), None);
    }
}
