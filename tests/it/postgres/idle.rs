//! When a session is idle, and what becomes of a query that nobody waits for any more.

use std::time::Duration;

use super::raw::Raw;
use super::{gateway, psql, tcp};
use crate::support::drivers::psycopg;
use crate::support::{Gw, Postgres, eventually, route_entry};

/// How many sessions run something now, but for the one that asks.
fn running(server: &Postgres) -> String {
    server.sql(
        "SELECT count(*) FROM pg_stat_activity
         WHERE state = 'active' AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
    )
}

#[test]
fn a_session_whose_server_works_is_not_idle() {
    let server = Postgres::new();
    let gw = gateway(&[&server], "idle_timeout_secs: 1");
    let said = psycopg(
        gw.tcp_addr(0),
        r#"
def idle(db):
    time.sleep(3)
    try:
        db.execute("SELECT 1")
    except psycopg.Error as error:
        return error.sqlstate
def silent_at_first():
    db = connect()
    return db.execute("SELECT pg_sleep(2.5), 'whole'").fetchone()[1], idle(db)
def silent_in_the_middle():
    db = connect()
    rows = db.execute("""SELECT g, repeat('x', 100000), pg_sleep(CASE g WHEN 3 THEN 2.5 ELSE 0 END)
        FROM generate_series(1, 4) g""").fetchall()
    return len(rows), idle(db)
def silent_between_two_answers():
    db = connect()
    with db.pipeline() as pipeline:
        one = db.execute("SELECT 1")
        pipeline.sync()
        two = db.execute("SELECT pg_sleep(2.5), 2")
        pipeline.sync()
        return one.fetchone()[0], two.fetchone()[1]
def waits_for_a_lock():
    first, second = connect(), connect()
    first.execute("SELECT pg_advisory_lock(7)")
    threading.Timer(0.7, lambda: first.execute("SELECT 1")).start()
    threading.Timer(1.4, lambda: first.execute("SELECT 1")).start()
    threading.Timer(2.1, lambda: first.execute("SELECT pg_advisory_unlock(7)")).start()
    return second.execute("SELECT pg_advisory_lock(7), 'mine'").fetchone()[1]
def copies_in_slowly():
    db = connect()
    db.execute("CREATE TEMP TABLE t (n int)")
    with db.cursor().copy("COPY t FROM STDIN") as copy:
        copy.write("1\n")
        time.sleep(2.5)
        copy.write("2\n")
    return db.execute("SELECT count(*) FROM t").fetchone()[0]
for session in (silent_at_first, silent_in_the_middle, silent_between_two_answers, waits_for_a_lock,
        copies_in_slowly):
    print(session())
"#,
    );
    let expected = "('whole', '57P01')\n(4, '57P01')\n(1, 2)\nmine\n2";
    assert_eq!(said.unwrap(), expected);
}

#[test]
fn a_client_that_is_silent_is_idle_in_a_transaction_and_after_a_notification_too() {
    let server = Postgres::new();
    let gw = gateway(&[&server], "idle_timeout_secs: 1");
    let said = psycopg(
        gw.tcp_addr(0),
        r#"
def idle(db):
    time.sleep(3)
    try:
        db.execute("SELECT 1")
    except psycopg.Error as error:
        return error.sqlstate
begun = connect()
begun.execute("BEGIN")
listening = connect()
listening.execute("LISTEN news")
failed = connect()
failed.execute("BEGIN")
try:
    failed.execute("SELECT 1 / 0")
except psycopg.Error:
    pass
connect().execute("NOTIFY news")
print(idle(begun), idle(listening), idle(failed))
"#,
    );
    assert_eq!(said.unwrap(), "57P01 57P01 57P01");
    let reasons = gw.reasons(4);
    assert_eq!(
        reasons
            .iter()
            .filter(|reason| *reason == "idle_timeout")
            .count(),
        3
    );
}

/// It cannot be read there, but who spoke last is known.
#[test]
fn a_query_in_tls_that_is_passed_through_is_not_idle_either() {
    let server = Postgres::with(&["ssl=on"]);
    let gw = gateway(&[&server], "idle_timeout_secs: 1");
    let slow = "SELECT pg_sleep(2.5), 'whole'";
    let said = psql(gw.tcp_addr(0), "sslmode=require", slow);
    assert_eq!(said.unwrap(), "|whole");
}

#[test]
fn a_query_that_a_drain_cuts_is_cancelled_and_its_client_is_told() {
    let server = Postgres::new();
    let gw = Gw::start(format!(
        "server:\n  drain_timeout_secs: 1\n{}",
        tcp(&route_entry("db", &[server.url()], ""))
    ));
    let addr = gw.tcp_addr(0);
    let client = std::thread::spawn(move || {
        psycopg(
            addr,
            r#"
db = connect()
for query in ("SELECT pg_sleep(600)", "SELECT 1"):
    try:
        db.execute(query)
    except psycopg.Error as error:
        print(error.sqlstate)
"#,
        )
    });
    let turn = Duration::from_secs(20);
    eventually(turn, "it runs", || running(&server) == "1");
    gw.stop();
    assert_eq!(running(&server), "0");
    let said = client.join().unwrap().unwrap();
    // What it says next may cross with what it is sent.
    assert!(["57014\n57P01", "57014\nNone"].contains(&&*said), "{said}");
}

#[test]
fn the_query_of_a_client_that_has_gone_is_cancelled() {
    let server = Postgres::trusting(&[]);
    let gw = gateway(&[&server], "idle_timeout_secs: 1");
    let mut client = Raw::login(gw.tcp_addr(0));
    client.read_until(b"Z\0\0\0\x05I");
    client.send(b"Q\0\0\0\x19SELECT pg_sleep(600)\0");
    let turn = Duration::from_secs(20);
    eventually(turn, "it runs", || running(&server) == "1");
    client.close_half();
    eventually(turn, "it runs no more", || running(&server) == "0");
    assert_eq!(gw.reasons(1), ["half_open"]);
}
