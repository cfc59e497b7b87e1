//! Who gets sockets ahead, and how a server is asked first.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;

use super::shelf::Policy;
use crate::telemetry::TcpRouteMetrics;
use crate::upstream::{Endpoint, Upstream};

/// An upstream whose endpoints get sockets ahead.
#[derive(Clone)]
pub struct Wanted {
    /// Of the snapshot in force.
    pub upstream: Arc<Upstream>,
    /// How many sockets each of its endpoints may have, and how old they may become.
    pub policy: Policy,
    /// Where the sockets are counted. Of two routes onto one upstream the first counts them.
    pub metrics: TcpRouteMetrics,
}

/// Gives what the current configuration wants. Asked several times a second, which is how a reload
/// is seen.
pub type WarmSource = Arc<dyn Fn() -> Vec<Wanted> + Send + Sync>;

/// Asks a server whether it takes clients now.
#[async_trait]
pub trait Ready: Send + Sync {
    /// `Err`: it does not, or cannot be asked.
    async fn ask(&self, endpoint: &Endpoint) -> io::Result<()>;
}
