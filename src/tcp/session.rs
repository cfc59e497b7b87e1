//! One TCP session from accept to its log line: open, lease, connect, relay, end.
//!
//! Its own file because it is the whole life of a session in the order in which it happens.
//! Invariants: a session owns both sockets from end to end; a socket that carried a client's bytes
//! is never given to another; a client that cannot be served gets its protocol's own refusal; a
//! session lives in the snapshot it started with, and ends with exactly one reason. Nothing of its
//! payload is logged; of an unmatched start at most 16 bytes. It is over 400
//! lines because each step hands its state to the next. Called by the listener.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::{Config, DbType, TcpProxy};
use crate::error::Reason;
use crate::route::{TcpRoute, TcpTable};
use crate::snapshot::Snapshot;
use crate::tcp::cancel::{self, Cancels};
use crate::tcp::connect::{self, Connected, Efforts, Warmth};
use crate::tcp::login::Login;
use crate::tcp::opening::{self, Opening, PostgresTls};
use crate::tcp::refuse;
use crate::tcp::relay::{self, Ended, Pipes, Relay, Rest, SilentClient};
use crate::telemetry::{AccessLog, Record};
use crate::upstream::warm::{Policy, Warm};
use crate::upstream::{Lease, Outcome};
use crate::wire::postgres;
use crate::wire::proxy_protocol::{self, Addresses};

/// What all sessions of a gateway share.
pub struct Sessions {
    access_log: Arc<AccessLog>,
    warm: Arc<Warm>,
    pipes: Arc<Pipes>,
    cancels: Cancels,
    cut: watch::Receiver<Option<Reason>>,
}

/// A connection as the listener accepted it.
pub struct Accepted {
    pub stream: TcpStream,
    pub client: SocketAddr,
    /// What was read of it already; mostly nothing.
    pub first: BytesMut,
    /// The listener's address as written.
    pub listener: Arc<str>,
    pub table: Arc<TcpTable>,
    pub snapshot: Arc<Snapshot>,
}

/// What is known of a session, for its log line.
struct Story {
    started: Instant,
    client: SocketAddr,
    listener: Arc<str>,
    route: Option<Arc<TcpRoute>>,
    efforts: Efforts,
    up: u64,
    down: u64,
}

impl Sessions {
    /// `cut` turns to the reason when a drain has waited long enough.
    pub fn new(
        access_log: Arc<AccessLog>,
        warm: Arc<Warm>,
        cut: watch::Receiver<Option<Reason>>,
    ) -> Sessions {
        Sessions {
            access_log,
            warm,
            pipes: Pipes::new(MAX_PIPES),
            cancels: Cancels::default(),
            cut,
        }
    }

    /// Carries one connection to its end.
    pub async fn serve(&self, accepted: Accepted) -> Reason {
        let mut story = Story {
            started: Instant::now(),
            client: accepted.client,
            listener: accepted.listener.clone(),
            route: None,
            efforts: Efforts::default(),
            up: 0,
            down: 0,
        };
        let reason = self.carry(accepted, &mut story).await;
        self.record(&story, reason);
        reason
    }

    /// Refuses one connection above `max_connections`. Cancels are not limited: they make room.
    pub async fn turn_away(&self, accepted: Accepted) {
        let Accepted {
            mut stream,
            mut client,
            mut first,
            table,
            snapshot,
            ..
        } = accepted;
        let config = &snapshot.config;
        let why = Reason::TooManyConnections;
        match opening(&mut stream, &mut first, &table, config, &mut client).await {
            Ok(Opening::Session { route, .. }) => {
                refuse::client(stream, route.db_type, why, &first).await;
            }
            Ok(Opening::Cancel(key)) => {
                cancel::carry(&key, &self.cancels, &table, stream).await;
            }
            Ok(Opening::Unmatched) => refuse::unmatched(stream, why, &first).await,
            Err(reason) => log::debug!("{client} was turned away unheard: {reason}"),
        }
    }

    /// The log line of one connection above `max_connections`.
    pub fn record_turned_away(&self, client: SocketAddr, listener: &str) {
        if self.access_log.is_on() {
            self.access_log.log(&Record {
                client: Some(client),
                route: "-",
                ..Record::new(listener, Reason::TooManyConnections)
            });
        }
    }

    async fn carry(&self, accepted: Accepted, story: &mut Story) -> Reason {
        let Accepted {
            mut stream,
            mut first,
            table,
            snapshot,
            ..
        } = accepted;
        // Fails only for a socket that is gone, which the next read tells.
        let _ = relay::tune(&stream);
        let unselected = |story: &mut Story, reason| {
            story.route = table.alone().cloned();
            let session = table.unselected().session(story.started.into_std());
            session.finished(reason);
            reason
        };
        let config = &snapshot.config;
        let client = &mut story.client;
        let opened = opening(&mut stream, &mut first, &table, config, client).await;
        let (route, tls) = match opened {
            Ok(Opening::Session { route, tls }) => (route, tls),
            Ok(Opening::Cancel(key)) => {
                cancel::carry(&key, &self.cancels, &table, stream).await;
                return Reason::Ok;
            }
            Ok(Opening::Unmatched) => {
                log::info!(
                    "{}: no route for a client that begins with {}; peer={}",
                    story.listener,
                    hex(&first[..first.len().min(UNMATCHED_BYTES)]),
                    story.client
                );
                refuse::unmatched(stream, Reason::Unmatched, &first).await;
                return unselected(story, Reason::Unmatched);
            }
            Err(reason) => return unselected(story, reason),
        };
        story.route = Some(route.clone());
        let session = route.metrics.session(story.started.into_std());
        let settings = &config.tcp_proxy;
        let reason = self
            .session(&route, settings, stream, first, tls, story)
            .await;
        session.finished(reason);
        reason
    }

    /// A session whose route is known.
    async fn session(
        &self,
        route: &TcpRoute,
        settings: &TcpProxy,
        mut stream: TcpStream,
        mut first: BytesMut,
        tls: PostgresTls,
        story: &mut Story,
    ) -> Reason {
        let deadline = Instant::now() + route.tries.timeout;
        let warm = Policy::of(route.db_type, settings.max_idle_time)
            .filter(|_| settings.connection_pooling)
            .map(|_| self.warm.as_ref());
        let connecting = connect::connect(
            route,
            story.client.ip(),
            (&mut stream, &mut first),
            warm,
            deadline,
            &mut story.efforts,
        );
        let connected = tokio::select! {
            biased;
            // First: the places that become free now are those of sessions that are cut off.
            () = self.cut_off() => Err(Reason::Drained),
            connected = connecting => connected,
        };
        let Connected {
            mut server,
            lease,
            mut warmth,
        } = match connected {
            Ok(connected) => connected,
            Err(reason) => {
                refuse::client(stream, route.db_type, reason, &first).await;
                return reason;
            }
        };
        if tls == PostgresTls::Promised {
            let mut answer = ask_for_tls(&mut server, deadline).await;
            if answer.is_none() && warmth == Warmth::Warm {
                // Dead before any byte came back: replaced once, unseen.
                warmth = Warmth::Fresh;
                if let Some(fresh) = fresh(route, &lease, deadline).await {
                    server = fresh;
                    answer = ask_for_tls(&mut server, deadline).await;
                }
            }
            if answer != Some(b'S') {
                log::warn!(
                    "{} is chosen by server name, but its server has no TLS; endpoint={}",
                    route.label,
                    lease.endpoint().label()
                );
                refuse::client(stream, route.db_type, Reason::UpstreamError, &first).await;
                lease.finish(Outcome::Failed);
                return Reason::UpstreamError;
            }
        }
        let to_server = ToServer {
            preface: preface(route, story.client, &stream),
            first: first.freeze(),
        };
        let ended = self
            .relay(route, stream, server, &lease, to_server, tls, warmth, story)
            .await;
        let ended = match ended.rest {
            Rest::Unanswered { client, sent } => {
                self.replace(route, client, lease, sent, tls, deadline, story)
                    .await
            }
            rest => (ended.reason, rest, lease),
        };
        let (reason, rest, lease) = ended;
        match rest {
            Rest::Open {
                server,
                silent: true,
                ..
            } if route.db_type == DbType::Mysql => refuse::leave_mysql(server).await,
            Rest::Open {
                client,
                server,
                cut: false,
                last,
                ..
            } => {
                drop(server);
                refuse::goodbye(client, route.db_type, reason, last).await;
            }
            Rest::Abandoned { server } => refuse::leave_mysql(server).await,
            Rest::Open { .. } | Rest::Closed | Rest::Unanswered { .. } => {}
        }
        lease.finish(Outcome::Neutral);
        reason
    }

    /// A warm socket was dead before any byte came back: once, and unseen by the client, a fresh
    /// one takes its place.
    #[expect(clippy::too_many_arguments, reason = "all of one session's state")]
    async fn replace(
        &self,
        route: &TcpRoute,
        client: TcpStream,
        lease: Lease,
        sent: Bytes,
        tls: PostgresTls,
        deadline: Instant,
        story: &mut Story,
    ) -> (Reason, Rest, Lease) {
        let Some(server) = fresh(route, &lease, deadline).await else {
            refuse::client(client, route.db_type, Reason::ConnectFailed, &sent).await;
            return (Reason::ConnectFailed, Rest::Closed, lease);
        };
        let ended = self
            .relay(
                route,
                client,
                server,
                &lease,
                ToServer {
                    preface: Bytes::new(),
                    first: sent,
                },
                tls,
                Warmth::Fresh,
                story,
            )
            .await;
        (ended.reason, ended.rest, lease)
    }

    #[expect(clippy::too_many_arguments, reason = "all of one session's state")]
    async fn relay(
        &self,
        route: &TcpRoute,
        client: TcpStream,
        server: TcpStream,
        lease: &Lease,
        to_server: ToServer,
        tls: PostgresTls,
        warmth: Warmth,
        story: &mut Story,
    ) -> Ended {
        let count = |direction, bytes| route.metrics.bytes(direction, bytes);
        let registered = Mutex::new(None);
        let mut relay = Relay::new(&count);
        relay.idle_timeout = route.idle_timeout;
        relay.pipes = Some(self.pipes.clone());
        relay.preface = to_server.preface;
        relay.to_server = to_server.first;
        if route.db_type == DbType::Mysql {
            relay.silent_client = SilentClient::HandBack;
        }
        if warmth == Warmth::Warm {
            relay.keep_unanswered = KEEP_UNANSWERED;
        }
        if route.db_type == DbType::Postgres && tls != PostgresTls::Promised {
            let addr = lease.endpoint().addr();
            let mut login = Login::new(tls);
            let registered = &registered;
            let endpoint = lease.endpoint();
            relay.on_server_bytes = Some(Box::new(move |bytes| {
                let seen = login.see(bytes);
                if login.cannot_connect_now() {
                    self.warm.flush(endpoint);
                }
                if let Some(key) = login.key() {
                    let entry = self.cancels.register(key, addr);
                    *registered.lock().unwrap_or_else(PoisonError::into_inner) = Some(entry);
                }
                seen
            }));
        }
        let stop = std::pin::pin!(self.cut_off());
        let mut ended = relay.run(client, server, stop).await;
        if ended.reason == Reason::Drained {
            ended.reason = self.cut.borrow().unwrap_or(Reason::Drained);
        }
        story.up += ended.up;
        story.down += ended.down;
        if ended.reason == Reason::UpstreamReset {
            lease.record(Outcome::Failed);
        }
        ended
    }

    /// Done when a drain has waited long enough.
    fn cut_off(&self) -> impl Future<Output = ()> + use<> {
        let mut cut = self.cut.clone();
        async move {
            if cut.wait_for(Option::is_some).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn record(&self, story: &Story, reason: Reason) {
        if !self.access_log.is_on() {
            return;
        }
        let route = story.route.as_ref();
        self.access_log.log(&Record {
            client: Some(story.client),
            route: route.map_or("-", |route| &route.label),
            upstream: route.map_or("", |route| route.upstream.label()),
            endpoint: story.efforts.endpoint.as_deref().unwrap_or(""),
            protocol: route.map_or("", |route| route.db_type.as_str()),
            bytes_in: story.up,
            bytes_out: story.down,
            tries: story.efforts.tries,
            queue: story.efforts.queued,
            connect: story.efforts.connect,
            total: story.started.elapsed(),
            ..Record::new(&story.listener, reason)
        });
    }
}

/// Who the client is, by its proxy, and what it wants.
async fn opening(
    stream: &mut TcpStream,
    first: &mut BytesMut,
    table: &TcpTable,
    config: &Config,
    client: &mut SocketAddr,
) -> Result<Opening, Reason> {
    let sniff_timeout = config.tcp_proxy.sniff_timeout;
    if config.trusts(client.ip()) {
        let patience = match table.server_first() {
            Some(_) => opening::SERVER_FIRST_DELAY.min(sniff_timeout),
            None => sniff_timeout,
        };
        let until = Instant::now() + patience;
        if let Some(named) = opening::proxy_header(stream, first, until).await? {
            *client = named;
        }
    }
    opening::open(stream, first, table, sniff_timeout).await
}

/// What the server gets before the relay begins.
struct ToServer {
    /// Of ours.
    preface: Bytes,
    /// Of the client's.
    first: Bytes,
}

/// The PROXY header, where the route has one.
fn preface(route: &TcpRoute, client: SocketAddr, stream: &TcpStream) -> Bytes {
    let Some(version) = route.proxy_protocol else {
        return Bytes::new();
    };
    let addresses = Addresses {
        source: client,
        destination: stream.local_addr().unwrap_or(client),
    };
    proxy_protocol::write(version, addresses).into()
}

/// A connection in the place of a warm one that was dead.
async fn fresh(route: &TcpRoute, lease: &Lease, deadline: Instant) -> Option<TcpStream> {
    let patience = route.tries.connect_timeout;
    let patience = patience.min(deadline.saturating_duration_since(Instant::now()));
    match timeout(patience, TcpStream::connect(lease.endpoint().addr())).await {
        Ok(Ok(server)) => {
            lease.record(Outcome::Ok);
            // An error here means it is gone again, which the next read tells.
            let _ = relay::tune(&server);
            Some(server)
        }
        Ok(Err(_)) | Err(_) => {
            lease.record(Outcome::ConnectFailed);
            None
        }
    }
}

/// We told the client `S`: now the server must. Exactly its one byte is read; `None` when none
/// comes.
async fn ask_for_tls(server: &mut TcpStream, deadline: Instant) -> Option<u8> {
    let ask = async {
        server.write_all(&postgres::SSL_REQUEST).await?;
        server.read_u8().await
    };
    timeout_at(deadline, ask).await.ok()?.ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Pipes that splicing may hold at a time, two descriptors each; what comes above is copied.
const MAX_PIPES: usize = 64;
/// How much of an unmatched start is logged: enough to know a protocol, too little for a password.
const UNMATCHED_BYTES: usize = 16;
/// The first bytes of a client fit in here; a client that sent more before a dead warm socket was
/// noticed is told that its server is gone.
const KEEP_UNANSWERED: usize = 16 * 1024;
