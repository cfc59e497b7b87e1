//! The built-in probes: Pingora's HTTP and TCP health checks.
//!
//! Its own file because it is where the prober meets Pingora. Invariant: one check object serves
//! all checks of an endpoint, none of them keeps a connection, and each has a timeout at every
//! step. Made by the prober when it first sees an endpoint.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::http::Connector as HttpConnector;
use pingora_core::connectors::{ConnectorOptions, TransportConnector};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::{Error, ErrorType};
use pingora_http::RequestHeader;
use pingora_load_balancing::health_check::{
    HealthCheck as PingoraCheck, HttpHealthCheck, TcpHealthCheck,
};
use pingora_load_balancing::{Backend, Extensions};

use super::endpoint::{Endpoint, Role};
use super::health::Probe;
use crate::config::{self, HealthCheck, StatusSet, UpstreamUrl};

/// Makes the built-in probes.
pub(super) struct Probes {
    connect: Arc<TcpHealthCheck>,
}

impl Probes {
    pub(super) fn new() -> Probes {
        // Pingora's TCP check builds a TLS connector from the system's certificates when it is
        // made (3 ms, 200 KB), and takes the address with each check: one serves all endpoints.
        let mut connect = TcpHealthCheck::default();
        connect.set_connector(TransportConnector::new(Some(clear_text_only())));
        let options = &mut connect.peer_template.options;
        options.connection_timeout = Some(LONGEST);
        options.total_connection_timeout = Some(LONGEST);
        Probes {
            connect: Arc::new(connect),
        }
    }

    /// The probe for `endpoint`; an error text when its request cannot be built.
    pub(super) fn probe(
        &self,
        policy: &HealthCheck,
        endpoint: &Endpoint,
    ) -> Result<Arc<dyn Probe>, String> {
        let check: Arc<dyn PingoraCheck + Send + Sync> = match &policy.probe {
            config::Probe::Http { path, status } => {
                Arc::new(http(policy, endpoint.url(), path, status)?)
            }
            // What else a protocol needs is known to the floor above.
            config::Probe::Tcp { .. } => Arc::clone(&self.connect) as _,
        };
        Ok(Arc::new(Checked {
            check,
            target: Backend {
                addr: SocketAddr::Inet(endpoint.addr()),
                weight: 1,
                ext: Extensions::new(),
            },
        }))
    }
}

/// A Pingora check of one address.
struct Checked {
    check: Arc<dyn PingoraCheck + Send + Sync>,
    target: Backend,
}

#[async_trait]
impl Probe for Checked {
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
    url: &UpstreamUrl,
    path: &str,
    status: &StatusSet,
) -> Result<HttpHealthCheck, String> {
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
    let connector = HttpConnector::new(Some(clear_text_only()));
    let mut check = HttpHealthCheck::new_custom("unset", false, connector);
    check.req = request;
    check.consecutive_success = policy.healthy_after;
    check.consecutive_failure = policy.unhealthy_after;
    let options = &mut check.peer_template.options;
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

/// An upper bound for the shared check; each check is cut by its own timeout before.
const LONGEST: Duration = Duration::from_secs(3600);
