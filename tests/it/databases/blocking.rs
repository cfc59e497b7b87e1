//! MariaDB blocks a host after `max_connect_errors` handshakes that it abandoned; through a gateway
//! all clients are one host.
//!
//! The gateway runs in a network namespace, because MariaDB never blocks its own host.

use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use socket2::SockRef;

use super::raw::connect;
use super::{script, to, with_settings};
use crate::support::daemon::output;
use crate::support::drivers::python;
use crate::support::{Binary, Mariadb, Netns, eventually};

/// How a client leaves that never says anything.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    AtOnce,
    AtOnceByReset,
    Greeted,
    GreetedByReset,
    /// Says that it will say nothing, and goes later.
    HalfFirst,
}

const WAYS: [Leaves; 5] = [
    Leaves::AtOnce,
    Leaves::AtOnceByReset,
    Leaves::Greeted,
    Leaves::GreetedByReset,
    Leaves::HalfFirst,
];

fn come_and_leave(addr: SocketAddr, how: Leaves) {
    let client = match how {
        Leaves::Greeted | Leaves::GreetedByReset => greeted(addr),
        _ => connect(addr),
    };
    if let Leaves::AtOnceByReset | Leaves::GreetedByReset = how {
        let reset = SockRef::from(&client).set_linger(Some(Duration::ZERO));
        reset.expect("a socket takes SO_LINGER");
    }
    if let Leaves::HalfFirst = how {
        client.shutdown(Shutdown::Write).expect("it is connected");
        // However it ends, it ends.
        let _how = (&client).read_to_end(&mut Vec::new());
    }
}

/// A client that the server has spoken to, and not the other way round.
fn greeted(addr: SocketAddr) -> TcpStream {
    let mut client = connect(addr);
    let mut greeting = [0; 4096];
    let count = client.read(&mut greeting).expect("the server speaks first");
    let text = String::from_utf8_lossy(&greeting[..count]);
    assert!(text.contains("MariaDB"), "{text}");
    client
}

/// Blocks whoever abandons five handshakes, as seen from `net`.
fn touchy(net: &Netns) -> (Mariadb, SocketAddr) {
    let server = Mariadb::with(&[
        "max_connect_errors=5",
        // Room for all that come and leave before it has got around to the first of them: who does
        // not fit in is not answered at all.
        "back_log=1000",
        &format!("bind-address={}", net.outside()),
        // It remembers hosts only while it looks up their names.
        "skip-name-resolve=0",
    ]);
    let addr = SocketAddr::from((net.outside(), server.port()));
    (server, addr)
}

#[test]
fn neither_checks_nor_clients_that_come_and_leave_get_the_gateway_blocked() {
    let net = Netns::new();
    let (server, addr) = touchy(&net);
    let shop = to(
        "shop",
        &format!("mariadb://{addr}"),
        "health_check: {interval_ms: 200}",
    );
    let tcp = SocketAddr::from((net.inside(), 9090));
    let keys = with_settings("", &[shop]).replace("127.0.0.1:0", &tcp.to_string());
    let gateway = Binary::start_in_netns(&net, &keys);
    let started = Instant::now();
    for how in WAYS {
        for _ in 0..50 {
            come_and_leave(tcp, how);
        }
    }
    // Ten checks at the least.
    while started.elapsed() < Duration::from_secs(2) {
        come_and_leave(tcp, Leaves::Greeted);
    }
    eventually(Duration::from_secs(10), "all of them are gone", || {
        server.sql("SHOW STATUS LIKE 'Threads_connected'") == "Threads_connected\t1"
    });
    let mut client = Mariadb::mariadb(tcp);
    let host = output(client.args(["-e", "SELECT SUBSTRING_INDEX(USER(), '@', -1)"]));
    let host = host.unwrap_or_else(|error| panic!("{error}\n{}", gateway.said()));
    assert_eq!(host.trim_end(), net.inside().to_string());
}

#[test]
fn sessions_that_a_drain_ends_before_their_first_byte_do_not_count_either() {
    let net = Netns::new();
    let (_server, addr) = touchy(&net);
    let shop = to("shop", &format!("mariadb://{addr}"), "");
    let tcp = SocketAddr::from((net.inside(), 9090));
    let keys = with_settings("", &[shop]).replace("127.0.0.1:0", &tcp.to_string());
    let keys = format!("server: {{drain_timeout_secs: 1}}\n{keys}");
    let mut gateway = Binary::start_in_netns(&net, &keys);
    let silent: Vec<TcpStream> = (0..20).map(|_| greeted(tcp)).collect();
    gateway.signal(Signal::SIGTERM);
    let ended = gateway.ended_within(Duration::from_secs(20));
    assert!(
        ended.is_some_and(|status| status.success()),
        "{}",
        gateway.said()
    );
    drop(silent);
    let login = "
import pymysql, sys
db = pymysql.connect(host=sys.argv[1], port=int(sys.argv[2]), user='tester', password='sesame')
print(db.get_server_info())
";
    let said = inside(&net, login, addr);
    assert!(said.contains("MariaDB"), "{said}");
}

/// What a Python program prints that runs where the gateway does.
fn inside(net: &Netns, program: &str, addr: SocketAddr) -> String {
    let mut command = net.command(python().get_program());
    command.args([
        "-c",
        program,
        &addr.ip().to_string(),
        &addr.port().to_string(),
    ]);
    output(&mut command).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_same_clients_without_a_gateway_do_get_their_host_blocked() {
    let net = Netns::new();
    let (_server, addr) = touchy(&net);
    let program = "
import socket, sys
for _ in range(50):
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 20) as client:
        client.recv(1)
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
print(s.recv(4096))
";
    let said = inside(&net, program, addr);
    assert!(
        said.contains("is blocked because of many connection errors"),
        "{said}"
    );
    // Only that host is: this one is the server's own.
    let login = "
import pymysql
db = pymysql.connect(host=sys.argv[1], port=int(sys.argv[2]), user='tester', password='sesame')
print(db.get_server_info())
";
    assert!(script(addr, login).contains("MariaDB"));
}
