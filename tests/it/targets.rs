//! Request targets as clients really write them: what reaches the endpoint is what was matched, and
//! a refusal says why.

use std::process::Command;

use crate::support::{Gw, Origin, Response, echoed, route_entry};

/// Sends a head as it is, and reads the answer.
fn raw(gw: &Gw, head: &[u8]) -> Response {
    let mut client = gw.client();
    client.send(head);
    client.response().expect("an answer")
}

fn get(gw: &Gw, target: &[u8]) -> Response {
    let head = [b"GET ", target, b" HTTP/1.1\r\nHost: gateway.test\r\n\r\n"].concat();
    raw(gw, &head)
}

#[test]
fn bytes_that_clients_send_raw_reach_the_endpoint_as_escapes() {
    let origin = Origin::echo();
    let gw = Gw::route(&[origin.url()], "");
    for (sent, received) in [
        (
            &b"/api/v1/query?query=up{job=\"x\"}"[..],
            "/api/v1/query?query=up%7Bjob=%22x%22%7D",
        ),
        (b"/a\"b?c=\"d\"", "/a%22b?c=%22d%22"),
        (b"/<a>?<b>", "/%3Ca%3E?%3Cb%3E"),
        (b"/`a`?`b`", "/%60a%60?%60b%60"),
        (b"/a\\b?c\\d", "/a%5Cb?c%5Cd"),
        (b"/{a}|b^?{c}|d^", "/%7Ba%7D%7Cb%5E?%7Bc%7D%7Cd%5E"),
        (b"/caf\xc3\xa9?q=\xe2\x82\xac", "/caf%C3%A9?q=%E2%82%AC"),
        (b"/\xff?\xfe", "/%FF?%FE"),
        (b"http://gateway.test/\"a\"?\"b\"", "/%22a%22?%22b%22"),
        (b"/a[]?b[0]=1&c=%22%zz", "/a[]?b[0]=1&c=%22%zz"),
        (b"/a%22b?c=1", "/a%22b?c=1"),
    ] {
        let name = String::from_utf8_lossy(sent);
        let response = get(&gw, sent);
        assert_eq!(response.status, 200, "{name}: {}", response.text());
        assert_eq!(response.json()["target"], received, "{name}");
    }
    // On one connection, with bodies behind them: the escapes do not move what follows.
    let mut client = gw.client();
    for nth in 0..3 {
        let body = format!("body {nth}");
        let head = "POST /\"a\" HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 6\r\n\r\n";
        client.send(format!("{head}{body}{head}{body}"));
        for _ in 0..2 {
            let echo = client.response().expect("an answer").json();
            assert_eq!(echo["target"], "/%22a%22");
            assert_eq!(echo["body"]["length"].as_u64().unwrap_or(6), 6, "{echo}");
        }
    }
}

#[test]
fn a_backslash_is_no_slash_for_a_route_nor_for_its_endpoint() {
    let (api, root) = (Origin::echo(), Origin::echo());
    let gw = Gw::start(format!(
        "routes:\n{}{}",
        route_entry("/api", &[api.url()], ""),
        route_entry("/", &[root.url()], ""),
    ));
    for (sent, received) in [
        (&b"/api\\x"[..], "/api%5Cx"),
        (b"\\api".as_slice(), ""),
        (b"/x\\api", "/x%5Capi"),
    ] {
        let response = get(&gw, sent);
        match received {
            "" => assert_eq!(response.status, 400),
            received => assert_eq!(response.json()["target"], received),
        }
    }
    assert_eq!((api.requests(), root.requests()), (0, 2));
    for target in [&b"/x/..\\api"[..], b"/x\\..\\api", b"/x\\..", b"/.\\api"] {
        assert_eq!(get(&gw, target).status, 400);
    }
    assert_eq!((api.requests(), root.requests()), (0, 2));
}

#[test]
fn what_is_400_says_which_rule_was_broken_and_repeats_nothing() {
    let origin = Origin::echo();
    let gw = Gw::route(&[origin.url()], "");
    let head = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    for (sent, detail) in [
        (head("/secret#b"), "a fragment (`#`) in the target"),
        (head("/secret b"), "one space between them"),
        (head("/secret\tb"), "a tab in the target"),
        (head("/a?secret=\t#"), "a tab in the target"),
        (head("/secret\x01"), "control byte"),
        (head("/secret\x7f"), "control byte"),
        (head("secret"), "neither a path nor an http URL"),
        (head("/../secret"), "above its root"),
        (head("/secret%zz"), "invalid percent escape"),
        (head("/secret%00"), "invalid percent escape"),
        (head("/secret/..;/a"), "hides a dot segment"),
        (head("http://secret@a/"), "authority"),
        ("GET /secret HTTP/1.1\r\n\r\n".into(), "no Host"),
        (
            "GET /secret HTTP/1.1\r\nHost: a\r\nConnection: close, X-Forwarded-For\r\n\r\n".into(),
            "no hop may take out",
        ),
        (
            "GET /secret HTTP/1.1\r\nHost: a\r\nConnection: HOST\r\n\r\n".into(),
            "no hop may take out",
        ),
        ("GET /secret HTTP/1.1\nHost: a\r\n\r\n".into(), "bare LF"),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nsecret\r\n\r\n".into(),
            "field without colon",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nsecret\r\n".into(),
            "invalid chunk size",
        ),
    ] {
        let response = raw(&gw, sent.as_bytes());
        assert_eq!(response.status, 400, "{sent:?}");
        let kind = response.headers.first("content-type");
        assert_eq!(kind, Some("application/problem+json"), "{sent:?}");
        let problem = response.json();
        assert_eq!(problem["status"], 400);
        assert_eq!(problem["title"], "Bad Request");
        assert_eq!(problem["reason"], "bad_request");
        let told = problem["detail"].as_str().expect("a detail");
        assert!(told.contains(detail), "{sent:?}: {told}");
        assert!(!response.text().contains("secret"), "{sent:?}: {told}");
        assert!(!response.headers.has("server"));
    }
    let others = [
        ("TRACE /a HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("GET /a HTTP/1.1\r\nHost: a\r\nExpect: cake\r\n\r\n", 417),
    ];
    for (sent, status) in others {
        let response = raw(&gw, sent.as_bytes());
        assert_eq!(response.status, status);
        assert!(response.json()["detail"].is_string(), "{sent:?}");
    }
    let mut client = gw.client();
    client.request("HEAD", "/a#b", &[], b"");
    assert_eq!(
        client.rest().map(|bytes| bytes.ends_with(b"\r\n\r\n")),
        Ok(true)
    );
}

#[test]
fn curl_and_python_get_through_with_what_they_send_raw() {
    let origin = Origin::echo();
    let gw = Gw::route(&[origin.url()], "");
    let target = "/api/v1/query?query=up{job=\"x\"}";
    let received = "/api/v1/query?query=up%7Bjob=%22x%22%7D";
    let url = format!("http://{}{target}", gw.addr());
    let python = "import http.client, sys
c = http.client.HTTPConnection(sys.argv[1])
c.request('GET', sys.argv[2])
print(c.getresponse().read().decode())";
    let address = gw.addr().to_string();
    for (program, args) in [
        ("curl", vec!["-sg", "--path-as-is", &url]),
        ("python3", vec!["-c", python, &address, target]),
    ] {
        let out = Command::new(program).args(&args).output();
        let out = out.unwrap_or_else(|e| panic!("{program}: {e}"));
        let text = String::from_utf8_lossy(&out.stdout);
        let echo: serde_json::Value = serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("{program}: {e}: {text} {out:?}"));
        assert_eq!(echo["target"], received, "{program}");
    }
    let accented = format!("http://{}/caf\u{e9}", gw.addr());
    let out = Command::new("curl")
        .args(["-s", &accented])
        .output()
        .expect("curl");
    let echo: serde_json::Value = serde_json::from_slice(&out.stdout).expect("an echo");
    assert_eq!(echo["target"], "/caf%C3%A9");
}

/// Echoes behind `/`, and a refusal at `/admin`.
fn guarded(origin: &Origin, keys: &str, top: &str) -> Gw {
    let refuse = "filters: [{type: respond, status: 403}]";
    Gw::start(format!(
        "{top}\nroutes:\n{}{}{}",
        route_entry("/", &[origin.url()], keys),
        route_entry("/admin", &[origin.url()], refuse),
        route_entry(
            "/s3",
            &[origin.url()],
            &format!("strip_prefix: true\n{keys}")
        ),
    ))
}

#[test]
fn doubled_slashes_reach_the_endpoint_where_they_are_kept_and_fool_no_route() {
    let origin = Origin::echo();
    let merging = guarded(&origin, "", "");
    let keeping = guarded(&origin, "merge_slashes: false", "");
    let by_default = guarded(&origin, "", "merge_slashes: false");
    let overridden = guarded(&origin, "merge_slashes: true", "merge_slashes: false");
    for (target, merged, kept) in [
        ("/a//b", "/a/b", "/a//b"),
        ("/a///b//?c=//d", "/a/b/?c=//d", "/a///b//?c=//d"),
        ("//a", "/a", "//a"),
        ("/%61//./b/../c", "/a/c", "/a//c"),
        ("/s3/bucket//key", "/bucket/key", "/bucket//key"),
        ("//s3//key", "/key", "//key"),
        ("/a/b", "/a/b", "/a/b"),
    ] {
        for (gw, expected) in [
            (&merging, merged),
            (&overridden, merged),
            (&keeping, kept),
            (&by_default, kept),
        ] {
            let response = gw.get(target);
            assert_eq!(response.json()["target"], expected, "{target}");
        }
    }
    let before = origin.requests();
    for target in [
        "/admin",
        "//admin",
        "///admin//x",
        "/.//admin",
        "/a/..//admin",
        "//%61dmin/",
        "/x/../admin",
    ] {
        for gw in [&merging, &overridden, &keeping, &by_default] {
            assert_eq!(gw.get(target).status, 403, "{target}");
        }
    }
    // For who merges slashes it is `/b`, for who does not `/a/b`.
    for target in ["/a//../b", "//../b", "/a//%2e%2e/admin", "//..//admin"] {
        let refused = keeping.get(target);
        assert!(matches!(refused.status, 400 | 403), "{target}");
    }
    assert_eq!(origin.requests(), before);
    let told = keeping.get("/a//../b");
    assert!(
        told.text().contains("behind doubled slashes"),
        "{}",
        told.text()
    );
    assert_eq!(merging.get("/a//../b").json()["target"], "/b");
}

#[test]
fn a_rewrite_takes_its_path_whatever_slashes_are_kept_in_it() {
    let origin = Origin::echo();
    let keys =
        |rewrite: &str| format!("merge_slashes: false\nfilters: [{{type: rewrite, {rewrite}}}]");
    let gw = Gw::start(format!(
        "routes:\n{}{}",
        route_entry(
            "/a",
            &[origin.url()],
            &keys("prefix: {from: /a, to: /public}")
        ),
        route_entry(
            "/b",
            &[origin.url()],
            &keys("regex: {match: '^/b/(.*)$', to: /public/$1}")
        ),
    ));
    for (target, sent) in [
        ("/a/x", "/public/x"),
        ("//a/x", "/public/x"),
        ("/a//x", "/public//x"),
        ("/b/x//y", "/public/x//y"),
        ("//b/x", "/public/x"),
    ] {
        assert_eq!(gw.get(target).json()["target"], sent, "{target}");
    }
}

#[test]
fn an_absolute_target_is_compared_with_host_as_names_are() {
    let (named, other) = (Origin::echo(), Origin::ok("other"));
    let gw = Gw::start(format!(
        "routes:\n{}{}",
        route_entry("gateway.test/", &[named.url()], ""),
        route_entry("/", &[other.url()], ""),
    ));
    for (target, host) in [
        ("http://gateway.test/a?b", "gateway.test"),
        ("HTTP://Gateway.TEST/a?b", "gateway.test"),
        ("http://gateway.test/a?b", "GATEWAY.test"),
        ("http://gateway.test:80/a?b", "gateway.test"),
        ("http://gateway.test/a?b", "gateway.test:80"),
        ("http://gateway.test:/a?b", "gateway.test"),
        ("http://gateway.test:8080/a?b", "Gateway.test:8080"),
        ("https://gateway.test/a?b", "gateway.test"),
        ("https://gateway.test:443/a?b", "gateway.test"),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let response = raw(&gw, head.as_bytes());
        assert_eq!(response.status, 200, "{target} {host}: {}", response.text());
        let echo = response.json();
        assert_eq!(echo["target"], "/a?b", "{target} {host}");
        assert_eq!(echoed(&echo, "host"), [host], "{target}");
        assert_eq!(echoed(&echo, "x-forwarded-proto"), ["http"], "{target}");
    }
    let before = named.requests();
    for (target, host) in [
        ("http://other.test/", "gateway.test"),
        ("http://gateway.test/", "other.test"),
        ("http://gateway.test:81/", "gateway.test"),
        ("http://gateway.test/", "gateway.test:81"),
        ("http://gateway.test:443/", "gateway.test"),
        ("https://gateway.test/", "gateway.test:80"),
        ("http://gateway.test./", "gateway.test"),
        ("ftp://gateway.test/", "gateway.test"),
        ("http://u@gateway.test/", "gateway.test"),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let response = raw(&gw, head.as_bytes());
        assert_eq!(response.status, 400, "{target} {host}");
        assert!(response.json()["detail"].is_string());
    }
    assert_eq!((named.requests(), other.requests()), (before, 0));
    // HTTP/1.0 has no Host: the target says where to.
    let old = raw(&gw, b"GET http://gateway.test/old HTTP/1.0\r\n\r\n").json();
    assert_eq!(old["target"], "/old");
    assert_eq!(echoed(&old, "host"), ["gateway.test"]);
}
