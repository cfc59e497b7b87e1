//! The barest possible relay: one thread, epoll, and bytes that are passed on. It has no timeout, no
//! limit, no count and no log, and so shows what is left for whoever stands between a client and its
//! database to gain or to lose.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

pub const AS_RELAY: &str = "--as-relay";

/// What the program is when it is started with [`AS_RELAY`], an address to listen on and that of the
/// server.
pub fn serve_if_asked() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [as_relay, listen, server] = &arguments[..]
        && as_relay == AS_RELAY
    {
        let ended = serve(listen, server);
        panic!("the relay ended: {ended:?}");
    }
}

fn serve(listen: &str, server: &str) -> std::io::Result<()> {
    let listener = TcpListener::bind(listen)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let watch = |socket: &dyn AsFd, number| {
        epoll::add(&epoll, socket, EventData::new_u64(number), EventFlags::IN)
    };
    watch(&listener, LISTENER)?;
    // The two of a session differ in the last bit.
    let mut sockets: HashMap<u64, TcpStream> = HashMap::new();
    let mut next = 0;
    let mut buffer = vec![0; 64 * 1024];
    let mut events = Vec::with_capacity(64);
    loop {
        events.clear();
        epoll::wait(&epoll, spare_capacity(&mut events), None)?;
        for event in &events {
            let number = event.data.u64();
            if number == LISTENER {
                for socket in [listener.accept()?.0, TcpStream::connect(server)?] {
                    socket.set_nodelay(true)?;
                    watch(&socket, next)?;
                    sockets.insert(next, socket);
                    next += 1;
                }
                continue;
            }
            let Some(mut from) = sockets.get(&number) else {
                // Its other side ended in this very turn.
                continue;
            };
            let passed = from.read(&mut buffer).and_then(|read| {
                let to = sockets.get(&(number ^ 1));
                match to.filter(|_| read > 0) {
                    Some(mut to) => to.write_all(&buffer[..read]).map(|()| true),
                    None => Ok(false),
                }
            });
            if !matches!(passed, Ok(true)) {
                sockets.remove(&number);
                sockets.remove(&(number ^ 1));
            }
        }
    }
}

const LISTENER: u64 = u64::MAX;
