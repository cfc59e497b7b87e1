//! The verbs of the program: explain, schema, health.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::binary::{config, config_file, program, run, run_in};
use crate::support::{Binary, Gw, Origin, eventually, route, route_entry};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn explain_names_the_route_its_upstream_and_its_timeouts_without_a_socket() {
    let routes = format!(
        "routes:\n{}{}",
        route_entry(
            "/api",
            &["http://nobody.invalid:81".to_owned()],
            "timeout_ms: 1234\nretry_count: 2\n"
        ),
        route_entry("shop.test/", &["http://127.0.0.1:9".to_owned()], ""),
    );
    let (_folder, file) = config_file(&config("127.0.0.1:0", &routes));
    let file = file.to_str().unwrap();
    for args in [
        ["-c", file, "explain", "/api/%2e/x"],
        ["explain", "-c", file, "http://shop.example/api/y"],
    ] {
        let output = run(&args);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let said = text(&output.stdout);
        for part in ["/api", "nobody.invalid:81", "1.234s"] {
            assert!(said.contains(part), "{part} in {said}");
        }
    }
    let shop = run(&[
        "explain",
        "-c",
        file,
        "--method",
        "POST",
        "http://shop.test/other",
    ]);
    assert_eq!(shop.status.code(), Some(0), "{shop:?}");
    assert!(text(&shop.stdout).contains("shop.test/"), "{shop:?}");
    let none = run(&["explain", "-c", file, "http://other.test/other"]);
    assert_eq!(none.status.code(), Some(1), "{none:?}");
    assert!(text(&none.stdout).contains("404 no_route"), "{none:?}");
}

/// What `explain` says, and its exit code.
fn explained(yaml: &str, args: &[&str]) -> (Option<i32>, String) {
    let (_folder, file) = config_file(&config("127.0.0.1:0", yaml));
    let file = file.to_str().unwrap();
    let output = run(&[&["-c", file, "explain"], args].concat());
    let said = [text(&output.stdout), text(&output.stderr)].concat();
    (output.status.code(), said)
}

#[test]
fn explain_goes_through_the_filters_of_the_route() {
    let route = |filters: &str| {
        format!(
            "routes:\n  /api:\n    upstream: http://127.0.0.1:9/inner\n    strip_prefix: true\n    \
             filters: [{filters}]\n"
        )
    };
    let access = "{type: ip_access, allow: [192.0.2.0/24], deny: [192.0.2.66]}";
    for (filters, args, parts, never) in [
        (
            "{type: rewrite, prefix: {from: /old, to: /new}}, \
             {type: headers, request: {set: {Host: inner, X-A: '${client_ip}'}, remove: [X-B]}, response: {set: {X-C: c}}}",
            &["/api/old/x?q=1", "--client", "192.0.2.7"][..],
            &[
                "/old/x?q=1 becomes /new/x?q=1",
                "sets x-a: 192.0.2.7",
                "in the response sets x-c: c",
                "GET /inner/new/x?q=1, Host: inner",
            ][..],
            &["answers"][..],
        ),
        (
            "{type: respond, status: 503, body: closed}, {type: request_id}",
            &["/api/x"],
            &["respond", "answers", "503 "],
            &["request_id", "sends", "upstream"],
        ),
        (
            "{type: rewrite, redirect: {to: 'https://example.org/y'}}",
            &["/api/x"],
            &["308", "Location: https://example.org/y"],
            &["sends"],
        ),
        (
            access,
            &["/api/x"],
            &["depends on the client", "sends"],
            &["403"],
        ),
        (
            access,
            &["/api/x", "--client", "192.0.2.66"],
            &["403 filter_refused"],
            &["sends"],
        ),
        (
            access,
            &["/api/x", "--client", "192.0.2.7"],
            &["lets it pass", "sends"],
            &["403"],
        ),
        (
            access,
            &["/api/x", "--client", "198.51.100.1"],
            &["403 filter_refused"],
            &["sends"],
        ),
        (
            "{type: rate_limit, requests: 5, per_secs: 60}",
            &["/api/x"],
            &["rate_limit", "5", "60", "429", "sends"],
            &[],
        ),
        (
            "",
            &["/api/x", "--method", "PUT"],
            &["PUT /inner/x"],
            &["filter"],
        ),
    ] {
        let (code, said) = explained(&route(filters), args);
        assert_eq!(code, Some(0), "{filters} {said}");
        for part in parts {
            assert!(said.contains(part), "{part} in {said}");
        }
        for part in never {
            assert!(!said.contains(part), "{part} in {said}");
        }
    }
}

#[test]
fn explain_tells_of_the_try_that_retry_count_does_not_count() {
    let yaml = "tcp_proxy: {enabled: true}\nroutes:\n  \
                /none: {upstream: [\"http://127.0.0.1:1\", \"http://127.0.0.1:2\"]}\n  \
                /two: {upstream: \"http://127.0.0.1:1\", retry_count: 2}\n  \
                pg: {upstream: \"postgres://127.0.0.1:5\"}\n";
    for args in [
        &["/none"][..],
        &["/two"],
        &["--method", "POST", "/two"],
        &["pg"],
    ] {
        let (code, said) = explained(yaml, args);
        assert_eq!(code, Some(0), "{said}");
        let retries = said.lines().find(|line| line.contains("retries"));
        let uncounted = "and one uncounted after a failed connect, if there is another endpoint";
        assert!(retries.unwrap().ends_with(uncounted), "{said}");
    }
}

#[test]
fn explain_finds_the_route_of_a_database_session() {
    let yaml = "tcp_proxy: {enabled: true, listen_addr: \"127.0.0.1:9090\"}\nroutes:\n  \
        main: {upstream: \"postgres://10.0.0.1\", tcp_listen_port: 6432, default: true}\n  \
        reports: {upstream: \"postgres://10.0.0.2\", tcp_listen_port: 6432, match: {database: reports}}\n  \
        cache: {upstream: \"redis://10.0.0.3\"}\n  \
        shop: {upstream: \"mysql://10.0.0.4\", timeout_ms: 1234}\n  \
        alone: {upstream: \"redis://10.0.0.5\", tcp_listen_port: 7000, target: any}\n";
    for (url, code, part) in [
        ("postgres://127.0.0.1:6432/reports?user=joe", 0, "reports ("),
        ("postgresql://joe:x@127.0.0.1:6432/other", 0, "main ("),
        ("postgres://gw/?database=reports&user=joe", 0, "10.0.0.2"),
        ("redis://127.0.0.1:9090", 0, "cache ("),
        ("mysql://127.0.0.1:9090/db?user=a", 0, "1.234s"),
        ("mariadb://gw", 0, "shop ("),
        ("valkey://gw:7000/0", 0, "alone ("),
        ("postgres://127.0.0.1:7000/x", 0, "takes it for redis"),
        ("cache", 0, "10.0.0.3"),
        ("shop", 0, "mysql on 127.0.0.1:9090"),
        ("postgres://127.0.0.1:9090/x", 1, "unmatched"),
        ("redis://127.0.0.1:9999", 1, "none listens on port 9999"),
        ("mongodb://127.0.0.1", 1, "none is for mongodb"),
        ("nobody", 1, "cache"),
        ("ftp://127.0.0.1", 1, "ftp"),
        ("redis://127.0.0.1:none", 1, "port"),
    ] {
        let (exit, said) = explained(yaml, &[url]);
        assert_eq!(exit, Some(code), "{url}: {said}");
        assert!(said.contains(part), "{url}: {part} in {said}");
        assert!(!said.contains("joe:x"), "a password: {said}");
    }
}

#[test]
fn the_schema_is_json_with_its_properties_at_the_root() {
    let output = run(&["schema"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for key in [
        "listen_addr",
        "global_timeout_ms",
        "max_connections",
        "routes",
        "upstreams",
    ] {
        assert!(schema["properties"][key].is_object(), "{key}");
    }
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn health_asks_the_running_gateway() {
    let origin = Origin::ok("ok");
    let gw = Gw::route(&[origin.url()], "");
    let routes = route("/", &[origin.url()], "");
    let asking = |admin: &str| {
        let admin = format!("admin: {{listen_addr: \"{admin}\"}}\n{routes}");
        let (_folder, file) = config_file(&config("127.0.0.1:0", &admin));
        run(&["health", "-c", file.to_str().unwrap()]).status.code()
    };
    assert_eq!(asking(&gw.admin_addr().to_string()), Some(0));
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = silent.local_addr().unwrap().to_string();
    drop(silent);
    assert_eq!(asking(&closed), Some(1));
}

/// What `health` says of this file.
fn health(file: &Path) -> (Option<i32>, String) {
    let output = run(&["health", "-c", file.to_str().unwrap()]);
    let said = [text(&output.stdout), text(&output.stderr)].concat();
    (output.status.code(), said)
}

const ADMIN: &str = "admin: {listen_addr: \"127.0.0.1:0\"}\n";
const SOCK: &str = "server: {upgrade_sock: gateway.sock}\n";

#[test]
fn health_asks_the_running_gateway_whatever_is_in_its_file_by_now() {
    let origin = Origin::ok("ok");
    let entry = route("/", &[origin.url()], "");
    let mut gw = Binary::start(&format!("{ADMIN}{entry}")).serving();
    let file = gw.folder().join("config.yml");
    let good = std::fs::read_to_string(&file).unwrap();
    assert_eq!(health(&file), (Some(0), "ready\n".to_owned()));
    for bad in [
        format!("{SOCK}nonsense: 1\n"),
        format!("routes: {{]\n{SOCK}"),
        "server:\n  # upgrade_sock: other.sock\n  upgrade_sock: 'gateway.sock' # here\n\t{"
            .to_owned(),
        // What it is to be after a reload, or a restart.
        good.replace(ADMIN, "admin: {listen_addr: \"127.0.0.1:1\"}\n"),
        good.replace(ADMIN, "admin: false\n"),
    ] {
        std::fs::write(&file, &bad).unwrap();
        assert_eq!(health(&file), (Some(0), "ready\n".to_owned()), "{bad}");
    }
    std::fs::write(&file, &good).unwrap();
    let mut new = gw.beside(&["-u"]).serving();
    assert!(gw.ended_within(Duration::from_secs(20)).is_some());
    std::fs::write(&file, format!("{SOCK}nonsense: 1\n")).unwrap();
    assert_eq!(health(&file).0, Some(0), "the successor is asked");
    new.rewrite(&format!("admin: false\n{entry}"));
    new.signal(Signal::SIGHUP);
    eventually(Duration::from_secs(10), "it has no admin listener", || {
        let (code, said) = health(&file);
        code == Some(1) && said.contains("nobody to ask")
    });
    new.signal(Signal::SIGTERM);
    assert!(new.ended_within(Duration::from_secs(20)).is_some());
    std::fs::write(&file, format!("{SOCK}nonsense: 1\n")).unwrap();
    let (code, said) = health(&file);
    assert_eq!(code, Some(78), "nothing runs: {said}");
    assert!(
        said.contains("no running gateway") && said.contains("nonsense"),
        "{said}"
    );
    std::fs::write(&file, good.replace("127.0.0.1:0", "127.0.0.1:1")).unwrap();
    assert_eq!(health(&file).0, Some(1), "what the file says is asked");
}

#[test]
fn health_finds_a_gateway_by_the_name_of_its_file_and_no_other() {
    let origin = Origin::ok("ok");
    let folder = tempfile::TempDir::new().unwrap();
    // A name of its own: the socket lies where those of all gateways lie.
    let stem = folder
        .path()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .trim_matches('.');
    let name = format!("{stem}.yml");
    let file = folder.path().join(&name);
    let routes = route("/", &[origin.url()], "");
    std::fs::write(&file, config("127.0.0.1:0", &format!("{ADMIN}{routes}"))).unwrap();
    let mut command = program();
    command
        .arg("-c")
        .arg(&file)
        .stderr(std::process::Stdio::null());
    let mut gateway = Ended(command.spawn().unwrap());
    eventually(Duration::from_secs(20), "it is ready", || {
        health(&file).0 == Some(0)
    });
    std::fs::write(&file, "nonsense").unwrap();
    assert_eq!(health(&file).0, Some(0));
    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    assert_eq!(
        health(&other.join(&name)).0,
        Some(0),
        "there is no other file of that name"
    );
    std::fs::write(other.join(&name), "nonsense").unwrap();
    assert_eq!(
        health(&other.join(&name)).0,
        Some(78),
        "that one's gateway does not run"
    );
    std::fs::remove_file(&file).unwrap();
    assert_eq!(
        health(&file).0,
        Some(0),
        "the file is gone, the gateway runs"
    );
    gateway.0.kill().unwrap();
    gateway.0.wait().unwrap();
    assert_eq!(health(&file).0, Some(78));
}

/// A child that is ended with the value.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn health_of_an_address_needs_no_file() {
    let origin = Origin::ok("ok");
    let gw = Gw::route(&[origin.url()], "");
    let admin = gw.admin_addr();
    let asking = |addr: &str| {
        run(&["health", "-c", "/nowhere/config.yml", "--admin", addr])
            .status
            .code()
    };
    assert_eq!(asking(&admin.to_string()), Some(0));
    assert_eq!(asking(&format!("0.0.0.0:{}", admin.port())), Some(0));
    assert_eq!(
        asking(&format!("[::ffff:127.0.0.1]:{}", admin.port())),
        Some(0)
    );
    assert_eq!(asking("127.0.0.1:1"), Some(1));
    assert_eq!(asking("nonsense"), Some(1));
}

#[test]
fn the_file_comes_from_the_option_then_the_environment_then_config_yml() {
    let (folder, _config_yml) = config_file(&config("127.0.0.1:0", "routes: {}\n"));
    for (name, routes) in [("one.yml", 1), ("two.yml", 2)] {
        let entries: String = (0..routes)
            .map(|n| format!("  /{n}: {{upstream: \"http://127.0.0.1:9\"}}\n"))
            .collect();
        let text = config("127.0.0.1:0", &format!("routes:\n{entries}"));
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    for (environment, args, said) in [
        ("two.yml", &["-t", "-c", "one.yml"][..], ": 1 http routes"),
        ("two.yml", &["-t"], ": 2 http routes"),
        // Set to nothing counts as not set.
        ("", &["-t"], "config.yml:"),
    ] {
        let output = run_in(folder.path(), environment, args);
        let all = [text(&output.stdout), text(&output.stderr)].concat();
        assert!(all.contains(said), "{environment:?} {args:?}: {all}");
    }
}
