//! `ip_access` and `basic_auth` through a running gateway.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{failing_and_echo, filtered, retried};
use crate::support::{Gw, Origin, echoed};

fn from(gw: &Gw, client: &str) -> u16 {
    let fields = [("X-Forwarded-For", client)];
    gw.client().call("GET", "/", &fields, b"").status
}

#[test]
fn addresses_are_let_in_or_not() {
    let origin = Origin::ok("ok");
    let gw = Gw::start(filtered(
        &[&origin],
        &["{type: ip_access, allow: [203.0.113.0/24, 'fd00::/8'], deny: [203.0.113.66]}"],
    ));
    for (client, status) in [
        ("203.0.113.1", 200),
        ("203.0.113.66", 403),
        ("::ffff:203.0.113.66", 403),
        ("::ffff:203.0.113.1", 200),
        ("198.51.100.1", 403),
        ("fd00::1", 200),
        ("2001:db8::1", 403),
    ] {
        assert_eq!(from(&gw, client), status, "{client}");
    }
    assert_eq!(origin.requests(), 3);
    assert_eq!(
        gw.get("/").json()["reason"],
        "filter_refused",
        "127.0.0.1 itself"
    );
    let reasons = gw.reasons(8);
    assert_eq!(reasons.iter().filter(|r| *r == "filter_refused").count(), 5);

    let reload = gw.reload(filtered(
        &[&origin],
        &["{type: ip_access, deny: [203.0.113.1]}"],
    ));
    assert_eq!(reload.status, 200, "{}", reload.text());
    assert_eq!(from(&gw, "203.0.113.1"), 403);
    assert_eq!(from(&gw, "203.0.113.66"), 200);

    let refused = gw.reload(filtered(
        &[&origin],
        &["{type: ip_access, allow: [10.0.0.0/40]}"],
    ));
    assert_eq!(refused.status, 422);
    let part = "filters[0].allow: `10.0.0.0/40` is not a network (for example";
    assert!(refused.text().contains(part), "{}", refused.text());
    assert_eq!(from(&gw, "203.0.113.1"), 403, "what was in force is");
}

/// A file of users with one password each.
struct Users(tempfile::TempDir);

impl Users {
    fn new(users: &[(&str, &str)]) -> Users {
        let file = Users(tempfile::tempdir().unwrap());
        file.write(users);
        file
    }

    fn write(&self, users: &[(&str, &str)]) {
        let lines = users.iter().map(|(user, password)| {
            let hash = bcrypt::hash(password, 4).unwrap();
            format!("{user}:{hash}\n")
        });
        std::fs::write(self.path(), lines.collect::<String>()).unwrap();
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("users")
    }

    fn filter(&self) -> String {
        format!(
            "{{type: basic_auth, users_file: {:?}, realm: staff only}}",
            self.path()
        )
    }
}

fn basic(credentials: &str) -> String {
    format!("Basic {}", STANDARD.encode(credentials))
}

fn status(gw: &Gw, credentials: &str) -> u16 {
    let value = basic(credentials);
    let fields = [("Authorization", value.as_str())];
    gw.client().call("GET", "/", &fields, b"").status
}

#[test]
fn a_user_with_the_right_password_comes_in() {
    let origin = Origin::echo();
    let users = Users::new(&[("ann", "secret"), ("bob", "word")]);
    let gw = Gw::start(filtered(&[&origin], &[&users.filter()]));
    let asked = gw.get("/");
    assert_eq!(asked.status, 401);
    assert_eq!(asked.json()["reason"], "unauthorized");
    let challenge = "Basic realm=\"staff only\", charset=\"UTF-8\"";
    assert_eq!(asked.headers.first("WWW-Authenticate"), Some(challenge));
    for (credentials, expected) in [
        ("ann:secret", 200),
        ("ann:secret", 200),
        ("bob:word", 200),
        ("ann:word", 401),
        ("ann:", 401),
        ("eve:secret", 401),
    ] {
        assert_eq!(status(&gw, credentials), expected, "{credentials}");
    }
    assert_eq!(origin.requests(), 3);
    let head = &origin.heads()[0];
    let sent = basic("ann:secret");
    assert_eq!(
        head.headers.first("Authorization"),
        Some(sent.as_str()),
        "it goes on"
    );
    assert_eq!(gw.reasons(7)[0], "unauthorized");
}

#[test]
fn hostile_credentials_are_wrong_ones() {
    let origin = Origin::ok("ok");
    let users = Users::new(&[("ann", "secret")]);
    let gw = Gw::start(filtered(&[&origin], &[&users.filter()]));
    let mut cases = vec![
        "Basic".to_owned(),
        "Basic ".to_owned(),
        "Basic !!!".to_owned(),
        "Basic \u{e9}\u{e9}".to_owned(),
        "Bearer abc".to_owned(),
        basic(""),
        basic(":"),
        basic(":secret"),
        basic("annsecret"),
        basic("ann:secret\0"),
        basic("ann\0:secret"),
        basic("ann:secret\r\nX-Evil: 1"),
        basic(&"a".repeat(45_000)),
        basic(&format!("ann:{}", "b".repeat(45_000))),
    ];
    cases.push(format!("Basic {}", STANDARD.encode(b"ann:\xff\xfe")));
    cases.push(format!("Basic {}", "A".repeat(60_000)));
    for value in &cases {
        let fields = [("Authorization", value.as_str())];
        let response = gw.client().call("GET", "/", &fields, b"");
        let start: String = value.chars().take(40).collect();
        assert_eq!(response.status, 401, "{start}");
    }
    let good = basic("ann:secret");
    let twice = [
        ("Authorization", good.as_str()),
        ("Authorization", good.as_str()),
    ];
    assert_eq!(gw.client().call("GET", "/", &twice, b"").status, 401);
    let mut client = gw.client();
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic \xff\xfe\x80\r\n\r\n");
    assert_eq!(client.response().unwrap().status, 401);
    let mut client = gw.client();
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic a\0b\r\n\r\n");
    assert_eq!(client.response().unwrap().status, 400, "the edge's");
    assert_eq!(origin.requests(), 0);
    assert_eq!(status(&gw, "ann:secret"), 200);
}

#[test]
fn a_reload_reads_the_users_again() {
    let origin = Origin::ok("ok");
    let users = Users::new(&[("ann", "secret")]);
    let yaml = filtered(&[&origin], &[&users.filter()]);
    let gw = Gw::start(&yaml);
    assert_eq!(status(&gw, "ann:secret"), 200);
    users.write(&[("ann", "changed"), ("bob", "word")]);
    assert_eq!(gw.reload(&yaml).status, 200);
    assert_eq!(status(&gw, "ann:secret"), 401, "not even from memory");
    assert_eq!(status(&gw, "ann:changed"), 200);
    assert_eq!(status(&gw, "bob:word"), 200);

    std::fs::write(users.path(), "# staff\nann:$apr1$x$y\n").unwrap();
    let refused = gw.reload(&yaml);
    assert_eq!(refused.status, 422);
    let said = refused.text();
    assert!(said.contains("filters[0].users_file: "), "{said}");
    assert!(
        said.contains("users: line 2: `ann`: MD5 is not taken"),
        "{said}"
    );
    assert!(!said.contains("$apr1$x$y"), "{said}");
    assert_eq!(
        status(&gw, "ann:changed"),
        200,
        "the users that were in force are"
    );
}

#[test]
fn a_request_that_is_tried_twice_is_checked_once() {
    let (bad, good) = failing_and_echo();
    let users = Users::new(&[("ann", "secret")]);
    let gw = Gw::start(filtered(&[&bad, &good], &[&users.filter()]));
    let value = basic("ann:secret");
    let (first, second) = retried(&gw, &bad, &good, &[("Authorization", &value)]);
    assert_eq!(first.headers.first("Authorization"), Some(value.as_str()));
    assert_eq!(second.headers.first("Authorization"), Some(value.as_str()));
}

#[test]
fn the_password_can_be_kept_from_the_endpoint() {
    let origin = Origin::echo();
    let users = Users::new(&[("ann", "secret")]);
    let keep = "{type: headers, request: {remove: [Authorization]}}";
    let gw = Gw::start(filtered(&[&origin], &[&users.filter(), keep]));
    let value = basic("ann:secret");
    let response = gw
        .client()
        .call("GET", "/", &[("Authorization", &value)], b"");
    assert!(echoed(&response.json(), "Authorization").is_empty());
}
