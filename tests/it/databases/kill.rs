//! `KILL` through a route with two MariaDB servers: it ends what it means, and nothing else.

use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{gateway, script};
use crate::support::binary::{config, config_file, run};
use crate::support::{Gw, Mariadb, eventually};

const SOON: Duration = Duration::from_secs(20);

/// PyMySQL, with what the tests below share.
const PYTHON: &str = "
import pymysql, threading, time
def connect(**more):
    return pymysql.connect(host=sys.argv[1], port=int(sys.argv[2]), user='tester',
        password='sesame', connect_timeout=10, **more)
class Asking(threading.Thread):
    'Runs a query for long, and keeps how it ended.'
    def __init__(self, sql='SELECT SLEEP(20)', **more):
        super().__init__(daemon=True)
        self.db = connect(**more)
        self.id, self.sql, self.end = self.db.thread_id(), sql, None
        self.start()
        # Until it has waited for an answer, so that somebody may lose patience.
        time.sleep(0.3)
    def run(self):
        c = self.db.cursor()
        try:
            c.execute(self.sql)
            self.end = c.fetchone()
        except Exception as e:
            self.end = e.args
    def is_killed(self):
        self.join(5)
        return not self.is_alive() and self.end != (0,)
def one(db, sql):
    c = db.cursor()
    c.execute(sql)
    return c.fetchone()[0]
def error(db, sql):
    try:
        db.cursor().execute(sql)
    except pymysql.err.MySQLError as e:
        return e.args
    return None
";

/// Two servers that do not give the same ids, and a gateway in front.
fn two(keys: &str) -> (Mariadb, Mariadb, Gw) {
    let (a, b) = (Mariadb::new(), Mariadb::new());
    for _ in 0..50 {
        Mariadb::mariadb(b.addr())
            .args(["-e", "SELECT 1"])
            .output()
            .expect("the client of MariaDB");
    }
    let gw = in_front(&a, &b, keys);
    (a, b, gw)
}

fn in_front(a: &Mariadb, b: &Mariadb, keys: &str) -> Gw {
    let route = format!(
        "  shop:\n    upstream: [\"{}\", \"{}\"]\n    {keys}\n",
        a.url(),
        b.url()
    );
    gateway(&[route])
}

fn pymysql(addr: SocketAddr, text: &str) -> String {
    script(addr, &format!("{PYTHON}{text}"))
}

#[test]
fn a_kill_of_a_driver_reaches_the_server_of_its_thread() {
    let (_a, _b, gw) = two("");
    let killed = pymysql(
        gw.tcp_addr(0),
        "
ways = [
    lambda db, id: db.cursor().execute('KILL QUERY %d' % id),
    lambda db, id: db.cursor().execute('kill %d' % id),
    lambda db, id: db.kill(id),
]
killed = 0
for n in range(6):
    asking = Asking()
    killer = connect(autocommit=[None, False, True][n % 3])
    try:
        ways[n % 3](killer, asking.id)
    except pymysql.err.MySQLError as e:
        print(n, e)
    killed += asking.is_killed()
    # The connection goes on, and knows where it is.
    assert one(killer, 'SELECT 40 + 2') == 42
    killer.close()
print(killed)
",
    );
    assert_eq!(killed, "6\n");
}

#[test]
fn ctrl_c_in_the_client_of_mariadb_ends_its_query() {
    let (a, b, gw) = two("");
    for _ in 0..6 {
        let mut client = Mariadb::mariadb(gw.tcp_addr(0));
        client
            .args(["-e", "SELECT SLEEP(20)"])
            .stdout(Stdio::null());
        let mut client = Ended(client.stderr(Stdio::null()).spawn().expect("it starts"));
        let asking = "SELECT COUNT(*) FROM information_schema.processlist \
                      WHERE info = 'SELECT SLEEP(20)' AND time_ms > 300";
        let told =
            |count: &str| [&a, &b].map(|server| server.try_sql(asking).as_deref() == Ok(count));
        eventually(SOON, "the query runs", || told("1").contains(&true));
        let began = Instant::now();
        kill(Pid::from_raw(client.0.id() as i32), Signal::SIGINT).unwrap();
        eventually(Duration::from_secs(10), "the client has ended", || {
            client.0.try_wait().unwrap().is_some()
        });
        eventually(SOON, "both servers say that none runs", || {
            told("0") == [true, true]
        });
        assert!(
            began.elapsed() < Duration::from_secs(15),
            "{:?}",
            began.elapsed()
        );
    }
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_kill_that_cannot_reach_its_server_is_refused_and_ends_nothing() {
    let (_a, _b, gw) = two("");
    let said = pymysql(
        gw.tcp_addr(0),
        "
# It waits for nothing, so nobody was logged in a second time for it.
idle = [connect(), connect()]
answers = []
for n in range(4):
    killer = connect()
    answers.append(error(killer, 'KILL QUERY %d' % idle[0].thread_id()))
    assert one(killer, 'SELECT 1') == 1
refused = [answer for answer in answers if answer]
assert len(refused) == 2, answers
for code, text in refused:
    assert code == 1094 and 'at another server' in text, (code, text)
# An id that nobody has here is for the server to judge.
code, text = error(connect(), 'KILL 99999')
assert code == 1094 and 'gateway' not in text, (code, text)
print([one(db, 'SELECT 1') for db in idle])
",
    );
    assert_eq!(said, "[1, 1]\n");
}

#[test]
fn where_two_servers_gave_the_same_id_a_kill_is_refused() {
    let (a, b) = (Mariadb::new(), Mariadb::new());
    let gw = in_front(&a, &b, "");
    let said = pymysql(
        gw.tcp_addr(0),
        "
# Until both servers have given the same id to sessions that live.
seen, kept = {}, []
for _ in range(100):
    asking = Asking('SELECT SLEEP(8)')
    kept.append(asking)
    if asking.id in seen:
        break
    seen[asking.id] = asking
else:
    raise SystemExit('no id twice: %r' % sorted(seen))
twice = [seen[asking.id], asking]
for way in ['KILL QUERY %d', 'KILL %d']:
    for _ in range(2):
        code, text = error(connect(), way % asking.id)
        assert code == 1094 and 'several servers' in text, (code, text)
db = connect()
try:
    db.kill(asking.id)
    raise SystemExit('the gateway guessed')
except pymysql.err.MySQLError as e:
    assert e.args[0] == 1094, e
assert one(db, 'SELECT 1') == 1
for asking in twice:
    asking.join(15)
print([asking.end for asking in twice])
",
    );
    assert_eq!(said, "[(0,), (0,)]\n", "both queries ran to their end");
}

#[test]
fn a_kill_means_the_query_that_waits_and_not_its_own_session_of_the_same_id() {
    // Both servers are new, so round robin gives a session and its killer the same id.
    let (a, b) = (Mariadb::new(), Mariadb::new());
    let gw = in_front(&a, &b, "");
    let said = pymysql(
        gw.tcp_addr(0),
        "
equal = killed = tries = 0
for n in range(40):
    tries += 1
    asking = Asking()
    killer = connect()
    equal += killer.thread_id() == asking.id
    try:
        killer.cursor().execute('KILL QUERY %d' % asking.id)
    except pymysql.err.MySQLError as e:
        print(n, e)
    killed += asking.is_killed()
    assert one(killer, 'SELECT 40 + 2') == 42
    killer.close()
    asking.db.close()
    if equal and tries >= 6:
        break
# Nobody waits: which of two idle sessions is meant is not known.
idle = {}
for n in range(200):
    db = connect()
    if db.thread_id() in idle:
        break
    idle[db.thread_id()] = db
else:
    raise SystemExit('no id twice')
code, text = error(db, 'KILL %d' % db.thread_id())
assert code == 1094 and 'several servers' in text, (code, text)
assert [one(db, 'SELECT 1'), one(idle[db.thread_id()], 'SELECT 1')] == [1, 1]
print(equal > 0, killed == tries)
",
    );
    assert_eq!(said, "True True\n");
}

#[test]
fn a_wrong_password_is_refused_and_blocks_nobody_while_a_query_is_waited_for() {
    let (a, b) = (
        Mariadb::with(&["max_connect_errors=3"]),
        Mariadb::with(&["max_connect_errors=3"]),
    );
    let gw = in_front(&a, &b, "");
    let said = pymysql(
        gw.tcp_addr(0),
        "
asking = [Asking('SELECT SLEEP(3)'), Asking('SELECT SLEEP(3)')]
for n in range(8):
    # Gone right after it was let in, and with a password that is wrong.
    connect().close()
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
    s.recv(1000)
    s.close()
    try:
        pymysql.connect(host=sys.argv[1], port=int(sys.argv[2]), user='tester', password='x')
        raise SystemExit('let in')
    except pymysql.err.OperationalError as e:
        assert e.args[0] == 1045, e
for a in asking:
    a.join(10)
print([one(connect(), 'SELECT 1') for _ in range(4)], [a.end for a in asking])
",
    );
    assert_eq!(said, "[1, 1, 1, 1] [(0,), (0,)]\n");
}

#[test]
fn a_file_with_several_endpoints_is_told_what_a_kill_cannot_do() {
    let text = |upstream: &str| {
        config(
            "127.0.0.1:0",
            &format!(
                "tcp_proxy: {{enabled: true, listen_addr: \"127.0.0.1:0\"}}\n\
                 routes: {{shop: {{upstream: {upstream}}}}}\n"
            ),
        )
    };
    for (upstream, warned) in [
        ("[\"mysql://a\", \"mysql://b\"]", true),
        ("[\"mariadb://a\", \"mariadb://b:3307\"]", true),
        (
            "[\"mysql://a\", \"mysql://b\"], balance: hash, hash_on: client_ip",
            false,
        ),
        ("\"mysql://a\"", false),
        ("[\"redis://a\", \"redis://b\"]", false),
    ] {
        let (_folder, file) = config_file(&text(upstream));
        let output = run(&["-t", "-c", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(said.contains("KILL"), warned, "{upstream}: {said}");
    }
}
