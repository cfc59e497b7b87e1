//! Cancel requests: they come on a connection of their own and must reach the one server that runs
//! the query.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::{gateway, psql, tcp};
use crate::support::drivers::psycopg;
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
    // Nobody has this key.
    let mut client = TcpStream::connect(gw.tcp_addr(0)).unwrap();
    let request = b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\x30\x39\x01\x02\x03\x04";
    client.write_all(request).unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let mut said = Vec::new();
    client.read_to_end(&mut said).unwrap();
    assert_eq!(said, b"", "as a server answers");
    assert_eq!(psql(gw.tcp_addr(0), "", "SELECT 1").unwrap(), "1");
    eventually(Duration::from_secs(5), "the server was asked", || {
        server.log().contains("did not match any process")
    });
}
