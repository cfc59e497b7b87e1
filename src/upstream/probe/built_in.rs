//! Which probe a configured health check means.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::Probe;
use super::database::DatabaseProbe;
use super::http::OverHttp;
use crate::config::{self, DbType, HealthCheck};
use crate::upstream::{Endpoint, Role, dial};

/// The probe that `policy` describes, for the checks of `endpoint`; an error text when its request
/// cannot be built.
pub fn probe_for(policy: &HealthCheck, endpoint: &Arc<Endpoint>) -> Result<Arc<dyn Probe>, String> {
    Ok(match &policy.probe {
        config::Probe::Http { path, status } => {
            Arc::new(OverHttp::new(policy, endpoint, path, status)?)
        }
        config::Probe::Tcp {
            db_type: DbType::Tcp,
            ..
        } => Arc::new(Connect),
        config::Probe::Tcp {
            db_type,
            user,
            password,
        } => Arc::new(DatabaseProbe::new(*db_type, user.clone(), password.clone())),
    })
}

/// A connect, where the protocol is unknown. Not Pingora's check: that one is made with a TLS
/// connector (3 ms, 200 KB).
struct Connect;

#[async_trait]
impl Probe for Connect {
    async fn check(&self, endpoint: &Endpoint, timeout: Duration) -> Result<Role, String> {
        let connected = dial::connect(endpoint, timeout).await;
        connected
            .map(|_| Role::Unknown)
            .map_err(|error| error.to_string())
    }
}
