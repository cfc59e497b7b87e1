//! What the admin listener reports of each endpoint's last error, whatever kind of trouble it was.

use std::time::{Duration, SystemTime};

use harbr_router::telemetry::rfc3339;
use serde_json::Value;

use crate::support::daemon::output;
use crate::support::{
    Client, Gw, Next, Origin, Postgres, Redis, eventually, route, route_entry, timed,
};

/// Of the endpoint with this label: null while it had none.
fn last_error(gw: &Gw, label: &str) -> Value {
    let status = gw.status();
    let upstreams = status["upstreams"].as_array().expect("a list");
    let all = upstreams
        .iter()
        .flat_map(|u| u["endpoints"].as_array().expect("a list"));
    let found: Vec<&Value> = all.filter(|e| e["endpoint"] == label).collect();
    assert!(!found.is_empty(), "{label} in {status}");
    found[0]["last_error"].clone()
}

#[track_caller]
fn await_error(gw: &Gw, label: &str, text: &str) {
    let what = format!("{label}: {text}");
    let mut last = Value::Null;
    let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually(Duration::from_secs(20), &what, || {
            last = last_error(gw, label);
            last["text"]
                .as_str()
                .is_some_and(|said| said.contains(text))
        });
    }));
    assert!(seen.is_ok(), "{what}; it was {last}");
}

fn config(gw: &Gw) -> String {
    let host = gw.admin_addr().to_string();
    let mut client = Client::connect(gw.admin_addr());
    client
        .call("GET", "/config", &[("Host", &host)], b"")
        .text()
}

fn tcp_route(name: &str, url: &str, keys: &str) -> String {
    format!("  {name}: {{upstream: \"{url}\"{keys}}}\n")
}

fn tcp(routes: &str) -> Gw {
    Gw::start(format!(
        "tcp_proxy: {{enabled: true, listen_addr: \"127.0.0.1:0\", connection_pooling: false}}\n\
         routes:\n{routes}"
    ))
}

#[test]
fn a_refused_connect_is_told_with_its_time_until_something_else_fails() {
    let (dead, good) = (Origin::refusing(), Origin::ok("good"));
    let label = dead.addr().to_string();
    let yaml = |weight: u32| {
        let urls = format!(
            "[{{url: \"{}\", weight: {weight}}}, \"{}\"]",
            dead.url(),
            good.url()
        );
        format!("routes:\n  /: {{upstream: {urls}, retry_count: 1}}\n")
    };
    let before = rfc3339(SystemTime::now());
    let gw = Gw::start(yaml(1));
    assert_eq!(last_error(&gw, &label), Value::Null);
    assert!(!config(&gw).contains("last error"));
    for _ in 0..4 {
        assert_eq!(gw.get("/").text(), "good");
    }
    let error = last_error(&gw, &label);
    assert_eq!(error["text"], "connect: Connection refused (os error 111)");
    let at = error["at"].as_str().expect("a time").to_owned();
    assert!(before <= at && at <= rfc3339(SystemTime::now()), "{at}");
    assert_eq!(last_error(&gw, &good.addr().to_string()), Value::Null);

    let shown = config(&gw);
    let line =
        format!("# {at} upstream=/ endpoint={label} addr={label}: connect: Connection refused");
    assert!(shown.contains(&line), "{shown}");
    let values: serde_yaml::Value = serde_yaml::from_str(&shown).expect("still YAML");
    assert!(values["routes"]["/"].is_mapping(), "{shown}");

    assert_eq!(gw.reload(yaml(2)).status, 200);
    assert_eq!(last_error(&gw, &label), error, "kept over a reload");
}

#[test]
fn each_way_to_fail_a_request_has_its_words() {
    let _turn = timed();
    let resetting = Origin::serve(|_, _| Ok(Next::Reset));
    let closing = Origin::serve(|_, _| Ok(Next::Close));
    let silent = Origin::serve(|_, conn| conn.until_closed().map(|()| Next::Close));
    let garbled = Origin::raw(|conn| {
        conn.request()?;
        conn.send(b"HTTP/1.1 200 OK\r\nSet-Cookie: s3cret\r\nbad line\r\n\r\n")?;
        conn.until_closed()
    });
    let busy = Origin::status(503, "busy");
    let broken = Origin::status(500, "broken");
    let unreachable = Origin::unreachable();
    let gw = Gw::start(format!(
        "global_timeout_ms: 10000\nroutes:\n{}",
        [
            ("/resetting", resetting.url()),
            ("/closing", closing.url()),
            ("/silent", silent.url()),
            ("/garbled", garbled.url()),
            ("/busy", busy.url()),
            ("/broken", broken.url()),
            ("/unreachable", unreachable.url()),
        ]
        .map(|(key, url)| route_entry(
            key,
            &[url],
            "try_timeout_ms: 300\nconnect_timeout_ms: 200\n"
        ))
        .concat()
    ));
    for (key, addr, text) in [
        (
            "/resetting",
            resetting.addr(),
            "before a response: Connection reset by peer",
        ),
        (
            "/closing",
            closing.addr(),
            "before a response: closed the connection",
        ),
        ("/silent", silent.addr(), "no response in time"),
        ("/garbled", garbled.addr(), "before a response: Invalid"),
        ("/busy", busy.addr(), "answered with status 503"),
        ("/unreachable", unreachable.addr(), "connect: timed out"),
    ] {
        assert!(gw.get(key).status >= 500, "{key}");
        await_error(&gw, &addr.to_string(), text);
    }
    assert_eq!(gw.get("/broken").status, 500);
    assert_eq!(last_error(&gw, &broken.addr().to_string()), Value::Null);
    let (status, config) = (gw.status().to_string(), config(&gw));
    assert!(!status.contains("s3cret") && !config.contains("s3cret"));
}

#[test]
fn a_client_that_leaves_is_no_error_of_the_endpoint() {
    let silent = Origin::serve(|_, conn| conn.until_closed().map(|()| Next::Close));
    let gw = Gw::route(&[silent.url()], "");
    let mut client = gw.client();
    client.request("GET", "/", &[], b"");
    eventually(Duration::from_secs(10), "it is asked", || {
        silent.requests() == 1
    });
    drop(client);
    assert_eq!(gw.reasons(1), ["client_closed"]);
    assert_eq!(last_error(&gw, &silent.addr().to_string()), Value::Null);
}

#[test]
fn a_failed_check_says_why_and_quotes_no_secret() {
    let sick = Origin::serve(|_, conn| conn.answer(500, &[("Set-Cookie", "s3cret")], b"s3cret"));
    let redis = Redis::new();
    redis.run(&["CONFIG", "SET", "requirepass", "right-s3cret"]);
    let (dead, web) = (Origin::refusing(), Origin::ok("web"));
    let check = "health_check: {path: /, interval_ms: 30, unhealthy_after: 1}\n";
    let gw = tcp(&[
        tcp_route(
            "cache",
            &redis.url(),
            ", health_check: {interval_ms: 30, password: wrong-s3cret}",
        ),
        tcp_route(
            "gone",
            &format!("mysql://{}", dead.addr()),
            ", default: true, health_check: {interval_ms: 30}",
        ),
        route_entry("/", &[sick.url()], check),
        route_entry("/well", &[web.url()], check),
    ]
    .concat());
    await_error(
        &gw,
        &sick.addr().to_string(),
        "check: status 500 is not among the healthy ones",
    );
    await_error(&gw, &redis.addr().to_string(), "check: WRONGPASS");
    await_error(
        &gw,
        &dead.addr().to_string(),
        "check: connect: Connection refused",
    );
    assert_eq!(last_error(&gw, &web.addr().to_string()), Value::Null);
    let (status, config) = (gw.status().to_string(), config(&gw));
    assert!(!status.contains("s3cret"), "{status}");
    assert!(!config.contains("s3cret"), "{config}");
}

#[test]
fn sessions_tell_of_their_servers_too() {
    let off = ", health_check: false";
    let (dead, unreachable) = (Origin::refusing(), Origin::unreachable());
    let breaking = Origin::raw(|conn| {
        conn.some_bytes()?;
        conn.reset()
    });
    for (addr, text) in [
        (dead.addr(), "connect: Connection refused"),
        (unreachable.addr(), "connect: timed out"),
        (breaking.addr(), "the connection of a session broke"),
    ] {
        let keys = format!("{off}, connect_timeout_ms: 200");
        let gw = tcp(&tcp_route("db", &format!("tcp://{addr}"), &keys));
        assert_eq!(last_error(&gw, &addr.to_string()), Value::Null);
        let mut client = Client::connect(gw.tcp_addr(0));
        client.send("hello");
        await_error(&gw, &addr.to_string(), text);
    }
    let well = Postgres::new();
    let gw = tcp(&tcp_route("db", &well.url(), off));
    assert_eq!(well.try_sql("SELECT 1").as_deref(), Ok("1"));
    let said = output(Postgres::psql(gw.tcp_addr(0)).args(["-c", "SELECT 1"]));
    assert_eq!(said.as_deref().map(str::trim), Ok("1"));
    assert_eq!(last_error(&gw, &well.addr().to_string()), Value::Null);
}

#[test]
fn a_name_without_address_says_why_until_it_has_one() {
    let origin = Origin::ok("here");
    let gw = Gw::start(format!(
        "routes:\n{}{}",
        route_entry("/", &[origin.url()], ""),
        route_entry("/gone", &["http://nobody.invalid:80".to_owned()], ""),
    ));
    await_error(&gw, "nobody.invalid:80", "resolve: ");
    let status = gw.status();
    let upstreams = status["upstreams"].as_array().expect("a list");
    let gone = upstreams
        .iter()
        .find(|u| u["upstream"] == "/gone")
        .expect("it is listed");
    assert_eq!(gone["unresolved"][0], "nobody.invalid:80");
    assert_eq!(gone["endpoints"][0]["address"], Value::Null);
    assert_eq!(gone["endpoints"][0]["healthy"], false);
    let shown = config(&gw);
    assert!(
        shown.contains("upstream=/gone endpoint=nobody.invalid:80: resolve: "),
        "{shown}"
    );
    // One that comes with a reload hears what is known already.
    let other = route_entry("/other", &["http://nobody.invalid:80".to_owned()], "");
    assert_eq!(gw.reload(format!("routes:\n{other}")).status, 200);
    await_error(&gw, "nobody.invalid:80", "resolve: ");
    let found = route("/here", &["http://localhost:80".to_owned()], "");
    assert_eq!(gw.reload(found).status, 200);
    eventually(Duration::from_secs(20), "localhost has an address", || {
        gw.status()["upstreams"][0]["unresolved"]
            .as_array()
            .is_some_and(Vec::is_empty)
    });
    assert!(!config(&gw).contains("resolve: "), "{}", config(&gw));
}
