//! Certificates of clients.

use super::{SOON, failures, section};
use crate::support::authority::{Authority, Issued, TlsSetup};
use crate::support::http2::Http2Client;
use crate::support::{Gw, Origin, client, echoed, eventually, route};

/// Endpoints see who the client is.
const SUBJECT: &str = "filters:\n  - type: headers\n    request:\n      set: {X-Subject: \"${client_cert_subject}\", \
                       X-San: \"${client_cert_san}\", X-Print: \"${client_cert_sha256}\"}\n";

fn gateway(origin: &Origin, cert: &Issued, keys: &str) -> Gw {
    Gw::start(section(&[cert], keys) + &route("/", &[origin.url()], SUBJECT))
}

#[test]
fn only_clients_of_the_authority_get_in_and_endpoints_see_who_they_are() {
    let (authority, others) = (Authority::new(), Authority::new());
    let cert = authority.server("a", &["a.test"]);
    let (alice, stranger) = (authority.client("alice"), others.client("alice"));
    let old = authority.issue("old", &["old.test"], |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let origin = Origin::echo();
    let gw = gateway(&origin, &cert, &format!("client_ca: {:?}", authority.ca()));
    let trusting = authority.trusting();
    let response = trusting
        .with(&alice)
        .get(gw.https_addr(), "a.test", "/")
        .unwrap();
    let echo = response.json();
    assert_eq!(echoed(&echo, "x-subject"), ["CN=alice"]);
    assert_eq!(echoed(&echo, "x-san"), ["DNS:alice.clients.test"]);
    let print = &echoed(&echo, "x-print")[0];
    assert_eq!(print.len(), 64);
    let record = &gw.access_log(1)[0];
    assert_eq!(record["client_cert_subject"], "CN=alice");
    assert_eq!(record["client_cert_sha256"], print.as_str());
    for (refused, cause) in [
        (trusting.clone(), "no_certificate"),
        (trusting.with(&stranger), "bad_certificate"),
        (trusting.with(&old), "bad_certificate"),
    ] {
        let before = failures(&gw, cause);
        // In TLS 1.3 a client hears of it with its first read.
        assert!(
            refused.get(gw.https_addr(), "a.test", "/").is_err(),
            "{cause}"
        );
        eventually(SOON, cause, || failures(&gw, cause) > before);
    }
    assert_eq!(origin.requests(), 1);
}

#[test]
fn an_optional_certificate_may_be_missing_and_not_wrong() {
    let (authority, others) = (Authority::new(), Authority::new());
    let cert = authority.server("a", &["a.test"]);
    let (alice, stranger) = (authority.client("alice"), others.client("eve"));
    let origin = Origin::echo();
    let keys = format!("client_ca: {:?}\nclient_auth: optional", authority.ca());
    let gw = gateway(&origin, &cert, &keys);
    let trusting = authority.trusting();
    for (client, subject) in [(trusting.clone(), ""), (trusting.with(&alice), "CN=alice")] {
        let response = client.get(gw.https_addr(), "a.test", "/").unwrap();
        assert_eq!(echoed(&response.json(), "x-subject").join(""), subject);
    }
    assert!(
        trusting
            .with(&stranger)
            .get(gw.https_addr(), "a.test", "/")
            .is_err()
    );
    let plain = client::get(gw.addr(), "/");
    assert_eq!(echoed(&plain.json(), "x-subject").join(""), "");
}

#[test]
fn a_revoked_certificate_does_not_get_in_nor_does_a_ticket_of_before() {
    let authority = Authority::new();
    let cert = authority.server("a", &["a.test"]);
    let (alice, bob) = (authority.client("alice"), authority.client("bob"));
    let origin = Origin::ok("x");
    let keys = format!("client_ca: {:?}\n", authority.ca());
    let gw = gateway(&origin, &cert, &keys);
    let mut setup = authority.trusting().with(&alice);
    setup.resumption = true;
    let alices = setup.config();
    let connect = || crate::support::authority::connect(&alices, gw.https_addr(), "a.test");
    // The second comes with a ticket.
    for _ in 0..2 {
        assert_eq!(connect().unwrap().get("a.test", "/").unwrap().status, 200);
    }
    let list = authority.revoke("clients.crl", &alice);
    let keys = format!("{keys}client_crl: {list:?}\n");
    let text = section(&[&cert], &keys) + &route("/", &[origin.url()], SUBJECT);
    let reloaded = gw.reload(text);
    assert_eq!(reloaded.status, 200, "{}", reloaded.text());
    let addr = gw.https_addr();
    let refused = crate::support::authority::connect(&alices, addr, "a.test")
        .and_then(|mut client| client.get("a.test", "/"));
    assert!(refused.is_err());
    let bob = authority.trusting().with(&bob);
    assert_eq!(bob.get(addr, "a.test", "/").unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_ask_for_certificates_each_as_its_routes_say() {
    let authority = Authority::new();
    let cert = authority.server("a", &["open.test", "closed.test", "mixed.test"]);
    let alice = authority.client("alice");
    let origin = Origin::ok("x");
    let keys = format!("client_ca: {:?}\nclient_auth: none", authority.ca());
    let to = origin.url();
    let gw = Gw::start(format!(
        "{}routes:\n  /: {{upstream: {to:?}}}\n  \
         closed.test/: {{upstream: {to:?}, client_auth: required}}\n  \
         mixed.test/: {{upstream: {to:?}}}\n  \
         mixed.test/closed: {{upstream: {to:?}, client_auth: required}}\n",
        section(&[&cert], &keys)
    ));
    let (anyone, addr) = (authority.trusting(), gw.https_addr());
    let known = anyone.with(&alice);
    let status = |setup: &TlsSetup, host: &str, path: &str| {
        setup.get(addr, host, path).map(|response| response.status)
    };
    for (host, path, without) in [
        ("open.test", "/", 200),
        ("mixed.test", "/", 200),
        ("mixed.test", "/closed", 403),
    ] {
        assert_eq!(
            status(&anyone, host, path).unwrap(),
            without,
            "{host}{path}"
        );
        assert_eq!(status(&known, host, path).unwrap(), 200, "{host}{path}");
    }
    // `/` of any host can be asked for under that name, too, so the request decides.
    assert_eq!(status(&known, "closed.test", "/").unwrap(), 200);
    assert_ne!(status(&anyone, "closed.test", "/").unwrap_or(0), 200);
    // A connection for one host that is used for another.
    for setup in [&anyone, &known] {
        let mut open = setup.connect(addr, "open.test").unwrap();
        let misdirected = open.get("closed.test", "/").unwrap();
        assert_eq!(misdirected.status, 421);
        assert_eq!(misdirected.json()["reason"], "misdirected");
        let open = Http2Client::in_tls(setup, addr, "open.test").await;
        let fields = [("host", "closed.test")];
        assert_eq!(
            open.call("GET", "/", &fields, b"").await.unwrap().status,
            400
        );
    }
    // In clear it is closed to everybody.
    let mut plain = gw.client();
    for (host, expected) in [("open.test", 200), ("closed.test", 403)] {
        assert_eq!(
            plain.call("GET", "/", &[("Host", host)], b"").status,
            expected
        );
    }
}

#[test]
fn a_reload_that_asks_for_less_says_so() {
    let authority = Authority::new();
    let cert = authority.server("a", &["a.test"]);
    let origin = Origin::ok("x");
    let with = |policy: &str, routes: &str| {
        let keys = format!("client_ca: {:?}\nclient_auth: {policy}", authority.ca());
        let entry = |key: &str| format!("  {key}: {{upstream: {:?}}}\n", origin.url());
        let routes: String = routes.split(' ').map(entry).collect();
        format!("{}routes:\n{routes}", section(&[&cert], &keys))
    };
    let gw = Gw::start(with("required", "/ /a"));
    let warnings = |text: String| {
        let reloaded = gw.reload(text);
        assert_eq!(reloaded.status, 200, "{}", reloaded.text());
        let warnings = reloaded.json()["warnings"].clone();
        let warnings = warnings.as_array().expect("a list").clone();
        warnings
            .into_iter()
            .map(|line| line.as_str().expect("a text").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(warnings(with("required", "/ /a /b")), Vec::<String>::new());
    let lost = warnings(with("optional", "/ /a /b"));
    assert_eq!(lost.len(), 3, "{lost:?}");
    for (line, key) in lost.iter().zip(["/", "/a", "/b"]) {
        let expected = format!("routes.{key}: its clients needed a certificate before this reload");
        assert!(line.starts_with(&expected), "{line}");
    }
}
