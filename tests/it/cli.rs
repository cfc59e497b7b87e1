//! The verbs of the program: explain, schema, health.

use std::net::TcpListener;

use crate::support::binary::{config, config_file, run, run_in};
use crate::support::{Gw, Origin, route, route_entry};

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
