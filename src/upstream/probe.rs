//! The built-in probes: a connect, and Pingora's HTTP check.
//!
//! Its own file because it is where the prober meets Pingora. Invariant: one check object serves
//! all checks of an endpoint, none of them keeps a connection, and each has a timeout at every
//! step. Made by the prober when it first sees an endpoint.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::Connector as HttpConnector;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::{Error, ErrorType};
use pingora_http::RequestHeader;
use pingora_load_balancing::health_check::{HealthCheck as _, HttpHealthCheck};
use pingora_load_balancing::{Backend, Extensions};

use super::dial;
use super::endpoint::{Endpoint, Role};
use super::health::Probe;
use super::peer::connector;
use crate::config::{self, HealthCheck, StatusSet};

/// The probe for `endpoint`; an error text when its request cannot be built.
pub(super) fn probe(
    policy: &HealthCheck,
    endpoint: &Arc<Endpoint>,
) -> Result<Arc<dyn Probe>, String> {
    match &policy.probe {
        config::Probe::Http { path, status } => Ok(Arc::new(OverHttp {
            check: http(policy, endpoint, path, status)?,
            target: Backend {
                addr: SocketAddr::Inet(endpoint.addr()),
                weight: 1,
                ext: Extensions::new(),
            },
        })),
        // What else a protocol needs is known to the floor above.
        config::Probe::Tcp { .. } => Ok(Arc::new(OverTcp)),
    }
}

/// A connect. Not Pingora's check: that one is made with a TLS connector (3 ms, 200 KB).
struct OverTcp;

#[async_trait]
impl Probe for OverTcp {
    async fn check(&self, endpoint: &Endpoint, timeout: Duration) -> Result<Role, String> {
        let connected = dial::connect(endpoint, timeout).await;
        connected
            .map(|_| Role::Unknown)
            .map_err(|error| error.to_string())
    }
}

/// A Pingora check of one address.
struct OverHttp {
    check: HttpHealthCheck,
    target: Backend,
}

#[async_trait]
impl Probe for OverHttp {
    async fn check(&self, _endpoint: &Endpoint, _timeout: Duration) -> Result<Role, String> {
        let check = self.check.check(&self.target);
        check.await.map_err(|error| words(&error))?;
        Ok(Role::Unknown)
    }
}

/// Pingora's error as a line of our own. Not its context, which may quote a whole response head with
/// whatever is secret in it.
fn words(error: &Error) -> String {
    use ErrorType::*;
    let root = error.root_cause();
    // Pingora 0.9 hides the system's error behind details of its own where a connect failed.
    let behind = || root.source()?.downcast_ref::<io::Error>();
    let cause = root.downcast_ref::<io::Error>().or_else(behind);
    match (error.etype(), cause) {
        (CustomCode(STATUS, got), _) => format!("status {got} is not among the healthy ones"),
        (ConnectTimedout, _) => "connect: timed out".to_owned(),
        (ConnectRefused | ConnectNoRoute | ConnectError | SocketError, Some(cause)) => {
            format!("connect: {cause}")
        }
        (kind, Some(cause)) => format!("{}: {cause}", kind.as_str()),
        (kind, None) => kind.as_str().to_owned(),
    }
}

fn http(
    policy: &HealthCheck,
    endpoint: &Arc<Endpoint>,
    path: &str,
    status: &StatusSet,
) -> Result<HttpHealthCheck, String> {
    let url = endpoint.url();
    let host = match url.port {
        80 => url.host.to_string(),
        port => format!("{}:{port}", url.host),
    };
    let request = || {
        let mut request = RequestHeader::build("GET", path.as_bytes(), None)?;
        request.insert_header("Host", host.as_str())?;
        request.insert_header("User-Agent", "harbr-router health check")?;
        request.insert_header("Connection", "close")?;
        Ok(request)
    };
    let request = request().map_err(|error: Box<Error>| error.to_string())?;
    // Not `HttpHealthCheck::new`: it loads the system's certificates, twice, for each endpoint.
    let clear_text = HttpConnector::new(Some(clear_text_only()));
    let mut check = HttpHealthCheck::new_custom("unset", false, clear_text);
    check.req = request;
    check.consecutive_success = policy.healthy_after;
    check.consecutive_failure = policy.unhealthy_after;
    let options = &mut check.peer_template.options;
    options.custom_l4 = connector(endpoint, policy.timeout);
    options.connection_timeout = Some(policy.timeout);
    options.total_connection_timeout = Some(policy.timeout);
    options.read_timeout = Some(policy.timeout);
    options.write_timeout = Some(policy.timeout);
    let status = status.clone();
    check.validator = Some(Box::new(move |response| {
        let got = response.status.as_u16();
        if status.contains(got) {
            Ok(())
        } else {
            Error::e_explain(
                ErrorType::CustomCode(STATUS, got),
                "not among the healthy statuses",
            )
        }
    }));
    Ok(check)
}

/// For connectors that will never speak TLS: without the certificates that Pingora would load
/// otherwise, which costs milliseconds and 200 KB for each, and panics where there are none.
fn clear_text_only() -> ConnectorOptions {
    let mut options = ConnectorOptions::new(1);
    options.ca_file = Some("/dev/null".to_owned());
    options
}

/// The kind of our own error about a status.
const STATUS: &str = "status";
