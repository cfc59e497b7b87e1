//! Who gets the next request: weights, load, chance, hashes, backups.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::{Client, Gw, Origin, eventually};

const NAMES: [&str; 3] = ["a", "b", "c"];

fn origins() -> [Origin; 3] {
    NAMES.map(Origin::ok)
}

fn urls(origins: &[Origin]) -> Vec<String> {
    origins.iter().map(Origin::url).collect()
}

fn counts(texts: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for text in texts {
        *counts.entry(text).or_default() += 1;
    }
    counts
}

/// The answers to `n` GETs on one connection.
fn answers(client: &mut Client, n: usize) -> Vec<String> {
    (0..n).map(|_| client.get("/").text()).collect()
}

#[test]
fn round_robin_gives_each_the_same_in_turn() {
    let origins = origins();
    let gw = Gw::route(&urls(&origins), "");
    let answers = answers(&mut gw.client(), 30);
    assert_eq!(
        counts(answers.clone()).into_values().collect::<Vec<_>>(),
        [10, 10, 10]
    );
    for turn in answers.chunks(3) {
        assert_eq!(counts(turn.to_vec()).len(), 3, "{answers:?}");
    }
}

#[test]
fn weights_are_kept_smoothly() {
    let origins = origins();
    let weighted: Vec<String> = origins
        .iter()
        .zip([4, 2, 1])
        .map(|(origin, weight)| format!("{{url: \"{}\", weight: {weight}}}", origin.url()))
        .collect();
    let gw = Gw::route(&weighted, "balance: round_robin\n");
    let answers = answers(&mut gw.client(), 70);
    let counts = counts(answers.clone());
    assert_eq!((counts["a"], counts["b"], counts["c"]), (40, 20, 10));
    let burst = answers.windows(3).any(|w| w.iter().all(|x| x == "a"));
    assert!(!burst, "never three of a in a row: {answers:?}");
}

#[test]
fn least_requests_leaves_the_busy_one_alone() {
    let busy = Origin::serve(|_, conn| {
        conn.until_closed()?;
        conn.answer(200, &[], b"busy")
    });
    let idle = Origin::ok("idle");
    let gw = Gw::route(&[busy.url(), idle.url()], "balance: least_requests\n");
    let mut held = Vec::new();
    eventually(Duration::from_secs(5), "the busy one has a request", || {
        let mut client = gw.client();
        client.request("GET", "/", &[], b"");
        held.push(client);
        std::thread::sleep(Duration::from_millis(5));
        busy.requests() > 0
    });
    let in_flight = || gw.metrics().sum("harbr_http_requests_in_flight", &[]);
    eventually(Duration::from_secs(5), "only the busy one is busy", || {
        in_flight() == busy.requests() as f64
    });
    let before = busy.requests();
    // One connection: its next request is read when the one before has given its endpoint back.
    let texts = answers(&mut gw.client(), 50);
    assert_eq!(counts(texts).get("idle"), Some(&50));
    assert_eq!(busy.requests(), before);
}

#[test]
fn random_reaches_everybody() {
    let origins = origins();
    let gw = Gw::route(&urls(&origins), "balance: random\n");
    let counts = counts(answers(&mut gw.client(), 300));
    assert_eq!(counts.len(), 3, "{counts:?}");
    assert!(counts.values().all(|n| *n > 40), "{counts:?}");
}

#[test]
fn equal_keys_go_to_the_same_endpoint_and_different_ones_are_spread() {
    let origins = origins();
    for (keys, field) in [
        ("balance: hash\nhash_on: path\n", None),
        (
            "balance: hash\nhash_on: \"header:X-User\"\n",
            Some("X-User"),
        ),
        (
            "balance: hash\nhash_on: \"cookie:session\"\n",
            Some("Cookie"),
        ),
    ] {
        let gw = Gw::route(&urls(&origins), keys);
        let mut client = gw.client();
        let mut ask = |nth: usize| {
            let value = match field {
                Some("Cookie") => format!("other=x; session=s{nth}; last=y"),
                _ => format!("user-{nth}"),
            };
            let target = if field.is_none() {
                format!("/p{nth}")
            } else {
                "/".to_owned()
            };
            let fields = [(field.unwrap_or("X-None"), value.as_str())];
            client.call("GET", &target, &fields, b"").text()
        };
        let first: Vec<String> = (0..60).map(&mut ask).collect();
        let again: Vec<String> = (0..60).map(&mut ask).collect();
        assert_eq!(first, again, "{keys}");
        assert_eq!(counts(first).len(), 3, "{keys}");
    }
    let gw = Gw::route(&urls(&origins), "balance: hash\nhash_on: client_ip\n");
    let all = (0..20).map(|_| gw.get("/").text());
    assert_eq!(counts(all).len(), 1, "one address, one endpoint");
}

#[test]
fn a_hash_moves_only_the_keys_of_the_endpoint_that_went() {
    let mut origins = origins();
    let keys = "balance: hash\nhash_on: path\nretry_count: 1\nhealth_check: {path: /, interval_ms: 50, unhealthy_after: 1}\n";
    let gw = Gw::route(&urls(&origins), keys);
    let ask = || -> Vec<String> {
        let mut client = gw.client();
        (0..60)
            .map(|n| client.get(&format!("/p{n}")).text())
            .collect()
    };
    let before = ask();
    origins[0].stop();
    let gone = origins[0].addr().to_string();
    eventually(Duration::from_secs(5), "a is out", || {
        gw.metrics()
            .sum("harbr_endpoint_healthy", &[("endpoint", &gone)])
            == 0.0
    });
    for (before, after) in before.iter().zip(ask()) {
        if before == "a" {
            assert_ne!(after, "a");
        } else {
            assert_eq!(*before, after);
        }
    }
}

#[test]
fn a_hash_of_a_trusted_proxys_client_tells_its_clients_apart() {
    let origins = origins();
    let text = crate::support::route("/", &urls(&origins), "balance: hash\nhash_on: client_ip\n");
    let gw = Gw::start(format!("trusted_proxies: [127.0.0.1/32]\n{text}"));
    let mut client = gw.client();
    let all = (0..60).map(|n| {
        let from = format!("203.0.113.{n}");
        client
            .call("GET", "/", &[("X-Forwarded-For", &from)], b"")
            .text()
    });
    assert_eq!(counts(all).len(), 3);
}

#[test]
fn a_backup_serves_only_while_nobody_else_can() {
    let (mut primary, backup) = (Origin::ok("primary"), Origin::ok("backup"));
    let gw = Gw::route(
        &[
            primary.url(),
            format!("{{url: \"{}\", backup: true}}", backup.url()),
        ],
        "health_check: {path: /check, interval_ms: 50, unhealthy_after: 1}\n",
    );
    let texts = answers(&mut gw.client(), 20);
    assert_eq!(counts(texts)["primary"], 20);
    primary.stop();
    eventually(Duration::from_secs(5), "the backup serves", || {
        gw.get("/").text() == "backup"
    });
    assert_eq!(counts(answers(&mut gw.client(), 20))["backup"], 20);
    primary.start();
    eventually(Duration::from_secs(5), "the primary serves", || {
        gw.get("/").text() == "primary"
    });
    assert_eq!(counts(answers(&mut gw.client(), 20))["primary"], 20);
}

#[test]
fn an_upstream_by_name_is_shared_by_its_routes() {
    let origins = origins();
    let list: String = urls(&origins)
        .iter()
        .map(|u| format!("      - {u}\n"))
        .collect();
    let gw = Gw::start(format!(
        "upstreams:\n  shared:\n    upstream:\n{list}routes:\n  /x: {{upstream: shared}}\n  /y: {{upstream: shared}}\n"
    ));
    let mut client = gw.client();
    let texts = (0..30).map(|n| client.get(if n % 2 == 0 { "/x" } else { "/y" }).text());
    let counts = counts(texts);
    assert_eq!(
        counts.into_values().collect::<Vec<_>>(),
        [10, 10, 10],
        "one rotation for both"
    );
    assert!(
        gw.metrics()
            .has("harbr_endpoint_healthy", &[("upstream", "shared")])
    );
}
