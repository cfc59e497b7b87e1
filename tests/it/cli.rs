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
    let none = text(&run(&["explain", "-c", file, "http://other.test/other"]).stdout);
    assert!(none.contains("404") || none.contains("no route"), "{none}");
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
