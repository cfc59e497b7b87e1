//! The way to a server: turn in the queue, endpoint, socket; again elsewhere when it fails.
//!
//! The phase of a session that is retried. Invariants: all of it happens within `timeout_ms`; a
//! client that leaves frees its slot; nothing of the client's was sent when a try is repeated.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use bytes::BytesMut;
use rand::Rng;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use crate::config::DbType;
use crate::error::Reason;
use crate::route::TcpRoute;
use crate::transport::Transport;
use crate::upstream::warm::{Next, Taken, Warm};
use crate::upstream::{EndpointId, Lease, Outcome, Pick, PickError, dial, key, tune};
use crate::wire::sniff;

/// A server connection, and what it took.
pub struct Connected {
    /// Connected and tuned. As `connect` returns it, nothing was sent or read on it.
    pub server: Transport,
    /// The endpoint that it leads to. Held until the session ends.
    pub lease: Lease,
    /// Whether it may have died unnoticed before its use.
    pub warmth: Warmth,
    /// To be started once the server has answered.
    pub next: Option<Next>,
}

/// Where a server connection came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warmth {
    /// Connected ahead, never used.
    Warm,
    /// Connected for this client, just now.
    Fresh,
}

/// What is known of the tries so far, for the log.
#[derive(Debug, Default)]
pub struct Efforts {
    /// Endpoints picked, the first included: `tries` of the access log.
    pub tries: u32,
    /// Time in the queue, of all picks together. `None`: no pick waited.
    pub queued: Option<Duration>,
    /// Duration of the connect that succeeded; zero for a warm socket. `None`: none did.
    pub connect: Option<Duration>,
    /// Label of the last endpoint tried. `None`: none, or no descriptor or port for the connect.
    pub endpoint: Option<String>,
    tried: Vec<EndpointId>,
    /// The one try at another endpoint that is not counted was made.
    moved: bool,
}

/// Finds a server for a client of `route`. `waiting` is that client, and what it has sent: it is
/// watched while it waits for its turn. A connect that has begun is not broken off when it leaves,
/// because some servers hold that against us.
pub async fn connect(
    route: &TcpRoute,
    client: IpAddr,
    waiting: (&mut Transport, &mut BytesMut),
    warm: Option<&Warm>,
    deadline: Instant,
    efforts: &mut Efforts,
) -> Result<Connected, Reason> {
    let (stream, first) = waiting;
    loop {
        let lease = tokio::select! {
            biased;
            lease = pick(route, client, deadline, efforts) => lease?,
            () = departure(stream, first, route.db_type) => return Err(Reason::ClientClosed),
        };
        let endpoint = lease.endpoint().clone();
        efforts.begin(&lease);
        if let Some(taken) = warm.and_then(|warm| warm.take(lease.upstream(), &endpoint)) {
            let Taken { stream, next } = taken;
            route.metrics.warm_hit();
            efforts.connect = Some(Duration::ZERO);
            return Ok(Connected {
                server: stream.into(),
                lease,
                warmth: Warmth::Warm,
                next,
            });
        }
        if warm.is_some() {
            route.metrics.warm_miss();
        }
        let server = match fresh(route, &lease, deadline, efforts).await {
            Ok(server) => server,
            Err(failed) => {
                if let Some(warm) = warm {
                    warm.flush(&endpoint);
                }
                lease.finish(failed.outcome());
                if failed == Failed::ForWantHere {
                    // Nothing reached it.
                    efforts.endpoint = None;
                }
                efforts.go_on(route, failed, deadline).await?;
                continue;
            }
        };
        return Ok(Connected {
            server,
            lease,
            warmth: Warmth::Fresh,
            next: None,
        });
    }
}

/// A connection in the place of a warm one that was dead: to the same endpoint or, where that takes
/// none, to another. `None` when there is none; `lease` is then given back.
pub async fn instead(
    route: &TcpRoute,
    client: IpAddr,
    warm: &Warm,
    mut lease: Lease,
    deadline: Instant,
    efforts: &mut Efforts,
) -> Option<(Transport, Lease)> {
    loop {
        let failed = match fresh(route, &lease, deadline, efforts).await {
            Ok(server) => return Some((server, lease)),
            Err(failed) => failed,
        };
        warm.flush(lease.endpoint());
        lease.finish(failed.outcome());
        if Instant::now() >= deadline || !efforts.moves(route, &failed) {
            return None;
        }
        lease = pick(route, client, deadline, efforts).await.ok()?;
        efforts.begin(&lease);
    }
}

/// One connect to the leased endpoint.
async fn fresh(
    route: &TcpRoute,
    lease: &Lease,
    deadline: Instant,
    efforts: &mut Efforts,
) -> Result<Transport, Failed> {
    let started = Instant::now();
    let patience = deadline.saturating_duration_since(started);
    let patience = patience.min(route.tries.connect_timeout);
    let endpoint = lease.endpoint();
    match dial::connect(endpoint, patience).await {
        Ok(server) => {
            efforts.connect = Some(started.elapsed());
            lease.record(Outcome::Ok);
            // An error here means it is gone again, which the relay will see.
            let _ = tune(&server);
            Ok(server.into())
        }
        Err(error) => {
            lease.connect_failed(&error, patience);
            Err(match error.kind() {
                io::ErrorKind::TimedOut => Failed::TimedOut,
                _ if dial::is_ours(&error) => Failed::ForWantHere,
                _ => Failed::Refused,
            })
        }
    }
}

/// How a connect failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failed {
    /// Or what is like it: no way there.
    Refused,
    TimedOut,
    /// No endpoint would have been reached.
    ForWantHere,
}

impl Failed {
    fn reason(self) -> Reason {
        match self {
            Failed::Refused => Reason::ConnectFailed,
            Failed::TimedOut => Reason::ConnectTimeout,
            // Our own limit, which is no fault of the endpoint's.
            Failed::ForWantHere => Reason::TooManyConnections,
        }
    }

    fn outcome(self) -> Outcome {
        match self {
            Failed::Refused | Failed::TimedOut => Outcome::ConnectFailed,
            Failed::ForWantHere => Outcome::Neutral,
        }
    }
}

impl Efforts {
    /// A try at this endpoint begins.
    fn begin(&mut self, lease: &Lease) {
        let endpoint = lease.endpoint();
        self.endpoint = Some(endpoint.label().to_owned());
        self.tries += 1;
        self.tried.push(endpoint.id());
    }

    /// Whether the next try goes to another endpoint at once, which is done once and not counted as
    /// a retry: nothing was sent.
    fn moves(&mut self, route: &TcpRoute, failed: &Failed) -> bool {
        let moves = !self.moved
            && *failed != Failed::ForWantHere
            && route.upstream.has_another(route.target, &self.tried);
        if moves {
            self.moved = true;
            route.metrics.retried(failed.reason());
        }
        moves
    }

    /// Returns when it is time for the next try; the reason of the end when there is none.
    async fn go_on(
        &mut self,
        route: &TcpRoute,
        failed: Failed,
        deadline: Instant,
    ) -> Result<(), Reason> {
        if Instant::now() >= deadline {
            return Err(Reason::Timeout);
        }
        if self.moves(route, &failed) {
            return Ok(());
        }
        if self.tries - u32::from(self.moved) > route.tries.retry_count {
            return Err(failed.reason());
        }
        route.metrics.retried(failed.reason());
        let pause = BACKOFF.min(deadline.saturating_duration_since(Instant::now()));
        let pause = rand::rng().random_range(Duration::ZERO..=pause);
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

async fn pick(
    route: &TcpRoute,
    client: IpAddr,
    deadline: Instant,
    efforts: &mut Efforts,
) -> Result<Lease, Reason> {
    let balance = &route.upstream.spec().balance;
    let want = Pick {
        hash: balance.hash_on().map(|_| key::of_address(client)),
        avoid: &efforts.tried,
        deadline,
        target: route.target,
    };
    let started = Instant::now();
    let lease = route.upstream.pick(want).await;
    let queued = match &lease {
        Ok(lease) => lease.queued_for(),
        Err(PickError::QueueTimeout | PickError::Deadline) => started.elapsed(),
        Err(PickError::NoHealthyEndpoint) => Duration::ZERO,
    };
    if !queued.is_zero() {
        *efforts.queued.get_or_insert_default() += queued;
        route.metrics.queue_waited(queued.as_secs_f64());
    }
    lease.map_err(|error| error.reason())
}

/// Done when the client has left. Until then what it sends is kept in `first`, up to the bound of
/// an opening. A client that sent something and then closed its direction may still wait for the
/// answer, in a protocol in which that is all it has to say.
pub(super) async fn departure(stream: &mut Transport, first: &mut BytesMut, db_type: DbType) {
    let one_word = matches!(db_type, DbType::Redis | DbType::Tcp) || db_type.speaks_http();
    while first.len() < sniff::MAX_BYTES {
        first.reserve(1024);
        match stream.read_buf(first).await {
            Ok(0) if first.is_empty() || !one_word => return,
            Ok(0) => break,
            Ok(_) => {}
            Err(_) => return,
        }
    }
    std::future::pending().await
}

/// The longest pause before a try elsewhere.
const BACKOFF: Duration = Duration::from_millis(25);
