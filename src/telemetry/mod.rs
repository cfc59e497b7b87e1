//! What the gateway says about itself: metrics and the access log.

mod metrics;

pub use metrics::{
    ActiveConnection, Direction, EndpointHealthy, HttpRouteMetrics, InFlight, ListenerMetrics,
    Metrics, ReloadResult, TcpRouteMetrics, TcpSession, WarmSocket,
};
