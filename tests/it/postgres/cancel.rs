//! Cancel requests: they come on a connection of their own and must reach the one server that runs
//! the query.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use super::raw::Raw;
use super::{gateway, psql, tcp};
use crate::support::drivers::{psycopg, psycopg_running};
use crate::support::{Gw, Postgres, eventually, loaded, route_entry};

/// Four sessions at a time, 25 times each, are cancelled once, on a connection made for that, as
/// soon as the server says that the query runs.
const CANCEL_100: &str = r#"
QUERY = "DO $$ BEGIN RAISE NOTICE 'running'; PERFORM pg_sleep(20); END $$"
cancelled, lock = 0, threading.Lock()
def one():
    global cancelled
    for n in range(25):
        with connect() as db:
            cancel = threading.Thread(target=db.cancel)
            db.add_notice_handler(lambda notice: cancel.start())
            try:
                db.execute(QUERY)
            except psycopg.errors.QueryCanceled:
                with lock:
                    cancelled += 1
            cancel.join()
threads = [threading.Thread(target=one) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(cancelled)
"#;

/// Sessions that each of the servers has had, by its log.
fn asked(servers: &[Postgres]) -> Vec<usize> {
    let cancelled = "canceling statement due to user request";
    servers
        .iter()
        .map(|server| server.log().matches(cancelled).count())
        .collect()
}

#[test]
fn each_of_100_cancels_finds_its_server_among_three() {
    let _turn = loaded();
    let servers = [Postgres::new(), Postgres::new(), Postgres::new()];
    let [a, b, c] = &servers;
    let gw = gateway(&[a, b, c], "");
    assert_eq!(psycopg(gw.tcp_addr(0), CANCEL_100).unwrap(), "100");
    let asked = asked(&servers);
    assert_eq!(asked.iter().sum::<usize>(), 100);
    assert!(
        asked.iter().all(|n| *n > 20),
        "all of them run queries: {asked:?}"
    );
    // The key was known: no other server was asked.
    for server in &servers {
        let log = server.log();
        assert!(!log.contains("wrong key in cancel request"), "{log}");
        assert!(!log.contains("did not match any process"), "{log}");
    }
}

#[test]
fn each_of_100_cancels_finds_its_server_though_the_sessions_are_encrypted() {
    let _turn = loaded();
    let servers = [(); 3].map(|()| Postgres::with(&["ssl=on"]));
    let [a, b, c] = &servers;
    let gw = gateway(&[a, b, c], "");
    let program = CANCEL_100.replace("connect()", "connect(sslmode='require')");
    assert_eq!(psycopg(gw.tcp_addr(0), &program).unwrap(), "100");
    let asked = asked(&servers);
    assert_eq!(asked.iter().sum::<usize>(), 100);
    assert!(
        asked.iter().all(|n| *n > 20),
        "all of them run queries: {asked:?}"
    );
}

#[test]
fn a_cancel_is_neither_queued_nor_limited() {
    let server = Postgres::new();
    let gw = gateway(&[&server], "max_connections: 1\nqueue_timeout_ms: 30000");
    let said = psycopg(
        gw.tcp_addr(0),
        r#"
db = connect()
waiting = threading.Thread(target=lambda: connect().execute("SELECT 1"))
threading.Timer(0.2, waiting.start).start()
threading.Timer(0.5, db.cancel).start()
start = time.monotonic()
try:
    db.execute("SELECT pg_sleep(60)")
except psycopg.errors.QueryCanceled:
    print("cancelled", time.monotonic() - start < 5)
db.close()
waiting.join()
"#,
    );
    assert_eq!(said.unwrap(), "cancelled True");
    let cancels = |gw: &Gw| {
        gw.metrics()
            .sum("tcp_proxy_connection_new", &[("route", "db")])
    };
    assert_eq!(cancels(&gw), 2.0, "a cancel is no session");
}

#[test]
fn a_cancel_gets_through_when_no_more_connections_are_taken() {
    let server = Postgres::new();
    let gw = Gw::start(format!(
        "max_connections: 1\n{}",
        tcp(&route_entry("db", &[server.url()], ""))
    ));
    let said = psycopg(
        gw.tcp_addr(0),
        r#"
db = connect()
try:
    connect()
except psycopg.OperationalError as error:
    print("too_many_connections" in str(error))
cancel = threading.Thread(target=db.cancel)
db.add_notice_handler(lambda notice: cancel.start())
try:
    db.execute("DO $$ BEGIN RAISE NOTICE 'running'; PERFORM pg_sleep(20); END $$")
except psycopg.errors.QueryCanceled:
    print("cancelled")
"#,
    );
    assert_eq!(said.unwrap(), "True\ncancelled");
}

/// libpq 17 encrypts the cancels of encrypted sessions: nobody in between can tell them from
/// sessions, so they find their server only where clients keep to one.
#[test]
fn a_cancel_that_is_encrypted_itself_goes_where_sessions_of_its_client_go() {
    let servers = [(); 3].map(|()| Postgres::with(&["ssl=on"]));
    let [a, b, c] = &servers;
    let gw = gateway(&[a, b, c], "balance: hash\nhash_on: client_ip");
    let program = CANCEL_100
        .replace("connect()", "connect(sslmode='require')")
        .replace("db.cancel)", "db.cancel_safe)")
        .replace("range(25)", "range(5)");
    assert_eq!(psycopg(gw.tcp_addr(0), &program).unwrap(), "20");
}

#[test]
fn a_cancel_of_a_session_that_is_over_disturbs_nobody() {
    let server = Postgres::new();
    let gw = gateway(&[&server], "");
    assert_eq!(cancel_unknown(&gw), b"", "as a server answers");
    assert_eq!(psql(gw.tcp_addr(0), "", "SELECT 1").unwrap(), "1");
    assert_eq!(strays(&server), 0, "it costs no server a process");
}

/// Cancels with a key that nobody has, and returns what is answered.
fn cancel_unknown(gw: &Gw) -> Vec<u8> {
    let mut client = Raw::connect(gw.tcp_addr(0));
    client.send(&cancel_request(b"\0\0\x30\x39\x01\x02\x03\x04"));
    client.rest()
}

/// Cancels that a server did not know what to do with.
fn strays(server: &Postgres) -> usize {
    server.log().matches("did not match any process").count()
}

/// A key of an encrypted session is never seen, so one that is unknown may be of one.
#[test]
fn an_unknown_cancel_asks_only_servers_where_its_client_has_an_encrypted_session() {
    let servers = [(); 2].map(|()| Postgres::with(&["ssl=on"]));
    let gw = gateway(&[&servers[0], &servers[1]], "");
    let all = || servers.iter().map(strays).collect::<Vec<_>>();
    // In clear all keys are known.
    let mut clear = Raw::login(gw.tcp_addr(0));
    clear.expect(b'R');
    cancel_unknown(&gw);
    assert_eq!(all(), [0, 0]);
    drop(clear);
    let mut held = psycopg_running(
        gw.tcp_addr(0),
        r#"
db = connect(sslmode="require")
print(db.execute("SHOW port").fetchone()[0], flush=True)
sys.stdin.readline()
db.close()
"#,
    );
    let mut port = String::new();
    BufReader::new(held.stdout.take().unwrap())
        .read_line(&mut port)
        .unwrap();
    let here = usize::from(servers[1].port().to_string() == port.trim());
    for asked in 1..=3 {
        cancel_unknown(&gw);
        eventually(Duration::from_secs(5), "that server was asked", || {
            all()[here] == asked
        });
        assert_eq!(all()[1 - here], 0, "the other was not");
    }
    drop(held.stdin.take());
    assert!(held.wait().unwrap().success());
    eventually(Duration::from_secs(5), "the session is over", || {
        gw.status()["upstreams"][0]["in_flight"] == 0
    });
    cancel_unknown(&gw);
    assert_eq!(all()[here], 3);
}

/// Eight sessions, one after another, whose query is cancelled as drivers do it: on a connection that
/// asks for TLS first, as theirs did. Prints how many were.
const BY_DRIVERS: [(&str, &str); 2] = [
    (
        "psycopg",
        r#"
cancelled = 0
for n in range(8):
    with connect(sslmode="prefer") as db:
        cancel = threading.Thread(target=db.cancel_safe)
        db.add_notice_handler(lambda notice: cancel.start())
        try:
            db.execute("DO $$ BEGIN RAISE NOTICE 'running'; PERFORM pg_sleep(20); END $$")
        except psycopg.errors.QueryCanceled:
            cancelled += 1
        cancel.join()
print(cancelled)
"#,
    ),
    (
        "asyncpg",
        r#"
import asyncio, asyncpg
async def main():
    cancelled = 0
    for n in range(8):
        db = await asyncpg.connect()
        began = time.monotonic()
        try:
            await db.fetch("SELECT pg_sleep(20)", timeout=0.3)
        except asyncio.TimeoutError:
            # The driver waits until its cancel is out, and the server until it is ready again.
            cancelled += await db.fetchval("SELECT 1") if time.monotonic() - began < 10 else 0
        await db.close()
    print(cancelled)
asyncio.run(main())
"#,
    ),
];

/// Reads the cancel key of a session that has just begun.
fn key_of(client: &mut Raw) -> Vec<u8> {
    loop {
        let (kind, body) = client.message();
        match kind {
            b'K' => return body,
            b'E' => panic!("refused: {}", String::from_utf8_lossy(&body)),
            _ => {}
        }
    }
}

fn cancel_request(key: &[u8]) -> Vec<u8> {
    let length = u32::try_from(key.len() + 8).unwrap().to_be_bytes();
    [&length, &b"\x04\xd2\x16\x2e"[..], key].concat()
}

const SSL_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
const GSSENC_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x30";

#[test]
fn a_cancel_after_a_request_for_tls_reaches_the_server_of_its_query() {
    for keys in ["", "health_check: false", "max_connections: 1"] {
        for (driver, program) in BY_DRIVERS {
            let servers = [Postgres::new(), Postgres::new()];
            let gw = gateway(&[&servers[0], &servers[1]], keys);
            let said = psycopg(gw.tcp_addr(0), program).unwrap();
            assert_eq!(said, "8", "{driver} {keys}");
            let asked = asked(&servers);
            assert_eq!(asked.iter().sum::<usize>(), 8, "{driver} {keys}");
            assert!(asked.iter().all(|n| *n > 0), "{driver} {keys}: {asked:?}");
            for server in &servers {
                let log = server.log();
                assert!(!log.contains("cancel request"), "{driver} {keys}: {log}");
            }
        }
    }
}

/// Nothing is known of what the servers answer: no session has asked, and no check.
#[test]
fn a_cancel_finds_its_server_whatever_encryption_it_asks_for_and_however_it_is_cut() {
    let servers = [(); 3].map(|()| Postgres::trusting(&[]));
    let [a, b, c] = &servers;
    let requests: [&[&[u8]]; 4] = [
        &[SSL_REQUEST],
        &[GSSENC_REQUEST, SSL_REQUEST],
        &[SSL_REQUEST, GSSENC_REQUEST],
        &[GSSENC_REQUEST],
    ];
    for requests in requests {
        let gw = gateway(&[a, b, c], "health_check: false");
        let mut session = Raw::login(gw.tcp_addr(0));
        let key = key_of(&mut session);
        while session.message().0 != b'Z' {}
        session.query("SELECT pg_sleep(60)");
        let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'";
        eventually(Duration::from_secs(10), "it runs", || {
            servers.iter().any(|server| server.sql(running) == "1")
        });
        let mut canceller = Raw::connect(gw.tcp_addr(0));
        for request in requests {
            canceller.send(request);
            assert_eq!(canceller.byte(), b'N');
        }
        for byte in cancel_request(&key) {
            canceller.send(&[byte]);
        }
        assert_eq!(canceller.rest(), b"", "as a server answers");
        let error = loop {
            let (kind, body) = session.message();
            if kind == b'E' {
                break String::from_utf8_lossy(&body).into_owned();
            }
        };
        assert!(error.contains("57014"), "{error}");
    }
}

#[test]
fn a_cancel_after_a_request_for_tls_is_neither_queued_nor_limited() {
    let server = Postgres::new();
    let program = r#"
db = connect(sslmode="prefer")
def wait():
    try:
        connect(sslmode="prefer").execute("SELECT 1")
    except psycopg.OperationalError:
        pass
waiting = threading.Thread(target=wait)
cancel = threading.Thread(target=db.cancel_safe)
db.add_notice_handler(lambda notice: (waiting.start(), cancel.start()))
try:
    db.execute("DO $$ BEGIN RAISE NOTICE 'running'; PERFORM pg_sleep(20); END $$")
except psycopg.errors.QueryCanceled:
    print("cancelled")
db.close()
waiting.join()
cancel.join()
"#;
    let queue = "max_connections: 1\nqueue_timeout_ms: 30000\nhealth_check: false";
    let gw = gateway(&[&server], queue);
    assert_eq!(psycopg(gw.tcp_addr(0), program).unwrap(), "cancelled");
    let sessions = |gw: &Gw| {
        gw.metrics()
            .sum("tcp_proxy_connection_new", &[("route", "db")])
    };
    assert_eq!(sessions(&gw), 2.0, "a cancel is no session");
    // Above the limit of the gateway itself, where sessions are refused.
    let gw = Gw::start(format!(
        "max_connections: 1\n{}",
        tcp(&route_entry("db", &[server.url()], ""))
    ));
    assert_eq!(psycopg(gw.tcp_addr(0), program).unwrap(), "cancelled");
}

/// A server that has declined TLS may have it later: nobody who asks goes on in clear for that.
#[test]
fn a_server_that_begins_to_offer_tls_gets_no_session_in_clear_that_asked_for_it() {
    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let server = Postgres::new();
    // What was connected ahead is answered by the rules of that moment.
    let gateway = |keys: &str| {
        Gw::start(format!(
            "tcp_proxy: {{enabled: true, listen_addr: \"127.0.0.1:0\", connection_pooling: false}}\nroutes:\n{}",
            route_entry("db", &[server.url()], keys)
        ))
    };
    let gw = gateway("health_check: false");
    let checked = gateway("health_check: {interval_ms: 50}");
    let ask = |gw: &Gw, mode: &str| psql(gw.tcp_addr(0), &format!("sslmode={mode}"), encrypted);
    for gw in [&gw, &checked] {
        assert_eq!(ask(gw, "prefer").unwrap(), "f");
    }
    server.sql("ALTER SYSTEM SET ssl = on");
    server.sql("SELECT pg_reload_conf()");
    eventually(Duration::from_secs(10), "it has TLS", || {
        psql(server.addr(), "sslmode=require", encrypted).is_ok()
    });
    // The first learns that something is wrong, and from then on it is known.
    let error = ask(&gw, "prefer").unwrap_err();
    assert!(error.contains("upstream_error"), "{error}");
    assert_eq!(ask(&gw, "prefer").unwrap(), "t");
    assert_eq!(ask(&gw, "require").unwrap(), "t");
    // A check finds it out before anybody does.
    eventually(Duration::from_secs(10), "it is found out", || {
        ask(&checked, "require").is_ok()
    });
    assert_eq!(ask(&checked, "prefer").unwrap(), "t");
}
