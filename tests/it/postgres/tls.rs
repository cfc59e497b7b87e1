//! TLS between client and server, through a gateway that has no part in it.

use super::raw::Raw;
use super::{gateway, psql};
use crate::support::Postgres;
use crate::support::drivers::psycopg;

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
