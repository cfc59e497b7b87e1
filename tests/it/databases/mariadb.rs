//! MariaDB: its server speaks first, and blocks hosts that do not finish what they begin.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::{gateway, script, to};
use crate::support::daemon::output;
use crate::support::{Mariadb, Origin, eventually};

/// Opens `db` with PyMySQL, host and port from the command line.
const CONNECT: &str = "
import hashlib, pymysql
def connect(**more):
    return pymysql.connect(host=sys.argv[1], port=int(sys.argv[2]), user='tester',
        password='sesame', database='test', connect_timeout=10, **more)
def refused(**more):
    try:
        connect(**more)
    except pymysql.err.OperationalError as e:
        return e.args
    raise SystemExit('the login went through')
";

pub fn pymysql(text: &str, addr: std::net::SocketAddr) -> String {
    script(addr, &format!("{CONNECT}{text}"))
}

#[test]
fn the_client_of_mariadb_works_through_a_port_of_its_own() {
    let server = Mariadb::new();
    let gw = gateway(&[to("shop", &server.url(), "")]);
    let sql = |addr, text: &str| {
        let mut client = Mariadb::mariadb(addr);
        output(client.args(["-e", text])).unwrap_or_else(|e| panic!("{text}: {e}"))
    };
    assert_eq!(sql(gw.tcp_addr(0), "SELECT 1 + 1"), "2\n");
    let error = output(Mariadb::mariadb(gw.tcp_addr(0)).args(["-e", "SELECT nothing"]));
    assert!(error.unwrap_err().contains("ERROR 1054"));

    let prepared = "PREPARE s FROM 'SELECT ? * ?'; SET @a = 6, @b = 7; EXECUTE s USING @a, @b";
    assert_eq!(sql(gw.tcp_addr(0), prepared), "42\n");

    // 40 MB, each row another.
    let large = "SELECT seq, REPEAT(MD5(seq), 64) FROM test.seq_1_to_20000";
    let through = sql(gw.tcp_addr(0), large);
    assert!(through.len() > 40_000_000, "{} bytes", through.len());
    assert!(through == sql(server.addr(), large), "the result differs");

    let metrics = gw.metrics();
    let down = [("route", "shop"), ("direction", "downstream")];
    assert!(metrics.sum("harbr_tcp_bytes_total", &down) > 40_000_000.0);
    eventually(Duration::from_secs(5), "all sessions counted as ok", || {
        let ok = [("route", "shop"), ("reason", "ok")];
        gw.metrics().sum("harbr_tcp_sessions_total", &ok) == 4.0
    });
}

#[test]
fn pymysql_works_and_loads_a_local_file() {
    let server = Mariadb::new();
    let gw = gateway(&[to("shop", &server.url(), "")]);
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let file = folder.path().join("rows.tsv");
    let mut rows = String::new();
    for n in 0..60_000_u64 {
        let word = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        writeln!(rows, "{n}\t{word:016x}{word:064b}").expect("a String takes everything");
    }
    assert!(rows.len() > 5_000_000);
    std::fs::write(&file, &rows).expect("a file in it");
    let script = format!(
        "
db = connect(local_infile=True, autocommit=True)
c = db.cursor()
c.execute('CREATE TABLE rows_ (n int PRIMARY KEY, word text) CHARACTER SET latin1')
assert c.execute(\"LOAD DATA LOCAL INFILE '{}' INTO TABLE rows_\") == 60000
c.execute('SELECT n, word FROM rows_ ORDER BY n')
text = ''.join('%d\\t%s\\n' % row for row in c.fetchall())
assert text == open('{0}').read(), 'not what was loaded'
blob = bytes(range(256)) * 20000
c.execute('CREATE TABLE blobs (b longblob)')
c.execute('INSERT INTO blobs VALUES (%s)', (blob,))
c.execute('SELECT b FROM blobs')
assert c.fetchone()[0] == blob
# A result that is fetched row by row, and left in the middle.
s = db.cursor(pymysql.cursors.SSCursor)
s.execute('SELECT n FROM rows_ ORDER BY n')
assert [s.fetchone()[0] for _ in range(3)] == [0, 1, 2]
s.close()
db.begin()
c.execute('DELETE FROM rows_')
db.rollback()
c.execute('SELECT COUNT(*) FROM rows_')
print(c.fetchone()[0])
",
        file.display()
    );
    assert_eq!(pymysql(&script, gw.tcp_addr(0)), "60000\n");
}

#[test]
fn a_full_route_is_error_1040_to_pymysql() {
    let server = Mariadb::new();
    let keys = "max_connections: 1\nqueue_timeout_ms: 100";
    let gw = gateway(&[to("shop", &server.url(), keys)]);
    let script = "
first = connect()
print(*refused())
first.ping(reconnect=False)
first.close()
for _ in range(50):
    try:
        connect().close()
        break
    except pymysql.err.OperationalError as e:
        assert e.args[0] == 1040, e
else:
    raise SystemExit('the place is not given back')
";
    assert_eq!(
        pymysql(script, gw.tcp_addr(0)),
        "1040 Too many connections (queue_timeout)\n"
    );
}

#[test]
fn a_dead_server_is_error_1053_to_pymysql_and_the_client_of_mariadb() {
    let dead = Origin::refusing();
    let gw = gateway(&[to(
        "shop",
        &format!("mariadb://{}", dead.addr()),
        "health_check: false",
    )]);
    let why = "Server shutdown in progress (connect_failed)";
    assert_eq!(
        pymysql("print(*refused())", gw.tcp_addr(0)),
        format!("1053 {why}\n")
    );
    let error = output(Mariadb::mariadb(gw.tcp_addr(0)).args(["-e", "SELECT 1"]));
    let error = error.unwrap_err();
    assert!(error.contains("1053") && error.contains(why), "{error}");
}

#[test]
fn a_server_that_dies_in_a_query_is_heard_of_at_once_and_its_successor_serves() {
    let mut server = Mariadb::new();
    let gw = gateway(&[to("shop", &server.url(), "")]);
    let mut slow = Mariadb::mariadb(gw.tcp_addr(0));
    let slow = slow.args(["-e", "SELECT SLEEP(60)"]);
    let asking = std::thread::scope(|scope| {
        let asking = scope.spawn(|| (output(slow), Instant::now()));
        eventually(Duration::from_secs(10), "the query runs", || {
            let text = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'";
            server.sql(text) == "1"
        });
        let killed = Instant::now();
        server.kill();
        let (answer, heard) = asking.join().expect("the client ends");
        let error = answer.unwrap_err();
        assert!(
            error.contains("ERROR 2013") || error.contains("ERROR 2026"),
            "{error}"
        );
        heard - killed
    });
    assert!(asking < Duration::from_secs(1), "{asking:?}");
    server.start();
    let answer = output(Mariadb::mariadb(gw.tcp_addr(0)).args(["-e", "SELECT 1"]));
    assert_eq!(answer.unwrap(), "1\n");
}

#[test]
fn a_proxy_header_tells_mariadb_the_address_of_the_client() {
    let server = Mariadb::with(&["proxy-protocol-networks=127.0.0.1"]);
    let host = "
db = connect(bind_address='127.0.0.9')
c = db.cursor()
c.execute('SELECT USER()')
print(c.fetchone()[0])
";
    for (keys, expected) in [
        ("proxy_protocol: v2", "tester@127.0.0.9\n"),
        ("proxy_protocol: v1", "tester@127.0.0.9\n"),
        ("", "tester@127.0.0.1\n"),
    ] {
        let gw = gateway(&[to("shop", &server.url(), keys)]);
        assert_eq!(pymysql(host, gw.tcp_addr(0)), expected, "{keys}");
    }
}
