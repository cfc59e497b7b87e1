//! Sockets connected ahead: nobody gets what another has used, and nobody notices one that died.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::raw::Raw;
use super::{gateway, psql, tcp};
use crate::support::drivers::psycopg;
use crate::support::{Gw, Origin, Postgres, eventually, loaded, route_entry};

fn warm_hits(gw: &Gw) -> f64 {
    gw.metrics()
        .sum("harbr_warm_hits_total", &[("route", "db")])
}

fn warm_sockets(gw: &Gw) -> f64 {
    gw.metrics().sum("harbr_warm_sockets", &[("route", "db")])
}

/// Sessions in quick succession, until a socket waits for the next.
fn heat(gw: &Gw) {
    eventually(
        Duration::from_secs(20),
        "a socket is connected ahead",
        || {
            psql(gw.tcp_addr(0), "", "SELECT 1").unwrap();
            warm_sockets(gw) > 0.0
        },
    );
}

#[test]
fn a_thousand_sessions_of_two_users_see_nothing_of_each_other() {
    let _turn = loaded();
    let server = Postgres::trusting(&[]);
    server.sql("CREATE ROLE anna LOGIN; CREATE ROLE bert LOGIN");
    let gw = gateway(&[&server], "");
    let said = psycopg(
        gw.tcp_addr(0),
        r#"
seen, lock = set(), threading.Lock()
LOOK = """
    SELECT current_user, pg_backend_pid(),
        (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()),
        current_setting('my.secret', true), current_setting('work_mem'),
        (SELECT count(*) FROM pg_class WHERE relpersistence = 't'
            AND pg_table_is_visible(oid) AND relname = 'mine'),
        (SELECT count(*) FROM pg_prepared_statements),
        (SELECT count(*) FROM pg_listening_channels()),
        (SELECT count(*) FROM pg_cursors),
        (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())
"""
LEAVE = """
    SET my.secret = '{0}'; SET work_mem = '7MB'; CREATE TEMP TABLE mine (n int); LISTEN {0};
    PREPARE p{1} AS SELECT 1; DECLARE c{1} CURSOR WITH HOLD FOR SELECT 1;
    SELECT pg_advisory_lock({1})
"""
def sessions(thread):
    for n in range(250):
        user = ("anna", "bert")[n % 2]
        with connect(user=user) as db:
            me, pid, since, *state = db.execute(LOOK).fetchone()
            assert me == user, me
            assert [x or "" for x in state] == ["", "4MB", "", "", "", "", ""], state
            with lock:
                assert (pid, since) not in seen, "a used connection came back"
                seen.add((pid, since))
            db.execute(LEAVE.format(user, thread * 1000 + n))
threads = [threading.Thread(target=sessions, args=[n]) for n in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(seen))
"#,
    );
    assert_eq!(said.unwrap(), "1000");
    let hits = warm_hits(&gw);
    let misses = gw
        .metrics()
        .sum("harbr_warm_misses_total", &[("route", "db")]);
    assert!(hits > 100.0, "{hits} of 1000");
    assert_eq!(hits + misses, 1000.0);
}

/// PostgreSQL forks with the rules of that moment: who is let in is decided by the process that was
/// there when a socket was connected ahead.
#[test]
fn rules_that_a_server_has_reloaded_reach_new_sessions_within_seconds() {
    let server = Postgres::new();
    let gw = gateway(&[&server], "");
    heat(&gw);
    let rules = "local all all trust\nhost all all 127.0.0.1/32 reject\n";
    std::fs::write(server.folder().join("data/pg_hba.conf"), rules).unwrap();
    server.sql("SELECT pg_reload_conf()");
    eventually(Duration::from_secs(10), "the rules are in force", || {
        server.try_sql("SELECT 1").is_err()
    });
    // Nobody comes, so what is there grows old unused; half a minute would be too long.
    eventually(Duration::from_secs(15), "none is left from before", || {
        warm_sockets(&gw) == 0.0
    });
    for _ in 0..3 {
        let error = psql(gw.tcp_addr(0), "", "SELECT 1").unwrap_err();
        assert!(error.contains("pg_hba.conf rejects"), "{error}");
    }
}

#[test]
fn without_pooling_nothing_is_connected_ahead() {
    let server = Postgres::new();
    let gw = Gw::start(format!(
        "tcp_proxy: {{enabled: true, listen_addr: \"127.0.0.1:0\", connection_pooling: false}}\nroutes:\n{}",
        route_entry("db", &[server.url()], "")
    ));
    for _ in 0..5 {
        psql(gw.tcp_addr(0), "", "SELECT 1").unwrap();
        assert_eq!(warm_sockets(&gw), 0.0);
    }
    assert_eq!(warm_hits(&gw), 0.0);
}

#[test]
fn sockets_that_the_server_closed_meanwhile_are_not_used() {
    let server = Postgres::with(&["authentication_timeout=1s", "log_connections=on"]);
    let gw = gateway(&[&server], "health_check: false");
    let connected = || server.log().matches("connection received").count();
    heat(&gw);
    for _ in 0..2 {
        // The server gives up on a client that says nothing, and another socket takes its place.
        let before = connected();
        eventually(Duration::from_secs(10), "it is replaced", || {
            connected() > before
        });
        assert_eq!(psql(gw.tcp_addr(0), "", "SELECT 1").unwrap(), "1");
    }
    let reasons = gw.reasons(4);
    assert!(reasons.iter().all(|reason| reason == "ok"), "{reasons:?}");
}

/// PostgreSQL decides when a client connects whether it takes clients: one that was connected while
/// it started would be refused long after.
#[test]
fn a_server_that_was_restarted_under_warm_sockets_is_not_noticed() {
    for options in ["sslmode=disable", "sslmode=require"] {
        let mut server = Postgres::with(&["ssl=on"]);
        let gw = gateway(&[&server], "");
        for _ in 0..3 {
            heat(&gw);
            server.kill();
            server.start();
            for _ in 0..6 {
                let said = psql(gw.tcp_addr(0), options, "SELECT 1");
                assert_eq!(said.unwrap(), "1", "{options}");
            }
        }
        // It was asked, and has nothing to say about it.
        let log = server.log();
        assert!(!log.contains("Connection reset"), "{log}");
    }
}

/// As long as a server says that it starts, nothing is connected ahead.
#[test]
fn nothing_is_connected_ahead_to_a_server_that_starts() {
    let serves = Arc::new(AtomicBool::new(false));
    let answers = serves.clone();
    // What it says to clients, it says in TLS: only who begins a session in clear can read it.
    let server = Origin::raw(move |conn| {
        let first = conn.some_bytes()?;
        if first.starts_with(GSSENC_REQUEST) {
            return conn.send("N");
        }
        if first.starts_with(SSL_REQUEST) {
            return conn.send("S");
        }
        match answers.load(Ordering::SeqCst) {
            true => conn.send("R\0\0\0\x08\0\0\0\x05salt")?,
            false => conn.send(STARTING_UP)?,
        }
        conn.some_bytes().map(drop)
    });
    let url = server.url().replace("http:", "postgres:");
    let gw = Gw::start(tcp(&route_entry("db", &[url], "")));
    let client = || {
        let mut client = Raw::connect(gw.tcp_addr(0));
        client.send(SSL_REQUEST);
        assert_eq!(client.byte(), b'S');
    };
    let waits = Instant::now() + Duration::from_secs(2);
    while Instant::now() < waits {
        client();
        assert_eq!(warm_sockets(&gw), 0.0);
    }
    assert_eq!(warm_hits(&gw), 0.0);
    serves.store(true, Ordering::SeqCst);
    eventually(Duration::from_secs(20), "one is connected ahead", || {
        client();
        warm_sockets(&gw) > 0.0
    });
}

const GSSENC_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x30";
const SSL_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
const STARTING_UP: &str =
    "E\0\0\0\x3eSFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0";

/// Sessions over sockets of which the server drops every one that has waited, until three are
/// dropped.
fn three_die_unseen(server: &Postgres, keys: &str, options: &str) {
    let before = Grudge::before(server.addr());
    let url = format!("postgres://{}", before.addr);
    let mut routes = route_entry("db", &[url], &format!("health_check: false\n{keys}"));
    if !keys.is_empty() {
        routes += &route_entry("other", &[server.url()], "match: {database: other}");
    }
    let gw = Gw::start(tcp(&routes));
    let mut sessions = 0;
    let mut session = || {
        assert_eq!(psql(gw.tcp_addr(0), options, "SELECT 1").unwrap(), "1");
        sessions += 1;
    };
    // Who came before the gateway looked for the first time does not count.
    eventually(Duration::from_secs(20), "one is connected ahead", || {
        session();
        warm_sockets(&gw) > 0.0
    });
    eventually(Duration::from_secs(60), "three of them have died", || {
        eventually(Duration::from_secs(10), "one has waited", || {
            before.bears_one()
        });
        session();
        before.turned_away() >= 3
    });
    assert!(warm_hits(&gw) >= 3.0);
    let reasons = gw.reasons(sessions);
    // A client does not wait for the last word of the server's TLS and answers it with a reset, which
    // may overtake its end: nobody can tell it from one that broke off.
    let may_reset = !options.contains("sslmode=disable");
    let orderly = |reason: &String| reason == "ok" || (may_reset && reason == "client_closed");
    assert!(reasons.iter().all(orderly), "{reasons:?}");
}

#[test]
fn a_warm_socket_that_dies_when_it_is_used_is_replaced_unseen() {
    three_die_unseen(&Postgres::new(), "", "sslmode=disable");
}

#[test]
fn a_warm_socket_that_dies_on_a_request_for_tls_is_replaced_unseen() {
    let server = Postgres::with(&["ssl=on"]);
    three_die_unseen(&server, "", "sslmode=require");
    let options = "hostaddr=127.0.0.1 host=db1.test sslmode=require";
    three_die_unseen(&server, "match: {sni: db1.test}", options);
}

#[test]
fn sockets_ahead_keep_to_the_limits() {
    let server = Postgres::new();
    server.sql("CREATE ROLE bench LOGIN PASSWORD 'sesame' CONNECTION LIMIT 2");
    let gw = gateway(&[&server], "max_connections: 2\nqueue_timeout_ms: 20000");
    let said = psycopg(
        gw.tcp_addr(0),
        r#"
def sessions():
    for n in range(40):
        connect(user="bench").close()
threads = [threading.Thread(target=sessions) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("done")
"#,
    );
    assert_eq!(said.unwrap(), "done");
    assert!(warm_sockets(&gw) <= 2.0);
}

/// A server in front of a server, which turns away who connected and then said nothing for a while:
/// in silence, by closing on the first word.
struct Grudge {
    addr: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    turned_away: AtomicUsize,
    /// Who has said nothing yet, and since when.
    silent: Mutex<HashMap<SocketAddr, Instant>>,
}

/// Longer than anybody who was not connected ahead takes for the first word, however busy the
/// machine.
const GRUDGE: Duration = Duration::from_millis(800);

impl Grudge {
    fn before(server: SocketAddr) -> Grudge {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let shared = seen.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let seen = shared.clone();
                thread::spawn(move || serve(client, server, &seen));
            }
        });
        Grudge { addr, seen }
    }

    fn turned_away(&self) -> usize {
        self.seen.turned_away.load(Ordering::SeqCst)
    }

    /// Whether everybody who is silent has been so for too long, and there is one.
    fn bears_one(&self) -> bool {
        let silent = self.seen.silent.lock().unwrap();
        !silent.is_empty() && silent.values().all(|since| since.elapsed() > GRUDGE)
    }
}

fn serve(mut client: TcpStream, server: SocketAddr, seen: &Seen) {
    let (came, peer) = (Instant::now(), client.peer_addr().unwrap());
    seen.silent.lock().unwrap().insert(peer, came);
    let mut first = [0; 1024];
    let read = client.read(&mut first).unwrap_or(0);
    seen.silent.lock().unwrap().remove(&peer);
    if read > 0 && came.elapsed() > GRUDGE {
        seen.turned_away.fetch_add(1, Ordering::SeqCst);
        return;
    }
    let Ok(mut server) = TcpStream::connect(server) else {
        return;
    };
    if server.write_all(&first[..read]).is_err() {
        return;
    }
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let up = thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let _ = std::io::copy(&mut server, &mut client);
    let _ = client.shutdown(Shutdown::Write);
    let _ = up.join();
}
