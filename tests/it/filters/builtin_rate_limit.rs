//! `rate_limit` through a running gateway.

use super::{failing_and_echo, filtered};
use crate::support::{Gw, Origin, Response};

fn from(gw: &Gw, client: &str) -> Response {
    gw.client()
        .call("GET", "/", &[("X-Forwarded-For", client)], b"")
}

fn number(response: &Response, name: &str) -> u64 {
    let value = response.headers.first(name);
    let value = value.unwrap_or_else(|| panic!("no {name}: {response:?}"));
    value.parse().unwrap()
}

#[test]
fn who_asks_too_often_is_told_when_to_come_again() {
    let origin = Origin::ok("ok");
    let gw = Gw::start(filtered(
        &[&origin],
        &["{type: rate_limit, requests: 2, per_secs: 3600, burst: 3}"],
    ));
    for left in [2, 1, 0] {
        let response = from(&gw, "203.0.113.1");
        assert_eq!(response.status, 200);
        assert_eq!(number(&response, "RateLimit-Limit"), 3);
        assert_eq!(number(&response, "RateLimit-Remaining"), left);
        assert!(!response.headers.has("Retry-After"));
    }
    let refused = from(&gw, "203.0.113.1");
    assert_eq!(refused.status, 429);
    assert_eq!(refused.json()["reason"], "rate_limited");
    assert_eq!(number(&refused, "RateLimit-Limit"), 3);
    assert_eq!(number(&refused, "RateLimit-Remaining"), 0);
    assert!((1790..=1800).contains(&number(&refused, "Retry-After")));
    assert!((5390..=5400).contains(&number(&refused, "RateLimit-Reset")));
    assert_eq!(from(&gw, "203.0.113.2").status, 200, "another client");
    assert_eq!(origin.requests(), 4);
    // Each client's connection is its own; their records may change places.
    let mut reasons = gw.reasons(5);
    reasons.sort_unstable();
    assert_eq!(reasons, ["ok", "ok", "ok", "ok", "rate_limited"]);
    let metrics = gw.metrics();
    let labels = [("reason", "rate_limited"), ("code", "4xx")];
    assert_eq!(metrics.sum("harbr_http_requests_total", &labels), 1.0);
}

#[test]
fn an_untrusted_client_cannot_say_who_it_is() {
    let origin = Origin::ok("ok");
    let limit = filtered(
        &[&origin],
        &["{type: rate_limit, requests: 1, per_secs: 3600}"],
    );
    let gw = Gw::start(limit.replace("trusted_proxies: [127.0.0.1]\n", ""));
    assert_eq!(from(&gw, "203.0.113.1").status, 200);
    assert_eq!(from(&gw, "203.0.113.2").status, 429);
}

#[test]
fn tokens_come_back_at_the_rate() {
    let origin = Origin::ok("ok");
    let gw = Gw::start(filtered(
        &[&origin],
        &["{type: rate_limit, requests: 1, per_secs: 1}"],
    ));
    assert_eq!(from(&gw, "203.0.113.1").status, 200);
    let refused = from(&gw, "203.0.113.1");
    assert_eq!(refused.status, 429);
    assert_eq!(number(&refused, "Retry-After"), 1);
    crate::support::eventually(std::time::Duration::from_secs(5), "a token", || {
        from(&gw, "203.0.113.1").status == 200
    });
}

#[test]
fn a_reload_keeps_what_was_counted_while_the_settings_stay() {
    let origin = Origin::ok("ok");
    let limit = "{type: rate_limit, requests: 1, per_secs: 3600}";
    let gw = Gw::start(filtered(&[&origin], &[limit]));
    assert_eq!(from(&gw, "203.0.113.1").status, 200);
    let same = filtered(&[&origin], &["{type: headers}", limit]);
    assert_eq!(gw.reload(same).status, 200);
    assert_eq!(from(&gw, "203.0.113.1").status, 429);
    let other = filtered(
        &[&origin],
        &["{type: rate_limit, requests: 2, per_secs: 3600}"],
    );
    assert_eq!(gw.reload(other).status, 200);
    assert_eq!(from(&gw, "203.0.113.1").status, 200);
    let refused = gw.reload(filtered(&[&origin], &["{type: rate_limit, requests: 0}"]));
    assert_eq!(refused.status, 422);
    let part = "filters[0].requests: must be 1 to 1000000000, not 0";
    assert!(refused.text().contains(part), "{}", refused.text());
    let refused = gw.reload(filtered(&[&origin], &["{type: rate_limit}"]));
    let part = "filters[0].requests: the key `requests` is missing";
    assert!(refused.text().contains(part), "{}", refused.text());
}

#[test]
fn a_request_is_charged_once_however_often_it_is_tried() {
    let (bad, good) = failing_and_echo();
    let limit = "{type: rate_limit, requests: 8, per_secs: 3600}";
    let gw = Gw::start(filtered(&[&bad, &good], &[limit]));
    for left in (0..8).rev() {
        let response = from(&gw, "203.0.113.1");
        assert_eq!(response.status, 200);
        assert_eq!(number(&response, "RateLimit-Remaining"), left);
    }
    assert!(bad.requests() > 0, "some were tried twice");
    assert_eq!(from(&gw, "203.0.113.1").status, 429);
    assert_eq!(good.requests(), 8);
}

#[test]
fn by_a_header_each_value_has_its_own() {
    let origin = Origin::ok("ok");
    let gw = Gw::start(filtered(
        &[&origin],
        &["{type: rate_limit, requests: 1, per_secs: 3600, key: 'header:X-Api-Key'}"],
    ));
    let status = |fields: &[(&str, &str)]| gw.client().call("GET", "/", fields, b"").status;
    assert_eq!(status(&[("X-Api-Key", "a")]), 200);
    assert_eq!(status(&[("x-api-key", "a")]), 429);
    assert_eq!(status(&[("X-Api-Key", "b")]), 200);
    assert_eq!(status(&[]), 200, "one bucket for all without it");
    assert_eq!(status(&[]), 429);
    assert_eq!(
        status(&[("X-Api-Key", "c"), ("X-Api-Key", "d")]),
        429,
        "nor with two"
    );
}
