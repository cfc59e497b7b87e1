//! The crate's one error type, and the one word that ends every request and connection.
//!
//! The lowest layer: every module may name it, it names none. Invariant: status, retry and metric
//! label are decided from a [`Fault`] and a [`Reason`], never from a message.

use std::fmt;

/// Who is to blame for a failure. Decides status class, retry and log level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The client sent something wrong or left.
    Client,
    /// The endpoint refused, broke or was late.
    Upstream,
    /// The gateway itself: its configuration, its machine, its code.
    Gateway,
}

/// The `reason` word with which every request and every connection ends: in the access log and in
/// metric labels, shared by HTTP and TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It went through, whatever the endpoint answered.
    Ok,
    /// The client left before the end; logged as 499.
    ClientClosed,
    /// No route takes this host and path: 404.
    NoRoute,
    /// No connection to an endpoint could be made: 502.
    ConnectFailed,
    /// A connect took longer than `connect_timeout_ms`: 504.
    ConnectTimeout,
    /// The endpoint broke the connection off: 502.
    UpstreamReset,
    /// The endpoint sent what is no valid answer: 502.
    UpstreamError,
    /// `timeout_ms` passed: 504, or 408 where the client is late with its body.
    Timeout,
    /// Every endpoint is out, or none has the role of `target`: 503.
    NoHealthyEndpoint,
    /// No slot of an upstream came free within `queue_timeout_ms`: 503.
    QueueTimeout,
    /// The gateway is at `max_connections`, or has no descriptor or port left: 503.
    TooManyConnections,
    /// The message is malformed or ambiguous: 400.
    BadRequest,
    /// A head, or a TLS handshake, was not whole within `header_timeout_ms`: 408.
    HeaderTimeout,
    /// The request body is over `max_body_bytes`: 413.
    BodyTooLarge,
    /// The request head is over `max_header_bytes`: 431.
    HeaderTooLarge,
    /// A filter such as `ip_access` refused: 403.
    FilterRefused,
    /// A filter failed itself, and its `on_error` is `refuse`: 500.
    FilterError,
    /// The bucket of the client in `rate_limit` is empty: 429.
    RateLimited,
    /// User or password are missing or wrong (`basic_auth`): 401.
    Unauthorized,
    /// The route needs a client's certificate, and the client showed none: 403.
    CertificateRequired,
    /// The route needs a client's certificate, and the handshake did not ask for one: 421.
    Misdirected,
    /// The request passed this gateway before: 508.
    Loop,
    /// A TCP client did not send enough to pick its route within `sniff_timeout_ms`.
    SniffTimeout,
    /// No TCP route of the listener takes what the client sent.
    Unmatched,
    /// Nothing moved for `idle_timeout_secs`, or for `keepalive_timeout_secs` in HTTP.
    IdleTimeout,
    /// One side closed its direction, and the other did nothing more.
    HalfOpen,
    /// One side no longer acknowledges what TCP sends to it.
    PeerTimeout,
    /// Cut off by a stop, once `drain_timeout_secs` were over.
    Drained,
    /// Cut off in the same way, after an upgrade (`-u`) took the sockets over.
    HandedOver,
}

impl Reason {
    /// Every reason, in the order of the documentation.
    pub const ALL: [Reason; 29] = [
        Reason::Ok,
        Reason::ClientClosed,
        Reason::NoRoute,
        Reason::ConnectFailed,
        Reason::ConnectTimeout,
        Reason::UpstreamReset,
        Reason::UpstreamError,
        Reason::Timeout,
        Reason::NoHealthyEndpoint,
        Reason::QueueTimeout,
        Reason::TooManyConnections,
        Reason::BadRequest,
        Reason::HeaderTimeout,
        Reason::BodyTooLarge,
        Reason::HeaderTooLarge,
        Reason::FilterRefused,
        Reason::FilterError,
        Reason::RateLimited,
        Reason::Unauthorized,
        Reason::CertificateRequired,
        Reason::Misdirected,
        Reason::Loop,
        Reason::SniffTimeout,
        Reason::Unmatched,
        Reason::IdleTimeout,
        Reason::HalfOpen,
        Reason::PeerTimeout,
        Reason::Drained,
        Reason::HandedOver,
    ];

    /// The word as logs and metric labels show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::Ok => "ok",
            Reason::ClientClosed => "client_closed",
            Reason::NoRoute => "no_route",
            Reason::ConnectFailed => "connect_failed",
            Reason::ConnectTimeout => "connect_timeout",
            Reason::UpstreamReset => "upstream_reset",
            Reason::UpstreamError => "upstream_error",
            Reason::Timeout => "timeout",
            Reason::NoHealthyEndpoint => "no_healthy_endpoint",
            Reason::QueueTimeout => "queue_timeout",
            Reason::TooManyConnections => "too_many_connections",
            Reason::BadRequest => "bad_request",
            Reason::HeaderTimeout => "header_timeout",
            Reason::BodyTooLarge => "body_too_large",
            Reason::HeaderTooLarge => "header_too_large",
            Reason::FilterRefused => "filter_refused",
            Reason::FilterError => "filter_error",
            Reason::RateLimited => "rate_limited",
            Reason::Unauthorized => "unauthorized",
            Reason::CertificateRequired => "certificate_required",
            Reason::Misdirected => "misdirected",
            Reason::Loop => "loop",
            Reason::SniffTimeout => "sniff_timeout",
            Reason::Unmatched => "unmatched",
            Reason::IdleTimeout => "idle_timeout",
            Reason::HalfOpen => "half_open",
            Reason::PeerTimeout => "peer_timeout",
            Reason::Drained => "drained",
            Reason::HandedOver => "handed_over",
        }
    }

    /// Who caused an end with this reason.
    pub const fn fault(self) -> Option<Fault> {
        match self {
            Reason::Ok | Reason::Drained | Reason::HandedOver => None,
            Reason::ConnectFailed
            | Reason::ConnectTimeout
            | Reason::UpstreamReset
            | Reason::UpstreamError
            | Reason::Timeout
            | Reason::NoHealthyEndpoint => Some(Fault::Upstream),
            Reason::QueueTimeout
            | Reason::TooManyConnections
            | Reason::FilterError
            | Reason::Loop => Some(Fault::Gateway),
            Reason::ClientClosed
            | Reason::NoRoute
            | Reason::BadRequest
            | Reason::HeaderTimeout
            | Reason::BodyTooLarge
            | Reason::HeaderTooLarge
            | Reason::FilterRefused
            | Reason::RateLimited
            | Reason::Unauthorized
            | Reason::CertificateRequired
            | Reason::Misdirected
            | Reason::SniffTimeout
            | Reason::Unmatched
            | Reason::IdleTimeout
            | Reason::HalfOpen
            | Reason::PeerTimeout => Some(Fault::Client),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failure outside of a single request: reading a configuration, binding, starting, stopping.
pub struct Error {
    kind: Kind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Config,
    Bind,
    Io,
}

impl Error {
    /// A configuration that cannot be used. `message` has one problem per line.
    pub fn config(message: impl Into<String>) -> Self {
        Error::new(Kind::Config, message)
    }

    /// An address that could not be bound.
    pub fn bind(message: impl Into<String>) -> Self {
        Error::new(Kind::Bind, message)
    }

    /// An operating system call that failed.
    pub fn io(message: impl Into<String>) -> Self {
        Error::new(Kind::Io, message)
    }

    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// Keeps the cause.
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Whether the configuration is what is wrong (exit code 78).
    pub fn is_config(&self) -> bool {
        self.kind == Kind::Config
    }

    /// Whether an address could not be bound.
    pub fn is_bind(&self) -> bool {
        self.kind == Kind::Bind
    }

    /// Who is at fault: always the gateway, as requests end with a [`Reason`] instead.
    pub fn fault(&self) -> Fault {
        Fault::Gateway
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|s| s.as_ref() as _)
    }
}
