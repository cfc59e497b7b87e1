//! `rewrite` and `respond` through a running gateway.

use std::time::{Duration, Instant};

use super::{failing_and_echo, filtered, filters, retried};
use crate::support::{Gw, Origin, route};

/// The target that the endpoint gets.
fn sent(gw: &Gw, target: &str) -> String {
    let response = gw.get(target);
    assert_eq!(response.status, 200, "{target}: {}", response.text());
    response.json()["target"].as_str().unwrap().to_owned()
}

#[test]
fn a_prefix_and_an_expression_change_the_path_and_keep_the_query() {
    let origin = Origin::echo();
    let gw = Gw::start(filtered(
        &[&origin],
        &[
            "{type: rewrite, prefix: {from: /api, to: /v2}}",
            "{type: rewrite, regex: {match: '^/users/([^/]+)$', to: '/user.php?name=$1'}}",
        ],
    ));
    for (target, expected) in [
        ("/api/x?to=/api", "/v2/x?to=/api"),
        ("/api", "/v2"),
        ("/a/../api/x", "/v2/x"),
        ("/apix", "/apix"),
        ("/users/ann", "/user.php?name=ann"),
        ("/users/a&admin=1?b", "/user.php?name=a%26admin=1&b"),
        ("/users/ann/x", "/users/ann/x"),
    ] {
        assert_eq!(sent(&gw, target), expected, "{target}");
    }
    let reload = gw.reload(filtered(
        &[&origin],
        &["{type: rewrite, prefix: {from: /api, to: /v3}}"],
    ));
    assert_eq!(reload.status, 200, "{}", reload.text());
    assert_eq!(sent(&gw, "/api/x"), "/v3/x");
}

#[test]
fn it_comes_behind_strip_prefix_and_before_the_endpoints_own_path() {
    let origin = Origin::echo();
    let filter = filters(&["{type: rewrite, prefix: {from: /old, to: /new}}"]);
    let keys = format!("strip_prefix: true\n{filter}");
    let gw = Gw::start(route("/api", &[format!("{}/base", origin.url())], &keys));
    assert_eq!(sent(&gw, "/api/old/x"), "/base/new/x");
    assert_eq!(sent(&gw, "/api/x"), "/base/x");
}

#[test]
fn both_tries_go_to_the_new_path() {
    let (bad, good) = failing_and_echo();
    let filter = "{type: rewrite, prefix: {from: /, to: /app}}";
    let gw = Gw::start(filtered(&[&bad, &good], &[filter]));
    let (first, second) = retried(&gw, &bad, &good, &[]);
    assert_eq!(
        (first.target.as_str(), second.target.as_str()),
        ("/app/a", "/app/a")
    );
}

#[test]
fn what_a_client_makes_of_captures_is_its_own_mistake() {
    let origin = Origin::echo();
    let filter = "{type: rewrite, regex: {match: '^/(.*)-(.*)$', to: /files/$1$2}}";
    let gw = Gw::start(filtered(&[&origin], &[filter]));
    assert_eq!(sent(&gw, "/a-b"), "/files/ab");
    for target in [
        "/.-./etc",
        "/%2-e%2e/etc",
        "/a%-",
        "/.-.;/etc",
        "/.-.%2fetc",
    ] {
        let response = gw.get(target);
        assert_eq!(response.status, 400, "{target}");
    }
    assert_eq!(origin.requests(), 1);
}

#[test]
fn a_redirect_is_not_carried_elsewhere_by_the_client() {
    let origin = Origin::echo();
    let gw = Gw::start(filtered(
        &[&origin],
        &["{type: rewrite, redirect: {to: 'https://example.org/new', status: 301}}"],
    ));
    for (target, location) in [
        ("/", "https://example.org/new"),
        ("/old?a=1&b", "https://example.org/new?a=1&b"),
        ("//evil.test/", "https://example.org/new"),
        (
            "/@evil.test/%0d%0aSet-Cookie:%20a",
            "https://example.org/new",
        ),
        (
            "/?%0d%0aSet-Cookie:%20a",
            "https://example.org/new?%0d%0aSet-Cookie:%20a",
        ),
    ] {
        let response = gw
            .client()
            .call("GET", target, &[("Host", "evil.test")], b"");
        assert_eq!(response.status, 301);
        assert_eq!(
            response.headers.first("Location"),
            Some(location),
            "{target}"
        );
        assert!(!response.headers.has("Set-Cookie"));
    }
    assert_eq!(origin.requests(), 0);
    assert_eq!(gw.reasons(1)[0], "ok");
}

#[test]
fn an_expression_cannot_be_made_to_explode() {
    let origin = Origin::echo();
    let gw = Gw::start(filtered(
        &[&origin],
        &["{type: rewrite, regex: {match: '^/(a+)+(a|a)*b$', to: /$1}}"],
    ));
    let target = format!("/{}", "a".repeat(20_000));
    let started = Instant::now();
    assert_eq!(sent(&gw, &target), target);
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );

    let too_big = "{type: rewrite, regex: {match: '(?:a{100}){100}{100}', to: /b}}";
    let refused = gw.reload(filtered(&[&origin], &[too_big]));
    assert_eq!(refused.status, 422);
    let said = refused.text();
    let part = ":16:33: routes./.filters[0].regex.match: is too big";
    assert!(said.contains(part), "{said}");
    assert_eq!(sent(&gw, "/ab"), "/a", "the old one is in force");
}

#[test]
fn a_fixed_answer_reaches_no_endpoint() {
    let origin = Origin::ok("up");
    let page = "{type: respond, status: 503, body: <p>back soon</p>, content_type: text/html}";
    let gw = Gw::start(filtered(&[&origin], &[page]));
    let response = gw.get("/");
    assert_eq!(
        (response.status, response.text().as_str()),
        (503, "<p>back soon</p>")
    );
    assert_eq!(response.headers.first("Content-Type"), Some("text/html"));
    let mut client = gw.client();
    let head = client.call("HEAD", "/", &[], b"");
    assert_eq!((head.status, head.text().as_str()), (503, ""));
    assert_eq!(head.headers.first("Content-Length"), Some("16"));
    let posted = client.call("POST", "/", &[], b"a body that nobody wants");
    assert_eq!(posted.status, 503);
    assert_eq!(origin.requests(), 0);
    assert_eq!(gw.reasons(3), ["filter_refused"; 3]);

    assert_eq!(gw.reload(filtered(&[&origin], &[])).status, 200);
    assert_eq!(gw.get("/").text(), "up");
    assert_eq!(
        gw.reload(filtered(&[&origin], &["{type: respond}"])).status,
        200
    );
    let empty = gw.get("/");
    assert_eq!((empty.status, empty.text().as_str()), (200, ""));
    assert_eq!(
        gw.reload(filtered(&[&origin], &["{type: respond, status: 204}"]))
            .status,
        200
    );
    assert_eq!(gw.get("/").status, 204);
    let refused = gw.reload(filtered(&[&origin], &["{type: respond, status: 99}"]));
    assert_eq!(refused.status, 422);
    assert!(
        refused
            .text()
            .contains("filters[0].status: must be 200 to 599, not 99")
    );
}

#[test]
fn a_redirect_keeps_host_path_and_query() {
    let origin = Origin::echo();
    let gw = Gw::start(filtered(
        &[&origin],
        &["{type: rewrite, redirect: {to: 'https://${host}${path}${query}', status: 301}}"],
    ));
    for (target, host, location) in [
        ("/", "a.test", "https://a.test/"),
        ("/b/c?d=e&f", "a.test:8080", "https://a.test/b/c?d=e&f"),
        ("/b?", "[::1]:80", "https://[::1]/b?"),
        ("/a/../b", "a.test", "https://a.test/b"),
        (
            "/\\evil.test?\"",
            "a.test",
            "https://a.test/%5Cevil.test?%22",
        ),
        (
            "/x@evil.test/%0d%0aSet-Cookie:%20a",
            "a.test",
            "https://a.test/x@evil.test/%0D%0ASet-Cookie:%20a",
        ),
    ] {
        let response = gw.client().call("GET", target, &[("Host", host)], b"");
        assert_eq!(response.status, 301);
        assert_eq!(
            response.headers.first("Location"),
            Some(location),
            "{target}"
        );
        assert!(!response.headers.has("Set-Cookie"));
    }
    let mut old = gw.client();
    old.send("GET /a HTTP/1.0\r\n\r\n");
    let response = old.response().unwrap();
    assert_eq!(response.status, 400, "it names no host");
    assert!(response.json()["detail"].is_string());
    assert_eq!(origin.requests(), 0);
}

#[test]
fn who_came_by_https_is_not_sent_to_https_again() {
    let origin = Origin::echo();
    let filter = "{type: rewrite, redirect: {to: 'https://${host}${path}${query}'}}";
    let to = |trusted: &str| {
        let routes = route("/", &[origin.url()], &filters(&[filter]));
        Gw::start(format!("trusted_proxies: [{trusted}]\n{routes}"))
    };
    let (behind, alone) = (to("127.0.0.0/8"), to(""));
    let ask = |gw: &Gw, host, scheme| {
        let fields = [("Host", host), ("X-Forwarded-Proto", scheme)];
        gw.client().call("GET", "/a?b=c", &fields, b"").status
    };
    assert_eq!(ask(&behind, "a.test", "https"), 200);
    assert_eq!(ask(&behind, "a.test:443", "https"), 200);
    assert_eq!(ask(&behind, "a.test", "http"), 308);
    assert_eq!(ask(&behind, "a.test:8443", "https"), 308, "another port");
    assert_eq!(ask(&alone, "a.test", "https"), 308, "anybody can say so");
    assert_eq!(origin.requests(), 2);
}

#[test]
fn a_redirect_keeps_the_prefix_that_its_route_takes_away() {
    let origin = Origin::echo();
    let redirect = filters(&["{type: rewrite, redirect: {to: 'https://${host}${path}${query}'}}"]);
    let strip = format!("strip_prefix: true\n{redirect}");
    let gw = Gw::start(route("/api", &[origin.url()], &strip));
    for (target, location) in [
        ("/api/v1?a=b", "https://gateway.test/api/v1?a=b"),
        ("/api", "https://gateway.test/api/"),
        ("/api//../api/x", "https://gateway.test/api/x"),
    ] {
        let response = gw.get(target);
        assert_eq!(response.headers.first("Location"), Some(location));
    }
    assert_eq!(origin.requests(), 0);
}

#[test]
fn a_redirect_stays_on_its_host_whatever_slashes_a_path_begins_with() {
    let origin = Origin::echo();
    let redirect = filters(&["{type: rewrite, redirect: {to: '${path}${query}', status: 302}}"]);
    let gw = Gw::start(format!(
        "merge_slashes: false\n{}",
        route("/", &[origin.url()], &redirect)
    ));
    for target in ["//evil.test/x", "///evil.test/x", "/.//evil.test/x"] {
        let response = gw.get(target);
        assert_eq!(
            response.headers.first("Location"),
            Some("/evil.test/x"),
            "{target}"
        );
    }
}

#[test]
fn the_scheme_of_a_redirect_is_what_the_client_speaks() {
    let origin = Origin::echo();
    let filter = "{type: rewrite, redirect: {to: '${scheme}://www.${host}${path}'}}";
    let trusting = Gw::start(filtered(&[&origin], &[filter]));
    let strict = Gw::start(route("/", &[origin.url()], &filters(&[filter])));
    let location = |gw: &Gw, told: &str| {
        let fields = [("Host", "a.test"), ("X-Forwarded-Proto", told)];
        let response = gw.client().call("GET", "/b?c", &fields, b"");
        response.headers.first("Location").map(str::to_owned)
    };
    for (told, scheme) in [
        ("https", "https"),
        ("HTTPS, http", "https"),
        ("http", "http"),
        ("javascript", "http"),
    ] {
        let expected = format!("{scheme}://www.a.test/b?c");
        assert_eq!(location(&trusting, told), Some(expected), "{told}");
        let expected = "http://www.a.test/b?c".to_owned();
        assert_eq!(
            location(&strict, told),
            Some(expected),
            "a stranger's {told}"
        );
    }
}

#[test]
fn what_would_be_wrong_for_all_requests_is_told_at_load() {
    let origin = Origin::echo();
    let gw = Gw::start(filtered(&[&origin], &[]));
    for (filter, part) in [
        (
            "{type: rewrite, regex: {match: '^/old(.*)$', to: 'https://new.test$1'}}",
            "filters[0].regex.to: `https://new.test$1` is a URL",
        ),
        (
            "{type: rewrite, regex: {match: '^/a/(.*)$', to: 'b/$1'}}",
            "does not begin with a slash (write `/b/$1`",
        ),
        (
            "{type: rewrite, regex: {match: '^/a', to: /../b}}",
            "regex.to: `/../b` has more than one reading",
        ),
        (
            "{type: rewrite, redirect: {to: '${url}'}}",
            "redirect.to: `${url}` is not known (known are ${scheme}",
        ),
        (
            "{type: rewrite, redirect: {to: '//${host}/'}}",
            "redirect.to: `//${host}/` is neither",
        ),
        (
            "{type: headers, request: {set: {Host: 'http://a/'}}}",
            "request.set.host: is not a host",
        ),
        (
            "{type: headers, request: {set: {Expect: x}}}",
            "request.set.expect: only the client",
        ),
        (
            "{type: request_id, header: X-Forwarded-For}",
            "header: `x-forwarded-for` is no place for an id",
        ),
        (
            "{type: respond, status: 204, body: x}",
            "body: a response of 204 has none",
        ),
        (
            "{type: ip_access, allow: [10.0.0.1], deny: [10.0.0.0/8]}",
            "deny: holds all of `allow`",
        ),
    ] {
        let refused = gw.reload(filtered(&[&origin], &[filter]));
        assert_eq!(refused.status, 422, "{filter}: {}", refused.text());
        assert!(
            refused.text().contains(part),
            "{filter}: {}",
            refused.text()
        );
    }
    assert_eq!(sent(&gw, "/a"), "/a", "what was in force is");
    // The rest cannot fail either: a path that loses its slash gets one.
    let lenient = "{type: rewrite, regex: {match: '^/api/(.*)$', to: $1}}";
    assert_eq!(gw.reload(filtered(&[&origin], &[lenient])).status, 200);
    assert_eq!(sent(&gw, "/api/x/y"), "/x/y");
    assert_eq!(sent(&gw, "/api/http://evil"), "/http:/evil");
}
