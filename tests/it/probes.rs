//! Health checks of databases, against real servers: down and up, roles, and what a check leaves
//! behind.

mod elections;
mod refusing;
mod tls_only;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use async_trait::async_trait;
use harbr_router::config::{self, Target};
use harbr_router::upstream::health::Prober;
use harbr_router::upstream::probe::{Probe, probe_for};
use harbr_router::upstream::{Endpoint, Outcome, Pick, PickError, Role, Upstream};
use harbr_router::wire::mysql;
use socket2::SockRef;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::support::server::Server;
use crate::support::{Mariadb, Origin, Postgres, Redis, eventually};

/// Checks running on the endpoints of one TCP route; ended when dropped.
struct Checks {
    upstream: Arc<Upstream>,
    done: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
    prober: Option<JoinHandle<()>>,
    runtime: Runtime,
}

/// As the gateway ends: a check that is broken off shows in a server's log.
impl Drop for Checks {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(prober) = self.prober.take() {
            let _ = self.runtime.block_on(prober);
        }
    }
}

/// Counts the checks that ended.
struct Counted {
    probe: Arc<dyn Probe>,
    done: Arc<AtomicUsize>,
}

#[async_trait]
impl Probe for Counted {
    async fn check(&self, endpoint: &Endpoint, timeout: Duration) -> Result<Role, String> {
        let result = self.probe.check(endpoint, timeout).await;
        self.done.fetch_add(1, Ordering::SeqCst);
        result
    }
}

impl Checks {
    /// `check`: what `health_check` holds beside its times.
    fn of(urls: &[&str], check: &str) -> Checks {
        let text = format!(
            "listen_addr: 127.0.0.1:0\nglobal_timeout_ms: 3000\nmax_connections: 10\n\
             tcp_proxy: {{enabled: true}}\nroutes:\n  db:\n    upstream: {urls:?}\n    \
             health_check: {{interval_ms: 20, timeout_ms: 2000, unhealthy_after: 2{check}}}\n"
        );
        let config = config::parse(&text, Path::new("c.yml")).expect("a correct file");
        let upstream = Upstream::new(Arc::clone(&config.tcp_routes[0].upstream), None);
        let runtime = Runtime::new().expect("a runtime");
        let (stop, stopped) = watch::channel(false);
        let (done, source) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&upstream));
        let count = Arc::clone(&done);
        let prober = Prober::new(Arc::new(move || vec![Arc::clone(&source)])).probing_with(
            Arc::new(move |policy, endpoint| {
                let done = Arc::clone(&count);
                probe_for(policy, endpoint)
                    .map(|probe| Arc::new(Counted { probe, done }) as Arc<dyn Probe>)
            }),
        );
        let prober = runtime.spawn(async move { prober.run(stopped).await });
        Checks {
            upstream,
            done,
            stop,
            prober: Some(prober),
            runtime,
        }
    }

    fn healthy(&self) -> bool {
        self.upstream.health().iter().all(|(_, healthy)| *healthy)
    }

    fn roles(&self) -> Vec<Role> {
        self.upstream.endpoints().iter().map(|e| e.role()).collect()
    }

    /// Waits until `count` more checks have ended.
    fn after(&self, count: usize) {
        let until = self.done.load(Ordering::SeqCst) + count;
        eventually(Duration::from_secs(60), "checks", || {
            self.done.load(Ordering::SeqCst) >= until
        });
    }

    fn await_health(&self, healthy: bool) {
        eventually(Duration::from_secs(20), "another verdict", || {
            self.healthy() == healthy
        });
    }

    fn await_roles(&self, roles: &[Role]) {
        eventually(Duration::from_secs(20), &format!("{roles:?}"), || {
            self.roles() == roles
        });
    }

    /// The port of who is picked.
    fn picked(&self, target: Target) -> Result<u16, PickError> {
        self.runtime.block_on(async {
            let want = Pick {
                hash: None,
                avoid: &[],
                target,
                deadline: Instant::now() + Duration::from_secs(5),
            };
            let lease = self.upstream.pick(want).await?;
            let port = lease.endpoint().addr().port();
            lease.finish(Outcome::Ok);
            Ok(port)
        })
    }
}

const LOGIN: &str = ", user: postgres, password: sesame";
const MARIADB_LOGIN: &str = ", user: tester, password: sesame";

#[test]
fn postgres_is_out_while_it_is_down() {
    let mut server = Postgres::new();
    let checks = ["", LOGIN].map(|login| Checks::of(&[&server.url()], login));
    for stop in [Server::stop, Server::kill] {
        for checks in &checks {
            checks.after(3);
            assert!(checks.healthy());
        }
        stop(&mut server);
        checks.iter().for_each(|checks| checks.await_health(false));
        server.start();
        checks.iter().for_each(|checks| checks.await_health(true));
    }
    assert_eq!(checks[0].roles(), [Role::Unknown]);
    checks[1].await_roles(&[Role::Primary]);
}

#[test]
fn a_postgres_that_refuses_the_login_is_out() {
    let server = Postgres::new();
    Checks::of(&[&server.url()], ", user: postgres, password: wrong").await_health(false);
    Checks::of(&[&server.url()], ", user: nobody, password: wrong").await_health(false);
}

#[test]
fn a_promoted_standby_becomes_the_primary() {
    let mut primary = Postgres::new();
    let standby = primary.standby();
    let checks = Checks::of(&[&primary.url(), &standby.url()], LOGIN);
    checks.await_roles(&[Role::Primary, Role::Replica]);
    assert_eq!(checks.picked(Target::Primary), Ok(primary.port()));
    assert_eq!(checks.picked(Target::Replica), Ok(standby.port()));
    assert_eq!(checks.picked(Target::PreferReplica), Ok(standby.port()));

    primary.kill();
    checks.await_health(false);
    assert_eq!(
        checks.picked(Target::Primary),
        Err(PickError::NoHealthyEndpoint)
    );
    standby.promote();
    eventually(Duration::from_secs(20), "a primary", || {
        checks.picked(Target::Primary) == Ok(standby.port())
    });
    assert_eq!(
        checks.picked(Target::Replica),
        Err(PickError::NoHealthyEndpoint)
    );
    assert_eq!(checks.picked(Target::PreferReplica), Ok(standby.port()));
}

#[test]
fn checks_leave_no_line_in_the_log_of_postgres() {
    for settings in [&["ssl=on"][..], &["ssl=off"]] {
        let server = Postgres::with(settings);
        let log = server.log();
        for login in ["", LOGIN] {
            Checks::of(&[&server.url()], login).after(20);
        }
        assert_eq!(server.log(), log, "{settings:?}");
    }
}

#[test]
fn mariadb_is_out_while_it_is_down() {
    let mut server = Mariadb::new();
    let checks = ["", MARIADB_LOGIN].map(|login| Checks::of(&[&server.url()], login));
    for stop in [Server::stop, Server::kill] {
        for checks in &checks {
            checks.after(3);
            assert!(checks.healthy());
        }
        stop(&mut server);
        checks.iter().for_each(|checks| checks.await_health(false));
        server.start();
        checks.iter().for_each(|checks| checks.await_health(true));
    }
    assert_eq!(checks[0].roles(), [Role::Unknown]);
    checks[1].await_roles(&[Role::Primary]);
}

#[test]
fn a_mariadb_that_is_read_only_is_a_replica() {
    let (one, other) = (Mariadb::new(), Mariadb::with(&["read-only"]));
    let checks = Checks::of(&[&one.url(), &other.url()], MARIADB_LOGIN);
    checks.await_roles(&[Role::Primary, Role::Replica]);
    assert_eq!(checks.picked(Target::Primary), Ok(one.port()));
    one.sql("SET GLOBAL read_only = ON");
    other.sql("SET GLOBAL read_only = OFF");
    checks.await_roles(&[Role::Replica, Role::Primary]);
    assert_eq!(checks.picked(Target::Primary), Ok(other.port()));
    assert_eq!(checks.picked(Target::Replica), Ok(one.port()));
    assert!(checks.healthy());
}

/// An address of this machine that a server does not take for its own host.
fn outside() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    // Sends nothing: it only asks the system which way it would go.
    let _no_route = socket.connect("192.0.2.1:9");
    let ip = socket.local_addr().expect("a bound socket").ip();
    assert!(
        !ip.is_loopback() && !ip.is_unspecified(),
        "MariaDB never blocks 127.0.0.1: this test needs a network interface with an address"
    );
    ip
}

/// A MariaDB that blocks whoever abandons five handshakes.
fn touchy() -> (Mariadb, SocketAddr) {
    // It remembers hosts only while it looks up their names.
    let settings = [
        "max_connect_errors=5",
        "bind-address=0.0.0.0",
        "skip-name-resolve=0",
    ];
    let server = Mariadb::with(&settings);
    let addr = SocketAddr::from((outside(), server.port()));
    (server, addr)
}

fn first_packet(addr: SocketAddr) -> String {
    let mut stream = TcpStream::connect(addr).expect("it listens");
    let mut packet = [0; 100];
    let count = stream.read(&mut packet).expect("it speaks first");
    String::from_utf8_lossy(&packet[..count]).into_owned()
}

fn status(server: &Mariadb, name: &str) -> String {
    server.sql(&format!("SHOW GLOBAL STATUS LIKE '{name}'"))
}

#[test]
fn no_number_of_checks_gets_us_blocked_by_mariadb() {
    let (server, addr) = touchy();
    server.sql("INSTALL SONAME 'auth_ed25519'");
    server.sql("CREATE USER modern@'%' IDENTIFIED VIA ed25519 USING PASSWORD('sesame')");
    let url = format!("mariadb://{addr}");
    for (login, healthy) in [
        ("", true),
        (MARIADB_LOGIN, true),
        (", user: tester, password: wrong", false),
        (", user: nobody, password: wrong", false),
        (", user: modern, password: sesame", false),
    ] {
        server.sql("FLUSH HOSTS; FLUSH STATUS");
        let checks = Checks::of(&[&url], login);
        checks.after(60);
        assert_eq!(checks.healthy(), healthy, "{login}");
        if healthy {
            assert_eq!(status(&server, "Aborted_connects"), "Aborted_connects\t0");
        }
        drop(checks);
        let greeting = first_packet(addr);
        assert!(greeting.contains("MariaDB"), "{login}: {greeting}");
    }
    // Other ways to leave are counted here.
    for _ in 0..8 {
        first_packet(addr);
    }
    eventually(Duration::from_secs(5), "blocked", || {
        first_packet(addr).contains("is blocked")
    });
}

#[test]
fn a_handshake_left_with_a_packet_of_ours_does_not_get_us_blocked_by_mariadb() {
    let (_server, addr) = touchy();
    for nth in 0..60 {
        let mut stream = TcpStream::connect(addr).expect("it listens");
        if nth % 2 == 0 {
            stream.read_exact(&mut [0; 20]).expect("a greeting");
        }
        stream.write_all(&mysql::leave()).expect("it reads");
        stream.shutdown(Shutdown::Write).expect("it is connected");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("it ends in order");
        let text = String::from_utf8_lossy(&rest);
        assert!(
            text.contains("Access denied for user '(client left)'"),
            "{text}"
        );
    }
    let greeting = first_packet(addr);
    assert!(greeting.contains("MariaDB"), "{greeting}");
    // By reset it does.
    for _ in 0..8 {
        let mut stream = TcpStream::connect(addr).expect("it listens");
        stream.read_exact(&mut [0; 20]).expect("a greeting");
        let linger = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        linger.expect("a socket option");
    }
    eventually(Duration::from_secs(5), "blocked", || {
        first_packet(addr).contains("is blocked")
    });
}

#[test]
fn mariadb_does_not_even_see_a_check_without_login() {
    let server = Mariadb::new();
    let before = status(&server, "Connections");
    Checks::of(&[&server.url()], "").after(40);
    // Each question of ours is a connection, too.
    let (_, before) = before.rsplit_once('\t').expect("a value");
    let after = status(&server, "Connections");
    let (_, after) = after.rsplit_once('\t').expect("a value");
    assert_eq!(after.parse(), before.parse::<u64>().map(|n| n + 1));
}

#[test]
fn redis_is_out_while_it_is_down() {
    let mut server = Redis::new();
    let checks = Checks::of(&[&server.url()], "");
    for stop in [Server::stop, Server::kill] {
        checks.await_roles(&[Role::Primary]);
        assert!(checks.healthy());
        stop(&mut server);
        checks.await_health(false);
        server.start();
        checks.await_health(true);
    }
}

#[test]
fn redis_tells_its_role_without_a_login() {
    let (one, other) = (Redis::new(), Redis::new());
    other.run(&["REPLICAOF", "127.0.0.1", &one.port().to_string()]);
    let checks = Checks::of(&[&one.url(), &other.url()], "");
    checks.await_roles(&[Role::Primary, Role::Replica]);
    assert_eq!(checks.picked(Target::Replica), Ok(other.port()));
    other.run(&["REPLICAOF", "NO", "ONE"]);
    checks.await_roles(&[Role::Primary, Role::Primary]);
    one.run(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]);
    checks.await_roles(&[Role::Replica, Role::Primary]);
    assert_eq!(checks.picked(Target::Primary), Ok(other.port()));
}

#[test]
fn redis_with_a_password_lives_without_it_and_tells_its_role_with_it() {
    let server = Redis::with(&["--requirepass", "sesame"]);
    let without = Checks::of(&[&server.url()], "");
    let with = Checks::of(&[&server.url()], ", password: sesame");
    let named = Checks::of(&[&server.url()], ", user: default, password: sesame");
    let wrong = Checks::of(&[&server.url()], ", password: wrong");
    with.await_roles(&[Role::Primary]);
    named.await_roles(&[Role::Primary]);
    wrong.await_health(false);
    without.after(3);
    assert!(without.healthy());
    assert_eq!(without.roles(), [Role::Unknown]);
}

#[test]
fn databases_over_http_live_when_they_answer_or_ask_who_we_are() {
    for (scheme, path) in [
        ("couchdb", "/_up"),
        ("influxdb", "/ping"),
        ("elasticsearch", "/"),
    ] {
        for (status, healthy) in [
            (200, true),
            (204, true),
            (401, true),
            (500, false),
            (503, false),
        ] {
            let origin = Origin::serve(move |_, conn| conn.answer(status, &[], b""));
            let checks = Checks::of(&[&format!("{scheme}://{}", origin.addr())], "");
            checks.after(3);
            checks.await_health(healthy);
            assert!(origin.heads().iter().all(|head| head.target == path));
        }
    }
}

/// A server that treats each connection as the test says; the connections are counted.
fn fake(serve: impl Fn(usize, TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("a bound socket");
    std::thread::spawn(move || {
        for (nth, stream) in listener.incoming().flatten().enumerate() {
            serve(nth, stream);
        }
    });
    addr
}

#[test]
fn what_knows_no_gssenc_request_is_asked_for_tls_from_then_on() {
    let (seen, questions) = mpsc::channel();
    let addr = fake(move |_, mut stream| {
        let mut question = [0; 8];
        if stream.read_exact(&mut question).is_ok() {
            let _test_is_over = seen.send(question[7]);
            if question[7] == 47 {
                let _checker_is_gone = stream.write_all(b"N");
            }
        }
    });
    let checks = Checks::of(&[&format!("postgres://{addr}")], "");
    checks.after(4);
    assert!(checks.healthy());
    let questions: Vec<u8> = questions.try_iter().take(4).collect();
    assert_eq!(questions, [48, 47, 47, 47]);
}

#[test]
fn a_server_that_says_nothing_nonsense_or_no_end_is_out() {
    let silent = fake(|_, mut stream| {
        std::thread::spawn(move || stream.read_to_end(&mut Vec::new()));
    });
    let nonsense = fake(|_, mut stream| {
        let _checker_is_gone = stream.write_all(&[0xff; 64]);
    });
    let endless = fake(|_, mut stream| {
        std::thread::spawn(move || while stream.write_all(&[b'1'; 1000]).is_ok() {});
    });
    let unauthenticated = [
        "postgres",
        "redis",
        "mongodb",
        "cassandra",
        "sqlserver",
        "oracle",
        "couchdb",
    ];
    let without = unauthenticated.map(|scheme| (scheme, ""));
    let with = [("postgres", LOGIN), ("mariadb", MARIADB_LOGIN)];
    let all: Vec<Checks> = without
        .iter()
        .chain(&with)
        .flat_map(|(scheme, login)| {
            let urls = [silent, nonsense, endless].map(|addr| format!("{scheme}://{addr}"));
            urls.map(|url| Checks::of(&[&url], login))
        })
        .collect();
    all.iter().for_each(|checks| checks.await_health(false));
}

#[test]
fn a_login_to_mysql_that_takes_too_long_ends_by_reset() {
    let (ended, ends) = mpsc::channel();
    let addr = fake(move |_, mut stream| {
        let end = stream.read(&mut [0]).map_err(|error| error.kind());
        let _test_is_over = ended.send(end);
    });
    let _checks = Checks::of(&[&format!("mysql://{addr}")], MARIADB_LOGIN);
    let end = ends.recv_timeout(Duration::from_secs(20)).expect("an end");
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
}
