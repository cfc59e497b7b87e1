//! What a configuration wants bound, and the binding.
//!
//! Used by start, reload and upgrade alike, before anything is accepted. Invariants: sockets are
//! bound before any runtime exists, or by a reload, so a taken port is an ordinary error that names
//! its key; each address is bound once. `accept.rs` serves what is bound here.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
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
    /// HTTP routes: an address of `listen_addr`.
    Http,
    /// HTTP routes in TLS: an address of `tls.listen_addr`.
    Https,
    /// Metrics, status and reload: an address of `admin.listen_addr`.
    Admin,
    /// The TCP routes of the snapshot's listener with the same configured address.
    Tcp,
}

/// Which listener: what it is, and its address as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// What is served on it: one address as another kind is another listener.
    pub kind: Kind,
    /// The address in the file: port 0 stays 0, whatever port the system chose.
    pub configured: SocketAddr,
}

/// Whose clients come to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// Those of its own family.
    One,
    /// Those of both: `[::]` without a `0.0.0.0` of the same port beside it.
    Both,
}

impl Families {
    /// Whether `socket`, bound by another process, takes these.
    fn are_those_of(self, socket: &StdListener) -> bool {
        let both = socket.local_addr().is_ok_and(|addr| addr.is_ipv6())
            && SockRef::from(socket).only_v6().is_ok_and(|only| !only);
        both == (self == Families::Both)
    }
}

/// One listener that a configuration asks for.
pub struct Wanted {
    /// What tells it from other listeners, in a reload and in an upgrade.
    pub identity: Identity,
    /// The address to bind, and how the file writes it.
    pub listen: ListenAddr,
    /// Whether an IPv6 socket takes IPv4 clients, too; a change of it needs a new socket.
    pub families: Families,
    /// The key that asks for it.
    pub key: String,
}

impl Wanted {
    /// Whether it is the same listener, so that it can stay when the configuration changes.
    pub fn is(&self, other: &Wanted) -> bool {
        self.identity == other.identity && self.families == other.families
    }

    /// Whether it cannot be bound while `other` is.
    pub fn is_barred_by(&self, other: &Wanted) -> bool {
        let (ip, there) = (self.listen.addr.ip(), other.listen.addr.ip());
        self.listen.addr.port() == other.listen.addr.port()
            && self.listen.addr.port() != 0
            && (ip == there
                || (ip.is_unspecified() && self.takes(there))
                || (there.is_unspecified() && other.takes(ip)))
    }

    fn takes(&self, ip: IpAddr) -> bool {
        self.families == Families::Both || self.listen.addr.is_ipv4() == ip.is_ipv4()
    }
}

/// All listeners that `config` asks for, each address once.
pub fn wanted(config: &Config) -> Vec<Wanted> {
    let one = |kind, listen: &ListenAddr, key: &str| Wanted {
        identity: Identity {
            kind,
            configured: listen.addr,
        },
        listen: listen.clone(),
        families: Families::One,
        key: key.to_string(),
    };
    let http = config.listen_addr.iter();
    let mut all: Vec<Wanted> = http.map(|l| one(Kind::Http, l, "listen_addr")).collect();
    let https = config.tls.as_ref().and_then(|tls| tls.listen_addr.as_ref());
    let https = https.iter().flat_map(|list| list.iter());
    all.extend(https.map(|l| one(Kind::Https, l, "tls.listen_addr")));
    if let Some(admin) = &config.admin {
        let listen = admin.listen_addr.iter();
        all.extend(listen.map(|l| one(Kind::Admin, l, "admin.listen_addr")));
    }
    let shared = &config.tcp_proxy.listen_addr;
    let mut seen = HashSet::new();
    for route in &config.tcp_routes {
        for addr in route.listen.iter().filter(|addr| seen.insert(**addr)) {
            all.push(match shared.iter().find(|listen| listen.addr == *addr) {
                Some(listen) => one(Kind::Tcp, listen, "tcp_proxy.listen_addr"),
                None => {
                    let listen = ListenAddr {
                        addr: *addr,
                        text: addr.to_string(),
                    };
                    let key = format!("routes.{}.tcp_listen_port", route.name);
                    one(Kind::Tcp, &listen, &key)
                }
            });
        }
    }
    let all_of_ipv4: HashSet<u16> = all
        .iter()
        .map(|wanted| wanted.listen.addr)
        .filter(|addr| addr.is_ipv4() && addr.ip().is_unspecified() && addr.port() != 0)
        .map(|addr| addr.port())
        .collect();
    for wanted in &mut all {
        let addr = wanted.listen.addr;
        if addr.is_ipv6() && addr.ip().is_unspecified() && !all_of_ipv4.contains(&addr.port()) {
            wanted.families = Families::Both;
        }
    }
    all
}

/// A bound socket and who serves it.
pub struct Listener {
    /// By which a reload or an upgrade finds it again.
    pub identity: Identity,
    /// Its socket, not accepted on yet.
    pub bound: Bound,
    /// Counters with its `listener` label.
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
    /// The address as written in the file: the `listener` label of metrics and logs.
    pub text: Arc<str>,
    /// The address as the system has it, with the port that it chose for port 0.
    pub addr: SocketAddr,
    /// Listening and non-blocking; what it accepts inherits its TCP options.
    pub socket: StdListener,
}

/// Binds what is wanted, unless `socket` is bound to it already.
fn bind(wanted: &Wanted, socket: Option<StdListener>) -> Result<Bound, Error> {
    let Wanted {
        identity: Identity { kind, .. },
        listen,
        families,
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
            _ if source.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => {
                "this machine has no IPv6: write `0.0.0.0` for `[::]`"
            }
            _ => "cannot listen",
        };
        Error::bind(format!(
            "{key}: cannot bind {} (port {}): {hint}",
            listen.text,
            listen.addr.port()
        ))
        .because(source)
    };
    // One that takes other clients than these is not what is wanted, wherever it is bound.
    let socket = match socket.filter(|socket| families.are_those_of(socket)) {
        Some(socket) => socket,
        None => open(listen.addr, *families).map_err(failed)?,
    };
    let addr = socket.local_addr().map_err(failed)?;
    // The connections it accepts have it from here.
    match kind {
        Kind::Http | Kind::Https | Kind::Admin => SockRef::from(&socket).set_tcp_nodelay(true),
        Kind::Tcp => tune_listener(&socket),
    }
    .map_err(failed)?;
    Ok(Bound {
        text: Arc::from(listen.text.as_str()),
        addr,
        socket,
    })
}

fn open(addr: SocketAddr, families: Families) -> std::io::Result<StdListener> {
    let socket = Socket::new(
        Domain::for_address(addr),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        // Whatever the system's default is (`net.ipv6.bindv6only`).
        socket.set_only_v6(families == Families::One)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// As nginx and HAProxy ask for; the kernel caps it at `somaxconn`.
const BACKLOG: i32 = 65_535;
