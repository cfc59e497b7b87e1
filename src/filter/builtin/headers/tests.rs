//! What `headers` does to requests and responses, and which settings it refuses.

use super::super::fixture::{self, Bed, refused, settings};
use super::*;

fn headers(yaml: &str) -> Headers {
    make(settings(yaml)).unwrap()
}

fn wrong(yaml: &str) -> String {
    fixture::wrong(make(settings(yaml)))
}

fn all<'h>(headers: &'h http::HeaderMap, name: &str) -> Vec<&'h str> {
    let values = headers.get_all(name).iter();
    values.map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test]
async fn a_request_is_changed_once_for_every_try() {
    let filter =
        headers("request: {set: {X-Client: '${client_ip}'}, add: {X-Tag: b}, remove: [X-Secret]}");
    assert_eq!(filter.phases(), Phases::REQUEST);
    let lines = [
        "Host: a",
        "X-Client: 6.6.6.6",
        "X-Client: 7.7.7.7",
        "x-tag: a",
        "X-Secret: s",
    ];
    let mut bed = Bed::get("/", &lines).await;
    bed.passes(&filter).await;
    assert_eq!(all(bed.headers(), "x-client"), ["192.0.2.7"]);
    assert_eq!(all(bed.headers(), "x-tag"), ["a", "b"]);
    assert!(!bed.headers().contains_key("x-secret"));
    let untouched = bed.upstream_request(&filter);
    assert_eq!(all(&untouched.headers, "x-tag"), ["a", "b"]);
}

#[tokio::test]
async fn what_the_gateway_writes_itself_is_changed_on_each_try() {
    let filter = headers(
        "request: {set: {Host: inner, X-Forwarded-Proto: https}, remove: [Via, x-forwarded-for]}",
    );
    assert_eq!(filter.phases(), Phases::UPSTREAM_REQUEST);
    let lines = ["Host: outer", "Via: 1.1 a", "X-Forwarded-For: 1.1.1.1"];
    let mut bed = Bed::get("/", &lines).await;
    let head = bed.upstream_request(&filter);
    assert_eq!(all(&head.headers, "host"), ["inner"]);
    assert_eq!(all(&head.headers, "x-forwarded-proto"), ["https"]);
    assert!(!head.headers.contains_key("via"));
    assert!(!head.headers.contains_key("x-forwarded-for"));
    assert_eq!(all(bed.headers(), "host"), ["outer"]);
}

#[tokio::test]
async fn a_response_is_changed() {
    let filter = headers(
        "response: {set: {X-Served-By: '${route}'}, add: {Vary: Origin}, remove: [Server, Vary]}",
    );
    assert_eq!(filter.phases(), Phases::RESPONSE);
    let mut bed = Bed::get("/", &["Host: a"]).await;
    let head = bed.response(&filter, &[("Server", "x"), ("Vary", "*"), ("ETag", "1")]);
    assert_eq!(all(&head.headers, "x-served-by"), ["/api"]);
    assert_eq!(all(&head.headers, "vary"), ["Origin"]);
    assert_eq!(all(&head.headers, "etag"), ["1"]);
    assert!(!head.headers.contains_key("server"));
}

#[tokio::test]
async fn a_value_that_cannot_be_made_leaves_none_of_the_clients() {
    let filter = headers("request: {set: {X-Origin: 'h=${host}'}, add: {X-Also: '${host}'}}");
    let mut bed = Bed::get("/", &["Host: a", "X-Origin: forged"]).await;
    let hostile = HeaderValue::from_bytes(b"a\tb\xff").unwrap();
    bed.context().request_mut().set(HOST, hostile).unwrap();
    bed.passes(&filter).await;
    assert!(!bed.headers().contains_key("x-origin"));
    assert!(!bed.headers().contains_key("x-also"));
}

#[test]
fn a_host_may_be_put_together() {
    for host in [
        "inner",
        "inner:8080",
        "[::1]:80",
        "${host}",
        "${host}.internal",
    ] {
        headers(&format!(
            "request: {{set: {{Host: '{host}'}}, remove: [Expect]}}"
        ));
    }
    headers("response: {set: {Expect: a}}");
}

#[test]
fn nothing_to_do_takes_part_in_no_phase() {
    assert_eq!(headers("{}").phases(), Phases::NONE);
}

#[test]
fn wrong_settings_are_refused() {
    for (yaml, part) in [
        (
            "request: {set: {Content-Length: '1'}}",
            "request.set.Content-Length: `content-length` belongs to the gateway",
        ),
        (
            "response: {remove: [transfer-encoding]}",
            "response.remove: `transfer-encoding` belongs",
        ),
        (
            "request: {add: {Connection: close}}",
            "belongs to the gateway",
        ),
        (
            "request: {remove: [Host]}",
            "`Host` can be set, but neither",
        ),
        (
            "request: {add: {host: a}}",
            "`Host` can be set, but neither",
        ),
        (
            "request: {set: {'a b': c}}",
            "request.set.a b: `a b` is not the name of a header",
        ),
        ("response: {remove: ['']}", "is not the name of a header"),
        (
            "request: {set: {Host: 'a b'}}",
            "request.set.host: is not a host with or without a port (for example",
        ),
        ("request: {set: {Host: 'http://a/'}}", "is not a host"),
        ("request: {set: {Host: ''}}", "is not a host"),
        ("request: {set: {Host: '${host}/x'}}", "is not a host"),
        (
            "request: {set: {Expect: 200-ok}}",
            "request.set.expect: only the client can wait",
        ),
        (
            "request: {add: {expect: 100-continue}}",
            "request.add.expect: only",
        ),
        (
            "request: {set: {X: '${nope}'}}",
            "request.set.X: `${nope}` is not known",
        ),
        ("request: {set: {X: \"a\\r\\nY: b\"}}", "line end"),
        ("request: {set: {X: a, x: b}}", "is named twice"),
        ("request: {set: {X: a}, remove: [x]}", "is named twice"),
    ] {
        let error = wrong(yaml);
        assert!(error.contains(part), "{yaml}: {error}");
    }
    for (yaml, part) in [
        ("requst: {}", "unknown field `requst`"),
        ("request: {delete: [a]}", "unknown field `delete`"),
        ("request: {set: [a]}", "invalid type"),
        ("request: {remove: a}", "invalid type"),
    ] {
        let error = refused::<Settings>(yaml);
        assert!(error.contains(part), "{yaml}: {error}");
    }
}
