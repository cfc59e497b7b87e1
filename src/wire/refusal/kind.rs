//! Why a client is refused, whatever its protocol.

/// Why a client is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// More clients than the route or the gateway takes.
    TooManyConnections,
    /// No permit became free in time.
    QueueTimeout,
    /// No healthy endpoint, or none that could be connected to.
    Unavailable,
    /// The gateway drains.
    ShuttingDown,
    /// Nothing in the configuration matches.
    NoRoute,
    /// A filter says no.
    NotAllowed,
}
