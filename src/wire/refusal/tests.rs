//! What clients of each protocol read when they are refused.
//!
//! A table as long as the code it checks. Invariant: bytes are compared whole, and every case runs
//! cut into single bytes as well.

use proptest::prelude::*;

use super::refuser::MAX_TAKEN_BYTES;
use super::*;
use crate::config::DbType;
use crate::wire::postgres::{self, CancelKey, GSSENC_REQUEST, SSL_REQUEST};
use crate::wire::{redis, tds, tns};

const ALL: [Refusal; 6] = [
    Refusal::TooManyConnections,
    Refusal::QueueTimeout,
    Refusal::Unavailable,
    Refusal::ShuttingDown,
    Refusal::NoRoute,
    Refusal::NotAllowed,
];

fn startup() -> Vec<u8> {
    postgres::startup_packet(&[("user", "bob"), ("database", "shop")])
}

/// All that is written to a client that sends `pieces`, and whether it is over.
fn written(refuser: &mut Refuser, pieces: &[&[u8]]) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    for piece in pieces {
        match refuser.advance(piece) {
            Step::NeedMore | Step::Cancel(_) => (),
            Step::Send(more) => bytes.extend(more),
            Step::Done(last) => {
                bytes.extend(last);
                return (bytes, true);
            }
        }
    }
    (bytes, false)
}

#[test]
fn a_client_that_speaks_tls_reads_an_alert() {
    let hello = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03";
    for (db, alert) in [
        (DbType::Postgres, 80),
        (DbType::Redis, 80),
        (DbType::Mongodb, 80),
        (DbType::Tcp, 80),
    ] {
        let mut refuser = Refuser::new(db, Refusal::Unavailable, "why");
        assert_eq!(
            refuser.advance(hello),
            Step::Done(vec![21, 3, 3, 0, 2, 2, alert])
        );
    }
    let mut refuser = Refuser::new(DbType::Redis, Refusal::NotAllowed, "why");
    assert_eq!(
        refuser.advance(hello),
        Step::Done(vec![21, 3, 3, 0, 2, 2, 49])
    );
    let mut refuser = Refuser::sniffing(Refusal::NoRoute, "unmatched");
    assert_eq!(
        refuser.advance(hello),
        Step::Done(vec![21, 3, 3, 0, 2, 2, 112])
    );
    // However it is cut.
    for cut in 1..hello.len() {
        let mut refuser = Refuser::new(DbType::Postgres, Refusal::Unavailable, "why");
        let mut step = refuser.advance(&hello[..cut]);
        if step == Step::NeedMore {
            step = refuser.advance(&hello[cut..]);
        }
        assert_eq!(step, Step::Done(vec![21, 3, 3, 0, 2, 2, 80]), "{cut}");
    }
    // Not after the answer that there is no TLS, whether the two came together or not.
    let rest = [&SSL_REQUEST[..], hello].concat();
    for cut in 0..rest.len() {
        let mut refuser = Refuser::new(DbType::Postgres, Refusal::Unavailable, "why");
        let said = written(&mut refuser, &[&rest[..cut], &rest[cut..]]);
        assert_eq!(said, (b"N".to_vec(), true), "{cut}");
    }
    // After its request for TLS was answered by the session, not by the refuser.
    let mut refuser = Refuser::new(DbType::Postgres, Refusal::NoRoute, "unmatched");
    assert_eq!(
        refuser.advance(hello),
        Step::Done(vec![21, 3, 3, 0, 2, 2, 112])
    );
}

/// What every client sends first, by protocol.
fn starts() -> Vec<(DbType, Vec<u8>)> {
    let http = b"GET /db HTTP/1.1\r\nHost: h\r\n\r\n".to_vec();
    vec![
        (DbType::Postgres, [&SSL_REQUEST[..], &startup()].concat()),
        (
            DbType::Postgres,
            [&GSSENC_REQUEST[..], &SSL_REQUEST, &startup()].concat(),
        ),
        (DbType::Mysql, Vec::new()),
        (
            DbType::Redis,
            [
                redis::write_command(&["HELLO", "3"]),
                redis::write_command(&["CLIENT", "SETINFO", "LIB-NAME", "x"]),
                redis::write_command(&["GET", "a"]),
            ]
            .concat(),
        ),
        (
            DbType::Mongodb,
            b"\x3a\x01\0\0\x07\0\0\0\0\0\0\0\xdd\x07\0\0".to_vec(),
        ),
        (DbType::Cassandra, b"\x04\0\0\x01\x05\0\0\0\0".to_vec()),
        (
            DbType::Sqlserver,
            [tds::probe(), tds::login_packet(0x7400_0004)].concat(),
        ),
        (DbType::Oracle, tns::probe()),
        (DbType::Couchdb, http.clone()),
        (DbType::Influxdb, http.clone()),
        (DbType::Elasticsearch, http),
    ]
}

#[test]
fn postgres_texts_and_states_are_those_that_clients_know() {
    for (refusal, state, text) in [
        (
            Refusal::TooManyConnections,
            "53300",
            "sorry, too many clients already (w)",
        ),
        (
            Refusal::QueueTimeout,
            "53300",
            "sorry, too many clients already (w)",
        ),
        (
            Refusal::Unavailable,
            "57P03",
            "the database system is not available (w)",
        ),
        (
            Refusal::ShuttingDown,
            "57P01",
            "terminating connection due to administrator command (w)",
        ),
        (
            Refusal::NoRoute,
            "08004",
            "no route matches this connection (w)",
        ),
        (
            Refusal::NotAllowed,
            "28000",
            "this connection is not allowed (w)",
        ),
    ] {
        let body = format!("SFATAL\0VFATAL\0C{state}\0M{text}\0\0");
        let length = (body.len() as u32 + 4).to_be_bytes();
        let expected = [b"E", &length[..], body.as_bytes()].concat();
        assert_eq!(refuse(DbType::Postgres, refusal, "w", b""), expected);
    }
}

#[test]
fn postgres_is_told_no_to_encryption_and_only_then_the_error() {
    let mut refuser = Refuser::new(DbType::Postgres, Refusal::Unavailable, "w");
    assert_eq!(refuser.advance(b""), Step::NeedMore);
    assert_eq!(refuser.advance(&GSSENC_REQUEST), Step::Send(b"N".to_vec()));
    assert_eq!(refuser.advance(&SSL_REQUEST[..3]), Step::NeedMore);
    assert_eq!(
        refuser.advance(&SSL_REQUEST[3..]),
        Step::Send(b"N".to_vec())
    );
    let error = refuse(DbType::Postgres, Refusal::Unavailable, "w", b"");
    assert_eq!(refuser.advance(&startup()), Step::Done(error));
    assert_eq!(refuser.advance(&startup()), Step::Done(Vec::new()));
}

#[test]
fn a_cancel_is_handed_back_wherever_it_comes() {
    let key = CancelKey::from_bytes(&[1; 8]).unwrap();
    let cancel = key.to_request();
    for asked in [vec![], vec![SSL_REQUEST], vec![GSSENC_REQUEST, SSL_REQUEST]] {
        let mut refuser = Refuser::new(DbType::Postgres, Refusal::Unavailable, "w");
        for request in &asked {
            assert_eq!(refuser.advance(request), Step::Send(b"N".to_vec()));
        }
        for byte in &cancel[..cancel.len() - 1] {
            assert_eq!(refuser.advance(&[*byte]), Step::NeedMore);
        }
        let last = refuser.advance(&cancel[cancel.len() - 1..]);
        assert_eq!(last, Step::Cancel(key.clone()));
        // All at once.
        let mut refuser = Refuser::new(DbType::Postgres, Refusal::Unavailable, "w");
        let mut step = refuser.advance(&[&asked.concat()[..], &cancel].concat());
        if !asked.is_empty() {
            assert_eq!(step, Step::Send(vec![b'N'; asked.len()]));
            step = refuser.advance(b"");
        }
        assert_eq!(step, Step::Cancel(key.clone()));
    }
}

#[test]
fn a_client_whose_servers_have_tls_reads_an_alert_in_it() {
    let hello = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03";
    let alert = vec![21, 3, 3, 0, 2, 2, 80];
    let refuser = || Refuser::new(DbType::Postgres, Refusal::Unavailable, "w").on_tls(OnTls::Alert);
    for before in [&b""[..], &GSSENC_REQUEST] {
        let sent = [before, &SSL_REQUEST, hello].concat();
        let said = [&b"N"[..before.len() / 8], b"S", &alert].concat();
        let request = before.len() + SSL_REQUEST.len();
        for cut in 0..sent.len() {
            let mut refuser = refuser();
            let mut all = Vec::new();
            // What comes behind a request waits for its answer.
            for piece in [&sent[..cut.min(request)], &sent[cut.min(request)..request]] {
                all.extend(written(&mut refuser, &[piece]).0);
            }
            let from = request.max(cut);
            let rest = [&sent[request..from], &sent[from..]];
            all.extend(written(&mut refuser, &rest).0);
            assert_eq!(all, said, "{cut}");
        }
    }
    // In clear all is as ever.
    let (said, over) = written(&mut refuser(), &[&startup()]);
    assert!(over && said.starts_with(b"E"));
    // A client that is answered `S` and goes on in clear gets no refusal.
    let mut refuser = refuser();
    assert_eq!(refuser.advance(&SSL_REQUEST), Step::Send(b"S".to_vec()));
    assert_eq!(refuser.advance(&startup()), Step::Done(Vec::new()));
}

#[test]
fn postgres_says_nothing_to_repetitions_and_nonsense() {
    for bytes in [&b"\0\0\xff\xff"[..], b"\x16\x03\x01\0\0\x02"] {
        let mut refuser = Refuser::new(DbType::Postgres, Refusal::Unavailable, "w");
        assert_eq!(refuser.advance(bytes), Step::Done(Vec::new()));
    }
    let mut refuser = Refuser::new(DbType::Postgres, Refusal::Unavailable, "w");
    let twice = [SSL_REQUEST, SSL_REQUEST].concat();
    assert_eq!(refuser.advance(&twice), Step::Done(b"N".to_vec()));
}

#[test]
fn mysql_is_refused_before_its_client_speaks() {
    for (refusal, expected) in [
        (
            Refusal::TooManyConnections,
            &b"\x1b\0\0\0\xff\x10\x04Too many connections (w)"[..],
        ),
        (
            Refusal::QueueTimeout,
            b"\x1b\0\0\0\xff\x10\x04Too many connections (w)",
        ),
        (
            Refusal::Unavailable,
            b"\x22\0\0\0\xff\x1d\x04Server shutdown in progress (w)",
        ),
        (
            Refusal::ShuttingDown,
            b"\x22\0\0\0\xff\x1d\x04Server shutdown in progress (w)",
        ),
        (
            Refusal::NotAllowed,
            b"\x25\0\0\0\xff\x6a\x04this connection is not allowed (w)",
        ),
    ] {
        let mut refuser = Refuser::new(DbType::Mysql, refusal, "w");
        assert_eq!(refuser.advance(b""), Step::Done(expected.to_vec()));
    }
}

#[test]
fn redis_drivers_hear_the_error_for_each_set_up_command_and_the_users_own() {
    let mut refuser = Refuser::new(DbType::Redis, Refusal::Unavailable, "no endpoint");
    let error = b"-ERR no endpoint\r\n".to_vec();
    assert_eq!(refuser.advance(b""), Step::NeedMore);
    let name = redis::write_command(&["CLIENT", "SETINFO", "LIB-NAME", "redis-py"]);
    let (start, end) = name.split_at(20);
    assert_eq!(refuser.advance(start), Step::NeedMore);
    assert_eq!(refuser.advance(end), Step::Send(error.clone()));
    let two = [
        redis::write_command(&["client", "x"]),
        redis::write_command(&["SELECT", "1"]),
    ];
    assert_eq!(refuser.advance(&two.concat()), Step::Send(error.repeat(2)));
    // A large value need not arrive.
    let set = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1000000\r\nxxxx";
    assert_eq!(refuser.advance(set), Step::Done(error.clone()));

    let mut refuser = Refuser::new(DbType::Redis, Refusal::Unavailable, "no endpoint");
    let endless = redis::write_command(&["CLIENT", "ID"]).repeat(100);
    assert_eq!(refuser.advance(&endless), Step::Done(error.repeat(16)));
    let mut refuser = Refuser::new(DbType::Redis, Refusal::Unavailable, "no endpoint");
    assert_eq!(refuser.advance(b"\x16\x03\x01\n\n\n"), Step::Done(error));
}

#[test]
fn sql_server_logs_in_to_hear_the_error() {
    let mut refuser = Refuser::new(DbType::Sqlserver, Refusal::QueueTimeout, "w");
    assert_eq!(
        refuser.advance(&tds::probe()),
        Step::Send(tds::prelogin_answer())
    );
    let error = tds::fatal_error(17809, "too many connections (w)", 0x7100_0001);
    assert_eq!(
        refuser.advance(&tds::login_packet(0x7100_0001)),
        Step::Done(error)
    );
    assert_eq!(refuser.advance(b"\x12"), Step::Done(Vec::new()));
    let mut refuser = Refuser::new(DbType::Sqlserver, Refusal::QueueTimeout, "w");
    assert_eq!(refuser.advance(b"\x16\x03\x03"), Step::Done(Vec::new()));
}

#[test]
fn oracle_numbers_are_those_of_a_listener() {
    for (refusal, code) in [
        (Refusal::TooManyConnections, "(ERR=12520)"),
        (Refusal::QueueTimeout, "(ERR=12520)"),
        (Refusal::Unavailable, "(ERR=12541)"),
        (Refusal::ShuttingDown, "(ERR=12541)"),
        (Refusal::NoRoute, "(ERR=12514)"),
        (Refusal::NotAllowed, "(ERR=12529)"),
    ] {
        let bytes = refuse(DbType::Oracle, refusal, "w", b"");
        assert!(
            String::from_utf8_lossy(&bytes).contains(code),
            "{refusal:?}"
        );
    }
}

#[test]
fn what_is_not_known_is_closed_without_a_word() {
    let mut refuser = Refuser::new(DbType::Tcp, Refusal::Unavailable, "w");
    assert_eq!(refuser.advance(b""), Step::Done(Vec::new()));
    let mut refuser = Refuser::sniffing(Refusal::NoRoute, "w");
    assert_eq!(refuser.advance(b""), Step::NeedMore);
    assert_eq!(refuser.advance(b"SSH-2.0"), Step::Done(Vec::new()));
}

#[test]
fn an_unmatched_client_is_refused_in_its_own_protocol() {
    for (db, start) in starts() {
        if start.is_empty() || db.speaks_http() {
            continue;
        }
        let expected = written(&mut Refuser::new(db, Refusal::NoRoute, "w"), &[&start]);
        assert_eq!(
            written(&mut Refuser::sniffing(Refusal::NoRoute, "w"), &[&start]),
            expected
        );
        assert!(expected.1 && !expected.0.is_empty());
    }
    let head = b"GET / HTTP/1.1\r\n\r\n";
    let (bytes, is_over) = written(&mut Refuser::sniffing(Refusal::NoRoute, "w"), &[head]);
    assert!(is_over && bytes.starts_with(b"HTTP/1.1 404 Not Found\r\n"));
}

#[test]
fn one_byte_at_a_time_is_refused_alike() {
    for (db, start) in starts() {
        for refusal in ALL {
            let whole = written(&mut Refuser::new(db, refusal, "w"), &[&start]);
            assert!(whole.1 && !whole.0.is_empty(), "{db:?}");
            let mut pieces: Vec<&[u8]> = start.chunks(1).collect();
            pieces.insert(0, b"");
            let mut refuser = Refuser::new(db, refusal, "w");
            assert_eq!(written(&mut refuser, &pieces), whole, "{db:?} {refusal:?}");
        }
    }
}

#[test]
fn a_client_that_never_ends_is_refused_all_the_same() {
    for db in DbType::ALL {
        let mut refuser = Refuser::new(db, Refusal::Unavailable, "w");
        let mut pieces = 0;
        while !matches!(
            refuser.advance(&[0x10, 0, 0x7f, 0x7f].repeat(256)),
            Step::Done(_)
        ) {
            pieces += 1;
            assert!(pieces <= MAX_TAKEN_BYTES / 1024, "{db:?}");
            assert!(refuser.held.len() <= MAX_HELD_BYTES);
        }
    }
}

#[test]
fn a_reason_cannot_break_out_of_its_place() {
    let why = "a\r\n+OK\0\u{1b}[31m";
    for (db, start) in starts() {
        let answer = refuse(db, Refusal::Unavailable, why, &start);
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(
            !text.contains("a\r\n") && !text.contains('\u{1b}'),
            "{db:?} {text:?}"
        );
    }
    let long = refuse(DbType::Mysql, Refusal::Unavailable, &"x".repeat(5000), b"");
    assert!(long.len() < 300);
}

proptest! {
    #[test]
    fn any_client_at_any_cut_gets_one_answer(
        start in prop::sample::select(starts()),
        keep in 0_usize..60,
        tail in prop::collection::vec(any::<u8>(), 0..80),
        step in 1_usize..30,
    ) {
        let (db, bytes) = start;
        let bytes = [&bytes[..keep.min(bytes.len())], &tail].concat();
        let mut refuser = Refuser::new(db, Refusal::Unavailable, "w");
        let whole = written(&mut refuser, &[b"", &bytes]);
        let mut pieces: Vec<&[u8]> = bytes.chunks(step).collect();
        pieces.insert(0, b"");
        let mut refuser = Refuser::new(db, Refusal::Unavailable, "w");
        prop_assert_eq!(written(&mut refuser, &pieces), whole);
    }
}
