//! The gateway under test, in this process, through the library's public API.
//!
//! A test writes only the keys it is about; the rest is filled in here, and everything the gateway says
//! of itself can be read back.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use harbr_router::server::{Gateway, Running};
use tempfile::TempDir;

use super::client::{self, Client};
use super::eventually;
use super::http1::Response;

/// A running gateway. Dropping it drains (at most a second) and stops it.
pub struct Gw {
    running: Option<Running>,
    http: SocketAddr,
    folder: TempDir,
}

impl Gw {
    /// Starts a gateway from YAML; `listen_addr`, `global_timeout_ms`, `max_connections`, `admin`
    /// and the access log are filled in where the text has none.
    #[track_caller]
    pub fn start(yaml: impl AsRef<str>) -> Gw {
        Gw::embed(yaml, |gateway| gateway)
    }

    /// As [`start`](Gw::start), with what an embedder adds to the gateway before it runs.
    #[track_caller]
    pub fn embed(yaml: impl AsRef<str>, add: impl FnOnce(Gateway) -> Gateway) -> Gw {
        raise_open_files();
        watch_workers();
        let folder = TempDir::new().expect("a temporary folder");
        let text = filled(yaml.as_ref(), &folder.path().join("access.log"));
        let file = folder.path().join("config.yml");
        std::fs::write(&file, &text).expect("a file in it");
        let config = harbr_router::config::parse(&text, &file)
            .unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        let running = add(Gateway::new(config))
            .spawn()
            .unwrap_or_else(|e| panic!("the gateway does not start: {e}\n{text}"));
        Gw {
            http: running.http_addr(),
            running: Some(running),
            folder,
        }
    }

    /// A gateway with one route `/` to these endpoints; `keys` are further keys of the route.
    #[track_caller]
    pub fn route(endpoints: &[String], keys: &str) -> Gw {
        Gw::start(route("/", endpoints, keys))
    }

    pub fn addr(&self) -> SocketAddr {
        self.http
    }

    /// Every HTTP listener, in the order of the configuration.
    #[track_caller]
    pub fn http_addrs(&self) -> Vec<SocketAddr> {
        let running = self.running.as_ref().expect("not stopped yet");
        running.http_addrs()
    }

    /// The HTTPS listener, the first where there are several.
    #[track_caller]
    pub fn https_addr(&self) -> SocketAddr {
        let running = self.running.as_ref().expect("not stopped yet");
        running.https_addrs()[0]
    }

    #[track_caller]
    pub fn admin_addr(&self) -> SocketAddr {
        let running = self.running.as_ref().expect("not stopped yet");
        running.admin_addr().expect("the admin listener is on")
    }

    /// A TCP listener, in the order of the routes, from 0.
    #[track_caller]
    pub fn tcp_addr(&self, nth: usize) -> SocketAddr {
        let running = self.running.as_ref().expect("not stopped yet");
        running.tcp_addrs()[nth]
    }

    /// A connection to the HTTP listener.
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(self.http)
    }

    /// A GET on a connection of its own.
    #[track_caller]
    pub fn get(&self, target: &str) -> Response {
        client::get(self.http, target)
    }

    /// What `/metrics` says now.
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        let response = client::get(self.admin_addr(), "/metrics");
        assert_eq!(response.status, 200);
        Metrics::parse(&response.text())
    }

    /// What `/status` says now.
    #[track_caller]
    pub fn status(&self) -> serde_json::Value {
        let response = client::get(self.admin_addr(), "/status");
        assert_eq!(response.status, 200);
        response.json()
    }

    /// Puts another configuration into the file and asks for a reload.
    #[track_caller]
    pub fn reload(&self, yaml: impl AsRef<str>) -> Response {
        self.reload_at(self.admin_addr(), yaml)
    }

    /// As [`reload`](Gw::reload), asking where the admin listener is now.
    #[track_caller]
    pub fn reload_at(&self, admin: SocketAddr, yaml: impl AsRef<str>) -> Response {
        let text = filled(yaml.as_ref(), &self.folder.path().join("access.log"));
        std::fs::write(self.folder.path().join("config.yml"), text).expect("the folder is there");
        let host = admin.to_string();
        Client::connect(admin).call("POST", "/reload", &[("Host", &host)], b"")
    }

    /// The access log, once it has at least `records` records.
    #[track_caller]
    pub fn access_log(&self, records: usize) -> Vec<serde_json::Value> {
        let file: PathBuf = self.folder.path().join("access.log");
        let mut read = Vec::new();
        eventually(Duration::from_secs(5), "enough access log records", || {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            // A line without its end is still being written.
            let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
            read = whole
                .lines()
                .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e} in {l}")))
                .collect();
            read.len() >= records
        });
        read
    }

    /// The `reason` words of the access log, in order, once there are `records`.
    #[track_caller]
    pub fn reasons(&self, records: usize) -> Vec<String> {
        let word = |record: &serde_json::Value| match record["reason"].as_str() {
            Some(word) => word.to_owned(),
            None => panic!("no reason in {record}"),
        };
        self.access_log(records).iter().map(word).collect()
    }

    /// Drains and stops; returns once everything has ended.
    pub fn stop(mut self) {
        self.halt();
    }

    /// As [`stop`](Gw::stop), and the access log can be read afterwards.
    pub fn halt(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }
}

impl Drop for Gw {
    fn drop(&mut self) {
        drop(self.running.take());
        let panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::thread::panicking() {
            assert!(panics.is_empty(), "a worker panicked: {panics:?}");
        }
    }
}

/// One route of `routes:` as YAML, with the list of its endpoints and further keys.
pub fn route(key: &str, endpoints: &[String], keys: &str) -> String {
    format!("routes:\n{}", route_entry(key, endpoints, keys))
}

/// As [`route`], to be put below a `routes:` of one's own.
pub fn route_entry(key: &str, endpoints: &[String], keys: &str) -> String {
    let mut text = format!("  {key:?}:\n    upstream:\n");
    for endpoint in endpoints {
        // Braces: an endpoint with keys of its own.
        let endpoint = endpoint.trim();
        writeln!(text, "      - {endpoint}").expect("a String takes everything");
    }
    for line in keys.lines() {
        writeln!(text, "    {}", line.trim_end()).expect("a String takes everything");
    }
    text
}

/// Parsed Prometheus text.
pub struct Metrics(Vec<Sample>);

/// One line of it.
#[derive(Debug)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Metrics {
    /// Parses the text exposition format, refusing what is not that.
    #[track_caller]
    pub fn parse(text: &str) -> Metrics {
        let samples = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| sample(line).unwrap_or_else(|| panic!("not a sample: {line:?}")));
        Metrics(samples.collect())
    }

    /// The sum over every sample of `name` that has these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.with(name, labels).map(|s| s.value).sum()
    }

    /// Whether there is any sample of `name` with these labels.
    pub fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.with(name, labels).next().is_some()
    }

    pub fn samples(&self) -> &[Sample] {
        &self.0
    }

    fn with(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &Sample> {
        self.0.iter().filter(move |s| {
            s.name == name
                && labels
                    .iter()
                    .all(|(k, v)| s.labels.get(*k).is_some_and(|have| have == v))
        })
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, mut rest) = match series.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}')?),
        None => (series, ""),
    };
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (key, after) = rest.split_once("=\"")?;
        let end = after.find('"')?;
        labels.insert(key.to_owned(), after[..end].to_owned());
        rest = after[end + 1..].trim_start_matches(',');
    }
    Some(Sample {
        name: name.to_owned(),
        labels,
        value: value.parse().ok()?,
    })
}

fn filled(yaml: &str, access_log: &std::path::Path) -> String {
    let has = |key: &str| yaml.lines().any(|l| l.starts_with(&format!("{key}:")));
    let mut text = String::new();
    for (key, value) in [
        ("listen_addr", "127.0.0.1:0"),
        ("global_timeout_ms", "10000"),
        ("max_connections", "2000"),
        ("admin", "{listen_addr: \"127.0.0.1:0\"}"),
    ] {
        if !has(key) {
            writeln!(text, "{key}: {value}").expect("a String takes everything");
        }
    }
    let own = format!("server:\n  access_log: {}\n", access_log.display());
    if has("server") {
        text.push_str(&yaml.replacen("server:\n", &own, 1));
    } else {
        text.push_str(&own);
        text.push_str("  drain_timeout_secs: 1\n");
        text.push_str(yaml);
    }
    text
}

/// Nothing that a client or an endpoint sends may panic a worker, and Pingora survives it in silence.
/// A test's own threads are named after it or not at all; those of a gateway have plain names.
fn watch_workers() {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let thread = std::thread::current();
            let worker = thread.name().filter(|n| !n.contains("::") && *n != "main");
            // Filters of tests say so when they do it to see what becomes of it.
            let said = panic.to_string();
            if let Some(name) = worker.filter(|_| !said.contains("on purpose")) {
                let mut panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
                panics.push(format!("{name}: {said}"));
            }
            before(panic);
        }));
    });
}

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Client, gateway and origin share this process: three descriptors for each connection.
pub fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit can be asked for");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("soft may go up to hard");
}
