//! Nothing is lost: reloads and upgrades one after another, under the load of real clients that
//! count their failures.
//!
//! HTTP clients that keep their connections and ones that do not, pgbench of both kinds, a psql
//! session in the middle of a transaction and a WebSocket session, all at once.

mod pgbench;
mod psql;
mod websocket;

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::daemon::lasting_port;
use crate::support::load::{Stopping, under_load};
use crate::support::{Binary, Gw, Origin, Postgres, client, eventually, loaded, route_entry};
use pgbench::Pgbench;
use psql::Psql;
use websocket::WebSocket;

const SOON: Duration = Duration::from_secs(15);

/// Answers with the target that it was asked for.
fn naming_its_target() -> Origin {
    Origin::serve(|request, conn| conn.answer(200, &[], request.target.as_bytes()))
}

fn on_loopback<const N: usize>() -> [SocketAddr; N] {
    let mut addrs: Vec<SocketAddr> = Vec::new();
    while addrs.len() < N {
        let addr = SocketAddr::from(([127, 0, 0, 1], lasting_port()));
        if !addrs.contains(&addr) {
            addrs.push(addr);
        }
    }
    std::array::from_fn(|nth| addrs[nth])
}

/// A transaction that stays open: its session must be the same at the end.
struct Transaction {
    psql: Psql,
    backend: String,
}

impl Transaction {
    #[track_caller]
    fn begin(addr: SocketAddr) -> Transaction {
        let mut psql = Psql::start(addr);
        psql.tell("BEGIN");
        psql.tell("CREATE TABLE kept AS SELECT 'whole' AS text");
        let backend = psql.ask("SELECT pg_backend_pid()");
        Transaction { psql, backend }
    }

    #[track_caller]
    fn goes_on(&mut self) {
        assert_eq!(self.psql.ask("SELECT pg_backend_pid()"), self.backend);
    }

    #[track_caller]
    fn commit(mut self, server: &Postgres) {
        self.goes_on();
        self.psql.tell("COMMIT");
        self.goes_on();
        self.psql.leave();
        assert_eq!(server.sql("SELECT text FROM kept"), "whole");
    }
}

/// Every transaction that pgbench counts as done is in the tables, and none besides.
#[track_caller]
fn all_are_there(server: &Postgres, processed: u64) {
    assert_eq!(
        server.sql("SELECT count(*) FROM pgbench_history"),
        processed.to_string()
    );
    let sums = "SELECT (SELECT sum(delta) FROM pgbench_history) = (SELECT sum(abalance) FROM \
                pgbench_accounts) AND (SELECT sum(delta) FROM pgbench_history) = (SELECT \
                sum(bbalance) FROM pgbench_branches)";
    assert_eq!(server.sql(sums), "t");
}

/// How many transactions are done, asked without the gateway.
fn done(observer: &mut Psql) -> u64 {
    let count = observer.ask("SELECT count(*) FROM pgbench_history");
    count.parse().unwrap()
}

#[track_caller]
fn many_more_are_done(observer: &mut Psql) {
    let before = done(observer);
    // Where others use the machine as well, one takes seconds.
    eventually(4 * SOON, "transactions go on", || {
        done(observer) > before + 30
    });
}

#[test]
fn twenty_reloads_under_load_fail_no_request_no_transaction_and_no_session() {
    let _turn = loaded();
    let server = Postgres::trusting(&[]);
    Pgbench::initialise(&server);
    let (web, socket) = (naming_its_target(), websocket::origin());
    let [db, extra, admins @ ..] = on_loopback::<4>();
    let yaml = |nth: usize| {
        let [admin, _] = in_turn(admins, nth / 2);
        let version = [format!("{}/v{nth}", web.url())];
        let (here, there) = (
            format!("/only-{nth}"),
            format!("timeout_ms: {}", 5000 + nth),
        );
        let mut routes = [
            route_entry("/", &version, &there),
            route_entry(&here, &version, ""),
            route_entry("/ws", &[socket.url()], &there),
            format!("  db: {{upstream: main, timeout_ms: {}}}\n", 5000 + nth),
        ]
        .concat();
        if has_extra(nth) {
            routes += &format!(
                "  extra: {{upstream: main, tcp_listen_port: {}}}\n",
                extra.port()
            );
        }
        format!(
            "admin: {{listen_addr: \"{admin}\"}}\n\
             tcp_proxy: {{enabled: true, listen_addr: \"{db}\"}}\n\
             upstreams: {{main: {{upstream: \"{}\"}}}}\nroutes:\n{routes}",
            server.url()
        )
    };
    let gw = Gw::start(yaml(0));
    let mut observer = Psql::start(server.addr());
    let mut transaction = Transaction::begin(db);
    let mut talk = WebSocket::open(gw.addr(), "/ws");
    let mut kept = gw.client();
    let processed = under_load(gw.addr(), &web, || {
        let keeping = Pgbench::start(db, "keeping", &["-c", "3", "-R", "60"]);
        let reconnecting = Pgbench::start(db, "reconnecting", &["-C", "-c", "3", "-R", "30"]);
        for nth in 1..=20 {
            many_more_are_done(&mut observer);
            let [admin, other] = in_turn(admins, nth / 2);
            let asked = if nth % 2 == 0 { other } else { admin };
            let answer = gw.reload_at(asked, yaml(nth));
            assert_eq!(answer.status, 200, "{}", answer.text());
            let report = answer.json();
            let listeners = match (nth % 2 == 0, has_extra(nth)) {
                (true, _) => json!({"added": [admin.to_string()], "removed": [other.to_string()]}),
                (false, true) => json!({"added": [extra.to_string()], "removed": []}),
                (false, false) => json!({"added": [], "removed": [extra.to_string()]}),
            };
            assert_eq!(report["listeners"], listeners, "{report}");
            assert_eq!(
                report["routes"]["added"][0],
                format!("/only-{nth}"),
                "{report}"
            );
            assert_eq!(
                report["routes"]["removed"][0],
                format!("/only-{}", nth - 1),
                "{report}"
            );
            for response in [gw.get("/"), kept.get("/")] {
                assert_eq!(response.text(), format!("/v{nth}/"));
            }
            assert!(TcpStream::connect(other).is_err());
            assert_eq!(client::get(admin, "/readyz").status, 200);
            match has_extra(nth) {
                true => Psql::start(extra).leave(),
                false => assert!(TcpStream::connect(extra).is_err()),
            }
            transaction.goes_on();
            talk.echo(&format!("after {nth}"));
        }
        many_more_are_done(&mut observer);
        [keeping, reconnecting]
            .into_iter()
            .map(|pgbench| {
                pgbench
                    .finish()
                    .unwrap_or_else(|said| panic!("{said}\n{}", slow_or_lost(&gw)))
            })
            .sum()
    });
    transaction.commit(&server);
    talk.echo("the end");
    assert_eq!(socket.connections(), 1);
    all_are_there(&server, processed);
}

/// The sessions that ended badly or took long, as the gateway reports them.
fn slow_or_lost(gw: &Gw) -> String {
    let records = gw.access_log(0).into_iter().filter(|record| {
        record["protocol"] == "postgres"
            && (record["reason"] != "ok" || record["total_ms"].as_f64() > Some(2000.0))
    });
    records.map(|record| format!("{record}\n")).collect()
}

/// The one that is there at this turn, and the other.
fn in_turn(both: [SocketAddr; 2], turn: usize) -> [SocketAddr; 2] {
    [both[turn % 2], both[(turn + 1) % 2]]
}

/// Added by reloads 1, 5, 9 and so on, removed by 3, 7, 11.
fn has_extra(nth: usize) -> bool {
    nth.div_ceil(2) % 2 == 1
}

/// Those that run with a configuration of this folder.
fn processes(folder: &Path) -> usize {
    let name = folder.to_str().expect("text");
    let all = std::fs::read_dir("/proc").expect("there is one");
    all.flatten()
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .filter(|line| String::from_utf8_lossy(line).contains(name))
        .count()
}

#[track_caller]
fn ended_well(mut old: Binary) {
    let status = old.ended_within(SOON);
    let said = old.said();
    assert_eq!(status.and_then(|s| s.code()), Some(0), "{said}");
    assert!(said.contains("drained"), "{said}");
    assert!(!said.contains("cut off"), "{said}");
}

#[test]
fn ten_upgrades_in_a_row_under_load_fail_no_request_no_connect_and_no_transaction() {
    let _turn = loaded();
    let server = Postgres::trusting(&[]);
    Pgbench::initialise(&server);
    let (web, socket) = (Origin::ok("ok"), websocket::origin());
    let [db, admin] = on_loopback();
    let mut running = Binary::start(&format!(
        "server: {{drain_timeout_secs: 300}}\nadmin: {{listen_addr: \"{admin}\"}}\n\
         tcp_proxy: {{enabled: true, listen_addr: \"{db}\"}}\nroutes:\n{}{}{}",
        route_entry("/", &[web.url()], ""),
        route_entry("/ws", &[socket.url()], ""),
        route_entry("db", &[server.url()], ""),
    ));
    let addr = running.addr();
    let mut observer = Psql::start(server.addr());
    // Both stay in the first process, through all that follow it.
    let mut transaction = Transaction::begin(db);
    let mut talk = WebSocket::open(addr, "/ws");
    let mut draining = VecDeque::new();
    let mut processed = 0;
    let asked = while_ready(admin, || {
        under_load(addr, &web, || {
            let reconnecting = Pgbench::start(db, "reconnecting", &["-C", "-c", "3", "-R", "30"]);
            for nth in 0..10 {
                let name = format!("keeping-{nth}");
                let keeping = Pgbench::start(db, &name, &["-c", "2", "-R", "40"]);
                let sessions = format!(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}'"
                );
                eventually(SOON, "its clients are there", || {
                    observer.ask(&sessions) == "2"
                });
                let next = running.beside(&["-u"]).serving();
                draining.push_back((std::mem::replace(&mut running, next), keeping));
                many_more_are_done(&mut observer);
                assert_eq!(observer.ask(&sessions), "2", "where they were");
                transaction.goes_on();
                talk.echo(&format!("after {nth}"));
                // The first one still has others.
                if draining.len() > 4 {
                    let (old, keeping) = draining.remove(1).expect("one of five");
                    processed += keeping.finish().unwrap();
                    ended_well(old);
                }
            }
            processed += reconnecting.finish().unwrap();
        });
    });
    assert!(asked > 10, "{asked}");
    transaction.commit(&server);
    talk.echo("the end");
    drop(talk);
    for (mut old, keeping) in draining {
        assert_eq!(old.ended_within(Duration::ZERO), None, "it has sessions");
        processed += keeping.finish().unwrap();
        ended_well(old);
    }
    all_are_there(&server, processed);
    assert_eq!(processes(running.folder()), 1);
    assert_eq!(running.client().get("/").text(), "ok");
    running.signal(Signal::SIGTERM);
    assert!(running.ended_within(SOON).is_some());
    assert_eq!(processes(running.folder()), 0);
    assert!(TcpStream::connect(addr).is_err(), "nobody else has it");
    assert!(!running.folder().join("gateway.sock").exists());
}

/// Asks `/readyz` during `work`, which must always say yes. Returns how often it was asked.
fn while_ready(admin: SocketAddr, work: impl FnOnce()) -> usize {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut asked = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(client::get(admin, "/readyz").status, 200);
                asked += 1;
                thread::sleep(Duration::from_millis(10));
            }
            asked
        });
        let stopping = Stopping(&stop);
        work();
        drop(stopping);
        asking.join().unwrap()
    })
}
