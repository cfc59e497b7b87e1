//! `headers` and `request_id` through a running gateway.

use super::{failing_and_echo, filtered, retried};
use crate::support::{Gw, Origin, echoed, route};

#[test]
fn templates_reach_the_endpoint_and_the_client() {
    let origin = Origin::echo();
    let gw = Gw::start(filtered(
        &[&origin],
        &[
            "{type: request_id}",
            "{type: headers, request: {set: {X-Who: '${client_ip} ${host}', X-Route: '${route}', X-Id: '${request_id}'}, \
             add: {X-Tag: mine}, remove: [X-Secret]}, response: {set: {X-Served: '${route} $${x}'}, remove: [Content-Type]}}",
        ],
    ));
    let fields = [
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Who", "forged"),
        ("X-Tag", "theirs"),
        ("X-Secret", "s"),
        ("Host", "shop.test:81"),
    ];
    let response = gw.client().call("GET", "/", &fields, b"");
    assert_eq!(response.headers.first("X-Served"), Some("/ ${x}"));
    assert!(!response.headers.has("Content-Type"));
    let echo = response.json();
    assert_eq!(echoed(&echo, "X-Who"), ["203.0.113.9 shop.test:81"]);
    assert_eq!(echoed(&echo, "X-Route"), ["/"]);
    assert_eq!(echoed(&echo, "X-Tag"), ["theirs", "mine"]);
    assert!(echoed(&echo, "X-Secret").is_empty());
    let id = response.headers.first("X-Request-Id").unwrap();
    assert_eq!(echoed(&echo, "X-Id"), [id]);
    assert_eq!(echoed(&echo, "X-Request-Id"), [id]);
}

#[test]
fn what_is_set_or_removed_is_so_under_every_name_that_stands_for_it() {
    let origin = Origin::echo();
    let gw = Gw::start(filtered(
        &[&origin],
        &[
            "{type: request_id}",
            "{type: headers, request: {set: {X-User: '${client_ip}', api_key: k, X-Both: a, X_Both: b, X-Forwarded-Port: '1'}, \
             add: {X-Tag: mine}, remove: [X-Admin-Role]}}",
        ],
    ));
    let fields = [
        ("X_User", "forged"),
        ("X.User", "forged"),
        ("Api-Key", "forged"),
        ("X_Both", "forged"),
        ("X_Forwarded_Port", "forged"),
        ("X_Admin-Role", "forged"),
        ("X_Request_Id", "forged"),
        ("X_Tag", "theirs"),
        ("X_Users", "theirs"),
        ("XxUser", "theirs"),
    ];
    let echo = gw.client().call("GET", "/", &fields, b"").json();
    for (name, values) in [
        ("X-User", &["127.0.0.1"][..]),
        ("X_User", &[]),
        ("X.User", &[]),
        ("api_key", &["k"]),
        ("Api-Key", &[]),
        ("X-Both", &["a"]),
        ("X_Both", &["b"]),
        ("X-Forwarded-Port", &["1"]),
        ("X_Forwarded_Port", &[]),
        ("X_Admin-Role", &[]),
        ("X_Request_Id", &[]),
        ("X_Tag", &["theirs"]),
        ("X_Users", &["theirs"]),
        ("XxUser", &["theirs"]),
    ] {
        assert_eq!(echoed(&echo, name), values, "{name}");
    }
}

#[test]
fn the_filter_has_the_last_word_over_what_the_gateway_writes() {
    let origin = Origin::echo();
    let gw = Gw::start(filtered(
        &[&origin],
        &[
            "{type: headers, request: {set: {Host: inner.test, X-Forwarded-Proto: https}, remove: [Via]}}",
        ],
    ));
    let echo = gw.get("/").json();
    assert_eq!(echoed(&echo, "Host"), ["inner.test"]);
    assert_eq!(echoed(&echo, "X-Forwarded-Proto"), ["https"]);
    assert!(echoed(&echo, "Via").is_empty());
    assert_eq!(echoed(&echo, "X-Forwarded-Host"), ["gateway.test"]);
}

#[test]
fn both_tries_of_a_request_carry_the_same() {
    let (bad, good) = failing_and_echo();
    let gw = Gw::start(filtered(
        &[&bad, &good],
        &[
            "{type: request_id}",
            "{type: headers, request: {add: {X-Tag: once, Via: 2 mine}, set: {X-Id: '${request_id}'}}}",
        ],
    ));
    let (first, second) = retried(&gw, &bad, &good, &[]);
    for name in ["X-Request-Id", "X-Id", "X-Tag", "Via"] {
        let of = |head: &crate::support::http1::Request| -> Vec<String> {
            head.headers.all(name).map(str::to_owned).collect()
        };
        assert!(!of(&first).is_empty(), "{name}");
        assert_eq!(of(&first), of(&second), "{name}");
    }
    assert_eq!(second.headers.all("X-Tag").count(), 1);
    assert_eq!(
        second.headers.first("X-Id"),
        second.headers.first("X-Request-Id")
    );
}

#[test]
fn an_id_of_a_client_is_kept_only_where_it_is_trusted() {
    let origin = Origin::echo();
    let theirs = ("X-Request-Id", "theirs");
    let gw = Gw::start(filtered(&[&origin], &["{type: request_id}"]));
    let id = |gw: &Gw, fields: &[(&str, &str)]| {
        let response = gw.client().call("GET", "/", fields, b"");
        let id = response.headers.first("X-Request-Id").unwrap().to_owned();
        assert_eq!(echoed(&response.json(), "X-Request-Id"), [id.as_str()]);
        id
    };
    let given = id(&gw, &[theirs]);
    assert_eq!(given.len(), 32, "{given}");
    assert_ne!(given, id(&gw, &[theirs]));
    // Of two connections the later one may be written first.
    let logged = gw.access_log(2);
    assert!(logged.iter().any(|record| record["request_id"] == given));

    let reload = gw.reload(filtered(&[&origin], &["{type: request_id, trust: true}"]));
    assert_eq!(reload.status, 200, "{}", reload.text());
    assert_eq!(id(&gw, &[theirs]), "theirs");
    assert_eq!(id(&gw, &[]).len(), 32);
    for bad in ["a b", &"x".repeat(129), "caf\u{e9}"] {
        assert_eq!(id(&gw, &[("X-Request-Id", bad)]).len(), 32, "{bad}");
    }
}

#[test]
fn the_access_log_has_the_id_whatever_header_carries_it() {
    let origin = Origin::echo();
    let filter = "{type: request_id, header: X-Trace}";
    let gw = Gw::start(filtered(&[&origin], &[filter]));
    let fields = [("X-Request-Id", "theirs")];
    let response = gw.client().call("GET", "/", &fields, b"");
    let id = response.headers.first("X-Trace").unwrap();
    assert_eq!(echoed(&response.json(), "X-Trace"), [id]);
    assert_eq!(gw.access_log(1)[0]["request_id"], id);
}

#[test]
fn the_gateways_own_answers_have_the_headers_too() {
    let nobody = Origin::refusing();
    let keys =
        "filters:\n  - {type: request_id}\n  - {type: headers, response: {set: {X-By: us}}}\n";
    let gw = Gw::start(route("/", &[nobody.url()], keys));
    let response = gw.get("/");
    assert_eq!(response.status, 502);
    assert_eq!(response.headers.first("X-By"), Some("us"));
    assert!(response.headers.has("X-Request-Id"));
}

#[test]
fn balancing_by_a_header_sees_what_was_set() {
    let origins = [Origin::ok("a"), Origin::ok("b"), Origin::ok("c")];
    let urls = origins.each_ref().map(Origin::url);
    let spread = |keys: &str| {
        let keys = format!("balance: hash\nhash_on: header:X-Shard\n{keys}");
        let gw = Gw::route(&urls, &keys);
        let answers = (0..24).map(|nth| {
            let shard = nth.to_string();
            let fields = [("X-Shard", shard.as_str())];
            gw.client().call("GET", "/", &fields, b"").text()
        });
        answers.collect::<std::collections::BTreeSet<_>>().len()
    };
    assert!(spread("") > 1);
    assert_eq!(
        spread("filters: [{type: headers, request: {set: {X-Shard: one}}}]\n"),
        1
    );
}

#[test]
fn a_hostile_host_gets_into_no_header() {
    let origin = Origin::echo();
    let gw = Gw::start(filtered(
        &[&origin],
        &["{type: headers, request: {set: {X-Origin: 'https://${host}/'}}}"],
    ));
    for host in [
        "a b",
        "a\tb",
        "a\0b",
        "a\rX-Evil: 1",
        "a\nX-Evil: 1",
        "a\r\n X-Evil: 1",
        "caf\u{e9}",
    ] {
        let mut client = gw.client();
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\nX-Origin: forged\r\n\r\n"
        ));
        let response = client.response().unwrap();
        if response.status == 200 {
            assert!(echoed(&response.json(), "X-Origin").is_empty(), "{host:?}");
        } else {
            assert_eq!(response.status, 400, "{host:?}");
        }
    }
    for head in origin.heads() {
        assert!(
            !head.headers.has("X-Evil") && !head.headers.has("X-Origin"),
            "{head:?}"
        );
    }
    let echo = gw.get("/").json();
    assert_eq!(echoed(&echo, "X-Origin"), ["https://gateway.test/"]);
}

#[test]
fn wrong_settings_name_their_line_and_change_nothing() {
    let origin = Origin::echo();
    let good = "{type: headers, request: {set: {X-A: a}}}";
    let gw = Gw::start(filtered(&[&origin], &[good]));
    for (filter, part) in [
        (
            "{type: headers, request: {set: {X-A: '${nope}'}}}",
            ":16:41: routes./.filters[0].request.set.X-A: `${nope}` is not known; known are ${client_ip}",
        ),
        (
            "{type: headers, request: {set: {X-A: \"a\\r\\nX-Evil: 1\"}}}",
            "request.set.X-A: holds a line end",
        ),
        (
            "{type: headers, response: {remove: [Content-Length]}}",
            ".response.remove: `content-length` belongs to the gateway",
        ),
        (
            "{type: headers, request: {sett: {X-A: a}}}",
            "request.sett: is not a setting of `headers` (did you mean `set`?)",
        ),
        (
            "{type: headers, request: {set: {X-A: 5}}}",
            "request.set.X-A: invalid type: integer `5`, expected a string",
        ),
        (
            "{type: request_id, header: 'a b'}",
            "header: `a b` is not the name of a header",
        ),
        (
            "{type: header}",
            "unknown filter type `header` (did you mean `headers`? known types: basic_auth, headers, ip_access, rate_limit, request_id, respond, rewrite)",
        ),
    ] {
        let refused = gw.reload(filtered(&[&origin], &[filter]));
        assert_eq!(refused.status, 422, "{filter}");
        assert!(refused.text().contains(part), "{part}\n{}", refused.text());
        assert_eq!(echoed(&gw.get("/").json(), "X-A"), ["a"]);
    }
}
