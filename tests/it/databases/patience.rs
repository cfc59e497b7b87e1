//! `idle_timeout_secs` in protocols in which each request has an answer: who waits for one is not
//! idle.

use std::io::{Read, Write};

use super::mariadb::pymysql;
use super::raw::{connect, ends, ends_as};
use super::{gateway, to};
use crate::support::{Conn, Mariadb, Origin, Redis};

#[test]
fn a_query_of_mariadb_is_not_idle_and_a_silent_client_is() {
    let server = Mariadb::new();
    let keys = "health_check: false\nidle_timeout_secs: 1";
    let gw = gateway(&[to("shop", &server.url(), keys)]);
    let script = "
import time
db = connect()
c = db.cursor()
c.execute('SELECT SLEEP(2.5)')
print(c.fetchone()[0])
time.sleep(3)
try:
    c.execute('SELECT 1')
except pymysql.err.Error as e:
    print(e.args[0])
";
    assert_eq!(pymysql(script, gw.tcp_addr(0)), "0\n2013\n");
    ends_as(&gw, "shop", "idle_timeout", 1.0);
}

#[test]
fn a_redis_client_that_waits_for_an_element_is_not_idle() {
    let server = Redis::new();
    let keys = "health_check: false\nidle_timeout_secs: 1";
    let gw = gateway(&[to("cache", &server.url(), keys)]);
    let mut client = connect(gw.tcp_addr(0));
    client.write_all(b"BLPOP nothing 2.5\r\n").unwrap();
    let mut none = [0; 5];
    client.read_exact(&mut none).unwrap();
    assert!(&none == b"*-1\r\n", "{}", none.escape_ascii());
    assert_eq!(ends(&mut client), b"");
    ends_as(&gw, "cache", "idle_timeout", 1.0);
}

/// Of a protocol that nobody knows it is not known who is to speak.
#[test]
fn where_the_protocol_is_not_known_silence_is_idle() {
    let server = Origin::raw(|conn: &mut Conn| conn.until_closed());
    let keys = "is_tcp: true\nhealth_check: false\nidle_timeout_secs: 1";
    let url = format!("tcp://{}", server.addr());
    let gw = gateway(&[to("any", &url, keys)]);
    let mut client = connect(gw.tcp_addr(0));
    client.write_all(b"log line\n").unwrap();
    assert_eq!(ends(&mut client), b"");
    ends_as(&gw, "any", "idle_timeout", 1.0);
}
