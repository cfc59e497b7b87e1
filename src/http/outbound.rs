//! Requests that filters send to upstreams, over leases of their endpoints.
//!
//! What a filter knows of it is [`UpstreamClient`]. Invariants: a call holds a lease from the pick to
//! the end of the response, and tells it how the endpoint did; whether it is sent again is decided
//! by `retry`; unused connections lie in a pool of their own, and none is kept where an upstream or
//! an endpoint has `max_connections`, so that no call makes it open more.

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, Response, header};
use log::debug;
use pingora_core::connectors::http::v1::Connector;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType};
use pingora_http::RequestHeader;
use tokio::time::timeout_at;

use crate::config::Target;
use crate::error::Reason;
use crate::filter::{FRAMING, Outbound, OutboundError, UpstreamClient};
use crate::http::retry::{Decision, Failure, Situation, decide};
use crate::snapshot::Snapshot;
use crate::upstream::peer::{HopByHop, PeerTimeouts, Reuse, group_key, http_peer};
use crate::upstream::{Lease, Outcome, Pick, Upstream};

/// The clients that the filters of one gateway have.
#[derive(Default)]
pub struct OutboundClients {
    /// Made with the first client.
    connector: OnceLock<Arc<Connector>>,
    clients: Mutex<Vec<Weak<Client>>>,
}

impl OutboundClients {
    /// Calls that begin from now on go to the upstreams of `snapshot`. Those of an upstream that is
    /// not in it go on to where they went: requests of the snapshot before may still make them.
    pub fn follow(&self, snapshot: &Snapshot) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|client| {
            let Some(client) = client.upgrade() else {
                return false;
            };
            let mut upstreams = snapshot.upstreams.iter();
            if let Some(upstream) = upstreams.find(|upstream| upstream.label() == client.name) {
                client.upstream.store(Some(upstream.clone()));
            }
            true
        });
    }
}

impl Outbound for OutboundClients {
    fn client(&self, upstream: &str) -> Arc<dyn UpstreamClient> {
        let connector = self
            .connector
            .get_or_init(|| Arc::new(Connector::new(None)));
        let client = Arc::new(Client {
            name: upstream.to_owned(),
            group_key: group_key(upstream, ""),
            connector: connector.clone(),
            upstream: ArcSwapOption::empty(),
        });
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.push(Arc::downgrade(&client));
        client
    }
}

/// A client of one upstream.
struct Client {
    name: String,
    group_key: u64,
    connector: Arc<Connector>,
    /// `None` until a snapshot with it is in force.
    upstream: ArcSwapOption<Upstream>,
}

#[async_trait]
impl UpstreamClient for Client {
    async fn call(
        &self,
        request: Request<Bytes>,
        deadline: Instant,
    ) -> Result<Response<Bytes>, OutboundError> {
        let Some(upstream) = self.upstream.load_full() else {
            return Err(self.error(Reason::NoHealthyEndpoint, "is not in force yet"));
        };
        let until = tokio::time::Instant::from_std(deadline);
        let pick = Pick {
            hash: None,
            avoid: &[],
            target: Target::Any,
            deadline: until,
        };
        // A pick looks at its deadline only when it waits.
        if deadline <= Instant::now() {
            return Err(self.error(Reason::Timeout, LATE));
        }
        let lease = upstream.pick(pick).await;
        let lease = lease.map_err(|why| self.error(why.reason(), why.as_words()))?;
        match timeout_at(until, self.send(&upstream, &lease, &request, deadline)).await {
            Ok(Ok(response)) => {
                lease.finish(Outcome::Answered(response.status().as_u16()));
                Ok(response)
            }
            Ok(Err(error)) => Err(self.failed(lease, error)),
            Err(_) => {
                lease.failed("no response in time");
                lease.finish(Outcome::Failed);
                Err(self.error(Reason::Timeout, LATE))
            }
        }
    }
}

/// How one try of a call failed.
enum TryError {
    /// No connection, after this long.
    Connect(Box<Error>, Duration),
    /// The pooled connection had been closed by the endpoint.
    Stale(Box<Error>),
    Broken(Box<Error>),
    /// The response's body is over [`MAX_BODY`].
    TooLarge,
    /// What the filter asked for is no request.
    Request(Box<Error>),
}

impl Client {
    /// Sends the request, once more where the connection proved to be stale.
    async fn send(
        &self,
        upstream: &Upstream,
        lease: &Lease,
        request: &Request<Bytes>,
        deadline: Instant,
    ) -> Result<Response<Bytes>, TryError> {
        let idle = upstream.spec().keepalive_idle;
        let reuse = match idle.is_zero() || upstream.is_limited() {
            true => Reuse::Fresh,
            false => Reuse::PooledHere,
        };
        let first = self.once(lease, request, deadline, reuse, idle).await;
        let Err(TryError::Stale(error)) = first else {
            return first;
        };
        let now = Situation {
            idempotent: request.method().is_idempotent(),
            replayable: true,
            responded: false,
            out_of_time: deadline <= Instant::now(),
            tries: 1,
            retry_count: 0,
            resent: false,
            another: false,
            moved: false,
        };
        match decide(Failure::Stale, &now, || false) {
            Decision::Resend => {
                let again = self.once(lease, request, deadline, Reuse::Fresh, idle);
                again.await
            }
            _ => Err(TryError::Stale(error)),
        }
    }

    async fn once(
        &self,
        lease: &Lease,
        request: &Request<Bytes>,
        deadline: Instant,
        reuse: Reuse,
        idle: Duration,
    ) -> Result<Response<Bytes>, TryError> {
        let head = outgoing(request, lease).map_err(TryError::Request)?;
        let begun = Instant::now();
        let patience = deadline.saturating_duration_since(begun).min(CONNECT);
        let timeouts = PeerTimeouts {
            connect: patience,
            total_connect: patience,
            // The deadline is for all of it.
            read: None,
            write: None,
            idle,
        };
        let endpoint = lease.endpoint();
        let peer = http_peer(
            endpoint,
            &timeouts,
            self.group_key,
            reuse,
            HopByHop::Present,
        );
        let peer: HttpPeer = *peer;
        let connected = self.connector.get_http_session(&peer).await;
        let (mut session, reused) =
            connected.map_err(|error| TryError::Connect(error, begun.elapsed()))?;
        let broken = |error, nothing_read: bool| match reused && nothing_read {
            true => TryError::Stale(error),
            false => TryError::Broken(error),
        };
        let sent = session.write_request_header(Box::new(head)).await;
        sent.map_err(|error| broken(error, true))?;
        if !request.body().is_empty() {
            let sent = session.write_body(request.body()).await;
            sent.map_err(|error| broken(error, true))?;
        }
        let sent = session.finish_body().await;
        sent.map_err(|error| broken(error, true))?;
        let mut head = session.read_resp_header_parts().await;
        while head
            .as_ref()
            .is_ok_and(|head| head.status.is_informational())
        {
            head = session.read_resp_header_parts().await;
        }
        let head = head.map_err(|error| broken(error, true))?;
        let mut body = BytesMut::new();
        loop {
            let part = session.read_body_bytes().await;
            let Some(part) = part.map_err(|error| broken(error, false))? else {
                break;
            };
            if body.len() + part.len() > MAX_BODY {
                return Err(TryError::TooLarge);
            }
            body.extend_from_slice(&part);
        }
        if !matches!(reuse, Reuse::Fresh) {
            let release = self
                .connector
                .release_http_session(session, &peer, Some(idle));
            release.await;
        }
        let mut response = Response::new(body.freeze());
        *response.status_mut() = head.status;
        for (name, value) in &head.headers {
            if !FRAMING.contains(name) {
                response.headers_mut().append(name, value.clone());
            }
        }
        Ok(response)
    }

    /// Tells the lease, and says it to the filter.
    fn failed(&self, lease: Lease, error: TryError) -> OutboundError {
        match error {
            TryError::Connect(error, waited) => {
                let (reason, kind) = match error.etype() {
                    ErrorType::ConnectTimedout => (Reason::ConnectTimeout, io::ErrorKind::TimedOut),
                    ErrorType::ConnectRefused => {
                        (Reason::ConnectFailed, io::ErrorKind::ConnectionRefused)
                    }
                    _ => (Reason::ConnectFailed, io::ErrorKind::Other),
                };
                lease.connect_failed(&kind.into(), waited);
                lease.finish(Outcome::ConnectFailed);
                self.error(reason, "cannot be connected to").because(error)
            }
            TryError::Stale(error) | TryError::Broken(error) => {
                lease.failed(format_args!("broke: {}", error.etype().as_str()));
                lease.finish(Outcome::Failed);
                let reason = Reason::UpstreamReset;
                self.error(reason, "broke before its response was whole")
                    .because(error)
            }
            TryError::TooLarge => {
                lease.finish(Outcome::Neutral);
                self.error(Reason::UpstreamError, "answered with more than 1 MiB")
            }
            TryError::Request(error) => {
                lease.finish(Outcome::Neutral);
                let reason = Reason::FilterError;
                self.error(reason, "was to be sent what is no request")
                    .because(error)
            }
        }
    }

    fn error(&self, reason: Reason, what: &str) -> OutboundError {
        debug!("a filter's call: upstream={} {what}", self.name);
        OutboundError::new(reason, format!("upstream `{}`: {what}", self.name))
    }
}

/// The head as it is sent: the endpoint's path before the target, and framing by the body.
fn outgoing(request: &Request<Bytes>, lease: &Lease) -> Result<RequestHeader, Box<Error>> {
    let endpoint = lease.endpoint();
    let target = request.uri().path_and_query().map_or("/", |t| t.as_str());
    let target = format!("{}{target}", endpoint.path());
    let lines = request.headers().len();
    let mut head =
        RequestHeader::build(request.method().clone(), target.as_bytes(), Some(lines + 2))?;
    for (name, value) in request.headers() {
        if !FRAMING.contains(name) {
            head.append_header(name, value)?;
        }
    }
    if !head.headers.contains_key(header::HOST) {
        head.insert_header(header::HOST, endpoint.label())?;
    }
    let length = request.body().len();
    let may_have_body = !request.method().is_safe();
    if length > 0 || may_have_body {
        head.insert_header(header::CONTENT_LENGTH, HeaderValue::from(length))?;
    }
    Ok(head)
}

/// Bytes of a response's body.
const MAX_BODY: usize = 1 << 20;
/// The longest that a connect may take.
const CONNECT: Duration = Duration::from_secs(5);
const LATE: &str = "did not answer before the deadline";
