//! What reaches the endpoint and what comes back: routing, paths, headers.

use crate::support::{Client, Gw, Next, Nginx, Origin, echoed, route, route_entry};

#[test]
fn the_longest_prefix_of_whole_segments_takes_the_request() {
    let (root, api, v2) = (Origin::ok("root"), Origin::ok("api"), Origin::ok("v2"));
    let gw = Gw::start(format!(
        "routes:\n{}{}{}",
        route_entry("/", &[root.url()], ""),
        route_entry("/api", &[api.url()], ""),
        route_entry("/api/v2/", &[v2.url()], ""),
    ));
    for (target, expected) in [
        ("/", "root"),
        ("/apix", "root"),
        ("/api", "api"),
        ("/api/", "api"),
        ("/api?x=/api/v2", "api"),
        ("/api/v2x", "api"),
        ("/api/v2", "v2"),
        ("/api/v2/deep/er", "v2"),
        ("/API", "root"),
    ] {
        assert_eq!(gw.get(target).text(), expected, "{target}");
    }
}

#[test]
fn the_best_host_is_asked_first_and_the_next_class_when_it_has_no_prefix() {
    let origins = ["exact", "wild", "any"].map(Origin::ok);
    let gw = Gw::start(format!(
        "routes:\n{}{}{}",
        route_entry("a.test/only", &[origins[0].url()], ""),
        route_entry("*.test/", &[origins[1].url()], ""),
        route_entry("/", &[origins[2].url()], ""),
    ));
    for (host, target, expected) in [
        ("a.test", "/only", "exact"),
        ("A.Test.:8080", "/only/x", "exact"),
        ("a.test", "/other", "wild"),
        ("x.y.test", "/only", "wild"),
        ("test", "/only", "any"),
        ("other.example", "/", "any"),
        ("127.0.0.1:80", "/", "any"),
        ("[::1]:80", "/", "any"),
    ] {
        let response = gw.client().call("GET", target, &[("Host", host)], b"");
        assert_eq!(response.text(), expected, "{host}{target}");
    }
}

#[test]
fn names_of_fields_go_to_the_endpoint_in_lower_case_and_come_back_as_they_are() {
    let origin = Origin::serve(|_, conn| {
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-CamelCase: Value\r\n\r\n")?;
        Ok(Next::Keep)
    });
    let gw = Gw::start(route("/", &[origin.url()], ""));
    let mut client = gw.client();
    client.request(
        "GET",
        "/",
        &[("X-CamelCase", "Value"), ("Soap-ACTION", "A")],
        b"",
    );
    let (response, _) = client.head().unwrap();
    let name = response
        .headers
        .0
        .iter()
        .find(|(_, value)| value == "Value");
    assert_eq!(name.expect("it comes back").0, "X-CamelCase");
    let received = String::from_utf8(origin.received().concat()).unwrap();
    for line in ["x-camelcase: Value", "soap-action: A", "Host: "] {
        assert!(received.contains(&format!("\r\n{line}")), "{received}");
    }
}

#[test]
fn what_no_route_takes_is_a_404_that_names_the_reason_and_reaches_nobody() {
    let origin = Origin::ok("api");
    let gw = Gw::start(route("/api", &[origin.url()], ""));
    let response = gw.get("/other");
    assert_eq!(response.status, 404);
    let kind = response.headers.first("content-type");
    assert_eq!(kind, Some("application/problem+json"));
    let problem = response.json();
    assert_eq!(
        (&problem["status"], &problem["reason"]),
        (&404.into(), &"no_route".into())
    );
    assert!(problem["title"].is_string(), "{problem}");
    assert_eq!(origin.connections(), 0);
}

#[test]
fn encoded_tricks_reach_the_route_that_the_endpoint_would_see_or_none() {
    let (api, admin) = (Origin::echo(), Origin::echo());
    let gw = Gw::start(format!(
        "routes:\n{}{}",
        route_entry("/api", &[api.url()], ""),
        route_entry("/admin", &[admin.url()], ""),
    ));
    let forwarded = [
        ("/api/%2e%2e/admin", "/admin"),
        ("/api/../admin/x?y=/../z", "/admin/x?y=/../z"),
        ("//admin", "/admin"),
        ("/./api/x", "/api/x"),
        ("/api/./x//y/", "/api/x/y/"),
        ("/%61pi/x", "/api/x"),
        ("/api/a%2fb", "/api/a%2Fb"),
        ("/api/%2E/x", "/api/x"),
        ("/admin/%2e%2E/api", "/api"),
        ("/api/x;y=1", "/api/x;y=1"),
        ("/api?%2e%2e/admin", "/api?%2e%2e/admin"),
    ];
    for (target, sent) in forwarded {
        let echo = gw.get(target).json();
        assert_eq!(echo["target"], sent, "{target}");
    }
    let admins = forwarded
        .iter()
        .filter(|(_, sent)| sent.starts_with("/admin"))
        .count();
    assert_eq!(admin.requests(), admins);
    let before = api.requests() + admin.requests();
    for (target, status) in [
        ("/apix", 404),
        ("/api%2Fadmin", 404),
        ("/api/../../admin", 400),
        ("/../admin", 400),
        ("/%2e%2e/admin", 400),
        ("/api/..%2Fadmin", 400),
        ("/api/..;/admin", 400),
        ("/api/..%5cadmin", 400),
        ("/api\\..\\admin", 400),
        ("/api/%zz", 400),
        ("/api/%00", 400),
    ] {
        assert_eq!(gw.get(target).status, status, "{target}");
    }
    assert_eq!(api.requests() + admin.requests(), before);
}

#[test]
fn the_prefix_is_stripped_and_the_path_of_the_url_put_before() {
    let origin = Origin::echo();
    let (plain, based) = (origin.url(), format!("{}/base", origin.url()));
    let gw = Gw::start(format!(
        "routes:\n{}{}{}{}",
        route_entry("/whole", std::slice::from_ref(&plain), ""),
        route_entry("/strip", &[plain], "strip_prefix: true"),
        route_entry("/based", std::slice::from_ref(&based), ""),
        route_entry("/both", &[based], "strip_prefix: true"),
    ));
    for (target, sent) in [
        ("/whole/a?b=c", "/whole/a?b=c"),
        ("/strip/a?b=c", "/a?b=c"),
        ("/strip", "/"),
        ("/strip/", "/"),
        ("/strip?q", "/?q"),
        ("/based/a", "/base/based/a"),
        ("/both/a", "/base/a"),
        ("/both/a/../c", "/base/c"),
    ] {
        assert_eq!(gw.get(target).json()["target"], sent, "{target}");
    }
    let nothing_left = gw.get("/both").json()["target"].clone();
    assert!(
        nothing_left == "/base/" || nothing_left == "/base",
        "{nothing_left}"
    );
}

#[test]
fn the_host_goes_on_as_it_came_or_becomes_the_endpoint() {
    let origin = Origin::echo();
    let gw = Gw::start(format!(
        "routes:\n{}{}",
        route_entry("/", &[origin.url()], ""),
        route_entry("/own", &[origin.url()], "preserve_host: false"),
    ));
    assert_eq!(echoed(&gw.get("/").json(), "host"), ["gateway.test"]);
    assert_eq!(
        echoed(&gw.get("/own").json(), "host"),
        [origin.addr().to_string()]
    );
    let absolute = "GET http://gateway.test/abs?x HTTP/1.1\r\nHost: gateway.test\r\n\r\n";
    let mut client = gw.client();
    client.send(absolute);
    let echo = client.response().unwrap().json();
    assert_eq!(echo["target"], "/abs?x");
    assert_eq!(echoed(&echo, "host"), ["gateway.test"]);
}

#[test]
fn forwarded_headers_are_set_and_those_of_a_stranger_are_not_believed() {
    let origin = Origin::echo();
    let gw = Gw::route(&[origin.url()], "");
    let claims = [
        ("X-Forwarded-For", "203.0.113.7"),
        ("X-Forwarded-For", "198.51.100.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil.test"),
    ];
    for echo in [
        gw.client().get("/").json(),
        gw.client().call("GET", "/", &claims, b"").json(),
    ] {
        assert_eq!(echoed(&echo, "x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(echoed(&echo, "x-forwarded-proto"), ["http"]);
        assert_eq!(echoed(&echo, "x-forwarded-host"), ["gateway.test"]);
        let via = echoed(&echo, "via");
        assert_eq!(via.len(), 1, "{via:?}");
        assert!(via[0].starts_with("1.1 "), "{via:?}");
    }
}

#[test]
fn forwarded_headers_of_a_trusted_proxy_are_kept_and_added_to() {
    let origin = Origin::echo();
    let trusted = "trusted_proxies: [127.0.0.0/8]\n";
    let gw = Gw::start(format!("{trusted}{}", route("/", &[origin.url()], "")));
    let claims = [
        ("X-Forwarded-For", "203.0.113.7"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "public.test"),
        ("Via", "1.1 front"),
    ];
    let echo = gw.client().call("GET", "/", &claims, b"").json();
    let joined = |name: &str| echoed(&echo, name).join(", ");
    assert_eq!(joined("x-forwarded-for"), "203.0.113.7, 127.0.0.1");
    assert_eq!(joined("x-forwarded-proto"), "https");
    assert_eq!(joined("x-forwarded-host"), "public.test");
    assert!(
        joined("via").starts_with("1.1 front, 1.1 "),
        "{}",
        joined("via")
    );
    let bare = gw.get("/").json();
    assert_eq!(echoed(&bare, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(echoed(&bare, "x-forwarded-proto"), ["http"]);
}

#[test]
fn hop_by_hop_headers_stop_at_the_gateway_in_both_directions() {
    let origin = Origin::serve(|request, conn| {
        if request.target == "/echo" {
            return conn.answer_json(request, &crate::support::http1::Body::empty());
        }
        let fields = [
            ("Connection", "X-Hop, keep-alive"),
            ("X-Hop", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
            ("Proxy-Authenticate", "Basic"),
            ("Upgrade", "h2c"),
            ("TE", "trailers"),
            ("X-End-To-End", "1"),
        ];
        conn.answer(200, &fields, b"body")
    });
    let gw = Gw::route(&[origin.url()], "");
    let response = gw.get("/");
    assert_eq!(response.text(), "body");
    assert_eq!(response.headers.first("x-end-to-end"), Some("1"));
    for name in [
        "x-hop",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "upgrade",
        "te",
    ] {
        assert!(
            !response.headers.has(name),
            "{name}: {:?}",
            response.headers
        );
    }
    let fields = [
        ("Connection", "X-Hop, keep-alive"),
        ("X-Hop", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("Proxy-Authorization", "Basic eA=="),
        ("TE", "gzip"),
        ("X-End-To-End", "1"),
    ];
    let echo = gw.client().call("GET", "/echo", &fields, b"").json();
    assert_eq!(echoed(&echo, "x-end-to-end"), ["1"]);
    for (name, _) in &fields[1..6] {
        assert!(echoed(&echo, name).is_empty(), "{name}: {echo}");
    }
}

#[test]
fn a_client_cannot_have_the_forwarded_headers_removed_by_naming_them() {
    let origin = Origin::echo();
    let gw = Gw::route(&[origin.url()], "");
    let fields = [("Connection", "close, X-Forwarded-For, X-Forwarded-Proto")];
    let response = gw.client().call("GET", "/", &fields, b"");
    if response.status == 200 {
        assert_eq!(echoed(&response.json(), "x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(echoed(&response.json(), "x-forwarded-proto"), ["http"]);
    } else {
        assert_eq!((response.status, origin.requests()), (400, 0));
    }
}

#[test]
fn the_server_header_is_the_origins_or_none() {
    let origin = Origin::serve(|request, conn| match request.target.as_str() {
        "/named" => conn.answer(200, &[("Server", "origin/1")], b""),
        _ => conn.answer(200, &[], b""),
    });
    let gw = Gw::route(&[origin.url()], "");
    assert_eq!(gw.get("/named").headers.first("server"), Some("origin/1"));
    assert_eq!(gw.get("/").headers.first("server"), None);
    let other = Gw::start(route("/x", &[origin.url()], ""));
    assert_eq!(
        other.get("/").headers.first("server"),
        None,
        "an own answer"
    );
}

#[test]
fn nginx_is_served_like_any_origin() {
    let nginx = Nginx::start(
        "location /say { return 200 \"$request_method $request_uri $host $http_x_forwarded_for $http_x_forwarded_proto\"; }
         location /put { dav_methods PUT; create_full_put_path on; }
         location /moved { return 301 /say; }",
    );
    let file: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(nginx.root().join("file"), &file).unwrap();
    let gw = Gw::route(&[nginx.url()], "");
    let mut client = gw.client();
    assert_eq!(
        client.get("/say/./x?y=1").text(),
        "GET /say/x?y=1 gateway.test 127.0.0.1 http"
    );
    let whole = client.get("/file");
    assert_eq!(whole.body, crate::support::http1::Body::of(&file));
    assert!(
        whole
            .headers
            .first("server")
            .is_some_and(|s| s.starts_with("nginx"))
    );
    let part = client.call("GET", "/file", &[("Range", "bytes=10-19")], b"");
    assert_eq!((part.status, &part.body.bytes[..]), (206, &file[10..20]));
    assert_eq!(client.call("HEAD", "/file", &[], b"").body.len, 0);
    assert_eq!(client.get("/moved").status, 301);
    assert_eq!(client.get("/absent").status, 404);
    let mut chunked = gw.client();
    chunked.send("PUT /put/new HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    chunked.send("6\r\nupload\r\n0\r\n\r\n");
    assert_eq!(chunked.response().unwrap().status, 201);
    assert_eq!(
        std::fs::read(nginx.root().join("put/new")).unwrap(),
        b"upload"
    );
}

#[test]
fn the_address_of_a_client_is_the_one_that_connected() {
    let origin = Origin::echo();
    let gw = Gw::route(&[origin.url()], "");
    let client = Client::connect(gw.addr());
    let own = client.local_addr();
    let mut client = client;
    client.get("/");
    let record = &gw.access_log(1)[0];
    assert!(
        record["client"]
            .as_str()
            .is_some_and(|c| c.starts_with(&own.ip().to_string()))
    );
}

#[test]
fn an_ipv6_client_is_told_by_its_bare_address() {
    let origin = Origin::echo();
    let gw = Gw::start(format!(
        "listen_addr: \"[::1]:0\"\n{}",
        route("/", &[origin.url()], "")
    ));
    assert!(gw.addr().is_ipv6());
    let echo = gw.get("/").json();
    assert_eq!(echoed(&echo, "x-forwarded-for"), ["::1"]);
}

#[test]
fn options_for_the_whole_server_go_on_as_such() {
    let origin = Origin::echo();
    let gw = Gw::route(&[origin.url()], "");
    let echo = gw.client().call("OPTIONS", "*", &[], b"").json();
    assert_eq!(
        (&echo["method"], &echo["target"]),
        (&"OPTIONS".into(), &"*".into())
    );
}
