//! The admin listener: metrics, health, status, configuration, reload.
//!
//! An application of its own behind the same edge as traffic. Invariant: what could show a stranger
//! something or change traffic (`/config`, `/reload`) answers the token or a loopback peer only,
//! and of those no browser that a web page sent: not even one that calls this machine by a name of
//! its own (DNS rebinding). Long because all paths and who may ask for them are one table.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use http::{Method, Response, StatusCode, header};
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::protocols::http::ServerSession;
use pingora_http::RequestHeader;
use serde_json::{Value, json};

use crate::server::drain::Drain;
use crate::server::edge::listener::wanted;
use crate::server::lifecycle::last_errors;
use crate::server::lifecycle::reload::Reload;
use crate::snapshot::SnapshotHandle;
use crate::telemetry::{EndpointHealthy, Metrics, rfc3339};
use crate::upstream::{Role, Upstream};

/// The admin application of one gateway.
pub struct Admin {
    snapshots: SnapshotHandle,
    metrics: Metrics,
    drain: Arc<Drain>,
    reload: Arc<Reload>,
    /// Keeps the health gauges of the last scrape alive: those of endpoints that are gone vanish.
    gauges: Mutex<Vec<EndpointHealthy>>,
}

impl Admin {
    /// `drain` answers `/readyz`, `reload` serves `POST /reload`, `metrics` renders `/metrics`.
    pub fn new(
        snapshots: SnapshotHandle,
        metrics: Metrics,
        drain: Arc<Drain>,
        reload: Arc<Reload>,
    ) -> Admin {
        Admin {
            snapshots,
            metrics,
            drain,
            reload,
            gauges: Mutex::default(),
        }
    }

    /// Health is read when it is asked for, so that it cannot lag behind an ejection.
    fn render_metrics(&self) -> String {
        let mut gauges = Vec::new();
        for upstream in &self.snapshots.load().upstreams {
            for (endpoint, healthy) in upstream.health() {
                let gauge = self.metrics.endpoint_healthy(upstream.label(), &endpoint);
                gauge.set(healthy);
                gauges.push(gauge);
            }
        }
        *self.gauges.lock().unwrap_or_else(PoisonError::into_inner) = gauges;
        self.metrics.render()
    }

    async fn answer(&self, method: &Method, path: &str, caller: &Caller) -> Answer {
        let known = matches!(
            path,
            "/metrics" | "/livez" | "/readyz" | "/status" | "/config" | "/reload"
        );
        if !known {
            return Answer::text(StatusCode::NOT_FOUND, PATHS);
        }
        let reads = method == Method::GET || method == Method::HEAD;
        match (path == "/reload", reads) {
            (false, false) => {
                return Answer::text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n")
                    .with_allow("GET, HEAD");
            }
            (true, _) if method != Method::POST => {
                return Answer::text(StatusCode::METHOD_NOT_ALLOWED, "only POST\n")
                    .with_allow("POST");
            }
            _ => {}
        }
        if matches!(path, "/config" | "/reload")
            && let Err(why) = self.admits(caller)
        {
            return Answer::text(StatusCode::FORBIDDEN, why);
        }
        match path {
            "/metrics" => Answer {
                status: StatusCode::OK,
                content_type: Metrics::CONTENT_TYPE,
                allow: None,
                body: self.render_metrics(),
            },
            "/livez" => Answer::text(StatusCode::OK, "ok\n"),
            "/readyz" if self.drain.is_ready() => Answer::text(StatusCode::OK, "ready\n"),
            "/readyz" => Answer::text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            "/status" => {
                let mut status = self.status();
                // As `/config`, of which they are the values.
                if self.admits(caller).is_ok() {
                    status["keys"] = json!(self.snapshots.load().config.globals());
                }
                Answer::json(&status)
            }
            "/reload" => self.reload().await,
            _ => Answer {
                status: StatusCode::OK,
                content_type: "application/yaml",
                allow: None,
                body: self.config(),
            },
        }
    }

    /// The configuration, with what went wrong last as comments at its end.
    fn config(&self) -> String {
        let snapshot = self.snapshots.load();
        let mut text = snapshot.config.redacted_text();
        let errors = snapshot.upstreams.iter().flat_map(last_errors::comments);
        for (nth, comment) in errors.enumerate() {
            if nth == 0 {
                text.push_str("\n# The last error of endpoints that had one:\n");
            }
            text.push_str(&comment);
        }
        text
    }

    async fn reload(&self) -> Answer {
        let reload = self.reload.clone();
        match tokio::task::spawn_blocking(move || reload.run()).await {
            Ok(Ok(report)) => Answer::json(&report),
            Ok(Err(problem)) => {
                Answer::text(StatusCode::UNPROCESSABLE_ENTITY, &format!("{problem}\n"))
            }
            Err(died) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{died}\n")),
        }
    }

    /// Whether `caller` may read the configuration and reload it, else why not.
    fn admits(&self, caller: &Caller) -> Result<(), &'static str> {
        let snapshot = self.snapshots.load();
        let token = snapshot
            .config
            .admin
            .as_ref()
            .and_then(|admin| admin.token.as_ref());
        let has_token = match (token, &caller.bearer) {
            (Some(token), Some(bearer)) => {
                equal_in_constant_time(token.reveal().as_bytes(), bearer.as_bytes())
            }
            _ => false,
        };
        match (has_token, caller.is_loopback(), caller.sent_by_a_page) {
            (true, _, _) | (false, true, false) => Ok(()),
            (false, true, true) => Err(NOT_FROM_PAGES),
            (false, false, _) => Err(LOOPBACK_ONLY),
        }
    }

    fn status(&self) -> Value {
        let snapshot = self.snapshots.load();
        let config = &snapshot.config;
        let http = config.http_routes.iter().map(|route| {
            json!({
                "route": route.key.text,
                "protocol": "http",
                "upstream": route.upstream.name,
            })
        });
        let tcp = config.tcp_routes.iter().map(|route| {
            let listeners = route.listen.iter().map(|addr| json!(addr.to_string()));
            json!({
                "route": route.name,
                "protocol": route.db_type.as_str(),
                "upstream": route.upstream.name,
                "listeners": listeners.collect::<Vec<Value>>(),
            })
        });
        let routes: Vec<Value> = http.chain(tcp).collect();
        let listeners = wanted(config).into_iter().map(|wanted| {
            json!({
                "listener": wanted.listen.text,
                "kind": wanted.identity.kind,
                "key": wanted.key,
            })
        });
        let listeners: Vec<Value> = listeners.collect();
        let tls = snapshot.tls.as_ref().map(|tls| tls.load());
        let certificates: Vec<Value> = tls
            .iter()
            .flat_map(|tls| &tls.certificates)
            .map(|certificate| {
                json!({
                    "file": certificate.file,
                    "names": certificate.names,
                    "expires": rfc3339(certificate.expires),
                })
            })
            .collect();
        let upstreams: Vec<Value> = snapshot.upstreams.iter().map(upstream).collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "generation": snapshot.generation,
            "hash": format!("{:016x}", snapshot.hash),
            "ready": self.drain.is_ready(),
            "connections": self.drain.connections.count(),
            "max_connections": snapshot.config.max_connections,
            "listeners": listeners,
            "certificates": certificates,
            "routes": routes,
            "upstreams": upstreams,
        })
    }
}

fn upstream(upstream: &Arc<Upstream>) -> Value {
    let endpoints: Vec<Value> = upstream
        .endpoints()
        .iter()
        .map(|endpoint| {
            let mut status = json!({
                "endpoint": endpoint.label(),
                "address": endpoint.addrs().first.to_string(),
                "healthy": endpoint.is_healthy(),
                "ejected": endpoint.is_ejected(),
                "backup": endpoint.is_backup(),
                "weight": endpoint.weight().as_u32(),
                "in_flight": endpoint.in_flight(),
                "warm": endpoint.warm_sockets(),
            });
            if endpoint.role() != Role::Unknown {
                status["role"] = json!(endpoint.role().as_str());
            }
            status["last_error"] = last_errors::shown(endpoint.last_error());
            status
        })
        .collect();
    let unresolved = upstream.unresolved();
    let without_address = unresolved.iter().map(|(label, error)| {
        json!({
            "endpoint": label,
            "address": null,
            "healthy": false,
            "ejected": false,
            "last_error": last_errors::shown(error.clone()),
        })
    });
    let endpoints: Vec<Value> = endpoints.into_iter().chain(without_address).collect();
    let unresolved: Vec<&str> = unresolved.iter().map(|(label, _)| label.as_str()).collect();
    json!({
        "upstream": upstream.label(),
        "in_flight": upstream.in_flight(),
        "queued": upstream.queued(),
        "endpoints": endpoints,
        "unresolved": unresolved,
    })
}

/// Who asks.
struct Caller {
    peer: Option<SocketAddr>,
    bearer: Option<String>,
    /// Whether it can be a browser that does what a web page says.
    sent_by_a_page: bool,
}

impl Caller {
    fn is_loopback(&self) -> bool {
        self.peer
            .is_some_and(|peer| peer.ip().to_canonical().is_loopback())
    }
}

/// A browser names the page it acts for in `Origin`, at the latest when something is to change. A
/// page whose own name was made to lead here is asked for nothing, but then the name is in `Host`.
fn may_be_sent_by_a_page(request: &RequestHeader) -> bool {
    let mut hosts = request.headers.get_all(header::HOST).iter();
    request.headers.contains_key(header::ORIGIN)
        || !hosts.all(|host| host.to_str().is_ok_and(is_no_foreign_name))
        || request
            .uri
            .authority()
            .is_some_and(|authority| !is_no_foreign_name(authority.as_str()))
}

/// Whether `host`, with or without a port, is an address or `localhost`.
fn is_no_foreign_name(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
    let (name, port) = host.split_once(':').unwrap_or((host, "0"));
    host.parse::<SocketAddr>().is_ok()
        || host.parse::<IpAddr>().is_ok()
        || bare.is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok())
        || (name.eq_ignore_ascii_case("localhost") && port.parse::<u16>().is_ok())
}

struct Answer {
    status: StatusCode,
    content_type: &'static str,
    allow: Option<&'static str>,
    body: String,
}

impl Answer {
    fn text(status: StatusCode, body: &str) -> Answer {
        Answer {
            status,
            content_type: "text/plain; charset=utf-8",
            allow: None,
            body: body.to_string(),
        }
    }

    fn json(body: &Value) -> Answer {
        Answer {
            status: StatusCode::OK,
            content_type: "application/json",
            allow: None,
            body: format!("{body:#}\n"),
        }
    }

    fn with_allow(self, allow: &'static str) -> Answer {
        Answer {
            allow: Some(allow),
            ..self
        }
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let caller = Caller {
            peer: session
                .client_addr()
                .and_then(|addr| addr.as_inet())
                .copied(),
            bearer: session
                .req_header()
                .headers
                .get(header::AUTHORIZATION)
                .and_then(|value| value.to_str().ok())
                .and_then(|value| value.strip_prefix("Bearer "))
                .map(str::to_string),
            sent_by_a_page: may_be_sent_by_a_page(session.req_header()),
        };
        let request = session.req_header();
        let answer = self
            .answer(&request.method, request.uri.path(), &caller)
            .await;
        let mut response = Response::builder()
            .status(answer.status)
            .header(header::CONTENT_TYPE, answer.content_type)
            .header(header::CONTENT_LENGTH, answer.body.len())
            .header(header::CACHE_CONTROL, "no-store");
        if let Some(allow) = answer.allow {
            response = response.header(header::ALLOW, allow);
        }
        let body = match request.method {
            Method::HEAD => Vec::new(),
            _ => answer.body.into_bytes(),
        };
        response.body(body).unwrap_or_default()
    }
}

const LOOPBACK_ONLY: &str =
    "only for loopback peers, or with `Authorization: Bearer <admin.token>`\n";
const NOT_FROM_PAGES: &str = "not for web pages (`Origin`, or a `Host` that is neither an address nor \
     localhost), unless with `Authorization: Bearer <admin.token>`\n";
const PATHS: &str =
    "not found; there are /metrics /livez /readyz /status /config and POST /reload\n";

/// Compares without telling by its time how much was right.
fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_localhost_are_no_names_of_somebody_else() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9901",
            "10.1.2.3:9901",
            "::1",
            "[::1]",
            "[::1]:9901",
            "localhost",
            "LocalHost:9901",
        ] {
            assert!(is_no_foreign_name(host), "{host}");
        }
        for host in [
            "",
            ":9901",
            "evil.test",
            "evil.test:9901",
            "localhost.evil.test",
            "127.0.0.1.evil.test:9901",
            "127.0.0.1:9901:evil",
            "localhost:evil",
            "[evil]:9901",
            "[127.0.0.1]",
            "2130706433",
            "0x7f.1",
            "localhost.",
        ] {
            assert!(!is_no_foreign_name(host), "{host}");
        }
    }
}
