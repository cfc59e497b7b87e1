//! Every key, accepted: what it changes in the model.
//!
//! A table: the key, a snippet with it, and the value that it reaches, which differs from the one
//! without it.

use harbr_router::config::keys::Section;
use harbr_router::config::{Config, HttpRoute, TcpRoute, UpstreamSpec};

use super::{Place, parse};

fn http(config: &Config) -> &HttpRoute {
    &config.http_routes[0]
}

fn tcp(config: &Config) -> &TcpRoute {
    &config.tcp_routes[0]
}

fn web(config: &Config) -> &UpstreamSpec {
    &http(config).upstream
}

type Probe = fn(&Config) -> String;

macro_rules! probe {
    ($config:ident => $value:expr) => {
        |$config: &Config| format!("{:?}", $value)
    };
}

/// Keys of the file and its flat sections: name, line at the top of the file, probe, value.
const TOP: &[(&str, &str, Probe, &str)] = &[
    (
        "upstreams",
        "upstreams: {u: {upstream: \"http://h\"}}",
        probe!(c => c.warnings.len()),
        "1",
    ),
    (
        "trusted_proxies",
        "trusted_proxies: [10.1.2.3/8, \"::1\"]",
        probe!(c => c.trusted_proxies),
        "[10.0.0.0/8, ::1/128]",
    ),
    (
        "trusted_proxies",
        "trusted_proxies: [\"::ffff:10.1.2.3\", \"::ffff:10.1.2.3/104\", \"::ffff:0:0/95\", \"::/0\"]",
        probe!(c => c.trusted_proxies),
        "[10.1.2.3/32, 10.0.0.0/8, ::fffe:0:0/95, ::/0]",
    ),
    (
        "tls",
        "tls: {certificates: [{cert: a.pem, key: a.key}]}",
        probe!(c => c.tls.is_some()),
        "true",
    ),
    (
        "tls.listen_addr",
        "tls: {listen_addr: \"127.0.0.1:8443\", certificates: [{cert: a.pem, key: a.key}]}",
        probe!(c => c.tls.as_ref().and_then(|t| Some(t.listen_addr.as_ref()?.first().addr))),
        "Some(127.0.0.1:8443)",
    ),
    (
        "tls.certificates",
        "tls: {certificates: [{cert: a.pem, key: a.key}, {cert: b.pem, key: b.key}]}",
        probe!(c => c.tls.as_ref().map(|t| t.certificates.len())),
        "Some(2)",
    ),
    (
        "tls.certificates[].cert",
        "tls: {certificates: [{cert: a.pem, key: a.key}]}",
        probe!(c => c.tls.as_ref().map(|t| t.certificates[0].cert.file_name().unwrap().to_owned())),
        "Some(\"a.pem\")",
    ),
    (
        "tls.certificates[].key",
        "tls: {certificates: [{cert: a.pem, key: a.key}]}",
        probe!(c => c.tls.as_ref().map(|t| t.certificates[0].key.file_name().unwrap().to_owned())),
        "Some(\"a.key\")",
    ),
    (
        "tls.certificates[].ocsp",
        "tls: {certificates: [{cert: a.pem, key: a.key, ocsp: a.ocsp}]}",
        probe!(c => c.tls.as_ref().map(|t| t.certificates[0].ocsp.is_some())),
        "Some(true)",
    ),
    (
        "tls.min_version",
        "tls: {min_version: \"1.3\", certificates: [{cert: a.pem, key: a.key}]}",
        probe!(c => c.tls.as_ref().map(|t| t.min_version)),
        "Some(Tls13)",
    ),
    (
        "tls.client_ca",
        "tls: {client_ca: ca.pem, certificates: [{cert: a.pem, key: a.key}]}",
        probe!(c => c.tls.as_ref().and_then(|t| Some(t.client_auth.as_ref()?.policy))),
        "Some(Required)",
    ),
    (
        "tls.client_auth",
        "tls: {client_ca: ca.pem, client_auth: optional, certificates: [{cert: a.pem, key: a.key}]}",
        probe!(c => c.tls.as_ref().and_then(|t| Some(t.client_auth.as_ref()?.policy))),
        "Some(Optional)",
    ),
    (
        "tls.client_crl",
        "tls: {client_ca: ca.pem, client_crl: a.crl, certificates: [{cert: a.pem, key: a.key}]}",
        probe!(c => c.tls.as_ref().and_then(|t| Some(t.client_auth.as_ref()?.crl.is_some()))),
        "Some(true)",
    ),
    (
        "tls.redirect_http",
        "tls: {listen_addr: \"127.0.0.1:8443\", redirect_http: true, certificates: [{cert: a.pem, key: a.key}]}",
        probe!(c => c.tls.as_ref().map(|t| t.redirect_http)),
        "Some(true)",
    ),
    (
        "http2.enabled",
        "http2: {enabled: false}",
        probe!(c => c.http2.enabled),
        "false",
    ),
    (
        "http2.h2c",
        "http2: {h2c: true}",
        probe!(c => c.http2.h2c),
        "true",
    ),
    (
        "http2.max_concurrent_streams",
        "http2: {max_concurrent_streams: 7}",
        probe!(c => c.http2.max_concurrent_streams),
        "7",
    ),
    (
        "http2.max_streams",
        "http2: {max_streams: 8}",
        probe!(c => c.http2.max_streams),
        "8",
    ),
    (
        "http2.idle_timeout_secs",
        "http2: {idle_timeout_secs: 9}",
        probe!(c => c.http2.idle_timeout),
        "9s",
    ),
    (
        "http2.ping_interval_secs",
        "http2: {ping_interval_secs: 9}",
        probe!(c => c.http2.ping_interval),
        "9s",
    ),
    (
        "http2.max_connection_age_secs",
        "http2: {max_connection_age_secs: 9}",
        probe!(c => c.http2.max_connection_age),
        "Some(9s)",
    ),
    (
        "http2",
        "http2: {enabled: false}",
        probe!(c => c.http2.enabled),
        "false",
    ),
    (
        "max_header_bytes",
        "max_header_bytes: 256",
        probe!(c => c.max_header_bytes),
        "256",
    ),
    (
        "max_body_bytes",
        "max_body_bytes: 7",
        probe!(c => c.max_body_bytes),
        "Some(7)",
    ),
    (
        "header_timeout_ms",
        "header_timeout_ms: 7",
        probe!(c => c.header_timeout),
        "7ms",
    ),
    (
        "merge_slashes",
        "merge_slashes: false",
        probe!(c => http(c).merge_slashes),
        "false",
    ),
    (
        "keepalive_timeout_secs",
        "keepalive_timeout_secs: 7",
        probe!(c => c.keepalive_timeout),
        "7s",
    ),
    (
        "tcp_proxy",
        "tcp_proxy: {enabled: true}",
        probe!(c => c.tcp_proxy.enabled),
        "true",
    ),
    (
        "tcp_proxy.enabled",
        "tcp_proxy: {enabled: true}",
        probe!(c => c.tcp_proxy.enabled),
        "true",
    ),
    (
        "tcp_proxy.listen_addr",
        "tcp_proxy: {listen_addr: \"[::1]:7\"}",
        probe!(c => c.tcp_proxy.listen_addr.first().addr),
        "[::1]:7",
    ),
    (
        "tcp_proxy.listen_addr",
        "tcp_proxy: {listen_addr: [\"127.0.0.1:7\", \"[::1]:8\"]}",
        probe!(c => c.tcp_proxy.listen_addr.iter().map(|l| l.addr).collect::<Vec<_>>()),
        "[127.0.0.1:7, [::1]:8]",
    ),
    (
        "tcp_proxy.connection_pooling",
        "tcp_proxy: {connection_pooling: false}",
        probe!(c => c.tcp_proxy.connection_pooling),
        "false",
    ),
    (
        "tcp_proxy.max_idle_time_secs",
        "tcp_proxy: {max_idle_time_secs: 7}",
        probe!(c => c.tcp_proxy.max_idle_time),
        "7s",
    ),
    (
        "tcp_proxy.sniff_timeout_ms",
        "tcp_proxy: {sniff_timeout_ms: 7}",
        probe!(c => c.tcp_proxy.sniff_timeout),
        "7ms",
    ),
    (
        "admin",
        "admin: false",
        probe!(c => c.admin.is_some()),
        "false",
    ),
    (
        "admin.listen_addr",
        "admin: {listen_addr: \"127.0.0.1:7\"}",
        probe!(c => c.admin.as_ref().map(|a| &a.listen_addr.first().text)),
        "Some(\"127.0.0.1:7\")",
    ),
    (
        "admin.listen_addr",
        "admin: {listen_addr: [\"127.0.0.1:7\", \"10.0.0.1:7\"]}",
        probe!(c => c.admin.as_ref().map(|a| a.listen_addr.iter().count())),
        "Some(2)",
    ),
    (
        "admin.token",
        "admin: {token: word}",
        probe!(c => c.admin.as_ref().and_then(|a| a.token.as_ref()).map(|t| t.reveal())),
        "Some(\"word\")",
    ),
    (
        "server",
        "server: {threads: 3}",
        probe!(c => c.server.threads),
        "Some(3)",
    ),
    (
        "server.threads",
        "server: {threads: 3}",
        probe!(c => c.server.threads),
        "Some(3)",
    ),
    (
        "server.pid_file",
        "server: {pid_file: a}",
        probe!(c => c.server.pid_file),
        "Some(\"a\")",
    ),
    (
        "server.upgrade_sock",
        "server: {upgrade_sock: a}",
        probe!(c => c.server.upgrade_sock),
        "Some(\"a\")",
    ),
    (
        "server.user",
        "server: {user: www-data}",
        probe!(c => c.server.user),
        "Some(\"www-data\")",
    ),
    (
        "server.group",
        "server: {group: www-data}",
        probe!(c => c.server.group),
        "Some(\"www-data\")",
    ),
    (
        "server.log_file",
        "server: {log_file: a}",
        probe!(c => c.server.log_file),
        "Some(\"a\")",
    ),
    (
        "server.access_log",
        "server: {access_log: stdout}",
        probe!(c => c.server.access_log),
        "Stdout",
    ),
    (
        "server.access_log",
        "server: {access_log: a.log}",
        probe!(c => c.server.access_log),
        "File(\"a.log\")",
    ),
    (
        "server.drain_timeout_secs",
        "server: {drain_timeout_secs: 0}",
        probe!(c => c.server.drain_timeout),
        "0ns",
    ),
    (
        "server.drain_delay_secs",
        "server: {drain_delay_secs: 7}",
        probe!(c => c.server.drain_delay),
        "7s",
    ),
    (
        "server.watch_config",
        "server: {watch_config: true}",
        probe!(c => c.server.watch_config),
        "true",
    ),
];

/// Keys of the HTTP route `/api`, and of what is inside them.
const HTTP: &[(&str, &str, Probe, &str)] = &[
    (
        "timeout_ms",
        "timeout_ms: 7",
        probe!(c => http(c).tries.timeout),
        "7ms",
    ),
    (
        "timeout_ms",
        "timeout_ms: 7",
        probe!(c => http(c).tries.connect_timeout),
        "7ms",
    ),
    (
        "retry_count",
        "retry_count: 5",
        probe!(c => http(c).tries.retry_count),
        "5",
    ),
    (
        "retry_count",
        "retry_count: 5",
        probe!(c => http(c).tries.connect_timeout),
        "500ms",
    ),
    (
        "connect_timeout_ms",
        "connect_timeout_ms: 3000",
        probe!(c => http(c).tries.connect_timeout),
        "3s",
    ),
    (
        "try_timeout_ms",
        "try_timeout_ms: 7",
        probe!(c => http(c).tries.try_timeout),
        "Some(7ms)",
    ),
    (
        "balance",
        "balance: least_requests",
        probe!(c => web(c).balance),
        "LeastRequests",
    ),
    (
        "balance",
        "balance: random",
        probe!(c => web(c).balance),
        "Random",
    ),
    (
        "hash_on",
        "balance: hash\n    hash_on: client_ip",
        probe!(c => web(c).balance),
        "Hash(ClientIp)",
    ),
    (
        "hash_on",
        "balance: hash\n    hash_on: path",
        probe!(c => web(c).balance),
        "Hash(Path)",
    ),
    (
        "hash_on",
        "balance: hash\n    hash_on: header:X-User",
        probe!(c => web(c).balance),
        "Hash(Header(\"x-user\"))",
    ),
    (
        "hash_on",
        "balance: hash\n    hash_on: cookie:Sid",
        probe!(c => web(c).balance),
        "Hash(Cookie(\"Sid\"))",
    ),
    (
        "max_connections",
        "max_connections: 7",
        probe!(c => web(c).max_connections),
        "Some(7)",
    ),
    (
        "queue_timeout_ms",
        "queue_timeout_ms: 0",
        probe!(c => web(c).queue_timeout),
        "0ns",
    ),
    (
        "upgrade",
        "upgrade: [websocket, foo/2]",
        probe!(c => http(c).upgrade),
        "Only([\"websocket\", \"foo/2\"])",
    ),
    (
        "upgrade",
        "upgrade: false",
        probe!(c => http(c).upgrade),
        "Only([])",
    ),
    (
        "keepalive_idle_secs",
        "keepalive_idle_secs: 0",
        probe!(c => web(c).keepalive_idle),
        "0ns",
    ),
    (
        "health_check_path",
        "health_check_path: /up?a=b",
        probe!(c => web(c).health_check.as_ref().map(|h| &h.probe)),
        "Some(Http { path: \"/up?a=b\", status: StatusSet([(200, 399)]) })",
    ),
    (
        "health_check",
        "health_check: {path: /}",
        probe!(c => web(c).health_check.is_some()),
        "true",
    ),
    (
        "health_check.path",
        "health_check: {path: /x}",
        probe!(c => web(c).health_check.as_ref().map(|h| &h.probe)),
        "Some(Http { path: \"/x\", status: StatusSet([(200, 399)]) })",
    ),
    (
        "health_check.status",
        "health_check: {path: /x, status: 204}",
        probe!(c => web(c).health_check.as_ref().map(|h| &h.probe)),
        "Some(Http { path: \"/x\", status: StatusSet([(204, 204)]) })",
    ),
    (
        "health_check.interval_ms",
        "health_check: {path: /, interval_ms: 7}",
        probe!(c => web(c).health_check.as_ref().map(|h| h.interval)),
        "Some(7ms)",
    ),
    (
        "health_check.timeout_ms",
        "health_check: {path: /, timeout_ms: 7}",
        probe!(c => web(c).health_check.as_ref().map(|h| h.timeout)),
        "Some(7ms)",
    ),
    (
        "health_check.healthy_after",
        "health_check: {path: /, healthy_after: 7}",
        probe!(c => web(c).health_check.as_ref().map(|h| h.healthy_after)),
        "Some(7)",
    ),
    (
        "health_check.unhealthy_after",
        "health_check: {path: /, unhealthy_after: 7}",
        probe!(c => web(c).health_check.as_ref().map(|h| h.unhealthy_after)),
        "Some(7)",
    ),
    (
        "ejection",
        "ejection: false",
        probe!(c => web(c).ejection),
        "None",
    ),
    (
        "ejection.consecutive_failures",
        "ejection: {consecutive_failures: 7}",
        probe!(c => web(c).ejection),
        "Some(Ejection { consecutive_failures: 7, base: 30s, max_percent: 10, statuses: StatusSet([(502, 504)]) })",
    ),
    (
        "ejection.base_ms",
        "ejection: {base_ms: 7}",
        probe!(c => web(c).ejection),
        "Some(Ejection { consecutive_failures: 5, base: 7ms, max_percent: 10, statuses: StatusSet([(502, 504)]) })",
    ),
    (
        "ejection.max_percent",
        "ejection: {max_percent: 0}",
        probe!(c => web(c).ejection),
        "Some(Ejection { consecutive_failures: 5, base: 30s, max_percent: 0, statuses: StatusSet([(502, 504)]) })",
    ),
    (
        "ejection.statuses",
        "ejection: {statuses: \"500,502-504\"}",
        probe!(c => web(c).ejection.as_ref().map(|e| &e.statuses)),
        "Some(StatusSet([(500, 500), (502, 504)]))",
    ),
    (
        "ejection.statuses",
        "ejection: {statuses: [500, 502-504]}",
        probe!(c => web(c).ejection.as_ref().map(|e| &e.statuses)),
        "Some(StatusSet([(500, 500), (502, 504)]))",
    ),
    (
        "filters",
        "filters: [{type: own, on_error: continue, n: 1}]",
        probe!(c => http(c).filters),
        "[FilterSpec { kind: \"own\", on_error: Continue, settings: {\"n\": 1}, at: (7, 15), kind_at: Mark { line: 7, column: 16 } }]",
    ),
    (
        "strip_prefix",
        "strip_prefix: true",
        probe!(c => http(c).strip_prefix),
        "true",
    ),
    (
        "merge_slashes",
        "merge_slashes: false",
        probe!(c => http(c).merge_slashes),
        "false",
    ),
    (
        "preserve_host",
        "preserve_host: false",
        probe!(c => http(c).preserve_host),
        "false",
    ),
];

/// Keys of the TCP route `pg`, and of what is inside them.
const TCP: &[(&str, &str, Probe, &str)] = &[
    (
        "db_type",
        "db_type: tcp",
        probe!(c => tcp(c).db_type),
        "Tcp",
    ),
    (
        "db_type",
        "db_type: mssql",
        probe!(c => tcp(c).db_type),
        "Sqlserver",
    ),
    (
        "tcp_listen_port",
        "tcp_listen_port: 5433",
        probe!(c => tcp(c).listen),
        "[0.0.0.0:5433]",
    ),
    (
        "default",
        "default: true",
        probe!(c => tcp(c).default),
        "true",
    ),
    (
        "match",
        "match: {sni: A.Example.}",
        probe!(c => tcp(c).matches),
        "TcpMatch { sni: Some(\"a.example\"), database: None, user: None }",
    ),
    (
        "match.sni",
        "match: {sni: a}",
        probe!(c => tcp(c).matches.sni),
        "Some(\"a\")",
    ),
    (
        "match.database",
        "match: {database: Ä b}",
        probe!(c => tcp(c).matches.database),
        "Some(\"Ä b\")",
    ),
    (
        "match.user",
        "match: {user: u}",
        probe!(c => tcp(c).matches.user),
        "Some(\"u\")",
    ),
    (
        "target",
        "target: primary\n    health_check: {user: u, password: p}",
        probe!(c => tcp(c).target),
        "Primary",
    ),
    (
        "target",
        "target: replica\n    health_check: {user: u, password: p}",
        probe!(c => tcp(c).target),
        "Replica",
    ),
    (
        "target",
        "target: prefer_replica\n    health_check: {user: u, password: p}",
        probe!(c => tcp(c).target),
        "PreferReplica",
    ),
    (
        "idle_timeout_secs",
        "idle_timeout_secs: 7",
        probe!(c => tcp(c).idle_timeout),
        "Some(7s)",
    ),
    (
        "proxy_protocol",
        "db_type: tcp\n    proxy_protocol: v1",
        probe!(c => tcp(c).proxy_protocol),
        "Some(V1)",
    ),
    (
        "proxy_protocol",
        "db_type: tcp\n    proxy_protocol: v2",
        probe!(c => tcp(c).proxy_protocol),
        "Some(V2)",
    ),
    (
        "timeout_ms",
        "timeout_ms: 7",
        probe!(c => tcp(c).tries.timeout),
        "7ms",
    ),
    (
        "health_check",
        "health_check: false",
        probe!(c => tcp(c).upstream.health_check.is_some()),
        "false",
    ),
    (
        "health_check.interval_ms",
        "health_check: {interval_ms: 7}",
        probe!(c => tcp(c).upstream.health_check.as_ref().map(|h| h.interval)),
        "Some(7ms)",
    ),
    (
        "health_check.user",
        "health_check: {user: u}",
        probe!(c => tcp(c).upstream.health_check.as_ref().map(|h| &h.probe)),
        "Some(Tcp { db_type: Postgres, user: Some(\"u\"), password: None })",
    ),
    (
        "health_check.password",
        "health_check: {user: u, password: p}",
        probe!(c => tcp(c).upstream.health_check.as_ref().map(|h| &h.probe)),
        "Some(Tcp { db_type: Postgres, user: Some(\"u\"), password: Some(***) })",
    ),
    (
        "filters",
        "filters: [{type: own}]",
        probe!(c => tcp(c).filters.len()),
        "1",
    ),
];

/// The keys of `/api`, from its upstream on, against one with `upstream: http://h`.
const UPSTREAM: &[(&str, &str, Probe, &str)] = &[
    (
        "upstream",
        "upstream: http://Web:81/base/",
        probe!(c => web(c).endpoints[0].url),
        "UpstreamUrl { scheme: Http, host: Name(\"web\"), port: 81, path: \"/base\", label: \"Web:81\" }",
    ),
    (
        "upstream",
        "upstream: [\"http://a\", \"http://b\"]",
        probe!(c => web(c).endpoints.len()),
        "2",
    ),
    (
        "upstream[].url",
        "upstream: {url: \"http://[::1]\"}",
        probe!(c => web(c).endpoints[0].url.label),
        "\"[::1]:80\"",
    ),
    (
        "upstream[].weight",
        "upstream: {url: \"http://h\", weight: 1000}",
        probe!(c => web(c).endpoints[0].weight.as_u32()),
        "1000",
    ),
    (
        "upstream[].backup",
        "upstream: [{url: \"http://h\", backup: true}, \"http://i\"]",
        probe!(c => web(c).endpoints[0].backup),
        "true",
    ),
    (
        "upstream[].max_connections",
        "upstream: {url: \"http://h\", max_connections: 7}",
        probe!(c => web(c).endpoints[0].max_connections),
        "Some(7)",
    ),
    (
        "is_tcp",
        "upstream: http://h\n    is_tcp: true\ntcp_proxy: {enabled: true}",
        probe!(c => c.tcp_routes.len()),
        "1",
    ),
];

/// Whole files, for keys that are required or that others need.
const WHOLE: &[(&str, &str, Probe, &str)] = &[
    (
        "client_auth",
        "{listen_addr: \"[::]:0\", global_timeout_ms: 1, max_connections: 1, tls: {certificates: [{cert: a, key: a}], client_ca: a}, routes: {/: {upstream: \"http://h\", client_auth: none}}}",
        probe!(c => http(c).client_auth),
        "None",
    ),
    (
        "listen_addr",
        "{listen_addr: \"[::]:0\", global_timeout_ms: 1, max_connections: 1, routes: {/: {upstream: \"http://h\"}}}",
        probe!(c => c.listen_addr.first().text),
        "\"[::]:0\"",
    ),
    (
        "listen_addr",
        "{listen_addr: [\"0.0.0.0:80\", \"[::]:80\"], global_timeout_ms: 1, max_connections: 1, routes: {/: {upstream: \"http://h\"}}}",
        probe!(c => c.listen_addr.iter().map(|l| &l.text).collect::<Vec<_>>()),
        "[\"0.0.0.0:80\", \"[::]:80\"]",
    ),
    (
        "tcp_listen_port",
        "{listen_addr: \"[::]:0\", global_timeout_ms: 1, max_connections: 1, tcp_proxy: {enabled: true, listen_addr: [\"127.0.0.1:1\", \"[::1]:2\"]}, routes: {a: {upstream: \"redis://h\", tcp_listen_port: 5433}}}",
        probe!(c => tcp(c).listen),
        "[127.0.0.1:5433, [::1]:5433]",
    ),
    (
        "global_timeout_ms",
        "{listen_addr: \"[::]:0\", global_timeout_ms: 1, max_connections: 1, routes: {/: {upstream: \"http://h\"}}}",
        probe!(c => (c.global_timeout, http(c).tries.timeout)),
        "(1ms, 1ms)",
    ),
    (
        "max_connections",
        "{listen_addr: \"[::]:0\", global_timeout_ms: 1, max_connections: 1, routes: {/: {upstream: \"http://h\"}}}",
        probe!(c => c.max_connections),
        "1",
    ),
    (
        "routes",
        "{listen_addr: \"[::]:0\", global_timeout_ms: 1, max_connections: 1, routes: {\"*.A.org:80//x/\": {upstream: \"http://h\"}}}",
        probe!(c => http(c).key),
        "RouteKey { text: \"*.A.org:80//x/\", host: Wildcard(\"a.org\"), prefix: \"/x\" }",
    ),
];

#[test]
fn every_key_is_accepted_and_does_something() {
    for (place, plain, table) in [
        (Place::Top, "", TOP),
        (Place::Route, "", HTTP),
        (Place::Tcp, "", TCP),
        (Place::Upstream, "upstream: http://h", UPSTREAM),
    ] {
        let without = parse(&place.file_with(plain)).unwrap();
        for (key, snippet, probe, value) in table {
            let with = match parse(&place.file_with(snippet)) {
                Ok(config) => config,
                Err(problems) => panic!("{key}: {problems}"),
            };
            assert_eq!(probe(&with), *value, "{snippet}");
            assert_ne!(probe(&without), *value, "{snippet} changes nothing");
        }
    }
    for (key, text, probe, value) in WHOLE {
        let config = parse(text).unwrap_or_else(|problems| panic!("{key}: {problems}"));
        assert_eq!(probe(&config), *value, "{text}");
    }
}

#[test]
fn an_upstream_with_a_name_takes_the_same_keys_as_one_in_a_route() {
    let shared = HTTP.iter().filter(|(key, ..)| {
        let first = key.split('.').next().unwrap_or(key);
        first != "upstream" && Section::Upstream.key(first).is_some()
    });
    let mut seen = 0;
    for (key, snippet, probe, value) in shared {
        let text = Place::Routes.file_with(&format!(
            "/api: {{upstream: u}}\nupstreams:\n  u:\n    upstream: http://h\n    {snippet}"
        ));
        let config = parse(&text).unwrap_or_else(|problems| panic!("{key}: {problems}"));
        assert_eq!(probe(&config), *value, "{snippet}");
        assert_eq!(web(&config).name, "u");
        seen += 1;
    }
    assert!(seen >= 15);
}

#[test]
fn no_key_is_missing_here() {
    let known: Vec<&str> = [TOP, HTTP, TCP, UPSTREAM, WHOLE]
        .into_iter()
        .flatten()
        .map(|(key, ..)| *key)
        .collect();
    for section in Section::ALL {
        let path = match section {
            Section::Route | Section::Upstream => "",
            section => section.path(),
        };
        for key in section.keys() {
            let name = format!("{path}{}", key.name);
            assert!(known.contains(&name.as_str()), "{name}");
        }
    }
}
