//! Every example as it was built, with traffic.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::support::daemon::output;
use crate::support::nginx::free_addr;
use crate::support::{Client, Origin, Postgres, echoed, eventually, route};

const SOON: Duration = Duration::from_secs(20);

/// The example `name`, which cargo builds with the tests, beside them.
fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this program");
    let profile = test
        .parent()
        .and_then(Path::parent)
        .expect("target/debug/deps");
    let example = profile.join("examples").join(name);
    assert!(example.is_file(), "build it: cargo build --examples");
    example
}

/// A running example. It is killed when the value goes.
struct Example {
    child: Child,
    folder: TempDir,
}

impl Example {
    /// Starts it with `args`; `files` are written into its folder, where it runs.
    fn start(name: &str, args: &[&str], files: &[(&str, &str)]) -> Example {
        let folder = TempDir::new().expect("a temporary folder");
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).expect("a file in it");
        }
        let stderr = File::create(folder.path().join("stderr")).expect("a file in it");
        let child = Command::new(built(name))
            .args(args)
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("the example starts");
        Example { child, folder }
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(file)).unwrap_or_default()
    }

    /// Returns once somebody accepts at `addr`.
    fn serves(&mut self, addr: SocketAddr) {
        eventually(SOON, "the example serves", || {
            let ended = self.child.try_wait().expect("the child is ours");
            assert!(ended.is_none(), "{ended:?}: {}", self.read("stderr"));
            Client::try_connect(addr).is_ok()
        });
    }

    /// Asks it to end; it must do so in order.
    fn end(mut self) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("the child is ours");
        self.ends();
    }

    fn ends(&mut self) {
        let mut status = None;
        eventually(SOON, "the example ends", || {
            status = self.child.try_wait().expect("the child is ours");
            status.is_some()
        });
        assert!(
            status.is_some_and(|status| status.success()),
            "{}",
            self.read("stderr")
        );
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config(listen: SocketAddr, keys: &str) -> String {
    format!(
        "listen_addr: {listen}\nglobal_timeout_ms: 10000\nmax_connections: 100\nadmin: false\n\
         server: {{upgrade_sock: gateway.sock, drain_timeout_secs: 1}}\n{keys}"
    )
}

#[test]
fn hello() {
    let lines = std::fs::read_to_string("examples/hello.rs").expect("the example");
    assert!(lines.lines().count() <= 20);
    let (origin, addr) = (Origin::echo(), free_addr());
    let text = config(addr, &route("/", &[origin.url()], ""));
    let mut example = Example::start("hello", &["config.yml"], &[("config.yml", &text)]);
    example.serves(addr);
    let answer = Client::connect(addr).get("/x");
    assert_eq!(echoed(&answer.json(), "x-hello"), ["world"]);
    example.end();
}

#[test]
fn closure_filter() {
    let (origin, addr) = (Origin::ok("coffee"), free_addr());
    let text = config(addr, &route("/", &[origin.url()], ""));
    let mut example = Example::start("closure_filter", &["config.yml"], &[("config.yml", &text)]);
    example.serves(addr);
    let mut client = Client::connect(addr);
    let answer = client.get("/");
    assert_eq!((answer.status, answer.text()), (200, "coffee".into()));
    assert_eq!(answer.headers.first("x-answer"), Some("1"));
    assert_eq!(answer.headers.first("x-route"), Some("/"));
    let answer = client.get("/teapot");
    assert_eq!(answer.status, 418);
    assert_eq!(answer.text(), "short and stout\n");
    assert_eq!(answer.headers.first("x-answer"), Some("2"));
    assert_eq!(origin.requests(), 1);
    example.end();
}

#[test]
fn custom_filter() {
    let (origin, addr) = (Origin::echo(), free_addr());
    let with = |settings: &str| {
        let filters = format!("filters:\n  - type: api_key\n    {settings}\n");
        config(addr, &route("/", &[origin.url()], &filters))
    };
    let text = with("keys: {k-123: orders}");
    let files = [("config.yml", text.as_str())];
    let mut example = Example::start("custom_filter", &["-c", "config.yml"], &files);
    example.serves(addr);
    let mut client = Client::connect(addr);
    for fields in [&[][..], &[("X-Api-Key", "k-1")]] {
        let answer = client.call("GET", "/", fields, b"");
        assert_eq!(answer.status, 401);
        assert_eq!(answer.json()["reason"], "unauthorized");
    }
    assert_eq!(origin.requests(), 0);
    let answer = client.call("GET", "/", &[("X-Api-Key", "k-123")], b"");
    assert_eq!(answer.status, 200);
    assert_eq!(echoed(&answer.json(), "x-caller"), ["orders"]);
    assert!(echoed(&answer.json(), "x-api-key").is_empty());
    example.end();
    let (_folder, file) = crate::support::binary::config_file(&with("kyes: {}"));
    let mut test = Command::new(built("custom_filter"));
    let refused = output(test.args(["-t", "-c"]).arg(&file)).unwrap_err();
    assert!(
        refused.contains("config.yml:12:9: routes./.filters[0].kyes"),
        "{refused}"
    );
    let schema = output(Command::new(built("custom_filter")).arg("schema")).unwrap();
    assert!(schema.contains("api_key"));
}

#[test]
fn tcp_audit() {
    let (server, addr) = (Postgres::new(), free_addr());
    let text = config(
        free_addr(),
        &format!(
            "tcp_proxy: {{enabled: true, listen_addr: \"{addr}\"}}\n{}",
            route("db", &[server.url()], "")
        ),
    );
    let args = ["config.yml", "who.log"];
    let mut example = Example::start("tcp_audit", &args, &[("config.yml", &text)]);
    let psql = |options: &str| {
        let mut psql = Postgres::psql(addr);
        psql.args([
            "-d",
            &format!("sslmode=disable {options}"),
            "-c",
            "SELECT 1",
        ]);
        output(&mut psql)
    };
    // A connection without a word would be in the log.
    eventually(SOON, "the example serves", || psql("").is_ok());
    let error = psql("dbname=template1 user=root").unwrap_err();
    assert!(error.contains("not allowed (filter_refused)"), "{error}");
    eventually(SOON, "both ends are in the log", || {
        example.read("who.log").matches(" left (").count() == 2
    });
    let log = example.read("who.log");
    for line in [
        "connected: protocol=postgres route=db database=postgres user=postgres\n",
        "left (ok, ",
        "connected: protocol=postgres route=db database=template1 user=root\n",
        "left (filter_refused, 0 up, 0 down): protocol=postgres",
    ] {
        assert!(log.contains(line), "{line} in {log}");
    }
    example.serves(addr);
    example.end();
}

#[test]
fn two_gateways() {
    let origin = Origin::echo();
    let inner_addr = free_addr();
    let outer_text = config(
        "127.0.0.1:0".parse().expect("an address"),
        &route("/", &[format!("http://{inner_addr}")], ""),
    );
    let inner_text = config(inner_addr, &route("/", &[origin.url()], ""));
    let files = [("outer.yml", &*outer_text), ("inner.yml", &*inner_text)];
    let mut example = Example::start("two_gateways", &[], &files);
    let stdout = example.child.stdout.take().expect("it is piped");
    let mut lines = BufReader::new(stdout).lines();
    let mut addr = |name: &str| -> SocketAddr {
        let line = lines.next().expect("it serves").expect("a line");
        let addr = line.strip_prefix(&format!("{name} serves on "));
        addr.expect("its address").parse().expect("an address")
    };
    let (outer, inner) = (addr("outer"), addr("inner"));
    assert_eq!(inner, inner_addr);
    let through = Client::connect(outer).get("/");
    assert_eq!(echoed(&through.json(), "x-via"), ["outer", "inner"]);
    assert_eq!(
        echoed(&Client::connect(inner).get("/").json(), "x-via"),
        ["inner"]
    );
    drop(example.child.stdin.take());
    example.ends();
    assert!(Client::try_connect(outer).is_err() && Client::try_connect(inner).is_err());
}

#[test]
fn every_example_is_run_and_none_is_long() {
    let mut names: Vec<String> = std::fs::read_dir("examples")
        .expect("the folder")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let text = std::fs::read_to_string(&path).expect("the example");
            assert!(text.lines().count() < 100, "{}", path.display());
            path.file_stem()
                .expect("a name")
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    let here = include_str!("examples.rs");
    for name in &names {
        assert!(here.contains(&format!("#[test]\nfn {name}() {{")), "{name}");
    }
    assert_eq!(names.len(), 5);
}

#[test]
fn explain_names_a_filter_that_it_does_not_know_and_never_calls_it() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = folder.path().join("config.yml");
    let filters =
        "filters: [{type: api_key, keys: {k-123: orders}}, {type: respond, status: 418}]\n";
    let yaml = route("/", &["http://127.0.0.1:9".to_owned()], filters);
    std::fs::write(&file, crate::support::binary::config("127.0.0.1:0", &yaml)).unwrap();
    let explained = Command::new(built("custom_filter"))
        .args(["-c", file.to_str().unwrap(), "explain", "/x"])
        .output()
        .expect("the example starts");
    let said = String::from_utf8_lossy(&explained.stdout);
    assert!(explained.status.success(), "{explained:?}");
    assert!(
        said.contains("api_key: a filter of this program's own"),
        "{said}"
    );
    assert!(said.contains("418"), "what comes after is told: {said}");
    assert!(!said.contains("k-123") && !said.contains("401"), "{said}");
}
