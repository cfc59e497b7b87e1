//! Requests broken at random: the endpoint may only ever receive what the bytes unambiguously say.
//!
//! The table of `strictness.rs` holds what somebody thought of; this looks for the rest. A reference
//! reading, strict and shared with nobody, says which requests a client sent; what arrived at the
//! endpoint must be of that list, in its order. Seeded, so that a failure can be repeated.

use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::support::http1::{find, whole_requests};
use crate::support::{Gw, Origin, eventually, loaded, route};

/// `0000` is replaced by the tag of the case, so that what comes late is not taken for the next.
/// So it is in the pieces.
const BASES: &[&str] = &[
    "GET /a/0000 HTTP/1.1\r\nHost: gateway.test\r\nX-A: b\r\n\r\n",
    "POST /b/0000 HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 50\r\n\r\nGET /smuggled/0000 HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
    "POST /c/0000 HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n32\r\nGET /smuggled/0000 HTTP/1.1\r\nHost: gateway.test\r\n\r\n\r\n0\r\n\r\n",
    "PUT /d/0000 HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n0\r\n\r\nGET /e/0000 HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
];

const PIECES: &[&str] = &[
    "\r",
    "\n",
    "\r\n",
    "\r\n\r\n",
    "\n\n",
    "\0",
    "\t",
    " ",
    "\x0b",
    "\x0c",
    "\x7f",
    ":",
    ",",
    ";",
    "0",
    "1",
    "-",
    "+",
    "x",
    "a",
    "\"",
    "%",
    "/",
    "..",
    "chunked",
    "identity",
    "gzip, ",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: 50\r\n",
    "content-length:5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: identity\r\n",
    "Transfer-Encoding:\tchunked\r\n",
    "transfer-encoding : chunked\r\n",
    "Host: other.test\r\n",
    "Connection: close\r\n",
    "X-A: b\n",
    "X-A: b\r",
    " folded\r\n",
    "HTTP/1.1",
    "GET /smuggled/0000 HTTP/1.1\r\nHost: x\r\n\r\n",
    "0\r\n\r\n",
];

#[test]
fn broken_requests_never_become_others_on_the_way() {
    let _turn = loaded();
    let wrong: Vec<String> = thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|seed| scope.spawn(move || hunt(seed, 250)))
            .collect();
        workers
            .into_iter()
            .flat_map(|w| w.join().unwrap())
            .collect()
    });
    assert!(
        wrong.is_empty(),
        "{} found:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Sends `count` broken requests and returns what was wrong.
fn hunt(seed: u64, count: usize) -> Vec<String> {
    let origin = Origin::echo();
    let text = route("/", &[origin.url()], "timeout_ms: 150\n");
    let gw = Gw::start(format!("header_timeout_ms: 100\n{text}"));
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut wrong, mut forwarded) = (Vec::new(), 0);
    // What earlier cases may have sent and the endpoint has not read: on a busy machine the gateway
    // gives a request up, and goes on, before the endpoint has its turn.
    let mut outstanding: Vec<Said> = Vec::new();
    for nth in 0..count {
        let case = tag(nth);
        let sent = broken(&mut rng, &case);
        if find(&sent, b"HTTP/1.0").is_some() {
            // May come without Host, which the reference reading does not know.
            continue;
        }
        let mark = origin.mark();
        let mut client = gw.client();
        client.patience(Duration::from_millis(400));
        client.send(&sent);
        // The end of the connection, a response and silence are all fine: the endpoint decides.
        let _ = client.response();
        drop(client);
        eventually(
            Duration::from_secs(5),
            "the gateway is done with it",
            || {
                let listener = [("listener", "127.0.0.1:0")];
                gw.metrics().sum("harbr_connections_active", &listener) == 0.0
            },
        );
        let allowed = reading(&sent);
        let received = origin.since(&mark);
        let received: Vec<Said> = received.iter().flat_map(|b| reading(b)).collect();
        forwarded += received.len();
        if let Err(got) = explain(&received, allowed.clone(), &case, &mut outstanding) {
            wrong.push(format!(
                "seed {seed}, {nth}: sent {:?}\n  means {allowed:?}\n  the endpoint got {got:?} of {received:?}",
                String::from_utf8_lossy(&sent)
            ));
        }
    }
    assert!(
        forwarded > count / 20,
        "hardly anything was forwarded: {forwarded} of {count}"
    );
    wrong
}

/// One of the bases with one to three changes.
fn broken(rng: &mut StdRng, case: &str) -> Vec<u8> {
    let base = BASES.choose(rng).expect("there are some");
    let mut bytes = base.replace("0000", case).into_bytes();
    for _ in 0..rng.random_range(1..=3) {
        let at = rng.random_range(0..bytes.len());
        let piece = PIECES.choose(rng).expect("there are some");
        let piece = piece.replace("0000", case).into_bytes();
        let line = bytes[..at]
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |end| end + 1);
        match rng.random_range(0..5) {
            0 => drop(bytes.splice(at..at, piece)),
            1 => drop(bytes.splice(at..=at, piece)),
            2 => drop(bytes.remove(at)),
            // At the start of a line whole fields can come in.
            _ => drop(bytes.splice(line..line, piece)),
        }
    }
    bytes
}

/// One request as bytes say it.
#[derive(Clone, Debug)]
struct Said {
    method: String,
    target: String,
    body: Vec<u8>,
}

/// The requests in `sent`, as far as it can be read in only one way.
fn reading(sent: &[u8]) -> Vec<Said> {
    let (mut rest, mut said) = (sent, Vec::new());
    loop {
        // RFC 9112 2.2: empty lines before a request line may be skipped.
        while let Some(after) = rest.strip_prefix(b"\r\n") {
            rest = after;
        }
        let first = (1..=rest.len()).find_map(|end| {
            let one = whole_requests(&rest[..end]).ok()?.pop()?;
            Some((one, end))
        });
        let Some((request, end)) = first else {
            return said;
        };
        said.push(Said {
            method: request.method,
            target: request.target,
            body: request.body.bytes,
        });
        rest = &rest[end..];
    }
}

/// A number in letters that no piece has, so that no change turns one tag into another.
fn tag(nth: usize) -> String {
    let letter = |digit| char::from(b"BCDFJKLMNQ"[digit]);
    [nth / 1000 % 10, nth / 100 % 10, nth / 10 % 10, nth % 10]
        .map(letter)
        .iter()
        .collect()
}

/// Finds each of `received` in `allowed`, in order, or else among what is outstanding; what was not
/// received yet is outstanding from now on. One that is well framed and refused, for its path say,
/// may be missing.
fn explain(
    received: &[Said],
    mut allowed: Vec<Said>,
    case: &str,
    outstanding: &mut Vec<Said>,
) -> Result<(), Said> {
    let mut verdict = Ok(());
    for got in received {
        let is = |may: &Said| got.method == may.method && got.body == may.body;
        if let Some(at) = allowed.iter().position(is) {
            outstanding.extend(allowed.drain(..at));
            allowed.remove(0);
            continue;
        }
        // A target is sent in normal form, so that those of other cases may differ.
        let tagged = |said: &Said| said.target.contains(case);
        let late = outstanding
            .iter()
            .position(|may| is(may) && (got.target == may.target || !(tagged(got) || tagged(may))));
        match late {
            Some(at) => drop(outstanding.remove(at)),
            None => verdict = Err(got.clone()),
        }
    }
    outstanding.append(&mut allowed);
    verdict
}

#[test]
fn the_hunt_knows_what_comes_late_from_what_was_smuggled() {
    let of = |sent: &str| reading(sent.as_bytes());
    let get = |target: &str| of(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
    let mut outstanding = Vec::new();
    // Nothing of the first case has arrived yet.
    explain(&[], get("/x/BBBB"), "BBBB", &mut outstanding).unwrap();
    let smuggled = get("/smuggled/BBBC");
    explain(&smuggled, Vec::new(), "BBBC", &mut outstanding).unwrap_err();
    explain(&get("/x/BBBB"), Vec::new(), "BBBC", &mut outstanding).unwrap();
    explain(&get("/x/BBBB"), Vec::new(), "BBBC", &mut outstanding).unwrap_err();
    let two = [get("/1/BBBD"), get("/2/BBBD")].concat();
    let turned = [two[1].clone(), two[0].clone()];
    explain(&turned, two.clone(), "BBBD", &mut outstanding).unwrap();
    explain(&two[1..], two.clone(), "BBBD", &mut outstanding).unwrap();
    let post = of("POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    explain(&post, two, "BBBD", &mut outstanding).unwrap_err();
}
