//! The databases that cannot be had here: what their drivers send was recorded (PyMongo 4,
//! cassandra-driver 3, python-tds 1, python-oracledb 3, curl), their servers are fakes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::raw::connect;
use super::{gateway, to, with_settings};
use crate::support::{Binary, Origin, eventually, nginx::free_addr};

/// What a driver sends first.
struct Driver {
    scheme: &'static str,
    keys: &'static str,
    first: &'static [u8],
}

const DRIVERS: [Driver; 6] = [
    Driver {
        scheme: "mongodb",
        keys: "",
        first: MONGODB,
    },
    Driver {
        scheme: "cassandra",
        keys: "",
        first: CASSANDRA,
    },
    Driver {
        scheme: "sqlserver",
        keys: "",
        first: SQLSERVER,
    },
    Driver {
        scheme: "oracle",
        keys: "",
        first: ORACLE,
    },
    Driver {
        scheme: "http",
        keys: "db_type: couchdb",
        first: b"GET /db/1 HTTP/1.1\r\nHost: 10.0.0.1:9090\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n",
    },
    Driver {
        scheme: "redis",
        keys: "",
        first: b"*4\r\n$6\r\nCLIENT\r\n$7\r\nSETINFO\r\n$8\r\nLIB-NAME\r\n$8\r\nredis-py\r\n",
    },
];

/// `ismaster` with `helloOk`.
const MONGODB: &[u8] = b"J\x01\0\0gE\x8bk\0\0\0\0\xdd\x07\0\0\0\0\0\0\x005\x01\0\0\x10ismaster\0\x01\0\0\0\
\x08helloOk\0\x01\x02backpressure\0\x02\0\0\x002\0\x03client\0\xed\0\0\0\x03driver\0.\0\0\0\x02name\0\n\0\0\0\
PyMongo|c\0\x02version\0\x08\0\0\x004.20.0|\0\0\x03os\0[\0\0\0\x02type\0\x06\0\0\0Linux\0\x02name\0\x06\0\0\0\
Linux\0\x02architecture\0\x07\0\0\0x86_64\0\x02version\0\x10\0\0\x006.18.44-fc-v509\0\0\x02platform\0\x17\0\0\0\
CPython 3.11.7.final.0\0\x03env\0)\0\0\0\x03container\0\x19\0\0\0\x02runtime\0\x07\0\0\0docker\0\0\0\0\
\x02$db\0\x06\0\0\0admin\0\0";

/// OPTIONS, in the version that DataStax's servers speak.
const CASSANDRA: &[u8] = b"B\0\0\0\x05\0\0\0\0";

/// PRELOGIN.
const SQLSERVER: &[u8] =
    b"\x12\x01\0:\0\0\0\0\0\0\x1a\0\x06\x01\0 \0\x01\x02\0!\0\x0c\x03\0-\0\x04\x04\x001\0\x01\
\xff\x01\0\0\0\0\0\x02MSSQLServer\0\0\0\0\0\0";

/// LOGIN7 of `sa`, after the answer to PRELOGIN.
const SQLSERVER_LOGIN: &[u8] = b"\x10\x01\0\xb0\0\0\x01\0\xa8\0\0\0\x04\0\0t\0\x10\0\0\0\0\0\x01\xef[\0\0\0\0\0\0\
\xf0\x02\0\x08\0\0\0\0\t\x04\0\0^\0\x02\0b\0\x02\0f\0\x01\0h\0\x05\0r\0\t\0\0\0\0\0\x84\0\x12\0\xa8\0\0\0\xa8\0\
\0\0\x02\xfc\0\0\0\x01\0\0\0\0\xa8\0\0\0\xa8\0\0\0\0\0\0\0v\0m\0s\0a\0\"\xa5p\0y\0t\0d\0s\x001\x002\x007\0.\0\
0\0.\x000\0.\x001\0P\0y\0t\0h\0o\0n\0 \0T\0D\0S\0 \0L\0i\0b\0r\0a\0r\0y\0";

/// CONNECT to the service `orcl`.
const ORACLE: &[u8] =
    b"\x01-\0\0\x01\0\0\0\x01?\x01,\x04\x01 \0 \0O\x98\0\0\0\x01\0\xe3\0J\0\0\0\0\x84\x84\0\0\0\0\
\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0 \0\0\0 \0\0\0\0\0\0\0\0\x01(DESCRIPTION=\
(TRANSPORT_CONNECT_TIMEOUT=2)(ADDRESS=(PROTOCOL=tcp)(HOST=127.0.0.1)(PORT=34541))(CONNECT_DATA=\
(SERVICE_NAME=orcl)(CID=(PROGRAM=/opt/app/v2/bin/python)(HOST=vm)(USER=root))\
(CONNECTION_ID=2oYibqeAghloRwAP5ybb5w==)))";

/// Everything that comes for `bytes`, to the end.
fn answer(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut client = connect(addr);
    client.write_all(bytes).expect("it is connected");
    rest(&mut client)
}

fn rest(client: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let read = client.read_to_end(&mut answer);
    read.unwrap_or_else(|error| panic!("{error} after {}", answer.escape_ascii()));
    answer
}

/// Says who it is and sends back what it gets.
fn named_echo(name: &'static str) -> Origin {
    Origin::raw(move |conn| {
        conn.some_bytes()?;
        conn.send(name)?;
        conn.echo_bytes()
    })
}

#[test]
fn each_is_known_on_one_listener_by_what_its_driver_sends_first() {
    let servers = DRIVERS.each_ref().map(|driver| named_echo(driver.scheme));
    let routes = DRIVERS.iter().zip(&servers).map(|(driver, server)| {
        let url = format!("{}://{}", driver.scheme, server.addr());
        let keys = format!("{}\nhealth_check: false", driver.keys);
        to(driver.scheme, &url, &keys)
    });
    let gw = gateway(&routes.collect::<Vec<_>>());
    for driver in &DRIVERS {
        for cut in [0, 1, 3, 8, driver.first.len() - 1] {
            let mut client = connect(gw.tcp_addr(0));
            let (early, late) = driver.first.split_at(cut);
            client.write_all(early).expect("it is connected");
            client.write_all(late).expect("it is connected");
            client.write_all(b"and more").expect("it is connected");
            client.shutdown(Shutdown::Write).expect("it is connected");
            let expected = [driver.scheme.as_bytes(), driver.first, b"and more"].concat();
            let answer = rest(&mut client);
            assert_eq!(
                answer.escape_ascii().to_string(),
                expected.escape_ascii().to_string(),
                "{} cut at {cut}",
                driver.scheme
            );
        }
    }
}

/// MongoDB's answer to [`MONGODB`]: OP_MSG with `ok: 0`, code 91.
fn mongodb_error(text: &str) -> Vec<u8> {
    let mut fields = b"\x01ok\0\0\0\0\0\0\0\0\0\x02errmsg\0".to_vec();
    fields.extend((text.len() as u32 + 1).to_le_bytes());
    fields.extend(text.as_bytes());
    fields.extend(b"\0\x10code\0\x5b\0\0\0\x02codeName\0\x13\0\0\0ShutdownInProgress\0\0");
    let mut bytes = (16 + 4 + 1 + 4 + fields.len() as u32)
        .to_le_bytes()
        .to_vec();
    bytes.extend(b"\x01\0\0\0gE\x8bk\xdd\x07\0\0\0\0\0\0\0");
    bytes.extend((4 + fields.len() as u32).to_le_bytes());
    bytes.extend(fields);
    bytes
}

/// Cassandra's: ERROR Overloaded, in the version and on the stream of the request.
fn cassandra_error(text: &str) -> Vec<u8> {
    let mut bytes = b"\xc2\0\0\0\0".to_vec();
    bytes.extend((4 + 2 + text.len() as u32).to_be_bytes());
    bytes.extend(b"\0\0\x10\x01");
    bytes.extend((text.len() as u16).to_be_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

/// SQL Server's, after PRELOGIN: ERROR 17809 of class 20, and DONE.
fn sqlserver_error(text: &str) -> Vec<u8> {
    let text: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut error = b"\x91\x45\0\0\x01\x14".to_vec();
    error.extend((text.len() as u16 / 2).to_le_bytes());
    error.extend(text);
    error.extend(b"\0\0\x01\0\0\0");
    let mut tokens = b"\xaa".to_vec();
    tokens.extend((error.len() as u16).to_le_bytes());
    tokens.extend(error);
    tokens.extend(b"\xfd\x02\0\0\0\0\0\0\0\0\0\0\0");
    let mut bytes = b"\x04\x01".to_vec();
    bytes.extend((8 + tokens.len() as u16).to_be_bytes());
    bytes.extend(b"\0\0\x01\0");
    bytes.extend(tokens);
    bytes
}

fn refused_by_sqlserver(addr: SocketAddr) -> Vec<u8> {
    let mut client = connect(addr);
    client.write_all(SQLSERVER).expect("it is connected");
    let mut prelogin = [0; 47];
    client.read_exact(&mut prelogin).expect("an answer");
    assert_eq!(prelogin[..4], *b"\x04\x01\0\x2f");
    assert_eq!(prelogin[8 + 0x20], 2, "no encryption");
    client.write_all(SQLSERVER_LOGIN).expect("it is connected");
    rest(&mut client)
}

/// Oracle's: REFUSE with the number that clients look for.
fn assert_oracle_refuses(answer: &[u8], code: u16, why: &str) {
    let length = usize::from(u16::from_be_bytes([answer[0], answer[1]]));
    assert_eq!(length, answer.len());
    assert_eq!(answer[4], 4, "REFUSE");
    let text = String::from_utf8_lossy(&answer[12..]);
    assert!(text.contains(&format!("(ERR={code})")), "{text}");
    assert!(text.contains(&format!("'{why}'")), "{text}");
}

fn assert_http(answer: &[u8], status: &str, body: &str) {
    let text = String::from_utf8_lossy(answer);
    assert!(
        text.starts_with(&format!("HTTP/1.1 {status}\r\n")),
        "{text}"
    );
    assert!(text.ends_with(&format!("\r\n\r\n{body}")), "{text}");
}

/// What each driver reads from `addr`: no server, for this reason.
fn assert_unavailable(scheme: &str, addr: SocketAddr, why: &str) {
    let text = format!("the server is not available ({why})");
    match scheme {
        "mongodb" => assert_eq!(answer(addr, MONGODB), mongodb_error(&text)),
        "cassandra" => assert_eq!(answer(addr, CASSANDRA), cassandra_error(&text)),
        "sqlserver" => assert_eq!(refused_by_sqlserver(addr), sqlserver_error(&text)),
        "oracle" => assert_oracle_refuses(&answer(addr, ORACLE), 12541, why),
        "http" => {
            let answer = answer(addr, DRIVERS[4].first);
            let body = format!(r#"{{"error":"service_unavailable","reason":"{why}"}}"#);
            assert_http(&answer, "503 Service Unavailable", &body);
            let text = String::from_utf8_lossy(&answer);
            assert!(text.contains("\r\nRetry-After: 1\r\n"), "{text}");
            assert!(
                text.contains("\r\nContent-Type: application/json\r\n"),
                "{text}"
            );
        }
        "redis" => {
            let refused = answer(addr, &[DRIVERS[5].first, b"PING\r\n"].concat());
            let line = format!("-ERR {why}\r\n");
            assert_eq!(String::from_utf8_lossy(&refused), line.repeat(2));
        }
        other => panic!("no refusal for {other}"),
    }
}

#[test]
fn a_server_that_cannot_be_had_is_told_in_the_protocol_of_the_client() {
    let dead = Origin::refusing();
    let routes = DRIVERS.iter().map(|driver| {
        let url = format!("{}://{}", driver.scheme, dead.addr());
        let keys = format!("{}\nhealth_check: false", driver.keys);
        (driver.scheme, to(driver.scheme, &url, &keys))
    });
    let routes: Vec<_> = routes.collect();
    let all: Vec<_> = routes.iter().map(|(_, route)| route.clone()).collect();
    let shared = gateway(&all);
    for (scheme, route) in &routes {
        assert_unavailable(scheme, shared.tcp_addr(0), "connect_failed");
        // Alone on a listener nothing was read before the refusal.
        let own = gateway(std::slice::from_ref(route));
        assert_unavailable(scheme, own.tcp_addr(0), "connect_failed");
        let labels = [("route", *scheme), ("reason", "connect_failed")];
        eventually(Duration::from_secs(5), "the session is counted", || {
            own.metrics().sum("harbr_tcp_sessions_total", &labels) == 1.0
        });
    }
}

#[test]
fn who_has_no_route_is_told_in_the_protocol_he_speaks() {
    let server = Origin::ok("");
    let gw = gateway(&[
        to(
            "documents",
            &format!("http://{}", server.addr()),
            "db_type: influxdb\nhealth_check: false",
        ),
        to(
            "cache",
            &format!("redis://{}", server.addr()),
            "health_check: false",
        ),
    ]);
    let addr = gw.tcp_addr(0);
    let text = "no route matches this connection (unmatched)";
    assert_eq!(answer(addr, MONGODB), mongodb_error(text));
    assert_eq!(answer(addr, CASSANDRA), cassandra_error(text));
    assert_eq!(refused_by_sqlserver(addr), sqlserver_error(text));
    assert_oracle_refuses(&answer(addr, ORACLE), 12514, "unmatched");
    let startup = b"\0\0\0\x14\0\x03\0\0user\0somebody\0\0";
    let mut startup = startup.to_vec();
    startup[3] = startup.len() as u8;
    let postgres = answer(addr, &startup);
    let postgres = String::from_utf8_lossy(&postgres);
    assert!(
        postgres.starts_with('E') && postgres.contains("C08004\0"),
        "{postgres}"
    );
    assert!(postgres.contains(text), "{postgres}");
    // Nothing can be said in a language that nobody here knows.
    assert_eq!(answer(addr, b"SSH-2.0-OpenSSH_9.2\r\n"), b"");
    eventually(Duration::from_secs(5), "each is counted", || {
        let labels = [("route", "-"), ("reason", "unmatched")];
        gw.metrics().sum("harbr_tcp_sessions_total", &labels) == 6.0
    });
    assert_eq!(server.connections(), 0);

    // With no route for HTTP it is HTTP all the same.
    let gw = gateway(&[
        to(
            "documents",
            &format!("mongodb://{}", server.addr()),
            "health_check: false",
        ),
        to(
            "cache",
            &format!("redis://{}", server.addr()),
            "health_check: false",
        ),
    ]);
    let answer = answer(gw.tcp_addr(0), DRIVERS[4].first);
    let body = r#"{"status":404,"title":"Not Found","reason":"unmatched"}"#;
    assert_http(&answer, "404 Not Found", body);
}

#[test]
fn what_matches_no_route_goes_to_the_default() {
    let (cache, rest_of_them) = (named_echo("cache"), named_echo("default"));
    let gw = gateway(&[
        to(
            "cache",
            &format!("redis://{}", cache.addr()),
            "health_check: false",
        ),
        to(
            "rest",
            &format!("tcp://{}", rest_of_them.addr()),
            "default: true\nhealth_check: false",
        ),
    ]);
    for bytes in [&b"SSH-2.0-OpenSSH_9.2\r\n"[..], MONGODB, SQLSERVER] {
        let mut client = connect(gw.tcp_addr(0));
        client.write_all(bytes).expect("it is connected");
        client.shutdown(Shutdown::Write).expect("it is connected");
        assert_eq!(rest(&mut client), [b"default", bytes].concat());
    }
    let mut client = connect(gw.tcp_addr(0));
    client.write_all(b"PING\r\n").expect("it is connected");
    client.shutdown(Shutdown::Write).expect("it is connected");
    assert_eq!(rest(&mut client), b"cachePING\r\n");
}

#[test]
fn of_what_matches_no_route_sixteen_bytes_are_logged_and_nothing_of_what_does() {
    let server = named_echo("cache");
    let tcp = free_addr();
    let routes = [
        to(
            "cache",
            &format!("redis://{}", server.addr()),
            "health_check: false",
        ),
        to(
            "documents",
            &format!("mongodb://{}", server.addr()),
            "health_check: false",
        ),
    ];
    let keys = with_settings("", &routes).replace("127.0.0.1:0", &tcp.to_string());
    let gateway = Binary::start(&keys);
    assert_eq!(answer(tcp, b"SSH-2.0-OpenSSH_and-a-secret-word\r\n"), b"");
    let mut client = connect(tcp);
    client
        .write_all(b"AUTH a-secret-word\r\n")
        .expect("it is connected");
    client.shutdown(Shutdown::Write).expect("it is connected");
    assert_eq!(rest(&mut client), b"cacheAUTH a-secret-word\r\n");
    eventually(Duration::from_secs(5), "the start is logged", || {
        gateway.said().contains("5353482d322e302d4f70656e5353485f")
    });
    let said = gateway.said();
    assert!(
        !said.contains("5353482d322e302d4f70656e5353485f61"),
        "{said}"
    );
    assert!(!said.contains("secret") && !said.contains("AUTH"), "{said}");
}
