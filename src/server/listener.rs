//! What a configuration wants bound, and the binding.
//!
//! Its own file because start, reload and upgrade all ask for it, before anybody accepts.
//! Invariants: sockets are bound before any runtime exists, or by a reload, so a taken port is an
//! ordinary error that names its key; each address is bound once. `accept.rs` serves what is bound
//! here.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::config::{Config, ListenAddr};
use crate::error::Error;
use crate::telemetry::{ListenerMetrics, Metrics};
use crate::upstream::tune_listener;

/// What is behind a bound socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Http,
    Admin,
    /// The TCP routes of the snapshot's listener with the same configured address.
    Tcp,
}

/// Which listener: what it is, and its address as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub kind: Kind,
    pub configured: SocketAddr,
}

/// One listener that a configuration asks for.
pub struct Wanted {
    pub identity: Identity,
    pub listen: ListenAddr,
    /// The key that asks for it.
    pub key: String,
}

/// All listeners that `config` asks for, each address once.
pub fn wanted(config: &Config) -> Vec<Wanted> {
    let one = |kind, listen: &ListenAddr, key: &str| Wanted {
        identity: Identity {
            kind,
            configured: listen.addr,
        },
        listen: listen.clone(),
        key: key.to_string(),
    };
    let mut all = vec![one(Kind::Http, &config.listen_addr, "listen_addr")];
    if let Some(admin) = &config.admin {
        all.push(one(Kind::Admin, &admin.listen_addr, "admin.listen_addr"));
    }
    let shared = &config.tcp_proxy.listen_addr;
    for route in &config.tcp_routes {
        let is_there = all.iter().any(|wanted| {
            wanted.identity.kind == Kind::Tcp && wanted.identity.configured == route.listen
        });
        if is_there {
            continue;
        }
        all.push(match route.listen == shared.addr {
            true => one(Kind::Tcp, shared, "tcp_proxy.listen_addr"),
            false => {
                let listen = ListenAddr {
                    addr: route.listen,
                    text: route.listen.to_string(),
                };
                let key = format!("routes.{}.tcp_listen_port", route.name);
                one(Kind::Tcp, &listen, &key)
            }
        });
    }
    all
}

/// A bound socket and who serves it.
pub struct Listener {
    pub identity: Identity,
    pub bound: Bound,
    pub metrics: ListenerMetrics,
}

impl Listener {
    /// Binds what a configuration asks for, unless `socket` is bound to it already.
    pub fn bind(
        wanted: &Wanted,
        socket: Option<StdListener>,
        metrics: &Metrics,
    ) -> Result<Listener, Error> {
        Ok(Listener {
            identity: wanted.identity,
            bound: bind(wanted, socket)?,
            metrics: metrics.listener(&wanted.listen.text),
        })
    }
}

/// A bound socket and what it is for.
pub struct Bound {
    pub text: Arc<str>,
    pub addr: SocketAddr,
    pub socket: StdListener,
}

/// Binds what is wanted, unless `socket` is bound to it already.
fn bind(wanted: &Wanted, socket: Option<StdListener>) -> Result<Bound, Error> {
    let Wanted {
        identity: Identity { kind, .. },
        listen,
        key,
    } = wanted;
    let failed = |source: std::io::Error| {
        let hint = match source.kind() {
            std::io::ErrorKind::AddrInUse => {
                "the port is taken: stop the other program or choose another port"
            }
            std::io::ErrorKind::PermissionDenied => {
                "ports below 1024 need root or CAP_NET_BIND_SERVICE"
            }
            std::io::ErrorKind::AddrNotAvailable => "no interface here has this address",
            _ => "cannot listen",
        };
        Error::bind(format!(
            "{key}: cannot bind {} (port {}): {hint}",
            listen.text,
            listen.addr.port()
        ))
        .because(source)
    };
    let socket = match socket {
        Some(socket) => socket,
        None => open(listen.addr).map_err(failed)?,
    };
    let addr = socket.local_addr().map_err(failed)?;
    // The connections it accepts have it from here.
    match kind {
        Kind::Http | Kind::Admin => SockRef::from(&socket).set_tcp_nodelay(true),
        Kind::Tcp => tune_listener(&socket),
    }
    .map_err(failed)?;
    Ok(Bound {
        text: Arc::from(listen.text.as_str()),
        addr,
        socket,
    })
}

fn open(addr: SocketAddr) -> std::io::Result<StdListener> {
    let socket = Socket::new(
        Domain::for_address(addr),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        // `[::]` and `0.0.0.0` are two listeners, as the configuration writes them.
        socket.set_only_v6(true)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// As nginx and HAProxy ask for; the kernel caps it at `somaxconn`.
const BACKLOG: i32 = 65_535;
