//! Who a client is when proxies stand before the gateway: rights hang on it, so whoever cannot be
//! told has none, and never those of the proxy.

use crate::support::{Gw, Origin, Response, echoed, route};

const FOR: &str = "X-Forwarded-For";

/// A gateway behind a trusted proxy at 127.0.0.1, with one filter.
fn behind_a_proxy(origins: &[&Origin], keys: &str) -> Gw {
    let urls: Vec<String> = origins.iter().map(|origin| origin.url()).collect();
    let trusted = "trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]\n";
    Gw::start(format!("{trusted}{}", route("/", &urls, keys)))
}

fn call(gw: &Gw, fields: &[(&str, &str)]) -> Response {
    gw.client().call("GET", "/", fields, b"")
}

fn filter(text: &str) -> String {
    format!("filters: [{{type: {text}}}]")
}

#[test]
fn a_client_that_is_named_with_a_port_has_its_own_rights_and_not_the_proxys() {
    let origin = Origin::ok("ok");
    let denied = behind_a_proxy(
        &[&origin],
        &filter("ip_access, deny: [203.0.113.0/24, '2001:db8::/32']"),
    );
    let allowed = behind_a_proxy(&[&origin], &filter("ip_access, allow: [127.0.0.0/8]"));
    for node in [
        "203.0.113.7",
        "203.0.113.7:4711",
        "\"203.0.113.7:4711\"",
        "::ffff:203.0.113.7",
        "[::ffff:203.0.113.7]:4711",
        "2001:db8::1",
        "[2001:db8::1]",
        "[2001:db8::1]:443",
        "\"[2001:db8::1]:4711\"",
        "127.0.0.1, 203.0.113.7:4711, 10.0.0.1:80",
    ] {
        assert_eq!(call(&denied, &[(FOR, node)]).status, 403, "{node}");
        assert_eq!(call(&allowed, &[(FOR, node)]).status, 403, "{node}");
    }
    let forwarded = [("Forwarded", "for=\"203.0.113.7:4711\";proto=https")];
    assert_eq!(call(&denied, &forwarded).status, 403);
    assert_eq!(call(&allowed, &forwarded).status, 403);
    assert_eq!(origin.requests(), 0);
    assert_eq!(call(&denied, &[(FOR, "198.51.100.1:80")]).status, 200);
    assert_eq!(call(&allowed, &[(FOR, "127.0.0.9:80")]).status, 200);
    assert_eq!(call(&allowed, &[]).status, 200, "the proxy's own request");
}

#[test]
fn a_client_that_cannot_be_told_is_let_in_by_no_list() {
    let origin = Origin::ok("ok");
    let everyone = "ip_access, allow: [127.0.0.0/8, '0.0.0.0/0', '::/0']";
    let allowed = behind_a_proxy(&[&origin], &filter(everyone));
    for node in [
        "unknown",
        "_hidden",
        "",
        "localhost",
        "127.0.0.1, unknown, 10.0.0.1",
    ] {
        assert_eq!(call(&allowed, &[(FOR, node)]).status, 403, "{node}");
    }
    let lines = [(FOR, "127.0.0.1"), (FOR, "unknown"), (FOR, "10.0.0.1")];
    assert_eq!(call(&allowed, &lines).status, 403);
    assert_eq!(call(&allowed, &[("Forwarded", "for=unknown")]).status, 403);
    assert_eq!(origin.requests(), 0);
}

#[test]
fn clients_that_cannot_be_told_share_one_bucket_and_one_endpoint() {
    let origins = [Origin::ok("a"), Origin::ok("b"), Origin::ok("c")];
    let origins: Vec<&Origin> = origins.iter().collect();
    let limited = behind_a_proxy(
        &origins[..1],
        &filter("rate_limit, requests: 2, per_secs: 3600"),
    );
    let statuses = ["unknown", "_a", "_b"].map(|node| call(&limited, &[(FOR, node)]).status);
    assert_eq!(statuses, [200, 200, 429]);
    assert_eq!(call(&limited, &[]).status, 200, "the proxy has its own");
    assert_eq!(call(&limited, &[(FOR, "203.0.113.7:1")]).status, 200);

    let hashed = behind_a_proxy(&origins, "balance: hash\nhash_on: client_ip");
    let first = call(&hashed, &[(FOR, "unknown")]).text();
    for nth in 0..8 {
        let node = format!("_hidden{nth}");
        assert_eq!(call(&hashed, &[(FOR, &node)]).text(), first, "{node}");
    }
    for port in [1, 2, 3, 4, 5, 6] {
        let node = format!("203.0.113.7:{port}");
        let bare = call(&hashed, &[(FOR, "203.0.113.7")]).text();
        assert_eq!(call(&hashed, &[(FOR, &node)]).text(), bare, "{node}");
    }
}

#[test]
fn the_log_and_headers_name_the_client_and_the_log_its_proxy() {
    let origin = Origin::echo();
    let named = filter("headers, request: {set: {X-Client: '${client_ip}'}}");
    let gw = behind_a_proxy(&[&origin], &named);
    for (nth, (node, header, logged)) in [
        ("203.0.113.7:4711", "203.0.113.7", "203.0.113.7"),
        ("[2001:db8::1]:443", "2001:db8::1", "2001:db8::1"),
        ("unknown", "unknown", "-"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = gw.client();
        let proxy = client.local_addr().to_string();
        let echo = client.call("GET", "/", &[(FOR, node)], b"").json();
        assert_eq!(echoed(&echo, "x-client"), [header], "{node}");
        let list = format!("{node}, 127.0.0.1");
        assert_eq!(echoed(&echo, "x-forwarded-for"), [list], "as it came");
        let record = &gw.access_log(nth + 1)[nth];
        assert_eq!(record["client"], logged, "{node}");
        assert_eq!(record["proxy"], proxy, "{node}");
    }
    let mut client = gw.client();
    let own = client.local_addr().to_string();
    assert_eq!(echoed(&client.get("/").json(), "x-client"), ["127.0.0.1"]);
    let record = &gw.access_log(4)[3];
    assert_eq!(
        (&record["client"], &record["proxy"]),
        (&own.into(), &serde_json::Value::Null)
    );
}

#[test]
fn a_stranger_cannot_speak_as_a_proxy_under_any_name() {
    const CLAIMS: [&str; 10] = [
        "Forwarded",
        "X-Real-IP",
        "X_Real_IP",
        "X-Real_IP",
        "X_Forwarded_For",
        "X_Forwarded-Proto",
        "X-Forwarded_Host",
        "X-Forwarded-Prefix",
        "X-Forwarded-Port",
        "x_forwarded_port",
    ];
    let origins = [Origin::echo(), Origin::echo()];
    let fields = CLAIMS.map(|name| (name, "for=203.0.113.7"));
    let strangers = Gw::route(&[origins[0].url()], "");
    let echo = call(&strangers, &fields).json();
    for name in CLAIMS {
        assert!(echoed(&echo, name).is_empty(), "{name}: {echo}");
    }
    assert_eq!(echoed(&echo, "x-forwarded-for"), ["127.0.0.1"]);
    let echo = call(&behind_a_proxy(&[&origins[0]], ""), &fields).json();
    for name in CLAIMS {
        assert_eq!(
            echoed(&echo, name),
            ["for=203.0.113.7"],
            "{name} of a trusted proxy"
        );
    }

    let set =
        filter("headers, request: {set: {X-Real-IP: '${client_ip}', X-Forwarded-Port: '80'}}");
    let sets = Gw::route(&[origins[0].url()], &set);
    let echo = call(&sets, &fields).json();
    assert_eq!(
        echoed(&echo, "x-real-ip"),
        ["127.0.0.1"],
        "a filter's own stays"
    );
    assert_eq!(echoed(&echo, "x-forwarded-port"), ["80"]);
    assert!(echoed(&echo, "x_real_ip").is_empty());

    let limit = filter("rate_limit, requests: 1, per_secs: 3600, key: 'header:X-Real-IP'");
    let limited = Gw::route(&[origins[0].url()], &limit);
    let statuses = ["1.1.1.1", "2.2.2.2"].map(|ip| call(&limited, &[("X-Real-IP", ip)]).status);
    assert_eq!(statuses, [200, 429], "filters do not see it either");
}
