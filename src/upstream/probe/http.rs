//! Health checks over HTTP, by Pingora's check.
//!
//! Invariant: one check object serves all checks of an endpoint, none of them keeps a connection,
//! and each has a timeout at every step.

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

use super::Probe;
use crate::config::{HealthCheck, StatusSet};
use crate::upstream::peer::connector;
use crate::upstream::{Endpoint, Role};

/// A Pingora check of one address.
pub(super) struct OverHttp {
    check: HttpHealthCheck,
    target: Backend,
}

impl OverHttp {
    /// An error text when the request cannot be built.
    pub(super) fn new(
        policy: &HealthCheck,
        endpoint: &Arc<Endpoint>,
        path: &str,
        status: &StatusSet,
    ) -> Result<OverHttp, String> {
        Ok(OverHttp {
            check: http(policy, endpoint, path, status)?,
            target: Backend {
                addr: SocketAddr::Inet(endpoint.addr()),
                weight: 1,
                ext: Extensions::new(),
            },
        })
    }
}

#[async_trait]
impl Probe for OverHttp {
    async fn check(&self, _endpoint: &Endpoint, _timeout: Duration) -> Result<Role, String> {
        let check = self.check.check(&self.target);
        check.await.map_err(|error| words(&error))?;
        Ok(Role::Unknown)
    }
}

/// Pingora's error as a line of our own. Not its context, which may quote a whole response head
/// with whatever is secret in it.
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
