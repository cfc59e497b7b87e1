//! One TCP session from accept to its log line.
//!
//! The frame of every session: its route is found here, by its opening, and its end is reported;
//! what lies between is [`Routed`]'s. Invariants: a client that cannot be served gets its
//! protocol's own refusal; a session lives in the snapshot it started with, and ends with exactly
//! one reason. Nothing of its payload is logged; of an unmatched start at most 16 bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::Config;
use crate::error::Reason;
use crate::route::{TcpRoute, TcpTable};
use crate::snapshot::Snapshot;
use crate::tcp::cancel::{self, Cancels};
use crate::tcp::filtered::{Filtered, Origin};
use crate::tcp::opening::{self, Opening};
use crate::tcp::refuse;
use crate::tcp::routed::Routed;
use crate::tcp::shared::Shared;
use crate::tcp::stats::SessionStats;
use crate::telemetry::{Carried, ClientAddress, Record, Reporter, TcpSession};
use crate::transport::Transport;
use crate::upstream::warm::Warm;

/// What all sessions of a gateway share.
pub struct Sessions {
    reporter: Reporter,
    shared: Shared,
}

/// A connection as the listener accepted it.
pub struct Accepted {
    /// [Tuned](crate::upstream::tune).
    pub stream: Transport,
    /// The TCP peer; a PROXY header of a trusted one replaces it.
    pub client: SocketAddr,
    /// What was read of it already; mostly nothing.
    pub first: BytesMut,
    /// The listener's address as written.
    pub listener: Arc<str>,
    /// The routes of this listener, of `snapshot`.
    pub table: Arc<TcpTable>,
    /// The configuration that holds for this session to its end, over reloads.
    pub snapshot: Arc<Snapshot>,
    /// In the load of the thread that it is served in.
    pub carried: Option<Carried>,
}

/// What is known of a session, for its log line.
struct Story {
    started: Instant,
    client: SocketAddr,
    listener: Arc<str>,
    route: Option<Arc<TcpRoute>>,
    stats: SessionStats,
    /// `None` until it is known what the client wants.
    counted: Option<TcpSession>,
}

impl Story {
    fn origin(&self) -> Origin {
        Origin {
            client: self.client,
            listener: self.listener.clone(),
            started: self.started,
        }
    }
}

impl Sessions {
    /// `cut` turns to the reason when a drain has waited long enough.
    pub fn new(
        reporter: Reporter,
        warm: Arc<Warm>,
        cut: watch::Receiver<Option<Reason>>,
    ) -> Sessions {
        Sessions {
            reporter,
            shared: Shared::new(warm, cut),
        }
    }

    /// For a process that has taken over from another, whose sessions end within `drain`.
    pub fn inheriting(self, drain: Duration) -> Sessions {
        Sessions {
            shared: Shared {
                cancels: Cancels::inheriting(drain),
                ..self.shared
            },
            ..self
        }
    }

    /// Carries one connection to its end.
    pub async fn serve(&self, accepted: Accepted) -> Reason {
        let mut story = Story {
            started: Instant::now(),
            client: accepted.client,
            listener: accepted.listener.clone(),
            route: None,
            stats: SessionStats::default(),
            counted: None,
        };
        let reason = self.carry(accepted, &mut story).await;
        self.report(story, reason);
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
                let refused = refuse::client(stream, &route, why, &first).await;
                if let Some((key, stream)) = refused {
                    cancel::carry(&key, &self.shared.cancels, &table, client.ip(), stream).await;
                }
            }
            Ok(Opening::Cancel(key)) => {
                cancel::carry(&key, &self.shared.cancels, &table, client.ip(), stream).await;
            }
            Ok(Opening::Unmatched) => refuse::unmatched(stream, why, &first).await,
            Err(reason) => log::debug!("{client} was turned away unheard: {reason}"),
        }
    }

    /// The log line of one connection above `max_connections`.
    pub fn record_turned_away(&self, client: SocketAddr, listener: &str) {
        let reason = Reason::TooManyConnections;
        self.reporter.session(None, reason, || Record {
            client: ClientAddress::Peer(client),
            route: "-",
            ..Record::new(listener, reason)
        });
    }

    async fn carry(&self, accepted: Accepted, story: &mut Story) -> Reason {
        let Accepted {
            mut stream,
            mut first,
            table,
            snapshot,
            carried,
            ..
        } = accepted;
        let unselected = |story: &mut Story, reason| {
            story.route = table.alone().cloned();
            story.counted = Some(table.unselected().session(story.started.into_std()));
            reason
        };
        let config = &snapshot.config;
        let client = &mut story.client;
        let opened = opening(&mut stream, &mut first, &table, config, client).await;
        let (mut route, tls, parameters) = match opened {
            Ok(Opening::Session {
                route,
                tls,
                parameters,
            }) => (route, tls, parameters),
            Ok(Opening::Cancel(key)) => {
                cancel::carry(&key, &self.shared.cancels, &table, client.ip(), stream).await;
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
        let opened = Instant::now();
        story.route = Some(route.clone());
        let filtered = parameters.map(|known| Filtered::new(story.origin(), route.clone(), known));
        let mut filtered = filtered.map(Box::new);
        let mut let_in = Ok(());
        if let Some(filtered) = &mut filtered {
            match filtered
                .connect(&snapshot, opened, self.shared.cut_off())
                .await
            {
                Ok(another) => route = another,
                Err(reason) => let_in = Err(reason),
            }
            story.route = Some(route.clone());
        }
        story.counted = Some(route.metrics.session(story.started.into_std()));
        let routed = Routed {
            sessions: &self.shared,
            table: &table,
            route: &route,
            client: story.client,
            tls,
            deadline: opened + route.tries.timeout,
            stats: &mut story.stats,
            carried,
        };
        let reason = match let_in {
            Ok(()) => routed.carry(&config.tcp_proxy, stream, first).await,
            Err(reason) => {
                routed.refuse(stream, reason, &first).await;
                reason
            }
        };
        if let Some(filtered) = filtered {
            filtered.finished(reason, &story.stats);
        }
        reason
    }

    fn report(&self, mut story: Story, reason: Reason) {
        let counted = story.counted.take();
        let (route, stats) = (story.route.as_ref(), &story.stats);
        self.reporter.session(counted, reason, || Record {
            client: ClientAddress::Peer(story.client),
            route: route.map_or("-", |route| &route.label),
            upstream: route.map_or("", |route| route.upstream.label()),
            endpoint: stats.efforts.endpoint.as_deref().unwrap_or(""),
            protocol: route.map_or("", |route| route.db_type.as_str()),
            bytes_in: stats.up,
            bytes_out: stats.down,
            tries: stats.efforts.tries,
            queue: stats.efforts.queued,
            connect: stats.efforts.connect,
            total: story.started.elapsed(),
            ..Record::new(&story.listener, reason)
        });
    }
}

/// Who the client is, by its proxy, and what it wants.
async fn opening(
    stream: &mut Transport,
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How much of an unmatched start is logged: enough to know a protocol, too little for a password.
const UNMATCHED_BYTES: usize = 16;
