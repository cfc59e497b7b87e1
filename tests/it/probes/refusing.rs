//! Servers that take connections and refuse what clients want: Galera nodes out of their cluster, and
//! the like of them elsewhere.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use harbr_router::upstream::Role;

use super::{Checks, MARIADB_LOGIN};
use crate::support::daemon::lasting_port;
use crate::support::{Mariadb, Redis, eventually};

/// The only node of a cluster.
fn galera() -> Mariadb {
    let provider = "/usr/lib/galera/libgalera_smm.so";
    assert!(Path::new(provider).exists(), "please install galera-4");
    let group = lasting_port();
    let server = Mariadb::with(&[
        "wsrep-on=ON",
        &format!("wsrep-provider={provider}"),
        &format!(
            "wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:{group};gcache.size=1M"
        ),
        "wsrep-cluster-address=gcomm://",
        "wsrep-node-address=127.0.0.1",
        "binlog-format=ROW",
        "innodb-autoinc-lock-mode=2",
    ]);
    eventually(Duration::from_secs(30), "the node is synced", || {
        server
            .try_sql("SHOW STATUS LIKE 'wsrep_local_state'")
            .is_ok_and(|row| row.ends_with("\t4"))
    });
    server
}

pub fn why(checks: &Checks) -> String {
    let endpoint = checks.upstream.endpoints().iter().next().cloned();
    let error = endpoint.and_then(|endpoint| endpoint.last_error());
    error
        .map(|error| error.text.to_string())
        .unwrap_or_default()
}

#[test]
fn a_galera_node_that_refuses_queries_is_out_and_says_why() {
    let node = galera();
    let checks = Checks::of(&[&node.url()], MARIADB_LOGIN);
    let blind = Checks::of(&[&node.url()], "");
    checks.await_roles(&[Role::Primary]);
    for (refuse, serve, said) in [
        (
            "SET GLOBAL wsrep_reject_queries = ALL",
            "SET GLOBAL wsrep_reject_queries = NONE",
            "wsrep_reject_queries=ALL",
        ),
        (
            "SET GLOBAL wsrep_desync = ON",
            "SET GLOBAL wsrep_desync = OFF",
            "wsrep_local_state=2 (Donor/Desynced)",
        ),
        (
            "SET GLOBAL wsrep_cluster_address = 'gcomm://127.0.0.1:1'",
            "SET GLOBAL wsrep_cluster_address = 'gcomm://'",
            "wsrep_ready=OFF",
        ),
    ] {
        assert!(checks.healthy(), "{said}");
        node.sql(refuse);
        checks.await_health(false);
        assert!(why(&checks).contains(said), "{}", why(&checks));
        // Without a login nothing of this is seen.
        blind.after(5);
        assert!(blind.healthy(), "{said}");
        node.sql(serve);
        checks.await_health(true);
    }
    assert_eq!(checks.roles(), [Role::Primary]);
}

#[test]
fn a_galera_node_that_is_read_only_is_a_replica_and_stays() {
    let node = galera();
    let checks = Checks::of(&[&node.url()], MARIADB_LOGIN);
    node.sql("SET GLOBAL read_only = ON");
    checks.await_roles(&[Role::Replica]);
    assert!(checks.healthy());
}

#[test]
fn a_redis_replica_that_refuses_for_want_of_its_master_is_out() {
    let server = Redis::with(&[
        "--requirepass",
        "sesame",
        "--replica-serve-stale-data",
        "no",
    ]);
    let checks = ["", ", password: sesame"].map(|login| Checks::of(&[&server.url()], login));
    checks[1].await_roles(&[Role::Primary]);
    server.run(&["REPLICAOF", "127.0.0.1", "1"]);
    checks[1].await_health(false);
    assert!(
        why(&checks[1]).contains("MASTERDOWN"),
        "{}",
        why(&checks[1])
    );
    server.run(&["REPLICAOF", "NO", "ONE"]);
    checks[1].await_health(true);
}

#[test]
fn a_redis_that_runs_a_script_without_end_is_out_until_that_is_killed() {
    let server = Redis::with(&["--busy-reply-threshold", "50"]);
    let checks = Checks::of(&[&server.url()], "");
    checks.await_roles(&[Role::Primary]);
    let mut client = Redis::redis_cli(server.addr());
    client.args(["EVAL", "while true do end", "0"]);
    client.stdout(Stdio::null()).stderr(Stdio::null());
    let mut client = client.spawn().expect("redis-cli starts");
    checks.await_health(false);
    assert!(why(&checks).contains("BUSY"), "{}", why(&checks));
    server.run(&["SCRIPT", "KILL"]);
    checks.await_health(true);
    client.wait().expect("it was started");
}
