//! The sockets that are connected ahead to one endpoint, and how many and how old they may be.
//!
//! Part of an endpoint's vitals, so it outlives a reload. Invariant: nothing puts a socket back
//! that was taken.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use socket2::SockRef;
use tokio::time::Instant;

use super::demand::Demand;
use crate::config::DbType;
use crate::telemetry::{TcpRouteMetrics, WarmSocket};
use crate::upstream::lock::lock;

/// How many sockets an endpoint may have connected ahead, and how old they may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub(super) most: usize,
    pub(super) max_age: Duration,
    /// The server decides when a client connects whether it will serve it: it is
    /// [asked](super::Ready) before anything is connected ahead, and again whenever it may have
    /// been restarted.
    pub(super) asked_first: bool,
}

impl Policy {
    /// What a protocol bears. `max_idle_time` (`tcp_proxy.max_idle_time_secs`) can only make it
    /// less. `None`: no socket may be connected ahead.
    ///
    /// PostgreSQL forks a process for each, which keeps the rules of that moment (`pg_hba.conf`,
    /// `ssl`): a session must not be let in by rules that are over for longer than a moment. A
    /// MongoDB server spends a thread. MySQL and MariaDB speak first, and count what is closed
    /// before login as an attack; Oracle's listener reports it. SQL Server documents no bound.
    /// Cassandra's drivers keep few connections for long, and databases over HTTP have keep-alive.
    pub fn of(db_type: DbType, max_idle_time: Duration) -> Option<Policy> {
        let (most, seconds) = match db_type {
            DbType::Postgres => (8, 2),
            DbType::Redis => (4, 60),
            DbType::Mongodb => (2, 30),
            DbType::Mysql
            | DbType::Oracle
            | DbType::Sqlserver
            | DbType::Cassandra
            | DbType::Couchdb
            | DbType::Influxdb
            | DbType::Elasticsearch
            | DbType::Tcp => return None,
        };
        let max_age = Duration::from_secs(seconds).min(max_idle_time);
        (!max_age.is_zero()).then_some(Policy {
            most,
            max_age,
            asked_first: db_type == DbType::Postgres,
        })
    }
}

/// The sockets of one endpoint. Lives in the endpoint's vitals, so it outlives a reload.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Shelf {
    pub(super) state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    /// `None`: nothing is connected ahead, and clients are not counted.
    pub(super) policy: Option<Policy>,
    /// There where `policy` is.
    pub(super) metrics: Option<TcpRouteMetrics>,
    /// The oldest first.
    pub(super) sockets: VecDeque<SpareSocket>,
    pub(super) connecting: usize,
    /// It said that it takes clients, and nothing has come in between.
    pub(super) said_ready: bool,
    /// How often that was doubted.
    pub(super) doubts: u64,
    pub(super) demand: Demand,
    /// Connects in a row that failed.
    pub(super) failures: u32,
    /// None is started before.
    pub(super) retry_at: Option<Instant>,
    /// The round of the filler that last wanted this.
    pub(super) round: u64,
}

pub(super) struct SpareSocket {
    /// Known to no runtime yet: each has its own poll, and what goes on with the one that connected
    /// would wake its thread, and then the session's, for as long as the session lives.
    pub(super) stream: std::net::TcpStream,
    pub(super) since: Instant,
    pub(super) _counted: WarmSocket,
}

impl Shelf {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Sockets that could be given out now.
    pub(in crate::upstream) fn len(&self) -> usize {
        self.lock().sockets.len()
    }
}

impl State {
    pub(super) fn ahead(&self) -> usize {
        self.sockets.len() + self.connecting
    }

    /// The oldest socket that can be given out.
    pub(super) fn take(&mut self, now: Instant, policy: Policy) -> Option<SpareSocket> {
        while let Some(kept) = self.sockets.pop_front() {
            if kept.is_good(now, policy) {
                return Some(kept);
            }
            if kept.is_young(now, policy) {
                self.doubt();
            }
        }
        None
    }

    /// What is known of the server may be over: it is asked again.
    pub(super) fn doubt(&mut self) {
        self.said_ready = false;
        self.doubts += 1;
    }

    /// Closes what cannot be given out.
    pub(super) fn drop_bad(&mut self, now: Instant, policy: Policy) {
        let mut died = false;
        self.sockets.retain(|kept| {
            let is_good = kept.is_good(now, policy);
            died |= !is_good && kept.is_young(now, policy);
            is_good
        });
        if died {
            self.doubt();
        }
    }

    /// Closes all, and wants none.
    pub(super) fn clear(&mut self) {
        self.policy = None;
        self.sockets.clear();
        self.said_ready = false;
        self.demand = Demand::default();
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("policy", &self.policy)
            .field("sockets", &self.sockets.len())
            .field("connecting", &self.connecting)
            .finish_non_exhaustive()
    }
}

impl SpareSocket {
    /// Young enough, open, and without a byte. Asks the system, not the runtime, which may not have
    /// noticed a close yet.
    pub(super) fn is_good(&self, now: Instant, policy: Policy) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        self.is_young(now, policy)
            && SockRef::from(&self.stream)
                .peek(&mut byte)
                .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    pub(super) fn is_young(&self, now: Instant, policy: Policy) -> bool {
        now.duration_since(self.since) < policy.max_age
    }
}

/// After a failed connect; doubled with each failure.
pub(super) const FIRST_RETRY: Duration = Duration::from_millis(200);
