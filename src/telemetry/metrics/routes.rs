//! What a route holds to count its requests or sessions.
//!
//! Handles are held by the snapshot's routes and used by `http` and `tcp` for every request and
//! session. Invariant: no name is looked up and no lock is taken for a request that ends well; what
//! a guard counted up, its Drop counts down.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use prometheus::{Histogram, IntCounter, IntGauge};

use crate::error::Reason;

use super::children::{Child, Counters, Held};
use super::families::Families;

/// The metrics of one HTTP route.
#[derive(Clone)]
pub struct HttpRouteMetrics(pub(super) Arc<Held<RouteChild>>);

impl HttpRouteMetrics {
    /// A request is in flight until the guard is dropped.
    pub fn in_flight(&self) -> InFlight {
        self.gauge().inc();
        InFlight(self.clone())
    }

    /// How many requests are in flight now.
    pub fn requests_in_flight(&self) -> u64 {
        u64::try_from(self.gauge().get()).unwrap_or(0)
    }

    /// Counts a request that ended `seconds` after its head. `code` is the status that was sent, 0
    /// when none was.
    pub fn finished(&self, code: u16, reason: Reason, seconds: f64) {
        let Held {
            child, families, ..
        } = &*self.0;
        let class = Class::of(code);
        let make = || {
            let labels = [&*child.route, class.as_str(), reason.as_str()];
            families.http_requests.with_label_values(&labels)
        };
        match child.http_ok.get(class as usize) {
            Some(counter) if reason == Reason::Ok => counter.get_or_init(make).inc(),
            _ => child.http_rest.inc((class, reason), make),
        }
        child.http_duration(families).observe(seconds);
    }

    /// Counts one more try, made because the one before ended with `reason`.
    pub fn retried(&self, reason: Reason) {
        self.0.child.retried(&self.0.families, reason);
    }

    /// Counts a wait in the upstream's queue, however it ended.
    pub fn queue_waited(&self, seconds: f64) {
        self.0.child.queue_waited(&self.0.families, seconds);
    }

    fn gauge(&self) -> &IntGauge {
        let Held {
            child, families, ..
        } = &*self.0;
        let make = || families.http_in_flight.with_label_values(&[&*child.route]);
        child.http_in_flight.get_or_init(make)
    }
}

/// A request in flight.
pub struct InFlight(HttpRouteMetrics);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.gauge().dec();
    }
}

/// The metrics of one TCP route.
#[derive(Clone)]
pub struct TcpRouteMetrics {
    held: Arc<Held<RouteChild>>,
    tcp: Arc<TcpChildren>,
}

struct TcpChildren {
    new: IntCounter,
    completed: IntCounter,
    timeout: IntCounter,
    duration: Histogram,
    bytes_upstream: IntCounter,
    bytes_downstream: IntCounter,
    warm_sockets: IntGauge,
    warm_hits: IntCounter,
    warm_misses: IntCounter,
}

impl TcpRouteMetrics {
    pub(super) fn new(held: Arc<Held<RouteChild>>) -> TcpRouteMetrics {
        let Held {
            child, families, ..
        } = &*held;
        let tcp = child.tcp.get_or_init(|| {
            let route = [&*child.route];
            let bytes = |direction: Direction| {
                let labels = [&*child.route, direction.as_str()];
                families.tcp_bytes.with_label_values(&labels)
            };
            Arc::new(TcpChildren {
                new: families.tcp_new.with_label_values(&route),
                completed: families.tcp_completed.with_label_values(&route),
                timeout: families.tcp_timeout.with_label_values(&route),
                duration: families.tcp_duration.with_label_values(&route),
                bytes_upstream: bytes(Direction::Upstream),
                bytes_downstream: bytes(Direction::Downstream),
                warm_sockets: families.warm_sockets.with_label_values(&route),
                warm_hits: families.warm_hits.with_label_values(&route),
                warm_misses: families.warm_misses.with_label_values(&route),
            })
        });
        let tcp = Arc::clone(tcp);
        TcpRouteMetrics { held, tcp }
    }

    /// A client session that reached this route, and whose client came at `started`; it ends when
    /// the guard is finished or dropped.
    pub fn session(&self, started: Instant) -> TcpSession {
        self.tcp.new.inc();
        TcpSession {
            route: self.clone(),
            started,
            reason: Reason::Drained,
        }
    }

    /// Counts bytes that were relayed.
    pub fn bytes(&self, direction: Direction, count: u64) {
        match direction {
            Direction::Upstream => self.tcp.bytes_upstream.inc_by(count),
            Direction::Downstream => self.tcp.bytes_downstream.inc_by(count),
        }
    }

    /// Counts one more try, made because the one before ended with `reason`.
    pub fn retried(&self, reason: Reason) {
        self.held.child.retried(&self.held.families, reason);
    }

    /// Counts a wait in the upstream's queue, however it ended.
    pub fn queue_waited(&self, seconds: f64) {
        self.held.child.queue_waited(&self.held.families, seconds);
    }

    /// A socket is connected ahead and unused until the guard is dropped.
    pub fn warm_socket(&self) -> WarmSocket {
        self.tcp.warm_sockets.inc();
        WarmSocket(self.clone())
    }

    /// A session got a socket connected ahead.
    pub fn warm_hit(&self) {
        self.tcp.warm_hits.inc();
    }

    /// A session found no socket connected ahead.
    pub fn warm_miss(&self) {
        self.tcp.warm_misses.inc();
    }
}

/// Which way bytes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the endpoint.
    Upstream,
    /// From the endpoint to the client.
    Downstream,
}

impl Direction {
    const fn as_str(self) -> &'static str {
        match self {
            Direction::Upstream => "upstream",
            Direction::Downstream => "downstream",
        }
    }
}

/// A session of a TCP route. One that is dropped unfinished was cut by the end of the gateway.
pub struct TcpSession {
    route: TcpRouteMetrics,
    started: Instant,
    reason: Reason,
}

impl TcpSession {
    /// The session ended with this reason.
    pub fn finished(mut self, reason: Reason) {
        self.reason = reason;
    }
}

impl Drop for TcpSession {
    fn drop(&mut self) {
        let TcpRouteMetrics { held, tcp } = &self.route;
        let Held {
            child, families, ..
        } = &**held;
        tcp.completed.inc();
        tcp.duration.observe(self.started.elapsed().as_secs_f64());
        if matches!(
            self.reason,
            Reason::ConnectTimeout
                | Reason::Timeout
                | Reason::QueueTimeout
                | Reason::SniffTimeout
                | Reason::IdleTimeout
        ) {
            tcp.timeout.inc();
        }
        child.tcp_sessions.inc(self.reason, || {
            let labels = [&*child.route, self.reason.as_str()];
            families.tcp_sessions.with_label_values(&labels)
        });
    }
}

/// A socket that is connected ahead and unused.
pub struct WarmSocket(TcpRouteMetrics);

impl Drop for WarmSocket {
    fn drop(&mut self) {
        self.0.tcp.warm_sockets.dec();
    }
}

/// The children of one route. Most routes of a large configuration are asked rarely and count few
/// things, so each child is made when it is first counted.
pub(super) struct RouteChild {
    route: String,
    http_in_flight: OnceLock<IntGauge>,
    http_duration: OnceLock<Histogram>,
    /// By class of status, with reason `ok`: what nearly all requests need.
    http_ok: [OnceLock<IntCounter>; 6],
    http_rest: Counters<(Class, Reason)>,
    retries: Counters<Reason>,
    queue_wait: OnceLock<Histogram>,
    tcp: OnceLock<Arc<TcpChildren>>,
    tcp_sessions: Counters<Reason>,
}

impl RouteChild {
    pub(super) fn new(route: &str) -> RouteChild {
        RouteChild {
            route: route.to_owned(),
            http_in_flight: OnceLock::new(),
            http_duration: OnceLock::new(),
            http_ok: Default::default(),
            http_rest: Counters::default(),
            retries: Counters::default(),
            queue_wait: OnceLock::new(),
            tcp: OnceLock::new(),
            tcp_sessions: Counters::default(),
        }
    }

    fn http_duration(&self, families: &Families) -> &Histogram {
        let make = || {
            let durations = &families.http_request_duration;
            durations.with_label_values(&[&*self.route])
        };
        self.http_duration.get_or_init(make)
    }

    fn retried(&self, families: &Families, reason: Reason) {
        self.retries.inc(reason, || {
            let labels = [&*self.route, reason.as_str()];
            families.retries.with_label_values(&labels)
        });
    }

    fn queue_waited(&self, families: &Families, seconds: f64) {
        let make = || families.queue_wait.with_label_values(&[&*self.route]);
        self.queue_wait.get_or_init(make).observe(seconds);
    }
}

impl Child for RouteChild {
    type Key = String;

    fn key(&self) -> &String {
        &self.route
    }

    fn remove(&self, families: &Families) {
        // What was never made is an error that says nothing.
        let route = [&*self.route];
        let _ = families.http_in_flight.remove_label_values(&route);
        let _ = families.http_request_duration.remove_label_values(&route);
        let _ = families.queue_wait.remove_label_values(&route);
        let ok = Class::ALL.map(|class| (class, Reason::Ok));
        for (class, reason) in self.http_rest.made().into_iter().chain(ok) {
            let labels = [&*self.route, class.as_str(), reason.as_str()];
            let _ = families.http_requests.remove_label_values(&labels);
        }
        for reason in self.retries.made() {
            let labels = [&*self.route, reason.as_str()];
            let _ = families.retries.remove_label_values(&labels);
        }
        if self.tcp.get().is_none() {
            return;
        }
        for counters in [
            &families.tcp_new,
            &families.tcp_completed,
            &families.tcp_timeout,
            &families.warm_hits,
            &families.warm_misses,
        ] {
            let _ = counters.remove_label_values(&route);
        }
        let _ = families.tcp_duration.remove_label_values(&route);
        let _ = families.warm_sockets.remove_label_values(&route);
        for direction in [Direction::Upstream, Direction::Downstream] {
            let labels = [&*self.route, direction.as_str()];
            let _ = families.tcp_bytes.remove_label_values(&labels);
        }
        for reason in self.tcp_sessions.made() {
            let labels = [&*self.route, reason.as_str()];
            let _ = families.tcp_sessions.remove_label_values(&labels);
        }
    }
}

/// The class of a status: the `code` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// No status was sent.
    None,
    Informational,
    Successful,
    Redirection,
    ClientError,
    ServerError,
}

impl Class {
    const ALL: [Class; 6] = [
        Class::None,
        Class::Informational,
        Class::Successful,
        Class::Redirection,
        Class::ClientError,
        Class::ServerError,
    ];

    fn of(code: u16) -> Class {
        match code / 100 {
            1 => Class::Informational,
            2 => Class::Successful,
            3 => Class::Redirection,
            4 => Class::ClientError,
            5 => Class::ServerError,
            _ => Class::None,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Class::None => "-",
            Class::Informational => "1xx",
            Class::Successful => "2xx",
            Class::Redirection => "3xx",
            Class::ClientError => "4xx",
            Class::ServerError => "5xx",
        }
    }
}
