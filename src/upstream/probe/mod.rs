//! What one health check does: over HTTP, in the words of a database, or as a connect.
//!
//! When checks run, and what follows from them, is in [`health`](super::health).

mod built_in;
mod database;
mod http;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::endpoint::{Endpoint, Role};
use crate::config::HealthCheck;

pub use self::built_in::probe_for;
pub use self::database::BeginSession;

/// One way to find out whether an endpoint serves.
#[async_trait]
pub trait Probe: Send + Sync {
    /// `Ok`: it serves, and in this role; [`Role::Unknown`] from a probe that does not ask.
    /// `Err` says why not, for the log. Is dropped when `timeout` is over.
    async fn check(&self, endpoint: &Endpoint, timeout: Duration) -> Result<Role, String>;
}

/// Gives the probe for an endpoint, or says why there is none. Called once for each endpoint and
/// policy.
pub type ProbeFactory =
    Arc<dyn Fn(&HealthCheck, &Arc<Endpoint>) -> Result<Arc<dyn Probe>, String> + Send + Sync>;
