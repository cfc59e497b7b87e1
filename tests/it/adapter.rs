//! A TCP route in a Pingora server of somebody's own: Pingora owns listeners, runtimes and shutdown,
//! the gateway only the sessions.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use harbr_router::config;
use harbr_router::pingora::apps::ServerApp;
use harbr_router::pingora::prelude::background_service;
use harbr_router::pingora::protocols::Stream;
use harbr_router::pingora::server::configuration::ServerConf;
use harbr_router::pingora::server::{
    RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch,
};
use harbr_router::pingora::services::listening::Service;
use harbr_router::server::adapter::TcpApp;
use harbr_router::telemetry;
use harbr_router::upstream::Upstream;

use crate::support::daemon::{lasting_port, output};
use crate::support::gateway::Metrics;
use crate::support::{Postgres, Redis, eventually, route_entry};

/// A Pingora server with one TCP route, in a thread of its own; ends as after TERM when dropped.
struct Embedded {
    addr: SocketAddr,
    metrics: telemetry::Metrics,
    upstream: Arc<Upstream>,
    folder: tempfile::TempDir,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Embedded {
    /// The route `name` of a configuration with these routes, as it is.
    fn start(name: &str, settings: &str, routes: &str) -> Embedded {
        Embedded::wrapped(name, settings, routes, |app| app)
    }

    /// The same, in an app that is somebody's own.
    fn wrapped<A: ServerApp + Send + Sync + 'static>(
        name: &str,
        settings: &str,
        routes: &str,
        wrap: impl FnOnce(TcpApp) -> A,
    ) -> Embedded {
        let folder = tempfile::TempDir::new().unwrap();
        let text = yaml(settings, routes, folder.path());
        let config = config::parse(&text, Path::new("config.yml")).unwrap();
        let app = TcpApp::new(config, name).unwrap();
        let (metrics, upstream) = (app.metrics().clone(), app.upstream().clone());

        let addr = SocketAddr::from(([127, 0, 0, 1], lasting_port()));
        let conf = ServerConf {
            grace_period_seconds: Some(2),
            graceful_shutdown_timeout_seconds: Some(1),
            ..ServerConf::default()
        };
        let mut server = Server::new_with_opt_and_conf(None, conf);
        let background =
            server.add_service(background_service("background", app.background_tasks()));
        let mut service = Service::new(name.to_owned(), wrap(app));
        service.add_tcp(&addr.to_string());
        service.add_uds(folder.path().join("sock").to_str().unwrap(), None);
        server.add_service(service).add_dependency(background);
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let stopped = Mutex::new(Some(stopped));
            server.run(RunArgs {
                shutdown_signal: Box::new(Term { stopped }),
            });
        });
        eventually(Duration::from_secs(20), "it listens", || {
            TcpStream::connect(addr).is_ok()
        });
        // Its other socket comes after.
        eventually(Duration::from_secs(20), "it listens there, too", || {
            UnixStream::connect(folder.path().join("sock")).is_ok()
        });
        Embedded {
            addr,
            metrics,
            upstream,
            folder,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn redis(&self, words: &[&str]) -> String {
        let answer = output(Redis::redis_cli(self.addr).args(words)).unwrap();
        answer.trim_end().to_owned()
    }

    fn connect(&self) -> BufReader<TcpStream> {
        let client = TcpStream::connect(self.addr).unwrap();
        let patience = Some(Duration::from_secs(20));
        client.set_read_timeout(patience).unwrap();
        BufReader::new(client)
    }

    fn sessions(&self, reason: &str) -> f64 {
        let labels = [("route", "cache"), ("reason", reason)];
        Metrics::parse(&self.metrics.render()).sum("harbr_tcp_sessions_total", &labels)
    }

    fn stop(&mut self) {
        self.stop = None;
    }

    fn ended(&mut self) {
        self.stop();
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// TERM, when its other end is dropped.
struct Term {
    stopped: Mutex<Option<Receiver<()>>>,
}

#[async_trait::async_trait]
impl ShutdownSignalWatch for Term {
    async fn recv(&self) -> ShutdownSignal {
        let stopped = self.stopped.lock().unwrap().take().unwrap();
        let _ = tokio::task::spawn_blocking(move || stopped.recv()).await;
        ShutdownSignal::GracefulTerminate
    }
}

fn yaml(settings: &str, routes: &str, folder: &Path) -> String {
    format!(
        "listen_addr: 127.0.0.1:0\nglobal_timeout_ms: 10000\n{settings}\n\
         server: {{access_log: {}, drain_timeout_secs: 1}}\n\
         tcp_proxy: {{enabled: true, listen_addr: \"127.0.0.1:0\"}}\nroutes:\n{routes}",
        folder.join("access.log").display()
    )
}

fn say(client: &mut BufReader<TcpStream>, line: &str) -> String {
    client.get_mut().write_all(line.as_bytes()).unwrap();
    let mut answer = String::new();
    client.read_line(&mut answer).unwrap();
    answer
}

#[test]
fn commands_pass_and_who_is_too_many_reads_so() {
    let server = Redis::new();
    let routes = route_entry("cache", &[server.url()], "");
    let gw = Embedded::start("cache", "max_connections: 2", &routes);
    assert_eq!(gw.redis(&["SET", "key", "value"]), "OK");
    assert_eq!(server.run(&["GET", "key"]), "value");
    let (mut first, mut second) = (gw.connect(), gw.connect());
    assert_eq!(say(&mut first, "PING\r\n"), "+PONG\r\n");
    assert_eq!(say(&mut second, "PING\r\n"), "+PONG\r\n");
    let refused = say(&mut gw.connect(), "PING\r\n");
    assert_eq!(refused, "-ERR too_many_connections\r\n");
    drop(second);
    eventually(Duration::from_secs(10), "a place is free", || {
        gw.redis(&["PING"]) == "PONG"
    });
    assert_eq!(say(&mut first, "GET key\r\n"), "$5\r\n");
    let rejected = Metrics::parse(&gw.metrics.render());
    assert!(rejected.sum("harbr_connections_rejected_total", &[]) >= 1.0);
}

#[test]
fn bulk_is_byte_exact_and_ends_are_passed_on() {
    let server = Redis::new();
    let routes = route_entry("cache", &[server.url()], "");
    let gw = Embedded::start("cache", "max_connections: 9", &routes);
    let big: Vec<u8> = (0..8_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut client = gw.connect();
    let mut sender = client.get_ref().try_clone().unwrap();
    let sent = big.clone();
    let sending = std::thread::spawn(move || {
        let head = format!("*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n${}\r\n", sent.len());
        sender.write_all(head.as_bytes()).unwrap();
        sender.write_all(&sent).unwrap();
        sender.write_all(b"\r\nGET big\r\n").unwrap();
    });
    let expected = [b"+OK\r\n$8000000\r\n", &big[..], b"\r\n"].concat();
    let mut answer = vec![0; expected.len()];
    client.read_exact(&mut answer).unwrap();
    sending.join().unwrap();
    drop(client);
    assert!(answer == expected);
    eventually(Duration::from_secs(10), "it is counted", || {
        gw.sessions("ok") == 1.0
    });
}

/// Looks at the first bytes before it passes a connection on.
struct Curious {
    inner: Arc<TcpApp>,
}

#[async_trait::async_trait]
impl ServerApp for Curious {
    async fn process_new(
        self: &Arc<Self>,
        mut stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let mut word = [0; 4];
        assert!(stream.try_peek(&mut word).await.unwrap());
        assert_eq!(&word, b"PING");
        self.inner.process_new(stream, shutdown).await
    }
}

#[test]
fn what_somebody_has_peeked_at_is_not_lost() {
    let server = Redis::new();
    let routes = route_entry("cache", &[server.url()], "");
    let gw = Embedded::wrapped("cache", "max_connections: 9", &routes, |app| Curious {
        inner: Arc::new(app),
    });
    // The end of the line is in Pingora's buffer by then, the first word was put back.
    let mut client = gw.connect();
    assert_eq!(say(&mut client, "PING one\r\n"), "$3\r\n");
    let mut rest = [0; 5];
    client.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"one\r\n");
    assert_eq!(say(&mut client, "PING\r\n"), "+PONG\r\n");
}

#[test]
fn an_endpoint_that_is_down_is_out_and_its_clients_are_told() {
    let mut server = Redis::new();
    // A name: it has an address by the time anybody can connect.
    let url = format!("redis://localhost:{}", server.port());
    let keys = "timeout_ms: 1000\nhealth_check: {interval_ms: 50, unhealthy_after: 1}";
    let routes = route_entry("cache", &[url], keys);
    let gw = Embedded::start("cache", "max_connections: 9", &routes);
    assert_eq!(gw.redis(&["PING"]), "PONG");
    server.stop();
    eventually(Duration::from_secs(10), "it is out", || {
        !gw.upstream.health()[0].1
    });
    let refused = say(&mut gw.connect(), "PING\r\n");
    assert!(refused.contains("no_healthy_endpoint"), "{refused}");
    server.start();
    eventually(Duration::from_secs(10), "it is in again", || {
        gw.upstream.health()[0].1
    });
    assert_eq!(gw.redis(&["PING"]), "PONG");
}

#[test]
fn what_is_not_plain_tcp_is_closed_and_nothing_else_is_touched() {
    let server = Redis::new();
    let routes = route_entry("cache", &[server.url()], "");
    let gw = Embedded::start("cache", "max_connections: 9", &routes);
    let mut local = UnixStream::connect(gw.folder.path().join("sock")).unwrap();
    local
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    assert_eq!(local.read(&mut [0; 9]).unwrap(), 0);
    assert_eq!(gw.redis(&["PING"]), "PONG");
}

#[test]
fn a_session_that_outlasts_the_drain_is_told_goodbye() {
    let server = Postgres::new();
    let routes = route_entry("db", &[server.url()], "");
    let mut gw = Embedded::start("db", "max_connections: 9", &routes);
    let mut psql = Postgres::psql(gw.addr);
    // Sits between two queries until the gateway is gone.
    let gone = gw.folder.path().join("gone");
    let sit = format!("\\! until [ -e {} ]; do sleep 0.1; done", gone.display());
    psql.args(["-c", "SELECT 1", "-c", &sit, "-c", "SELECT 2"]);
    let client = std::thread::spawn(move || output(&mut psql));
    eventually(Duration::from_secs(10), "it is logged in", || {
        server.sql("SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT 1'") == "1"
    });
    gw.ended();
    std::fs::write(gone, "").unwrap();
    let said = client.join().unwrap().unwrap_err();
    let goodbye = "FATAL:  terminating connection due to administrator command (drained)";
    assert!(said.contains(goodbye), "{said}");
    let log = std::fs::read_to_string(gw.folder.path().join("access.log")).unwrap();
    assert!(log.contains("\"reason\":\"drained\""), "{log}");
}

#[test]
fn a_route_that_is_not_there_is_an_error() {
    let folder = tempfile::TempDir::new().unwrap();
    let routes = route_entry("cache", &["redis://127.0.0.1:1".to_owned()], "")
        + &route_entry("/api", &["http://127.0.0.1:1".to_owned()], "");
    let text = yaml("max_connections: 9", &routes, folder.path());
    for name in ["other", "/api"] {
        let config = config::parse(&text, Path::new("config.yml")).unwrap();
        let error = TcpApp::new(config, name).err().unwrap();
        assert!(error.is_config());
        assert!(error.to_string().starts_with(&format!("routes.{name}: ")));
    }
}
