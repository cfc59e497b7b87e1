//! Where clients connect: one address or several, and both families on `[::]`.
//!
//! Ports are fixed where two families share one, so those tests have a network of their own.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::json;

use crate::support::client::{self, Client};
use crate::support::netns::alone;
use crate::support::{Binary, Gw, Origin, echoed, eventually, route, route_entry};

const SOON: Duration = Duration::from_secs(15);

fn v4(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn v6(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::LOCALHOST, port))
}

/// As Redis does to PING, after whatever comes before it.
fn pong() -> Origin {
    Origin::raw(|conn| {
        let mut heard = Vec::new();
        loop {
            let bytes = conn.next_bytes()?;
            if bytes.is_empty() {
                return Ok(());
            }
            heard.extend(bytes);
            if heard.ends_with(b"PING\r\n") {
                conn.send("+PONG\r\n")?;
            }
        }
    })
}

#[track_caller]
fn pings(addr: SocketAddr) {
    let mut client = Client::connect(addr);
    client.send("PING\r\n");
    let said = client
        .read_some()
        .unwrap_or_else(|e| panic!("{addr}: {e:?}"));
    assert_eq!(said, b"+PONG\r\n", "{addr}");
}

fn is_closed(addr: SocketAddr) -> bool {
    TcpStream::connect(addr).is_err()
}

#[test]
fn all_addresses_of_ipv6_are_those_of_ipv4_too_and_a_client_is_shown_as_what_it_is() {
    let echo = Origin::echo();
    let filters = "filters: [{type: ip_access, allow: [127.0.0.0/8]}]\n";
    let gw = Gw::start(format!(
        "listen_addr: \"[::]:0\"\ntrusted_proxies: [127.0.0.1]\nroutes:\n{}{}",
        route_entry("/", &[echo.url()], ""),
        route_entry("/ipv4", &[echo.url()], filters),
    ));
    let port = gw.addr().port();
    for (addr, client, may) in [(v4(port), "127.0.0.1", 200), (v6(port), "::1", 403)] {
        let answer = client::get(addr, "/");
        assert_eq!(answer.status, 200, "{addr}");
        assert_eq!(echoed(&answer.json(), "x-forwarded-for"), [client]);
        assert_eq!(client::get(addr, "/ipv4").status, may, "{addr}");
        // What a trusted proxy says is believed: IPv4's is one, IPv6's is none.
        let said = [("X-Forwarded-For", "192.0.2.7")];
        let answer = Client::connect(addr).call("GET", "/", &said, b"");
        let seen = match may {
            200 => "192.0.2.7, 127.0.0.1",
            _ => "::1",
        };
        assert_eq!(echoed(&answer.json(), "x-forwarded-for").join(", "), seen);
    }
    let records = gw.access_log(6);
    let clients = records
        .iter()
        .map(|r| r["client"].as_str().expect("a text"));
    let mut hosts: Vec<&str> = clients
        .map(|c| c.rsplit_once(':').map_or(c, |(host, _)| host))
        .collect();
    hosts.sort_unstable();
    hosts.dedup();
    assert!(hosts.iter().all(|h| !h.contains("ffff")), "{hosts:?}");
    assert!(records.iter().all(|r| r["listener"] == "[::]:0"));
}

#[test]
fn a_server_is_told_of_an_ipv4_client_in_the_words_of_ipv4() {
    let server = pong();
    let gw = Gw::start(format!(
        "tcp_proxy: {{enabled: true, listen_addr: \"[::]:0\"}}\nroutes:\n  \
         cache: {{upstream: \"tcp://{}\", proxy_protocol: v1}}\n",
        server.addr()
    ));
    let port = gw.tcp_addr(0).port();
    for (addr, word) in [
        (v4(port), "PROXY TCP4 127.0.0.1 127.0.0.1 "),
        (v6(port), "PROXY TCP6 ::1 ::1 "),
    ] {
        pings(addr);
        let told = || {
            let heads = server.received();
            heads.iter().any(|bytes| bytes.starts_with(word.as_bytes()))
        };
        eventually(SOON, word, told);
    }
}

#[test]
fn each_address_of_a_list_is_served_under_its_own_name() {
    alone(|| {
        let (web, cache) = (Origin::ok("ok"), pong());
        let gw = Gw::start(format!(
            "listen_addr: [\"127.0.0.1:8080\", \"[::1]:8081\", \"127.0.0.2:8082\"]\n\
             admin: {{listen_addr: [\"127.0.0.1:9901\", \"[::1]:9902\"]}}\n\
             tcp_proxy: {{enabled: true, listen_addr: [\"127.0.0.1:9090\", \"[::1]:9091\"]}}\n\
             routes:\n{}  \
             cache: {{upstream: \"redis://{1}\"}}\n  \
             own: {{upstream: \"redis://{1}\", tcp_listen_port: 6400}}\n",
            route_entry("/", &[web.url()], ""),
            cache.addr(),
        ));
        let third = SocketAddr::from(([127, 0, 0, 2], 8082));
        assert_eq!(
            gw.addr(),
            v4(8080),
            "the first is the one that is asked for"
        );
        assert_eq!(gw.http_addrs(), [v4(8080), v6(8081), third]);
        let mut open = Vec::new();
        for (addr, name) in [
            (v4(8080), "127.0.0.1:8080"),
            (v6(8081), "[::1]:8081"),
            (third, "127.0.0.2:8082"),
        ] {
            let mut client = Client::connect(addr);
            assert_eq!(client.get("/").text(), "ok", "{addr}");
            open.push(client);
            let of_listener = [("listener", name)];
            let active = gw.metrics().sum("harbr_connections_active", &of_listener);
            assert_eq!(active, 1.0, "{name}");
        }
        assert!(is_closed(v6(8080)) && is_closed(v4(8081)));
        for admin in [v4(9901), v6(9902)] {
            assert_eq!(client::get(admin, "/readyz").status, 200);
        }
        // A port of its own is one on each host of the list.
        for tcp in [v4(9090), v6(9091), v4(6400), v6(6400)] {
            pings(tcp);
        }
        let records = gw.access_log(4);
        let listener = |name: &str| records.iter().any(|r| r["listener"] == name);
        assert!(listener("127.0.0.2:8082") && listener("[::1]:8081"));
        let shown: Vec<String> = gw.status()["listeners"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|l| format!("{} {}", l["kind"], l["listener"]).replace('"', ""))
            .collect();
        assert_eq!(
            shown,
            [
                "http 127.0.0.1:8080",
                "http [::1]:8081",
                "http 127.0.0.2:8082",
                "admin 127.0.0.1:9901",
                "admin [::1]:9902",
                "tcp 127.0.0.1:9090",
                "tcp [::1]:9091",
                "tcp 127.0.0.1:6400",
                "tcp [::1]:6400",
            ]
        );
    });
}

#[test]
fn all_addresses_of_both_families_may_stand_side_by_side() {
    alone(|| {
        let (web, cache) = (Origin::ok("ok"), pong());
        let keys = format!(
            "tcp_proxy: {{enabled: true, listen_addr: [\"[::]:9090\", \"0.0.0.0:9090\"]}}\nroutes:\n{}  \
             cache: {{upstream: \"redis://{1}\"}}\n  \
             own: {{upstream: \"redis://{1}\", tcp_listen_port: 6400}}\n",
            route_entry("/", &[web.url()], ""),
            cache.addr(),
        );
        let gw = Gw::start(format!(
            "listen_addr: [\"0.0.0.0:8080\", \"[::]:8080\"]\n{keys}"
        ));
        for (addr, name) in [(v4(8080), "0.0.0.0:8080"), (v6(8080), "[::]:8080")] {
            assert_eq!(client::get(addr, "/").text(), "ok", "{addr}");
            let named = |r: &serde_json::Value| r["listener"] == name;
            let count = if name.starts_with('[') { 2 } else { 1 };
            assert!(gw.access_log(count).iter().any(named), "{name}");
        }
        for tcp in [v4(9090), v6(9090), v4(6400), v6(6400)] {
            pings(tcp);
        }
    });
}

#[test]
fn a_reload_opens_and_closes_single_addresses_of_a_list() {
    alone(|| {
        let web = Origin::ok("ok");
        let at = |list: &str| format!("listen_addr: {list}\n{}", route("/", &[web.url()], ""));
        let gw = Gw::start(at("127.0.0.1:8080"));
        let mut kept = gw.client();
        assert_eq!(kept.get("/").text(), "ok");
        let answer = gw.reload(at("[\"127.0.0.1:8080\", \"[::1]:8081\"]"));
        let listeners = &answer.json()["listeners"];
        assert_eq!(*listeners, json!({"added": ["[::1]:8081"], "removed": []}));
        assert_eq!(client::get(v6(8081), "/").text(), "ok");
        assert_eq!(client::get(v4(8080), "/").text(), "ok");
        let answer = gw.reload(at("[\"[::1]:8081\"]"));
        let listeners = &answer.json()["listeners"];
        assert_eq!(
            *listeners,
            json!({"added": [], "removed": ["127.0.0.1:8080"]})
        );
        assert!(is_closed(v4(8080)));
        assert_eq!(kept.get("/").text(), "ok", "an open connection stays");

        // What is in the way is the gateway itself, and it says so.
        assert_eq!(gw.reload(at("\"[::]:8081\"")).status, 422);
        let answer = gw.reload(at("\"[::]:8081\""));
        let said = answer.text();
        for part in [
            "listen_addr",
            "[::]:8081",
            "this gateway itself listens on [::1]:8081",
        ] {
            assert!(said.contains(part), "{part} in {said}");
        }
        assert_eq!(
            client::get(v6(8081), "/").text(),
            "ok",
            "nothing has changed"
        );
        assert_eq!(gw.reload(at("\"[::]:8082\"")).status, 200);
        assert_eq!(client::get(v4(8082), "/").text(), "ok");
        let both = at("[\"0.0.0.0:8082\", \"[::]:8082\"]");
        assert!(
            gw.reload(&both)
                .text()
                .contains("this gateway itself listens on [::]:8082")
        );
    });
}

#[test]
fn a_successor_takes_over_each_address_of_a_list() {
    alone(|| {
        let (web, cache) = (Origin::ok("ok"), pong());
        let keys = |list: &str| {
            format!(
                "tcp_proxy: {{enabled: true, listen_addr: {list}, connection_pooling: false}}\nroutes:\n{}  \
                 cache: {{upstream: \"redis://{}\"}}\n",
                route_entry("/", &[web.url()], ""),
                cache.addr(),
            )
        };
        let list = "[\"[::]:6400\", \"0.0.0.0:6500\", \"[::]:6500\"]";
        let mut old = Binary::start(&keys(list));
        let all = [v4(6400), v6(6400), v4(6500), v6(6500)];
        all.into_iter().for_each(pings);
        let new = old.beside(&["-u"]).serving();
        let said = new.said();
        assert!(said.contains("upgrade: 4 sockets"), "{said}");
        let ended = old.ended_within(SOON).and_then(|status| status.code());
        assert_eq!(ended, Some(0), "{}", old.said());
        all.into_iter().for_each(pings);
    });
}
