//! The databases that speak HTTP (CouchDB, InfluxDB, Elasticsearch) on a TCP route: first bytes,
//! refusal and probe in each product's own words.
//!
//! A TCP session has no HTTP stack above it. Invariant: of a request only its method and its end
//! are looked for; strict reading is [`super::http1`]'s.
//!
//! Sources: RFC 9112; the products' API references ("_up", "ping", error bodies).

use super::printable;
use super::refusal::Refusal;
use super::signature::SignatureMatch;
use super::verdict::Verdict;
use crate::config::DbType;

/// Whether a client begins like this: a method and a space, or the preface of HTTP/2.
pub(super) fn fits(bytes: &[u8]) -> SignatureMatch {
    let method = METHODS
        .iter()
        .map(|method| SignatureMatch::prefix(bytes, method));
    method.fold(SignatureMatch::No, |best, fit| match (best, fit) {
        (SignatureMatch::Yes, _) | (_, SignatureMatch::Yes) => SignatureMatch::Yes,
        (SignatureMatch::Maybe, _) | (_, SignatureMatch::Maybe) => SignatureMatch::Maybe,
        _ => SignatureMatch::No,
    })
}

/// Whether a whole request head is there.
pub(super) fn has_head(request: &[u8]) -> bool {
    request.windows(2).any(|pair| pair == b"\n\n")
        || request.windows(3).any(|three| three == b"\n\r\n")
}

/// The response that refuses: 503 with Retry-After, 404 when no route matched, or 403 when a filter
/// says no; then the connection ends. Products other than the three get `application/problem+json`.
pub(super) fn response(db: DbType, refusal: Refusal, why: &str, request: &[u8]) -> Vec<u8> {
    let (status, title, retry) = match refusal {
        Refusal::NoRoute => (404, "Not Found", ""),
        Refusal::NotAllowed => (403, "Forbidden", ""),
        _ => (503, "Service Unavailable", "Retry-After: 1\r\n"),
    };
    let why = serde_json::Value::from(why);
    let (media, body) = match db {
        DbType::Couchdb => (
            "application/json",
            format!(r#"{{"error":"{}","reason":{why}}}"#, snake_case(title)),
        ),
        DbType::Influxdb => (
            "application/json",
            match status {
                403 => format!(r#"{{"code":"forbidden","message":{why}}}"#),
                404 => format!(r#"{{"code":"not found","message":{why}}}"#),
                _ => format!(r#"{{"code":"unavailable","message":{why}}}"#),
            },
        ),
        DbType::Elasticsearch => (
            "application/json",
            format!(
                r#"{{"error":{{"type":"{}","reason":{why}}},"status":{status}}}"#,
                snake_case(title)
            ),
        ),
        _ => (
            "application/problem+json",
            format!(r#"{{"status":{status},"title":"{title}","reason":{why}}}"#),
        ),
    };
    let length = body.len();
    let mut response = format!(
        "HTTP/1.1 {status} {title}\r\nContent-Type: {media}\r\nContent-Length: {length}\r\n\
         {retry}Connection: close\r\n\r\n"
    );
    if !request.starts_with(b"HEAD ") {
        response.push_str(&body);
    }
    response.into_bytes()
}

/// A request for the page that says whether the server is up; no credentials.
pub(super) fn probe(db: DbType) -> Vec<u8> {
    let path = match db {
        DbType::Couchdb => "/_up",
        DbType::Influxdb => "/ping",
        _ => "/",
    };
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nConnection: close\r\n\r\n")
        .into_bytes()
}

/// Judges the status line of the answer to [`probe`]: success, or a demand for credentials.
pub(super) fn judge(answer: &[u8]) -> Verdict {
    let line = match answer.iter().position(|byte| *byte == b'\n') {
        Some(end) => &answer[..end],
        None if answer.len() < MAX_STATUS_LINE => return Verdict::NeedMore,
        None => &answer[..MAX_STATUS_LINE],
    };
    match line {
        [
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'1',
            b'.',
            b'0' | b'1',
            b' ',
            status @ ..,
        ] => match status {
            [b'2', b'0'..=b'9', b'0'..=b'9', b' ' | b'\r', ..] => Verdict::Alive,
            [b'4', b'0', b'1' | b'3', b' ' | b'\r', ..] => Verdict::Alive,
            _ => Verdict::Refused(printable(line)),
        },
        _ => Verdict::Refused(format!(
            "not HTTP: {}",
            printable(&line[..line.len().min(16)])
        )),
    }
}

fn snake_case(title: &str) -> String {
    title.to_ascii_lowercase().replace(' ', "_")
}

/// RFC 9110, RFC 5789, WebDAV and CouchDB's COPY.
const METHODS: &[&[u8]] = &[
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"CONNECT ",
    b"TRACE ",
    b"COPY ",
    b"MOVE ",
    b"PROPFIND ",
    b"PRI * HTTP/2.0\r\n",
];

const MAX_STATUS_LINE: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn text(db: DbType, refusal: Refusal, request: &[u8]) -> String {
        String::from_utf8(response(db, refusal, "queue \"full\"", request)).unwrap()
    }

    #[test]
    fn a_refusal_is_503_in_the_words_of_the_product() {
        for (db, body) in [
            (
                DbType::Couchdb,
                r#"{"error":"service_unavailable","reason":"queue \"full\""}"#,
            ),
            (
                DbType::Influxdb,
                r#"{"code":"unavailable","message":"queue \"full\""}"#,
            ),
            (
                DbType::Elasticsearch,
                r#"{"error":{"type":"service_unavailable","reason":"queue \"full\""},"status":503}"#,
            ),
        ] {
            let length = body.len();
            assert_eq!(
                text(db, Refusal::Unavailable, b"GET / HTTP/1.1\r\n\r\n"),
                format!(
                    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
                     Content-Length: {length}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n{body}"
                )
            );
            assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
            let head = text(db, Refusal::Unavailable, b"HEAD / HTTP/1.1\r\n\r\n");
            assert!(head.ends_with("\r\n\r\n"));
        }
        let missing = text(DbType::Tcp, Refusal::NoRoute, b"GET /");
        assert!(missing.starts_with("HTTP/1.1 404 Not Found\r\n"));
        assert!(!missing.contains("Retry-After") && missing.contains("problem+json"));
    }

    #[test]
    fn the_end_of_a_head_is_found() {
        for (request, ends) in [
            (&b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"[..], true),
            (b"POST / HTTP/1.1\n\nbody", true),
            (b"GET / HTTP/1.1\r\nHost: h\r\n", false),
            (b"GET / HTTP/1.1", false),
            (b"", false),
        ] {
            assert_eq!(has_head(request), ends, "{request:?}");
        }
    }

    #[test]
    fn a_status_tells_who_lives() {
        for (answer, alive) in [
            (&b"HTTP/1.1 204 No Content\r\n"[..], true),
            (b"HTTP/1.0 200 OK\r\n", true),
            (b"HTTP/1.1 401 Unauthorized\r\n", true),
            (b"HTTP/1.1 403\r\n", true),
            (b"HTTP/1.1 404 Object Not Found\r\n", false),
            (b"HTTP/1.1 503 \r\n", false),
            (b"HTTP/2 200\r\n", false),
            (b"+PONG\r\n", false),
        ] {
            assert_eq!(judge(answer) == Verdict::Alive, alive, "{answer:?}");
            assert_eq!(judge(&answer[..6]), Verdict::NeedMore);
        }
        assert!(probe(DbType::Couchdb).starts_with(b"GET /_up HTTP/1.1\r\nHost: "));
        assert!(probe(DbType::Influxdb).starts_with(b"GET /ping "));
        assert!(probe(DbType::Elasticsearch).starts_with(b"GET / "));
    }
}
