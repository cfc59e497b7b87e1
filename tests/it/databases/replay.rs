//! What a client has sent when a socket connected ahead dies: said again where it had no effect, and
//! never where it had one.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::raw::{connect, ends, nothing_is_left};
use super::{gateway, to};
use crate::support::{Gw, Origin, Postgres, Redis, eventually};

/// A server in front of a server. From clients that connected and then said nothing for a while, as
/// sockets connected ahead do, it passes the first words on, waits until they were answered, and
/// closes without a word.
struct Traitor {
    addr: SocketAddr,
    betrayed: Arc<AtomicUsize>,
    waiting: Arc<AtomicUsize>,
}

/// Longer than anybody who was not connected ahead takes for the first word, however busy the
/// machine.
const LONG: Duration = Duration::from_millis(800);

impl Traitor {
    fn before(server: SocketAddr) -> Traitor {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let traitor = Traitor {
            addr: listener.local_addr().unwrap(),
            betrayed: Arc::default(),
            waiting: Arc::default(),
        };
        let (betrayed, waiting) = (traitor.betrayed.clone(), traitor.waiting.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (betrayed, waiting) = (betrayed.clone(), waiting.clone());
                thread::spawn(move || serve(client, server, &betrayed, &waiting));
            }
        });
        traitor
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.addr)
    }

    fn betrayed(&self) -> usize {
        self.betrayed.load(Ordering::SeqCst)
    }
}

fn serve(
    mut client: TcpStream,
    server: SocketAddr,
    betrayed: &AtomicUsize,
    waiting: &Arc<AtomicUsize>,
) {
    let came = Instant::now();
    let mut first = [0; 4096];
    client.set_read_timeout(Some(LONG)).unwrap();
    let mut read = client.read(&mut first);
    let late = read.is_err();
    if late {
        waiting.fetch_add(1, Ordering::SeqCst);
        client.set_read_timeout(None).unwrap();
        read = client.read(&mut first);
        waiting.fetch_sub(1, Ordering::SeqCst);
    }
    let (Ok(read @ 1..), Ok(mut server)) = (read, TcpStream::connect(server)) else {
        return;
    };
    client.set_read_timeout(None).unwrap();
    server.write_all(&first[..read]).unwrap();
    if late && came.elapsed() > LONG {
        // Until it has done what it was asked for, and says nothing more.
        server.set_read_timeout(Some(LONG / 2)).unwrap();
        let mut answer = [0; 4096];
        while server.read(&mut answer).is_ok_and(|read| read > 0) {}
        betrayed.fetch_add(1, Ordering::SeqCst);
        return;
    }
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let up = thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let _ = std::io::copy(&mut server, &mut client);
    let _ = client.shutdown(Shutdown::Write);
    let _ = up.join();
}

/// Clients that say `words`, one after the other, until `server` has betrayed one. What each heard.
fn until_betrayed(gw: &Gw, server: &Traitor, words: &[u8]) -> Vec<Vec<u8>> {
    let before = server.betrayed();
    let mut heard = Vec::new();
    eventually(Duration::from_secs(60), "one was betrayed", || {
        let mut client = connect(gw.tcp_addr(0));
        client.write_all(words).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        heard.push(ends(&mut client));
        if server.betrayed() > before {
            return true;
        }
        let waits = Instant::now();
        while server.waiting.load(Ordering::SeqCst) == 0 && waits.elapsed() < LONG * 2 {
            thread::sleep(Duration::from_millis(5));
        }
        false
    });
    heard
}

fn resp(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n{word}\r\n", word.len()).bytes());
    }
    bytes
}

#[test]
fn a_redis_command_is_never_run_twice() {
    let redis = Redis::new();
    let server = Traitor::before(redis.addr());
    let keys = "health_check: false\nejection: false";
    let gw = gateway(&[to("cache", &server.url("redis"), keys)]);
    let incr = resp(&["INCR", "n"]);
    let after_hello = [&resp(&["HELLO", "2"])[..], &incr].concat();
    let mut sent = 0;
    for words in [&incr[..], b"incr n\r\n", &after_hello] {
        let heard = until_betrayed(&gw, &server, words);
        sent += heard.len();
        let told = heard.last().unwrap().escape_ascii().to_string();
        assert!(told.starts_with("-ERR upstream_reset\\r\\n"), "{told}");
        for answer in &heard[..heard.len() - 1] {
            let text = answer.escape_ascii().to_string();
            assert!(
                text.contains(":") && !text.contains("upstream_reset"),
                "{text}"
            );
        }
        assert_eq!(redis.run(&["GET", "n"]), sent.to_string());
    }
    // What is done to others counts as well.
    let heard = until_betrayed(&gw, &server, &resp(&["CLIENT", "KILL", "ID", "1000000"]));
    assert_eq!(heard.last().unwrap(), b"-ERR upstream_reset\r\n");
    nothing_is_left(&gw);
}

#[test]
fn what_sets_up_a_redis_connection_is_said_again_unseen() {
    let redis = Redis::new();
    let server = Traitor::before(redis.addr());
    let keys = "health_check: false\nejection: false";
    let gw = gateway(&[to("cache", &server.url("redis"), keys)]);
    let set_up = [
        resp(&["client", "SETNAME", "INCR"]),
        b"SELECT 3\r\n".to_vec(),
        resp(&["PING"]),
    ]
    .concat();
    for heard in until_betrayed(&gw, &server, &set_up) {
        assert_eq!(
            heard.escape_ascii().to_string(),
            "+OK\\r\\n+OK\\r\\n+PONG\\r\\n"
        );
    }
    nothing_is_left(&gw);
}

#[test]
fn of_mongodb_only_hello_is_said_again() {
    let [hello, insert] = ["hello", "insert"].map(|name| {
        let mut message = vec![
            0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0xdd, 7, 0, 0, 0, 0, 0, 0, 0,
        ];
        let length = (name.len() + 11) as u8;
        message.extend([length, 0, 0, 0, 0x10]);
        message.extend(name.bytes());
        message.extend([0, 1, 0, 0, 0, 0]);
        message[0] = message.len() as u8;
        message
    });
    let inserts = Arc::new(AtomicUsize::new(0));
    let (seen, expected) = (inserts.clone(), insert.clone());
    let mongodb = Origin::raw(move |conn| {
        if conn.some_bytes()? == expected {
            seen.fetch_add(1, Ordering::SeqCst);
        }
        conn.send("answer")
    });
    let server = Traitor::before(mongodb.addr());
    let keys = "health_check: false\nejection: false";
    let gw = gateway(&[to("docs", &server.url("mongodb"), keys)]);
    for heard in until_betrayed(&gw, &server, &hello) {
        assert_eq!(heard, b"answer");
    }
    let heard = until_betrayed(&gw, &server, &insert);
    assert_eq!(inserts.load(Ordering::SeqCst), heard.len());
    let told = heard.last().unwrap();
    assert!(told.windows(18).any(|text| text == b"ShutdownInProgress"));
}

#[test]
fn of_postgres_a_query_that_came_with_the_start_is_not_said_again() {
    let postgres = Postgres::trusting(&[]);
    postgres.sql("CREATE TABLE said (what text)");
    let server = Traitor::before(postgres.addr());
    let keys = "health_check: false\nejection: false";
    let gw = gateway(&[to("db", &server.url("postgres"), keys)]);
    let mut start = b"\0\0\0\0\0\x03\0\0user\0postgres\0database\0postgres\0\0".to_vec();
    start[3] = start.len() as u8;
    let text = b"INSERT INTO said VALUES ('once')\0";
    let mut words = start.clone();
    words.extend(b"Q\0\0\0");
    words.push(text.len() as u8 + 4);
    words.extend(text);
    let heard = until_betrayed(&gw, &server, &words);
    let told = heard.last().unwrap();
    assert!(told.starts_with(b"E"), "{}", told.escape_ascii());
    assert!(told.windows(5).any(|state| state == b"57P03"));
    let said = postgres.sql("SELECT count(*) FROM said");
    assert_eq!(said, heard.len().to_string());
    // The start alone is.
    for heard in until_betrayed(&gw, &server, &start) {
        assert!(
            heard.starts_with(b"R\0\0\0\x08\0\0\0\0"),
            "{}",
            heard.escape_ascii()
        );
    }
}
