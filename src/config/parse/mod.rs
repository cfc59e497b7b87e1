//! Tree to [`Config`]: every rule of the configuration, and all problems in one pass.
//!
//! The only maker of a `Config`. Invariant: a `Config` comes out only when there is no problem at
//! all. Split by noun: `fields` reads one section by the table of keys (`leaf` one value,
//! `environment` a variable), `server`, `tls`, `upstream`, `named`, `health`, `filters`, `upgrade`,
//! `routes` and `tcp` read theirs, `listeners` and `distinct_routes` have the rules over all
//! routes, `circles` a warning over them; `report` collects what they find.

mod carries;
mod circles;
mod distinct_routes;
mod environment;
mod fields;
mod filters;
mod health;
mod leaf;
mod listeners;
mod named;
mod report;
mod routes;
mod server;
mod tcp;
mod tls;
mod upgrade;
mod upstream;

use std::path::Path;

use self::fields::Fields;
pub(in crate::config) use self::filters::ON_ERROR;
use self::report::Report;
use self::server::{millis, secs};
use super::keys::Section;
use super::model::Config;
use super::problem::{Mark, Problems, Wrong};
use super::trail::Trail;
use super::tree::{self, Node};

/// Reads a text; `env` answers variables of the environment.
pub(super) fn parse_with(
    text: &str,
    file: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, Problems> {
    let (node, problems) = tree::read(text, file);
    let mut report = Report::new(file, problems, env);
    let config = match node {
        Some(node) => read_root(&mut report, &node, text, file),
        None => {
            if report.problems.is_empty() {
                let wrong = Wrong::new(
                    "the file is empty",
                    "it needs listen_addr, global_timeout_ms, max_connections and routes",
                );
                report.problem(Mark::START, "", wrong);
            }
            None
        }
    };
    let warnings = report.finish().map_err(Problems::new)?;
    match config {
        Some(config) => Ok(Config { warnings, ..config }),
        None => Err(Problems::file(
            file,
            "could not be read as a configuration".into(),
            "compare it with conf/reference.yaml",
        )),
    }
}

/// `None` only when there is a problem.
fn read_root(report: &mut Report, node: &Node, text: &str, file: &Path) -> Option<Config> {
    let root = Fields::open(report, node, Mark::START, Trail::ROOT, Section::Root)?;
    let listen_addr = match root.require(report, "listen_addr") {
        Some(_) => root.addresses(report, "listen_addr"),
        None => None,
    };
    let global_timeout = match root.require(report, "global_timeout_ms") {
        Some(_) => root.int(report, "global_timeout_ms").map(millis),
        None => None,
    };
    let max_connections = match root.require(report, "max_connections") {
        Some(_) => root.int(report, "max_connections"),
        None => None,
    };
    let (tcp_proxy, enabled_is_written) = server::tcp_proxy(report, &root);
    let tls = tls::tls(report, &root);
    let http2 = server::http2(report, &root);
    let admin = server::admin(report, &root);
    let server = server::server(report, &root);
    let trusted_proxies = server::networks(report, &root, "trusted_proxies");
    let max_header_bytes = root.int_or_default(report, "max_header_bytes") as usize;
    let max_body_bytes = root.int(report, "max_body_bytes");
    let header_timeout = millis(root.int_or_default(report, "header_timeout_ms"));
    let keepalive_timeout = secs(root.int_or_default(report, "keepalive_timeout_secs"));
    // A longest possible stand-in, so that routes are not blamed for a missing global timeout.
    let longest = millis(u64::from(u32::MAX));
    let mut routes = routes::read_routes(
        report,
        &root,
        global_timeout.unwrap_or(longest),
        &tcp_proxy,
        tls.as_ref(),
    );
    let routes_trail = root.trail.key("routes");
    listeners::check_enabled(report, &root, &routes.tcp, &tcp_proxy, enabled_is_written);
    listeners::refuse_undecidable(report, &routes_trail, &routes.tcp);
    tcp::warn_of_kill(report, &routes_trail, &routes.tcp);
    if !tcp_proxy.enabled {
        routes.tcp.clear();
    }
    listeners::refuse_equal_addresses(
        report,
        &root,
        listen_addr.as_ref(),
        tls.as_ref(),
        admin.as_ref(),
        &routes.tcp,
        &tcp_proxy,
    );
    circles::warn(
        report,
        &routes_trail,
        listen_addr.as_ref(),
        &tcp_proxy,
        &routes.http,
        &routes.tcp,
    );
    Some(Config {
        file: file.to_path_buf(),
        listen_addr: listen_addr?,
        global_timeout: global_timeout?,
        max_connections: max_connections? as usize,
        trusted_proxies,
        max_header_bytes,
        max_body_bytes,
        header_timeout,
        keepalive_timeout,
        tls,
        http2,
        tcp_proxy,
        admin,
        server,
        http_routes: routes.http,
        tcp_routes: routes.tcp,
        balancers: std::mem::take(&mut report.balancers),
        warnings: Vec::new(),
        text: text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Balance, HostPattern, Probe};

    fn parsed(text: &str) -> Result<Config, Problems> {
        parse_with(text, Path::new("c.yml"), &|_| None)
    }

    fn config(text: &str) -> Config {
        match parsed(text) {
            Ok(config) => config,
            Err(problems) => panic!("{problems}"),
        }
    }

    const HEAD: &str = "listen_addr: 127.0.0.1:0\nglobal_timeout_ms: 3000\nmax_connections: 100\n";

    #[test]
    fn a_minimal_file_gets_every_default() {
        let text = format!("{HEAD}routes:\n  /:\n    upstream: http://127.0.0.1:3000\n");
        let config = config(&text);
        assert_eq!(config.http_routes.len(), 1);
        let route = &config.http_routes[0];
        assert_eq!(route.key.host, HostPattern::Any);
        assert_eq!(route.at, (5, 3));
        assert_eq!(route.tries.timeout, Duration::from_secs(3));
        assert_eq!(route.tries.connect_timeout, Duration::from_secs(1));
        assert!(route.preserve_host && !route.strip_prefix);
        assert_eq!(route.upstream.balance, Balance::RoundRobin);
        assert_eq!(route.upstream.name, "/");
        assert_eq!(route.upstream.health_check, None);
        assert_eq!(config.max_header_bytes, 65_536);
        assert_eq!(
            config.admin.unwrap().listen_addr.first().text,
            "127.0.0.1:9901"
        );
        assert!(config.warnings.is_empty());
    }

    #[test]
    fn two_mistakes_are_reported_at_once() {
        let text = format!(
            "{HEAD}routes:\n  /api:\n    upstream: http://127.0.0.1:1\n    timeot_ms: 5\n    retry_count: -1\n"
        );
        let problems = parsed(&text).unwrap_err();
        assert_eq!(
            problems.to_string(),
            "c.yml:7:5: routes./api.timeot_ms: is not a key of the configuration (did you mean `timeout_ms`?)\n\
             c.yml:8:5: routes./api.retry_count: must be 0 to 20, not -1 (for example `retry_count: 1`)"
        );
    }

    #[test]
    fn what_a_filter_puts_in_is_no_variable_of_the_environment() {
        let text = format!(
            "{HEAD}routes:\n  /:\n    upstream: http://a\n    filters:\n      - type: headers\n        \
             request: {{set: {{X: \"${{route}} ${{host}} $${{x}} ${{HOME}}\"}}}}\n"
        );
        let env = |_: &str| Some("taken".to_owned());
        let config = parse_with(&text, Path::new("c.yml"), &env);
        let config = config.unwrap_or_else(|problems| panic!("{problems}"));
        let settings = config.http_routes[0].filters[0].to_yaml();
        assert_eq!(
            settings["request"]["set"]["X"],
            "${route} ${host} $${x} ${HOME}"
        );
    }

    #[test]
    fn routes_of_one_name_share_one_upstream() {
        let text = format!(
            "{HEAD}upstreams:\n  web:\n    upstream: [http://a, http://b]\n    health_check_path: /up\n  idle:\n    upstream: http://c\n\
             routes:\n  /a: {{upstream: web}}\n  /b: {{upstream: web}}\n"
        );
        let config = config(&text);
        let [a, b] = config.http_routes.as_slice() else {
            panic!()
        };
        assert!(std::sync::Arc::ptr_eq(&a.upstream, &b.upstream));
        assert_eq!(a.upstream.name, "web");
        assert!(matches!(
            &a.upstream.health_check.as_ref().unwrap().probe,
            Probe::Http { path, .. } if path == "/up"
        ));
        assert_eq!(
            config.warnings,
            ["c.yml:8:3: upstreams.idle: no route uses this upstream"]
        );
    }
}
