//! A cargo project of its own that embeds the gateway (`tests/embedded`): built here, and its
//! program run as ours is.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::binary::{config, config_file, run_as};
use crate::support::daemon::{lasting_port, output};
use crate::support::{Background, Binary, Client, Origin, Redis, eventually, route, route_entry};

const SOON: Duration = Duration::from_secs(20);

/// The built program.
///
/// It shares the target folder and the lock file of the crate, so little is compiled beside this one
/// crate, and nothing is asked of the network.
static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let project = root.join("tests/embedded");
    std::fs::copy(root.join("Cargo.lock"), project.join("Cargo.lock")).expect("the lock file");
    // target/debug/deps/it-…
    let test = std::env::current_exe().expect("this program");
    let profile = test.ancestors().nth(2).expect("the profile's folder");
    let target = profile.parent().expect("the target folder");
    let mut cargo = Command::new(env!("CARGO"));
    // What cargo set for the build of this test must not reach the build of another crate.
    let names = std::env::vars_os().map(|(name, _)| name);
    for name in names.filter(|name| name.to_string_lossy().starts_with("CARGO_")) {
        let kept = ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_INCREMENTAL"];
        if !kept.iter().any(|kept| name == *kept) {
            cargo.env_remove(name);
        }
    }
    cargo.args(["build", "--offline", "--manifest-path"]);
    cargo.arg(project.join("Cargo.toml"));
    cargo.arg("--target-dir").arg(target);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    output(&mut cargo).unwrap_or_else(|said| panic!("the project is not built: {said}"));
    profile.join("embedded-gateway")
});

fn program() -> Command {
    let mut command = Command::new(&*PROGRAM);
    command.env_remove("CONFIG_FILE");
    command
}

fn stamped(origin: &Origin, word: &str) -> String {
    let filters = format!("filters: [{{type: stamp, word: {word}}}]\n");
    route("/", &[origin.url()], &filters)
}

fn stamp(client: &mut Client) -> String {
    let answer = client.get("/");
    assert_eq!(answer.text(), "ok");
    answer.headers.first("x-stamp").unwrap_or("-").to_owned()
}

/// Exit code, stdout and stderr of the program.
fn says(args: &[&str]) -> (Option<i32>, String, String) {
    let output = run_as(program(), args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn its_words_are_known_to_test_and_schema_and_explain() {
    let file_with = |keys: &str| {
        let origin = ["http://127.0.0.1:9".to_owned()];
        config_file(&config("127.0.0.1:0", &route("/", &origin, keys)))
    };
    let check = |verb: &[&str], keys: &str| {
        let (_folder, file) = file_with(keys);
        says(&[&["-c", file.to_str().unwrap()], verb].concat())
    };
    let good = "balance: clueless\nfilters: [{type: stamp, word: one}]\n";
    let (code, said, _) = check(&["-t"], good);
    assert_eq!(code, Some(0));
    assert!(
        said.starts_with("configuration ok: 1 http routes"),
        "{said}"
    );
    let (code, said, _) = check(&["explain", "/x"], good);
    assert_eq!(code, Some(0));
    assert!(said.contains("clueless over 127.0.0.1:9"), "{said}");
    for (keys, told) in [
        (
            "balance: cluless\n",
            "`cluless` is not a value of `balance` (did you mean `clueless`?)",
        ),
        (
            "filters: [{type: stamp, wrd: one}]\n",
            "routes./.filters[0].wrd: ",
        ),
        (
            "filters: [{type: stmp, word: one}]\n",
            "did you mean `stamp`?",
        ),
        (
            "filters: [{type: at_most, sessions: 1}]\n",
            "`at_most` is a filter of TCP routes",
        ),
    ] {
        let (code, _, said) = check(&["-t"], keys);
        assert_eq!(code, Some(78), "{said}");
        assert!(said.contains("config.yml:"), "{said}");
        assert!(said.contains(told), "{told} in {said}");
    }
    let (code, said, _) = says(&["schema"]);
    assert_eq!(code, Some(0));
    let schema: serde_json::Value = serde_json::from_str(&said).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let takes = |route: serde_json::Value| {
        schema.is_valid(&serde_json::json!({
            "listen_addr": "127.0.0.1:0", "global_timeout_ms": 1, "max_connections": 1,
            "routes": {"/": route},
        }))
    };
    let filters = |settings| serde_json::json!({"upstream": "http://h", "filters": [settings]});
    assert!(takes(filters(
        serde_json::json!({"type": "stamp", "word": "one"})
    )));
    assert!(!takes(filters(
        serde_json::json!({"type": "stamp", "wrd": "one"})
    )));
    assert!(takes(
        serde_json::json!({"upstream": "http://h", "balance": "clueless"})
    ));
    // Ours does not know them.
    let (_folder, file) = file_with(good);
    let ours = crate::support::binary::run(&["-t", "-c", file.to_str().unwrap()]);
    assert_eq!(ours.status.code(), Some(78));
}

#[test]
fn its_filters_serve_and_stay_over_reloads_and_upgrades() {
    let origin = Origin::ok("ok");
    let mut old = Binary::start_as(program, &stamped(&origin, "one")).serving();
    let mut client = old.client();
    assert_eq!(stamp(&mut client), "one 1");
    // The same settings: it counts on.
    old.rewrite(&format!("{}# more text\n", stamped(&origin, "one")));
    old.signal(Signal::SIGHUP);
    old.says("reloaded: ");
    assert_eq!(stamp(&mut client), "one 2");
    old.rewrite(&stamped(&origin, "two"));
    old.signal(Signal::SIGHUP);
    eventually(SOON, "the new settings are in force", || {
        stamp(&mut client).starts_with("two ")
    });
    // One that is refused changes nothing.
    old.rewrite(&stamped(&origin, "[]"));
    old.signal(Signal::SIGHUP);
    old.says("reload refused, nothing changed");
    assert!(stamp(&mut client).starts_with("two "));
    old.rewrite(&stamped(&origin, "three"));
    let mut new = old.beside_as(program(), &["-u"]).serving();
    let status = old.ended_within(SOON).expect("the old one ends");
    assert!(status.success(), "{}", old.said());
    let mut client = new.client();
    assert_eq!(stamp(&mut client), "three 1");
    new.signal(Signal::SIGTERM);
    let status = new.ended_within(SOON).expect("the new one ends");
    assert!(status.success(), "{}", new.said());
}

#[test]
fn its_filters_serve_in_the_background() {
    let origin = Origin::ok("ok");
    let background = Background::prepare("", &stamped(&origin, "dark"));
    let output = background.launch_as(program(), &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(stamp(&mut background.client()), "dark 1");
    // What is wrong with its own settings comes back to the terminal, too.
    let wrong = Background::prepare("", &stamped(&origin, "{}"));
    let output = wrong.launch_as(program(), &[]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("filters[0].word"), "{said}");
    background.stop();
    assert!(Client::try_connect(background.addr()).is_err());
}

#[test]
fn its_tcp_filter_lets_in_as_many_as_it_says() {
    let server = Redis::new();
    let port = lasting_port();
    let keys = |sessions: u32| {
        let filters = format!("filters: [{{type: at_most, sessions: {sessions}}}]\n");
        format!(
            "tcp_proxy: {{enabled: true, listen_addr: \"127.0.0.1:{port}\"}}\n{}",
            route("cache", &[server.url()], &filters)
        )
    };
    let gateway = Binary::start_as(program, &keys(1)).serving();
    let addr = ([127, 0, 0, 1], port).into();
    let ping = || output(Redis::redis_cli(addr).arg("PING")).unwrap();
    assert_eq!(ping(), "PONG\n");
    // The end of a session is logged after its client has seen it.
    let mut held = None;
    eventually(SOON, "the place is free again", || {
        let client = held.insert(Client::connect(addr));
        client.send("PING\r\n") && client.read_some().is_ok_and(|said| said == b"+PONG\r\n")
    });
    assert_eq!(ping(), "ERR filter_refused\n\n");
    gateway.rewrite(&keys(2));
    gateway.signal(Signal::SIGHUP);
    eventually(SOON, "two are let in", || ping() == "PONG\n");
    drop(held);
    gateway.rewrite(&keys(0));
    gateway.signal(Signal::SIGHUP);
    gateway.says("`sessions: 0` would let nobody in");
    eventually(SOON, "it goes on as before", || ping() == "PONG\n");
}

#[test]
fn a_balancer_that_panics_is_told_once_for_each_upstream() {
    let origins = ["a", "b"].map(Origin::ok);
    let urls: Vec<String> = origins.iter().map(Origin::url).collect();
    let routes = format!(
        "routes:\n{}{}",
        route_entry("/x", &urls, "balance: clueless\n"),
        route_entry("/y", &urls, "balance: clueless\n"),
    );
    let gateway = Binary::start_as(program, &routes).serving();
    let mut client = gateway.client();
    let texts: Vec<String> = (0..6).map(|_| client.get("/x").text()).collect();
    assert_eq!(texts, ["a", "b", "a", "b", "a", "b"]);
    client.get("/y");
    let told = |upstream: &str| {
        let line = format!("it panicked; upstream={upstream}");
        gateway.said().matches(&line).count()
    };
    eventually(SOON, "it is in the log", || told("/y") == 1);
    assert_eq!(told("/x"), 1);
}

#[test]
fn a_taken_port_is_told_as_ours_tells_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let origin = Origin::ok("ok");
    let text = config(
        &addr,
        &format!("server: {{upgrade_sock: s}}\n{}", stamped(&origin, "x")),
    );
    let (_folder, file) = config_file(&text);
    let (code, _, said) = says(&["-c", file.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("listen_addr") && said.contains(&addr),
        "{said}"
    );
}
