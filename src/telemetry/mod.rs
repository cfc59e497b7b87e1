//! What the gateway says about itself: metrics and the access log.

mod access_log;
mod metrics;

pub use access_log::{AccessLog, Record, Second, rfc3339, wall_clock};
pub use metrics::{
    ActiveConnection, Direction, EndpointHealthy, HttpRouteMetrics, InFlight, ListenerMetrics,
    Metrics, ReloadResult, TcpRouteMetrics, TcpSession, WarmSocket,
};
