//! One server of an upstream, and everything that is known about how it fares.
//!
//! Balancing, limits, health and discovery all read it and none owns it; so it is one flat noun
//! with many small methods, and longer than most files. Invariant: what the configuration says is
//! fixed for the life of an [`Endpoint`]; what changes (health, in-flight, ejection) lives in its
//! vitals, which pass from one generation of the configuration to the next. What a pick reads here
//! is read without a lock.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use super::connect_error;
use super::eject::Ejector;
use super::encryption::{Answer, Encryption};
use super::endpoint_addr::EndpointAddr;
use super::failure_log::EndpointFailures;
use super::last_error::{LastError, Remembered};
use super::lock::lock;
use super::term::Term;
use super::warm::shelf::Shelf;
use crate::config::{EndpointSpec, HealthCheck, UpstreamSpec, UpstreamUrl, Weight};

/// Which endpoint of an upstream this is. Stays the same over reloads, for as long as the upstream
/// keeps its name and the endpoint its address; never given to another endpoint of that upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndpointId(u64);

/// One server of an upstream. A name that resolves to several addresses of a family gives one of
/// these for each, with equal labels; IPv4 and IPv6 are two ways to one.
#[derive(Debug)]
pub struct Endpoint {
    spec: EndpointSpec,
    resolved: EndpointAddr,
    watch: Watch,
    vitals: Arc<Vitals>,
}

/// What a database server is among its own kind, as the last passed check has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// No check has said, or none asks.
    #[default]
    Unknown,
    /// Takes writes.
    Primary,
    /// Follows a primary, or takes no writes.
    Replica,
}

/// Which verdicts count. An endpoint carried into a configuration without checks must not stay
/// out because of the last one, since nothing would ever let it in again; nor may a role count
/// that nothing would ever correct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Watch {
    checked: bool,
    asked_for_role: bool,
    ejectable: bool,
}

/// What changes while the endpoint lives; outlives a reload.
#[derive(Debug)]
struct Vitals {
    id: EndpointId,
    /// The [`family`] in which it was reached last; 0 before the first time.
    served_by: AtomicU8,
    in_flight: AtomicUsize,
    /// The verdict of the active checks. True until they say otherwise.
    passing: AtomicBool,
    /// Whether any check has finished.
    was_checked: AtomicBool,
    /// Checks in a row that contradicted the verdict.
    against: AtomicU32,
    /// A [`Role`], as `u8`.
    role: AtomicU8,
    /// What the last check said of the term of a primary.
    term: Mutex<Option<Term>>,
    /// A primary that another one outranks.
    outranked: AtomicBool,
    ejector: Ejector,
    encryption: Answer,
    picks: AtomicU64,
    failures: AtomicU64,
    last_error: Remembered,
    warm: Shelf,
    failure_logs: EndpointFailures,
}

impl Endpoint {
    /// An endpoint nothing is known about.
    pub(super) fn new(
        upstream: &UpstreamSpec,
        spec: &EndpointSpec,
        resolved: EndpointAddr,
        ids: &AtomicU64,
    ) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            spec: spec.clone(),
            resolved,
            watch: Watch::new(upstream),
            vitals: Arc::new(Vitals {
                id: EndpointId(ids.fetch_add(1, Ordering::Relaxed)),
                served_by: AtomicU8::new(0),
                in_flight: AtomicUsize::new(0),
                passing: AtomicBool::new(true),
                was_checked: AtomicBool::new(false),
                against: AtomicU32::new(0),
                role: AtomicU8::new(Role::Unknown as u8),
                term: Mutex::default(),
                outranked: AtomicBool::new(false),
                ejector: Ejector::new(),
                encryption: Answer::new(),
                picks: AtomicU64::new(0),
                failures: AtomicU64::new(0),
                last_error: Remembered::default(),
                warm: Shelf::default(),
                failure_logs: EndpointFailures::default(),
            }),
        })
    }

    /// The same endpoint as another generation of the configuration describes it: itself when
    /// nothing is different, else a new description of the same vitals.
    pub(super) fn carried(
        self: &Arc<Endpoint>,
        upstream: &UpstreamSpec,
        spec: &EndpointSpec,
        resolved: EndpointAddr,
    ) -> Arc<Endpoint> {
        let watch = Watch::new(upstream);
        if self.spec == *spec && self.resolved == resolved && self.watch == watch {
            return Arc::clone(self);
        }
        Arc::new(Endpoint {
            spec: spec.clone(),
            resolved,
            watch,
            vitals: Arc::clone(&self.vitals),
        })
    }

    /// Stays the same over reloads, as long as upstream name and address do.
    pub fn id(&self) -> EndpointId {
        self.vitals.id
    }

    /// `host:port` as the configuration has it: the `endpoint` label of metrics and logs.
    pub fn label(&self) -> &str {
        &self.spec.url.label
    }

    /// The address it is known by. Where it has two, the other one may serve: see
    /// [`addrs`](Endpoint::addrs).
    pub fn addr(&self) -> SocketAddr {
        self.resolved.name
    }

    /// Its addresses in the resolver's order.
    pub(super) fn resolved(&self) -> EndpointAddr {
        self.resolved
    }

    /// Its addresses in the order in which to try them: the family that served last comes first.
    pub fn addrs(&self) -> EndpointAddr {
        let Some(second) = self.resolved.second else {
            return self.resolved;
        };
        match self.vitals.served_by.load(Ordering::Relaxed) == family(second) {
            true => self.resolved.reversed(),
            false => self.resolved,
        }
    }

    /// It was reached at this address.
    pub(super) fn note_reached_at(&self, addr: SocketAddr) {
        self.vitals.served_by.store(family(addr), Ordering::Relaxed);
    }

    /// Put before the path of each request; empty, or `/…` without a slash at the end.
    pub fn path(&self) -> &str {
        &self.spec.url.path
    }

    pub(super) fn url(&self) -> &UpstreamUrl {
        &self.spec.url
    }

    /// `weight` of this endpoint, 1 to 1000; 1 where none is configured.
    pub fn weight(&self) -> Weight {
        self.spec.weight
    }

    /// `backup: true`: picked only while no endpoint without it is healthy.
    pub fn is_backup(&self) -> bool {
        self.spec.backup
    }

    /// Leases at a time, by its own `max_connections`. `None`: no limit of its own.
    pub fn max_connections(&self) -> Option<usize> {
        self.spec.max_connections
    }

    /// Leases held now, those of earlier generations of the configuration included.
    pub fn in_flight(&self) -> usize {
        self.vitals.in_flight.load(Ordering::Relaxed)
    }

    /// Leases given since the endpoint is known.
    pub fn picks(&self) -> u64 {
        self.vitals.picks.load(Ordering::Relaxed)
    }

    /// Leases that ended with a failure of the endpoint.
    pub fn failures(&self) -> u64 {
        self.vitals.failures.load(Ordering::Relaxed)
    }

    /// What went wrong with it last; stays when all is well again.
    pub fn last_error(&self) -> Option<LastError> {
        self.vitals.last_error.last()
    }

    /// Takes note of an error of the endpoint. `why` is for operators and holds nothing secret.
    pub fn note_error(&self, why: impl fmt::Display) {
        self.remember(LastError::new(why));
    }

    /// Takes note of a connect that failed, unless for want of something here.
    pub fn note_connect_error(&self, error: &io::Error) {
        if !connect_error::is_ours(error) {
            self.note_error(format_args!("connect: {error}"));
        }
    }

    pub(super) fn remember(&self, error: LastError) {
        self.vitals.last_error.note(error);
    }

    /// Passes its checks and is not ejected. What is picked may differ: ejection is undone while
    /// too few would be left.
    pub fn is_healthy(&self) -> bool {
        self.passes_checks() && !self.is_ejected()
    }

    /// The verdict of the active checks, and of the other primaries; true before the first one and
    /// when there are none.
    pub fn passes_checks(&self) -> bool {
        let passing = || self.vitals.passing.load(Ordering::Relaxed);
        !self.watch.checked || (passing() && !self.is_outranked())
    }

    /// Whether it is to be checked and has never been.
    pub fn awaits_first_check(&self) -> bool {
        self.watch.checked && !self.vitals.was_checked.load(Ordering::Acquire)
    }

    /// What the checks said last; [`Role::Unknown`] when they do not ask for it.
    pub fn role(&self) -> Role {
        if !self.watch.asked_for_role {
            return Role::Unknown;
        }
        Role::from_u8(self.vitals.role.load(Ordering::SeqCst))
    }

    /// What it answered last to a client that asked for TLS. `None`: it was never asked.
    pub fn encryption(&self) -> Option<Encryption> {
        self.vitals.encryption.last()
    }

    /// Takes note of its answer to a client that asked for TLS.
    pub fn note_encryption(&self, encryption: Encryption) {
        self.vitals.encryption.note(encryption);
    }

    /// Whether it declined TLS of late.
    pub(super) fn declines_encryption(&self) -> bool {
        self.vitals.encryption.is_fresh_no()
    }

    /// Whether it is a primary, and another one was promoted after it.
    pub fn is_outranked(&self) -> bool {
        self.watch.asked_for_role && self.vitals.outranked.load(Ordering::SeqCst)
    }

    /// Takes note of what a check learned of a primary's term, before it says that it passed.
    pub fn note_term(&self, term: Option<Term>) {
        *lock(&self.vitals.term) = term;
    }

    /// The term of what was a primary when it passed its last check.
    pub(super) fn claim(&self) -> Option<Term> {
        match self.role() {
            Role::Primary => *lock(&self.vitals.term),
            Role::Replica | Role::Unknown => None,
        }
    }

    /// Says whether another primary outranks it, and returns whether one did.
    pub(super) fn outrank(&self, outranked: bool) -> bool {
        self.vitals.outranked.swap(outranked, Ordering::SeqCst)
    }

    /// Whether too many failures in a row have put it out for now.
    pub fn is_ejected(&self) -> bool {
        self.ejected_until()
            .is_some_and(|until| until > Instant::now())
    }

    /// When the ejection ends. May have passed already. Reads no clock when there is none.
    pub(super) fn ejected_until(&self) -> Option<Instant> {
        if !self.watch.ejectable {
            return None;
        }
        self.vitals.ejector.until()
    }

    pub(super) fn ejector(&self) -> &Ejector {
        &self.vitals.ejector
    }

    /// Sockets connected ahead that wait for a client.
    pub fn warm_sockets(&self) -> usize {
        self.vitals.warm.len()
    }

    pub(super) fn failure_logs(&self) -> &EndpointFailures {
        &self.vitals.failure_logs
    }

    pub(super) fn shelf(&self) -> &Shelf {
        &self.vitals.warm
    }

    /// How many sockets may be connected ahead without leases ever being refused for them.
    pub(super) fn room_ahead(&self) -> usize {
        self.spec
            .max_connections
            .map_or(usize::MAX, |max| max.saturating_sub(self.in_flight()))
    }

    pub(super) fn count_failure(&self) {
        self.vitals.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one place; `false` when all of `max_connections` are taken.
    pub(super) fn enter(&self) -> bool {
        let in_flight = &self.vitals.in_flight;
        let entered = match self.spec.max_connections {
            None => {
                in_flight.fetch_add(1, Ordering::SeqCst);
                true
            }
            Some(max) => in_flight
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| {
                    (n < max).then_some(n + 1)
                })
                .is_ok(),
        };
        if entered {
            self.vitals.picks.fetch_add(1, Ordering::Relaxed);
        }
        entered
    }

    /// Whether [`Endpoint::enter`] would succeed now.
    pub(super) fn has_room(&self) -> bool {
        let in_flight = self.vitals.in_flight.load(Ordering::SeqCst);
        self.spec.max_connections.is_none_or(|max| in_flight < max)
    }

    /// Gives back what a successful [`Endpoint::enter`] took.
    pub(super) fn leave(&self) {
        self.vitals.in_flight.fetch_sub(1, Ordering::SeqCst);
    }

    /// Takes note of a finished check. Returns the new verdict when this check changed it: after
    /// `needed` in a row that contradict the old one.
    pub(super) fn note_check(&self, passed: bool, needed: usize) -> Option<bool> {
        let verdict = self.verdict(passed, needed);
        self.vitals.was_checked.store(true, Ordering::Release);
        verdict
    }

    fn verdict(&self, passed: bool, needed: usize) -> Option<bool> {
        let vitals = &self.vitals;
        if vitals.passing.load(Ordering::Relaxed) == passed {
            vitals.against.store(0, Ordering::Relaxed);
            return None;
        }
        // Only the prober writes here, one check of an endpoint at a time.
        let against = vitals.against.fetch_add(1, Ordering::Relaxed) + 1;
        if (against as usize) < needed {
            return None;
        }
        vitals.against.store(0, Ordering::Relaxed);
        vitals.passing.store(passed, Ordering::SeqCst);
        Some(passed)
    }

    /// Takes note of the role that a passed check found. Returns whether it is another one.
    pub(super) fn note_role(&self, role: Role) -> bool {
        self.vitals.role.swap(role as u8, Ordering::SeqCst) != role as u8
    }
}

fn family(addr: SocketAddr) -> u8 {
    match addr {
        SocketAddr::V4(_) => 4,
        SocketAddr::V6(_) => 6,
    }
}

impl Role {
    /// The word for logs and `/status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Unknown => "unknown",
            Role::Primary => "primary",
            Role::Replica => "replica",
        }
    }

    const fn from_u8(role: u8) -> Role {
        match role {
            1 => Role::Primary,
            2 => Role::Replica,
            _ => Role::Unknown,
        }
    }
}

impl Watch {
    fn new(upstream: &UpstreamSpec) -> Watch {
        Watch {
            checked: upstream.health_check.is_some(),
            asked_for_role: upstream
                .health_check
                .as_ref()
                .is_some_and(HealthCheck::tells_role),
            ejectable: upstream.ejection.is_some(),
        }
    }
}
