//! A session whose route is known: lease, connect, relay, goodbye.
//!
//! A client and a server meet here; the methods stand in the order in which they happen.
//! Invariants: it owns both sockets until the end; a socket that carried a client's bytes is never
//! given to another client; a warm socket that turns out dead before any byte came back is replaced
//! once, unseen, unless the client has sent something that may have had an effect. Long because
//! every way out has to give back the same lease and sockets.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, timeout};

use crate::config::{DbType, TcpProxy};
use crate::error::Reason;
use crate::route::{TcpRoute, TcpTable};
use crate::tcp::cancel::{self, Registered};
use crate::tcp::connect::{self, Connected, Warmth};
use crate::tcp::encryption::{PostgresTls, Settled};
use crate::tcp::login::Login;
use crate::tcp::postgres_idle::PostgresIdle;
use crate::tcp::refuse;
use crate::tcp::relay::{
    Asking, Ended, GracefulEnd, Idle, Relay, Rest, Seen, ServerBehavior, SilentClient,
};
use crate::tcp::shared::Shared;
use crate::tcp::stats::SessionStats;
use crate::tcp::threads::Thread;
use crate::telemetry::Carried;
use crate::transport::Transport;
use crate::upstream::warm::{Next, Policy};
use crate::upstream::{Lease, Outcome};
use crate::wire::postgres::{CancelKey, SSL_REQUEST, ends_ready};
use crate::wire::proxy_protocol::{self, Addresses};
use crate::wire::{refusal, replay, tls};

/// What a session is from its opening to its end.
pub struct Routed<'s> {
    /// Warm sockets, pipes and cancels of the whole gateway.
    pub sessions: &'s Shared,
    /// The routes of the listener, whose servers may get a cancel with an unknown key.
    pub table: &'s TcpTable,
    /// As the opening chose it, or a filter of that route instead.
    pub route: &'s TcpRoute,
    /// By its proxy's word, where it has one.
    pub client: SocketAddr,
    /// What the opening answered to an SSLRequest; the server has still to confirm it.
    pub tls: PostgresTls,
    /// A server connection must stand by then.
    pub deadline: Instant,
    /// For the access log: tries and bytes.
    pub stats: &'s mut SessionStats,
    /// Counts in its worker's load until one side of the relay has ended. `None`: not counted.
    pub carried: Option<Carried>,
}

/// Both sides as a relay begins.
struct Pairing {
    client: Transport,
    server: Transport,
    warmth: Warmth,
    next: Option<Next>,
    /// What the server gets first, of ours.
    preface: Bytes,
    /// And then, of the client's.
    first: Bytes,
    /// What the server has said already.
    answer: Bytes,
    /// Whether what is said can be read, where the protocol shows it.
    in_clear: InClear,
    /// Bytes that both have got already: up, down.
    passed: (u64, u64),
    /// Of a server that others may be asked to KILL on.
    thread: Option<Thread>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InClear {
    Yes,
    No,
}

impl Routed<'_> {
    /// Carries the client, which has sent `first`, to its end.
    pub async fn carry(
        mut self,
        settings: &TcpProxy,
        mut stream: Transport,
        mut first: BytesMut,
    ) -> Reason {
        let connected = self.connect(settings, &mut stream, &mut first).await;
        let settled = match connected {
            Ok(connected) if self.tls != PostgresTls::No => {
                let settling = self.settle_encryption(settings, connected, &mut stream, &mut first);
                // Boxed: a session has no room for it once it goes on.
                Box::pin(settling).await
            }
            connected => connected.map(|c| (c, Settled::InClear(Bytes::new()))),
        };
        let begins_with_tls = tls::begins(&first);
        let (connected, in_clear, answer) = match settled {
            Ok((connected, _)) if begins_with_tls => (connected, InClear::No, Bytes::new()),
            Ok((connected, Settled::InClear(answer))) => (connected, InClear::Yes, answer),
            Ok((connected, Settled::Encrypted)) => (connected, InClear::No, Bytes::new()),
            Ok((connected, Settled::Cancel(key))) => {
                // Its place is free before the cancel is out: the server has not begun a session.
                drop(connected);
                self.cancel(&key, stream).await;
                return Reason::Ok;
            }
            Err(reason) => {
                self.refuse(stream, reason, &first).await;
                return reason;
            }
        };
        let Connected {
            server,
            lease,
            warmth,
            next,
        } = connected;
        let mut pairing = Pairing {
            preface: self.preface(&stream),
            client: stream,
            server,
            warmth,
            next,
            first: first.freeze(),
            answer,
            in_clear,
            passed: match self.tls {
                PostgresTls::No => (0, 0),
                _ => (SSL_REQUEST.len() as u64, 1),
            },
            thread: None,
        };
        if self.route.db_type == DbType::Mysql
            && self.route.upstream.endpoints().len() > 1
            && pairing.first.is_empty()
        {
            // Boxed, as above.
            match Box::pin(self.watched(&lease, pairing)).await {
                Ok(begun) => pairing = begun,
                Err((reason, rest)) => {
                    self.part(reason, rest).await;
                    lease.finish(Outcome::Neutral);
                    return reason;
                }
            }
        }
        let ended = self.relay(&lease, pairing).await;
        if let Rest::Unanswered { client, sent } = ended.rest {
            return match replay::is_harmless(self.route.db_type, &sent) {
                true => self.replace(lease, client, sent, in_clear).await,
                false => self.give_up(lease, client, sent).await,
            };
        }
        self.part(ended.reason, ended.rest).await;
        lease.finish(Outcome::Neutral);
        ended.reason
    }

    async fn connect(
        &mut self,
        settings: &TcpProxy,
        stream: &mut Transport,
        first: &mut BytesMut,
    ) -> Result<Connected, Reason> {
        let warm = Policy::of(self.route.db_type, settings.max_idle_time)
            .filter(|_| settings.connection_pooling)
            .map(|_| self.sessions.warm.as_ref());
        let connecting = connect::connect(
            self.route,
            self.client.ip(),
            (stream, first),
            warm,
            self.deadline,
            &mut self.stats.efforts,
        );
        tokio::select! {
            biased;
            // First: the places that become free now are those of sessions that are cut off.
            () = self.sessions.cut_off() => Err(Reason::Drained),
            connected = connecting => connected,
        }
    }

    /// The PROXY header, where the route has one.
    pub(super) fn preface(&self, stream: &Transport) -> Bytes {
        let Some(version) = self.route.proxy_protocol else {
            return Bytes::new();
        };
        let addresses = Addresses {
            source: self.client,
            destination: stream.socket().local_addr().unwrap_or(self.client),
        };
        proxy_protocol::write(version, addresses).into()
    }

    /// The beginning of a session of MySQL is passed on with an eye on it. `Err`: it is over.
    async fn watched(
        &mut self,
        lease: &Lease,
        pairing: Pairing,
    ) -> Result<Pairing, (Reason, Rest)> {
        let at = lease.endpoint().addr();
        let begun = self.begin_mysql(pairing.client, pairing.server, at, pairing.preface);
        let begun = begun.await;
        if let Some(reason) = begun.over {
            self.stats.up += begun.up;
            self.stats.down += begun.down;
            let rest = Rest::Open {
                client: begun.client,
                server: begun.server,
                cut: !begun.to_client.is_empty(),
                last: None,
                silent: begun.up == 0,
            };
            return Err((reason, rest));
        }
        Ok(Pairing {
            preface: Bytes::new(),
            client: begun.client,
            server: begun.server,
            first: begun.to_server,
            answer: begun.to_client,
            passed: (begun.up, begun.down),
            thread: begun.thread,
            ..pairing
        })
    }

    async fn relay(&mut self, lease: &Lease, pairing: Pairing) -> Ended {
        let (sessions, route) = (self.sessions, self.route);
        let thread = pairing.thread;
        let count = |direction, bytes| {
            route.metrics.bytes(direction, bytes);
            if let Some(thread) = &thread {
                thread.moved(direction, bytes);
            }
        };
        let registered = Mutex::new(None);
        let is_watched = route.idle_timeout.is_some()
            && route.db_type == DbType::Postgres
            && pairing.in_clear == InClear::Yes;
        let postgres_idle = is_watched
            .then(|| PostgresIdle::after(&pairing.first))
            .flatten();
        let is_idle = || {
            postgres_idle
                .as_ref()
                .is_some_and(PostgresIdle::waits_for_client)
        };
        let ask = || {
            let registered: MutexGuard<'_, Option<Registered>> = lock(&registered);
            let cancel = registered.as_ref()?.cancel()?;
            let patience = tokio::time::sleep(LAST_ANSWER);
            let asking: Asking = Box::pin(async {
                let _late = tokio::join!(timeout(LAST_ANSWER, cancel), patience);
            });
            Some(asking)
        };
        let behavior = ServerBehavior {
            idle: match (&postgres_idle, route.db_type) {
                (Some(_), _) => Idle::When(&is_idle),
                (None, DbType::Tcp) => Idle::Silent,
                // In TLS that is passed through no more can be seen.
                (None, _) => Idle::Answered,
            },
            graceful_end: (route.db_type == DbType::Postgres).then_some(GracefulEnd {
                is_over: ends_ready,
                ask: &ask,
            }),
            was_prefaced: route.proxy_protocol.is_some(),
            are_whole: match route.db_type {
                DbType::Postgres => refusal::ends_postgres,
                DbType::Redis => refusal::ends_redis,
                _ => |_| false,
            },
        };
        let mut relay = Relay::new(&count);
        relay.behavior = &behavior;
        relay.idle_timeout = route.idle_timeout;
        relay.pipes = Some(sessions.pipes.clone());
        relay.preface = pairing.preface;
        relay.to_server = pairing.first;
        relay.to_client = pairing.answer;
        (relay.passed_up, relay.passed_down) = pairing.passed;
        relay.carried = self.carried.take();
        if route.db_type == DbType::Mysql {
            relay.silent_client = SilentClient::HandBack;
        }
        if pairing.warmth == Warmth::Warm {
            relay.keep_unanswered = KEEP_UNANSWERED;
        }
        if route.db_type == DbType::Postgres && pairing.in_clear == InClear::Yes {
            let endpoint = lease.endpoint();
            // It has two addresses where its name has both families.
            let server = pairing.server.socket().peer_addr();
            let server = server.unwrap_or_else(|_| endpoint.addr());
            let mut login = Login::new();
            let (registered, postgres_idle) = (&registered, postgres_idle.as_ref());
            if let Some(postgres_idle) = postgres_idle {
                relay.on_client_bytes = Some(Box::new(move |bytes| {
                    postgres_idle.client_sent(bytes);
                    Seen::More
                }));
            }
            let mut next = pairing.next;
            relay.on_server_bytes = Some(Box::new(move |bytes| {
                if let Some(next) = next.take() {
                    next.start();
                }
                let seen = login.see(bytes);
                if let Some(postgres_idle) = postgres_idle {
                    postgres_idle.server_sent(bytes);
                }
                if login.cannot_connect_now() {
                    sessions.warm.flush(endpoint);
                }
                if let Some(key) = login.key() {
                    let entry = sessions.cancels.register(key, server);
                    *lock(registered) = Some(entry);
                }
                match postgres_idle {
                    Some(_) => Seen::More,
                    None => seen,
                }
            }));
        } else if let Some(next) = pairing.next {
            next.start();
        }
        if route.db_type == DbType::Postgres && pairing.in_clear == InClear::No {
            let server = pairing.server.socket().peer_addr();
            let server = server.unwrap_or_else(|_| lease.endpoint().addr());
            let client = self.client.ip();
            let entry = sessions
                .cancels
                .register_unseen(client, &route.label, server);
            *registered.lock().unwrap_or_else(PoisonError::into_inner) = Some(entry);
        }
        let stop = std::pin::pin!(sessions.cut_off());
        let mut ended = relay.run(pairing.client, pairing.server, stop).await;
        if ended.reason == Reason::Drained {
            ended.reason = sessions.cut.borrow().unwrap_or(Reason::Drained);
        }
        if let Rest::Open { last, .. } = &mut ended.rest
            && is_idle()
        {
            // Also after messages that nobody asked for.
            *last = Some(*b"Z\0\0\0\x05I");
        }
        if matches!(ended.reason, Reason::HalfOpen | Reason::PeerTimeout) {
            let cancel = lock(&registered).as_ref().and_then(Registered::cancel);
            if let Some(cancel) = cancel {
                cancel.await;
            }
        }
        if !matches!(ended.rest, Rest::Unanswered { .. }) {
            // What got no answer is sent again, and counted once.
            self.stats.up += ended.up;
        }
        self.stats.down += ended.down;
        if ended.reason == Reason::UpstreamReset {
            lease.failed("the connection of a session broke");
            lease.record(Outcome::Failed);
            sessions.warm.flush(lease.endpoint());
        } else if ended.down > 0 {
            lease.answered();
        }
        ended
    }

    /// A warm socket was dead before any byte came back: once, and unseen by the client, a fresh
    /// one takes its place.
    async fn replace(
        &mut self,
        lease: Lease,
        client: Transport,
        sent: Bytes,
        in_clear: InClear,
    ) -> Reason {
        let (server, lease) = match self.instead(lease).await {
            Ok(instead) => instead,
            Err(reason) => {
                self.refuse(client, reason, &sent).await;
                return reason;
            }
        };
        let pairing = Pairing {
            preface: self.preface(&client),
            client,
            server,
            warmth: Warmth::Fresh,
            next: None,
            first: sent,
            answer: Bytes::new(),
            in_clear,
            passed: match self.tls {
                PostgresTls::No => (0, 0),
                _ => (SSL_REQUEST.len() as u64, 1),
            },
            thread: None,
        };
        let ended = self.relay(&lease, pairing).await;
        self.part(ended.reason, ended.rest).await;
        lease.finish(Outcome::Neutral);
        ended.reason
    }

    /// The server may have done what the client asked for, and has not said so. Nobody but the
    /// client can know whether to ask again.
    async fn give_up(&mut self, lease: Lease, client: Transport, sent: Bytes) -> Reason {
        let reason = Reason::UpstreamReset;
        self.stats.up += sent.len() as u64;
        self.refuse(client, reason, &sent).await;
        lease.finish(Outcome::Neutral);
        reason
    }

    /// A connection in the place of a warm one that was dead.
    pub(super) async fn instead(&mut self, lease: Lease) -> Result<(Transport, Lease), Reason> {
        let instead = connect::instead(
            self.route,
            self.client.ip(),
            &self.sessions.warm,
            lease,
            self.deadline,
            &mut self.stats.efforts,
        );
        instead.await.ok_or(Reason::ConnectFailed)
    }

    /// Refuses the client, unless what is refused turns out to be a cancel.
    pub async fn refuse(&self, stream: Transport, reason: Reason, first: &[u8]) {
        let refused = refuse::client(stream, self.route, reason, first).await;
        if let Some((key, stream)) = refused {
            self.cancel(&key, stream).await;
        }
    }

    async fn cancel(&self, key: &CancelKey, stream: Transport) {
        let client = self.client.ip();
        cancel::carry(key, &self.sessions.cancels, self.table, client, stream).await;
    }

    /// Closes what is still open, by protocol.
    async fn part(&self, reason: Reason, rest: Rest) {
        match rest {
            Rest::Open {
                server,
                silent: true,
                ..
            } if self.route.db_type == DbType::Mysql => refuse::leave_mysql(server).await,
            Rest::Open {
                client,
                server,
                cut: false,
                last,
                ..
            } => {
                drop(server);
                refuse::goodbye(client, self.route.db_type, reason, last).await;
            }
            Rest::LastWords { client } => refuse::linger(client).await,
            Rest::Abandoned { server } => refuse::leave_mysql(server).await,
            Rest::Open { .. } | Rest::Closed | Rest::Unanswered { .. } => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For a server to come to an end of a query that is cancelled.
const LAST_ANSWER: Duration = Duration::from_millis(600);
/// The first bytes of a client fit in here; a client that sent more before a dead warm socket was
/// noticed is refused, as its server is gone.
const KEEP_UNANSWERED: usize = 16 * 1024;
