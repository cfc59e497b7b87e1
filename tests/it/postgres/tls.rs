//! TLS between client and server, through a gateway that has no part in it.

use std::time::Duration;

use super::raw::Raw;
use super::{gateway, psql, tcp};
use crate::support::daemon::{lasting_port, output};
use crate::support::drivers::psycopg;
use crate::support::{Gw, Origin, Postgres, Redis, eventually, route_entry};

const ENCRYPTED: &str = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

#[test]
fn clients_and_servers_speak_tls_end_to_end() {
    let server = Postgres::with(&["ssl=on"]);
    let gw = gateway(&[&server], "");
    let addr = gw.tcp_addr(0);
    for (mode, encrypted) in [("require", "t"), ("prefer", "t"), ("disable", "f")] {
        let options = format!("sslmode={mode}");
        assert_eq!(
            psql(addr, &options, ENCRYPTED).unwrap(),
            encrypted,
            "{mode}"
        );
    }
    // Channel binding holds only if nobody stands between.
    let options = "sslmode=require channel_binding=require";
    assert_eq!(psql(addr, options, ENCRYPTED).unwrap(), "t");
    // The certificate is the server's: signed by nobody else.
    let certificate = server.certificate();
    let verified = format!(
        "host=localhost hostaddr=127.0.0.1 sslmode=verify-full sslrootcert={}",
        certificate.display()
    );
    assert_eq!(psql(addr, &verified, ENCRYPTED).unwrap(), "t");
    let other = verified.replace("host=localhost", "host=other.test");
    let error = psql(addr, &other, ENCRYPTED).unwrap_err();
    assert!(error.contains("does not match host name"), "{error}");
    let said = psycopg(
        addr,
        r#"
with connect(sslmode="require") as db:
    rows = db.execute("SELECT repeat(md5(n::text), 16) FROM generate_series(1, 20000) n")
    print(sum(len(r[0]) for r in rows), db.pgconn.ssl_in_use)
"#,
    );
    assert_eq!(said.unwrap(), "10240000 True");
}

#[test]
fn a_server_without_tls_answers_for_itself() {
    let server = Postgres::new();
    let gw = gateway(&[&server], "");
    assert_eq!(
        psql(gw.tcp_addr(0), "sslmode=prefer", ENCRYPTED).unwrap(),
        "f"
    );
    let error = psql(gw.tcp_addr(0), "sslmode=require", ENCRYPTED).unwrap_err();
    assert!(
        error.contains("server does not support SSL, but SSL was required"),
        "{error}"
    );
}

#[test]
fn a_client_may_ask_for_gss_encryption_first_and_is_told_no() {
    let server = Postgres::with(&["ssl=on"]);
    let gw = gateway(&[&server], "");
    let mut client = Raw::connect(gw.tcp_addr(0));
    client.send(b"\0\0\0\x08\x04\xd2\x16\x30");
    assert_eq!(client.byte(), b'N');
    client.startup();
    client.expect(b'R');
    // The answer to a request for TLS is the server's own.
    let mut client = Raw::connect(gw.tcp_addr(0));
    client.send(b"\0\0\0\x08\x04\xd2\x16\x30");
    assert_eq!(client.byte(), b'N');
    client.send(b"\0\0\0\x08\x04\xd2\x16\x2f");
    assert_eq!(client.byte(), b'S');
}

/// A server of PostgreSQL 17 to a client that begins with TLS: it wants the protocol named in the
/// ClientHello, and has an older server behind it. Then a session and its cancel.
const DIRECT: &str = r#"
import select, socket, ssl
assert psycopg.pq.version() >= 170000, psycopg.pq.version()
certificate, key, front, behind = CERTIFICATE, KEY, FRONT, BEHIND
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
context.set_alpn_protocols(["postgresql"])
listener, began = socket.create_server(("127.0.0.1", front)), []
def serve(raw):
    began.append(raw.recv(1, socket.MSG_PEEK))
    client = context.wrap_socket(raw, server_side=True)
    assert client.selected_alpn_protocol() == "postgresql"
    server = socket.create_connection(("127.0.0.1", behind))
    while True:
        ready = [client] if client.pending() else select.select([client, server], [], [])[0]
        for one, other in ((client, server), (server, client)):
            if one in ready:
                piece = one.recv(65536)
                if not piece:
                    return
                other.sendall(piece)
def accept():
    while True:
        client = listener.accept()[0]
        threading.Thread(target=serve, args=[client], daemon=True).start()
threading.Thread(target=accept, daemon=True).start()
with connect(sslmode="require", sslnegotiation="direct") as db:
    print(db.execute("SELECT 6 * 7").fetchone()[0], db.pgconn.ssl_in_use)
    db.add_notice_handler(lambda notice: threading.Thread(target=db.cancel_safe).start())
    try:
        db.execute("DO $$ BEGIN RAISE NOTICE 'running'; PERFORM pg_sleep(20); END $$")
    except psycopg.errors.QueryCanceled as error:
        print(error.sqlstate)
# What begins otherwise is the gateway's own question before it connects ahead.
print([first for first in began if first == b"\x16"])
"#;

#[test]
fn a_client_may_begin_with_tls_as_that_of_postgresql_17_does() {
    let (server, cache) = (Postgres::new(), Redis::new());
    let front = lasting_port();
    let program = DIRECT
        .replace("CERTIFICATE", &format!("{:?}", server.certificate()))
        .replace(
            "KEY",
            &format!("{:?}", server.folder().join("data/server.key")),
        )
        .replace("FRONT", &front.to_string())
        .replace("BEHIND", &server.port().to_string());
    let url = format!("postgres://127.0.0.1:{front}");
    let alone = route_entry("db", &[url], "health_check: false");
    let shared = format!("{alone}{}", route_entry("cache", &[cache.url()], ""));
    for routes in [alone, shared] {
        let gw = Gw::start(tcp(&routes));
        let said = psycopg(gw.tcp_addr(0), &program).unwrap();
        assert_eq!(said, "42 True\n57014\n[b'\\x16', b'\\x16']");
        if routes.contains("cache") {
            let ping = output(Redis::redis_cli(gw.tcp_addr(0)).arg("PING"));
            assert_eq!(ping.unwrap(), "PONG\n");
        }
    }
}

/// Does the handshake of a client whose first message is cut into records of each size, each in a
/// segment of its own, and begins a session in it.
const IN_PIECES: &str = r#"
import os, socket, ssl
REQUEST = b"\0\0\0\x08\x04\xd2\x16\x2f"
STARTUP = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0"
def session(name, size):
    raw = socket.create_connection((os.environ["PGHOST"], int(os.environ["PGPORT"])))
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    raw.sendall(REQUEST)
    assert raw.recv(1) == b"S"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    read, written = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(read, written, server_hostname=name)
    def until(step):
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                raw.sendall(written.read())
                piece = raw.recv(65536)
                assert piece, "closed"
                read.write(piece)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        hello = written.read()[5:]
        for at in range(0, len(hello), size):
            piece = hello[at:at + size]
            record = b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece
            for byte in range(0, len(record), max(size, 4)):
                raw.sendall(record[byte:byte + max(size, 4)])
    until(tls.do_handshake)
    tls.write((len(STARTUP) + 4).to_bytes(4, "big") + STARTUP)
    answer = until(lambda: tls.read(1))
    raw.close()
    return answer
for size in (1, 2, 3, 4, 5, 50, 16384):
    print(size, session("db1.test", size).decode(), session("other.test", size).decode())
"#;

/// RFC 8446, 5.1: handshake messages may be cut anywhere.
#[test]
fn a_route_is_found_by_a_name_in_a_hello_that_is_cut_at_any_byte() {
    let servers = [(); 2].map(|()| Postgres::with(&["ssl=on"]));
    let [one, other] = &servers;
    let named = route_entry("one", &[one.url()], "match: {sni: db1.test}");
    let rest = route_entry("rest", &[other.url()], "default: true");
    let gw = Gw::start(tcp(&format!("{named}{rest}")));
    let said = psycopg(gw.tcp_addr(0), IN_PIECES).unwrap();
    let expected = [1, 2, 3, 4, 5, 50, 16384].map(|size| format!("{size} R R"));
    assert_eq!(said, expected.join("\n"));
    for route in ["one", "rest"] {
        let labels = [("route", route)];
        let sessions = gw.metrics().sum("tcp_proxy_connection_new", &labels);
        assert_eq!(sessions, 7.0, "{route}");
    }
}

/// What clients make of a server that has TLS and cannot be reached now.
#[test]
fn a_refusal_never_says_that_a_server_with_tls_has_none() {
    let mut server = Postgres::with(&["ssl=on"]);
    for keys in [
        "health_check: false\nejection: false",
        "health_check: {interval_ms: 50, timeout_ms: 500, unhealthy_after: 1}",
    ] {
        let gw = gateway(&[&server], keys);
        let addr = gw.tcp_addr(0);
        let ask = |mode: &str| psql(addr, &format!("sslmode={mode}"), ENCRYPTED);
        assert_eq!(ask("require").unwrap(), "t");
        server.stop();
        let insists = ["require", "verify-ca", "verify-full"];
        for mode in insists {
            let certificate = server.certificate();
            let options = format!("{mode} sslrootcert={}", certificate.display());
            let error = ask(&options).unwrap_err();
            assert!(error.contains("tlsv1 alert internal error"), "{error}");
            assert!(!error.contains("does not support SSL"), "{error}");
        }
        // Whoever does not insist reads why.
        for mode in ["prefer", "allow", "disable"] {
            let error = ask(mode).unwrap_err();
            let text = "FATAL:  the database system is not available";
            assert!(error.contains(text), "{mode}: {error}");
        }
        let said = psycopg(addr, ASYNCPG).unwrap();
        assert_eq!(
            said, "SSLError False\nCannotConnectNowError 57P03",
            "{keys}"
        );
        // It is known after a reload, too.
        let keys = format!("{keys}\nbalance: least_requests");
        let text = tcp(&route_entry("db", &[server.url()], &keys));
        assert_eq!(gw.reload(text).status, 200);
        let error = ask("require").unwrap_err();
        assert!(error.contains("tlsv1 alert internal error"), "{error}");
        server.start();
        eventually(Duration::from_secs(10), "it is served again", || {
            ask("require").is_ok()
        });
        assert_eq!(ask("require").unwrap(), "t");
    }
}

/// For a driver that tells the answers to a request for TLS apart.
const ASYNCPG: &str = r#"
import asyncio, asyncpg
async def attempt(mode):
    try:
        await asyncpg.connect(ssl=mode)
    except Exception as error:
        print(type(error).__name__, getattr(error, "sqlstate", "rejected" in str(error)))
asyncio.run(attempt("require"))
asyncio.run(attempt("prefer"))
"#;

/// Limits refuse while the server is up.
#[test]
fn a_client_above_a_limit_is_not_told_that_its_server_has_no_tls() {
    let server = Postgres::with(&["ssl=on"]);
    let of_route = "max_connections: 1\nqueue_timeout_ms: 100";
    let route = |keys: &str| tcp(&route_entry("db", &[server.url()], keys));
    for text in [
        route(of_route),
        format!("max_connections: 1\n{}", route("")),
    ] {
        let gw = Gw::start(text);
        let said = psycopg(
            gw.tcp_addr(0),
            r#"
held = connect(sslmode="require")
for mode in ("require", "prefer"):
    try:
        connect(sslmode=mode)
    except psycopg.OperationalError as error:
        print("does not support" in str(error), "too many clients" in str(error))
"#,
        );
        assert_eq!(said.unwrap(), "False False\nFalse True");
    }
}

/// Nothing is known of a server that has never been up: the default of clients is to ask for TLS and
/// to take no for an answer, and they are to read what is wrong.
#[test]
fn a_client_of_a_server_that_was_never_up_reads_why() {
    let dead = Origin::refusing();
    let url = dead.url().replace("http:", "postgres:");
    let gw = Gw::start(tcp(&route_entry("db", &[url], "health_check: false")));
    let error = psql(gw.tcp_addr(0), "sslmode=prefer", "SELECT 1").unwrap_err();
    let text = "FATAL:  the database system is not available (connect_failed)";
    assert!(error.contains(text) && !error.contains("SSL"), "{error}");
}

#[test]
fn a_client_that_begins_with_tls_and_cannot_be_served_reads_an_alert() {
    let dead = Origin::refusing();
    let url = dead.url().replace("http:", "postgres:");
    let gw = Gw::start(tcp(&route_entry(
        "db",
        &[url],
        "health_check: false\nejection: false",
    )));
    let said = psycopg(
        gw.tcp_addr(0),
        r#"
try:
    connect(sslmode="require", sslnegotiation="direct")
except psycopg.OperationalError as error:
    print(error)
"#,
    );
    let said = said.unwrap();
    assert!(said.contains("tlsv1 alert internal error"), "{said}");
    assert!(
        !said.contains("closed the connection unexpectedly"),
        "{said}"
    );
}
