//! What the gateway says about itself: metrics and the access log.

mod access_log;
mod load;
mod metrics;
mod report;

pub use access_log::{AccessLog, ClientAddress, Record, Second, rfc3339, wall_clock};
pub use load::{Carried, Load};
pub use metrics::{
    ActiveConnection, CertificateExpiry, Direction, EndpointHealthy, HttpRouteMetrics, InFlight,
    ListenerMetrics, Metrics, ReloadResult, TcpRouteMetrics, TcpSession, WarmSocket,
};
pub use report::{Reporter, RequestEnd};
