//! Upstreams that lead back to the gateway itself: a warning, since it may be meant.
//!
//! Invariant: only what the file itself holds is compared; no name but `localhost` and no interface
//! is looked up, so a circle may go unseen.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::report::Report;
use crate::config::model::{HttpRoute, TcpProxy, TcpRoute, UpstreamSpec};
use crate::config::problem::Mark;
use crate::config::trail::Trail;
use crate::config::value::{Host, ListenAddrs, UpstreamUrl, takes_in};

/// Warns of each route with an endpoint that a listener of HTTP or TCP traffic is bound to. The
/// admin listener is none: to pass its answers on is no circle.
pub(super) fn warn(
    report: &mut Report,
    trail: &Trail,
    listen_addr: Option<&ListenAddrs>,
    tcp_proxy: &TcpProxy,
    http: &[HttpRoute],
    tcp: &[TcpRoute],
) {
    let mut own = Own::default();
    for listen in listen_addr.iter().flat_map(|list| list.iter()) {
        own.add("listen_addr".to_owned(), listen.addr);
    }
    for route in tcp {
        for addr in &route.listen {
            let key = match tcp_proxy.listen_addr.contains(*addr) {
                true => "tcp_proxy.listen_addr".to_owned(),
                false => format!("routes.{}.tcp_listen_port", route.name),
            };
            own.add(key, *addr);
        }
    }
    let http = http
        .iter()
        .map(|r| (r.key.text.as_str(), &r.upstream, r.at));
    let tcp = tcp.iter().map(|r| (r.name.as_str(), &r.upstream, r.at));
    // Routes may share a long list of endpoints.
    let mut known: HashMap<*const UpstreamSpec, Option<String>> = HashMap::new();
    for (name, upstream, (line, column)) in http.chain(tcp) {
        let circle = known
            .entry(Arc::as_ptr(upstream))
            .or_insert_with(|| own.circle(upstream));
        if let Some(text) = circle {
            let route = trail.key(name);
            report.warn(Mark { line, column }, route.key("upstream"), text);
        }
    }
}

/// The listeners of the gateway, by their ports.
#[derive(Default)]
struct Own {
    by_port: HashMap<u16, Vec<(String, SocketAddr)>>,
}

impl Own {
    fn add(&mut self, key: String, addr: SocketAddr) {
        let same_port = self.by_port.entry(addr.port()).or_default();
        if addr.port() != 0 && !same_port.iter().any(|(_, other)| *other == addr) {
            same_port.push((key, addr));
        }
    }

    /// What is wrong with the first endpoint of `upstream` that leads back.
    fn circle(&self, upstream: &UpstreamSpec) -> Option<String> {
        upstream.endpoints.iter().find_map(|endpoint| {
            let url = &endpoint.url;
            let same_port = self.by_port.get(&url.port)?;
            let (key, addr) = same_port.iter().find(|(_, addr)| leads_to(url, *addr))?;
            let label = &url.label;
            Some(format!(
                "{label} is this gateway's own `{key}` ({addr}): what goes there comes back to it"
            ))
        })
    }
}

/// Whether connecting to `url`, whose port is that of `listener`, ends there.
fn leads_to(url: &UpstreamUrl, listener: SocketAddr) -> bool {
    let bound = listener.ip();
    let is_there = |ip: IpAddr| {
        let ip = match ip {
            // Connecting to "all addresses" connects to this machine (Linux).
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip.to_canonical(),
        };
        let all = takes_in(bound, ip);
        ip == bound || (all && ip.is_loopback())
    };
    match &url.host {
        Host::Ip(ip) => is_there(*ip),
        Host::Name(name) if name == "localhost" => {
            is_there(Ipv4Addr::LOCALHOST.into()) || is_there(Ipv6Addr::LOCALHOST.into())
        }
        Host::Name(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    fn warnings(listen: &str, tcp: &str, routes: &str) -> Vec<String> {
        let text = format!(
            "listen_addr: \"{listen}\"\nglobal_timeout_ms: 1000\nmax_connections: 10\n\
             admin: {{listen_addr: \"127.0.0.1:9901\"}}\n\
             tcp_proxy: {{enabled: true, listen_addr: \"{tcp}\"}}\nroutes:\n{routes}"
        );
        let config = crate::config::parse(&text, Path::new("c.yml"));
        config
            .unwrap_or_else(|problems| panic!("{problems}"))
            .warnings
    }

    #[test]
    fn an_upstream_that_is_an_own_listener_is_named_with_its_route_and_the_listener() {
        for (listen, url) in [
            ("127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("0.0.0.0:8080", "http://127.0.0.1:8080/x"),
            ("0.0.0.0:8080", "http://127.0.0.2:8080"),
            ("0.0.0.0:8080", "http://localhost:8080"),
            ("0.0.0.0:8080", "http://0.0.0.0:8080"),
            ("[::]:8080", "http://[::1]:8080"),
            ("[::]:8080", "http://127.0.0.1:8080"),
            ("[::1]:8080", "http://localhost:8080"),
            ("192.0.2.1:80", "http://192.0.2.1"),
        ] {
            let routes = format!("  /a: {{upstream: [\"http://192.0.2.9\", \"{url}\"]}}\n");
            let said = warnings(listen, "127.0.0.1:9090", &routes);
            assert_eq!(said.len(), 1, "{listen} {url}: {said:?}");
            let start = "c.yml:7:3: routes./a.upstream: ";
            assert!(said[0].starts_with(start), "{said:?}");
            assert!(
                said[0].contains(&format!("`listen_addr` ({listen})")),
                "{said:?}"
            );
        }
    }

    #[test]
    fn what_only_looks_alike_is_no_circle() {
        for (listen, url) in [
            ("127.0.0.1:8080", "http://127.0.0.1:8081"),
            ("127.0.0.1:8080", "http://127.0.0.2:8080"),
            ("127.0.0.1:8080", "http://[::1]:8080"),
            ("0.0.0.0:8080", "http://192.0.2.1:8080"),
            ("0.0.0.0:8080", "http://[::1]:8080"),
            ("0.0.0.0:8080", "http://example.org:8080"),
            // Passing the metrics on.
            ("0.0.0.0:8080", "http://127.0.0.1:9901"),
            ("127.0.0.1:0", "http://127.0.0.1:80"),
        ] {
            let routes = format!("  /a: {{upstream: \"{url}\"}}\n");
            let said = warnings(listen, "127.0.0.1:9090", &routes);
            assert!(said.is_empty(), "{listen} {url}: {said:?}");
        }
    }

    #[test]
    fn tcp_routes_go_in_circles_as_well() {
        let said = warnings(
            "127.0.0.1:8080",
            "0.0.0.0:9090",
            "  one: {upstream: \"redis://127.0.0.1:9090\"}\n  \
             two: {upstream: \"postgres://127.0.0.1:7003\", tcp_listen_port: 7002}\n  \
             three: {upstream: \"postgres://127.0.0.1:5432\", tcp_listen_port: 7003}\n",
        );
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(
            said[0].contains("routes.one.upstream") && said[0].contains("`tcp_proxy.listen_addr`")
        );
        assert!(
            said[1].contains("routes.two.upstream")
                && said[1].contains("routes.three.tcp_listen_port")
        );
    }

    #[test]
    fn routes_of_one_upstream_are_each_told_of() {
        let routes: String = (0..3)
            .map(|n| format!("  /{n}: {{upstream: me}}\n"))
            .collect();
        let routes =
            format!("{routes}upstreams: {{me: {{upstream: \"http://127.0.0.1:8080\"}}}}\n");
        assert_eq!(
            warnings("127.0.0.1:8080", "127.0.0.1:9090", &routes).len(),
            3
        );
    }
}
