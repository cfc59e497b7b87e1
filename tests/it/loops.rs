//! Requests that come back to a gateway they have passed.

use crate::support::{Gw, Origin, echoed, route};

/// A gateway that sends to `other` whatever `keys` say, and answers there.
fn towards(gw: &Gw, other: &Gw, keys: &str) {
    let yaml = route("/", &[format!("http://{}", other.addr())], keys);
    let report = gw.reload(yaml);
    assert_eq!(report.status, 200, "{}", report.text());
}

#[test]
fn two_gateways_that_send_to_each_other_end_it_the_first_time_round() {
    let origin = Origin::ok("fine");
    let first = Gw::route(&[origin.url()], "");
    let second = Gw::route(&[format!("http://{}", first.addr())], "retry_count: 3\n");
    assert_eq!(second.get("/").text(), "fine", "a chain is no loop");
    towards(&first, &second, "retry_count: 3\n");
    let answer = first.get("/");
    assert_eq!(answer.status, 508);
    assert_eq!(answer.json()["reason"], "loop");
    assert_eq!(answer.json()["title"], "Loop Detected");
    let reasons = first.reasons(3);
    assert_eq!(
        reasons.iter().filter(|r| *r == "loop").count(),
        1,
        "{reasons:?}"
    );
    assert_eq!(reasons.len(), 3, "one in the chain, two round the loop");
    assert_eq!(second.access_log(2).len(), 2);
    let looped = [("reason", "loop"), ("code", "5xx")];
    assert_eq!(
        first.metrics().sum("harbr_http_requests_total", &looped),
        1.0
    );
    assert_eq!(
        second.metrics().sum("harbr_http_requests_total", &looped),
        0.0
    );
}

#[test]
fn a_gateway_that_sends_to_itself_ends_it_too() {
    let origin = Origin::ok("fine");
    let gw = Gw::route(&[origin.url()], "");
    towards(&gw, &gw, "");
    let mut client = gw.client();
    for _ in 0..2 {
        let answer = client.call("POST", "/", &[], b"body");
        assert_eq!(
            (answer.status, &answer.json()["reason"]),
            (508, &"loop".into())
        );
    }
    assert_eq!(gw.access_log(4).len(), 4);
    assert_eq!(origin.requests(), 0);
}

#[test]
fn gateways_behind_each_other_have_different_names_and_keep_them() {
    let origin = Origin::echo();
    let last = Gw::route(&[origin.url()], "");
    let middle = Gw::route(&[format!("http://{}", last.addr())], "");
    let first = Gw::route(&[format!("http://{}", middle.addr())], "");
    let asks = [("Via", "1.0 edge (squid), 2 harbr-router")];
    let hops = |gw: &Gw| {
        let answer = gw.client().call("GET", "/", &asks, b"");
        assert_eq!(answer.status, 200);
        let via = echoed(&answer.json(), "via").join(", ");
        via.split(", ").map(str::to_owned).collect::<Vec<_>>()
    };
    let before = hops(&first);
    assert_eq!(before.len(), 5, "{before:?}");
    assert_eq!(before[..2], ["1.0 edge (squid)", "2 harbr-router"]);
    assert!(
        before[2..]
            .iter()
            .all(|hop| hop.starts_with("1.1 harbr-router"))
    );
    let mut names = before[2..].to_vec();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 3, "{before:?}");
    towards(&middle, &last, "retry_count: 1\n");
    assert_eq!(
        hops(&first),
        before,
        "a reload makes no other gateway of it"
    );
}
