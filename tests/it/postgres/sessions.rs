//! Sessions: what clients do all day works through the gateway, byte for byte.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use super::{gateway, psql};
use crate::support::daemon::output;
use crate::support::drivers::{psycopg, psycopg_running};
use crate::support::{Postgres, eventually, loaded};

#[test]
fn psql_and_psycopg_query_through_it() {
    let server = Postgres::new();
    let gw = gateway(&[&server], "");
    let addr = gw.tcp_addr(0);
    assert_eq!(psql(addr, "", "SELECT 6 * 7").unwrap(), "42");
    let error = psql(addr, "", "SELECT nonsense").unwrap_err();
    assert!(
        error.contains("column \"nonsense\" does not exist"),
        "{error}"
    );
    let error = psql(addr, "password=wrong", "SELECT 1").unwrap_err();
    assert!(error.contains("password authentication failed"), "{error}");
    let said = psycopg(
        addr,
        r#"
with connect() as db:
    db.execute("CREATE TEMP TABLE t (n int, text text)")
    with db.cursor() as cursor:
        cursor.executemany("INSERT INTO t VALUES (%s, %s)", [(n, str(n) * 100) for n in range(1000)])
    # Prepared on the server, executed again and again.
    for n in range(20):
        row = db.execute("SELECT text FROM t WHERE n = %s", [n], prepare=True).fetchone()
        assert row == (str(n) * 100,), row
    assert db.execute("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'SELECT text%'").fetchone()[0] == 1
    with db.pipeline():
        cursors = [db.execute("SELECT %s::int", [n]) for n in range(500)]
    assert [c.fetchone()[0] for c in cursors] == list(range(500))
    # A server-side cursor inside of a transaction, and an error that leaves the session usable.
    with db.transaction(), db.cursor("named") as named:
        named.execute("SELECT n FROM t ORDER BY n")
        assert [r[0] for r in named.fetchmany(10)] == list(range(10))
    try:
        db.execute("SELECT 1 / 0")
    except psycopg.errors.DivisionByZero:
        print("division by zero")
    # A large result: 50 MB of rows.
    rows = db.execute("SELECT repeat(md5(n::text), 16) FROM generate_series(1, 100000) n")
    print(sum(len(r[0]) for r in rows))
"#,
    );
    assert_eq!(said.unwrap(), "division by zero\n51200000");
}

#[test]
fn notifications_arrive_in_sessions_that_wait() {
    let server = Postgres::new();
    let gw = gateway(&[&server], "");
    let mut listener = psycopg_running(
        gw.tcp_addr(0),
        r#"
db = connect()
db.execute("LISTEN news")
print("listening", flush=True)
for note in db.notifies(timeout=20, stop_after=3):
    print(note.channel, note.payload, flush=True)
"#,
    );
    let mut lines = BufReader::new(listener.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "listening");
    for n in 1..=3 {
        psql(gw.tcp_addr(0), "", &format!("NOTIFY news, 'number {n}'")).unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), format!("news number {n}"));
    }
    assert!(listener.wait().unwrap().success());
}

#[test]
fn pgbench_runs_in_all_its_modes() {
    let _turn = loaded();
    let server = Postgres::new();
    let gw = gateway(&[&server], "");
    let pgbench = |args: &[&str]| {
        let said = output(Postgres::pgbench(gw.tcp_addr(0)).args(args));
        said.unwrap_or_else(|error| panic!("pgbench {args:?}: {error}"))
    };
    pgbench(&["-i", "-s", "1", "-q"]);
    for mode in ["simple", "extended", "prepared"] {
        let said = pgbench(&["-S", "-M", mode, "-c", "8", "-t", "100", "-n"]);
        assert!(said.contains("actually processed: 800/800"), "{said}");
        assert!(said.contains("number of failed transactions: 0 "), "{said}");
    }
    let said = pgbench(&["-c", "4", "-t", "25", "-n"]);
    assert!(said.contains("actually processed: 100/100"), "{said}");
    let said = pgbench(&["-S", "-C", "-c", "4", "-t", "25", "-n"]);
    assert!(said.contains("actually processed: 100/100"), "{said}");
}

#[test]
fn copies_300_megabytes_in_and_out_byte_for_byte() {
    let _turn = loaded();
    let server = Postgres::new();
    let gw = gateway(&[&server], "");
    let said = psycopg(
        gw.tcp_addr(0),
        r#"
import hashlib, random
rng = random.Random(7)
sent, got, lines = hashlib.sha256(), hashlib.sha256(), 0
# No two blocks alike, and no block a divisor of any buffer.
blocks = [rng.randbytes(30_011).hex().encode() + b"\n" for _ in range(100)]
with connect() as db:
    db.execute("CREATE UNLOGGED TABLE t (n serial, line text)")
    db.execute("ALTER TABLE t ALTER line SET STORAGE EXTERNAL")
    with db.cursor().copy("COPY t (line) FROM STDIN") as copy:
        for n in range(5000):
            block = b"%06d" % n + blocks[n * 7919 % 100]
            sent.update(block)
            copy.write(block)
    with db.cursor().copy("COPY (SELECT line FROM t ORDER BY n) TO STDOUT") as copy:
        for data in copy:
            lines += len(data)
            got.update(data)
    # The session is in step afterwards.
    assert db.execute("SELECT 1").fetchone() == (1,)
print(lines, sent.hexdigest() == got.hexdigest())
"#,
    );
    assert_eq!(said.unwrap(), format!("{} True", 5000 * (6 + 60_022 + 1)));
    eventually(Duration::from_secs(5), "all bytes are counted", || {
        let metrics = gw.metrics();
        ["upstream", "downstream"].iter().all(|direction| {
            let labels = [("route", "db"), ("direction", *direction)];
            metrics.sum("harbr_tcp_bytes_total", &labels) > 300_000_000.0
        })
    });
}
