//! `balance:` with a name of the embedder's.

use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harbr_router::config;
use harbr_router::server::Gateway;
use harbr_router::upstream::{Balancer, Candidate, Wish};

use crate::support::{Client, Gw, Origin, eventually, route};

/// Always the same one of the candidates, and who asked.
#[derive(Default)]
struct Nth {
    nth: usize,
    asked: Arc<AtomicUsize>,
}

impl Balancer for Nth {
    fn pick(&self, candidates: &[Candidate<'_>], wish: &Wish<'_>) -> usize {
        assert!(!candidates.is_empty());
        assert_eq!(wish.upstream, "/");
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.nth
    }
}

/// By the hash where there is one, else the heaviest.
struct ByHash;

impl Balancer for ByHash {
    fn pick(&self, candidates: &[Candidate<'_>], wish: &Wish<'_>) -> usize {
        match wish.hash {
            Some(hash) => hash as usize % candidates.len(),
            None => (0..candidates.len())
                .max_by_key(|nth| candidates[*nth].weight)
                .expect("never empty"),
        }
    }
}

struct Broken;

impl Balancer for Broken {
    fn pick(&self, _: &[Candidate<'_>], _: &Wish<'_>) -> usize {
        panic!("on purpose")
    }
}

fn three() -> ([Origin; 3], Vec<String>) {
    let origins = ["a", "b", "c"].map(Origin::ok);
    let urls = origins.iter().map(Origin::url).collect();
    (origins, urls)
}

fn answers(client: &mut Client, n: usize) -> Vec<String> {
    (0..n).map(|_| client.get("/").text()).collect()
}

#[test]
fn a_registered_balancer_picks_and_stays_over_a_reload() {
    let (_origins, urls) = three();
    let asked = Arc::new(AtomicUsize::new(0));
    let second = Nth {
        nth: 1,
        asked: asked.clone(),
    };
    let gw = Gw::embed(route("/", &urls, "balance: second\n"), |gateway| {
        gateway.balancer("second", second)
    });
    let mut client = gw.client();
    assert_eq!(answers(&mut client, 4), ["b"; 4]);
    assert_eq!(asked.load(Ordering::SeqCst), 4);
    // The same one, of another list.
    let answer = gw.reload(route("/", &urls[1..], "balance: second\n"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answers(&mut client, 4), ["c"; 4]);
    assert_eq!(asked.load(Ordering::SeqCst), 8);
    // Not asked any more.
    let answer = gw.reload(route("/", &urls, "balance: round_robin\n"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let mut all = answers(&mut client, 3);
    all.sort();
    assert_eq!(all, ["a", "b", "c"]);
    assert_eq!(asked.load(Ordering::SeqCst), 8);
}

#[test]
fn a_balancer_is_told_weights_and_the_hash() {
    let (_origins, urls) = three();
    let weighted: Vec<String> = (urls.iter().zip([1, 3, 2]))
        .map(|(url, weight)| format!("{{url: \"{url}\", weight: {weight}}}"))
        .collect();
    let keys = "balance: by_hash\nhash_on: \"header:X-User\"\n";
    let gw = Gw::embed(route("/", &weighted, keys), |gateway| {
        gateway.balancer("by_hash", ByHash)
    });
    let mut client = gw.client();
    assert_eq!(answers(&mut client, 3), ["b"; 3], "without the header");
    let mut of = |user: &str| client.call("GET", "/", &[("X-User", user)], b"").text();
    let users: Vec<String> = (0..20).map(|n| format!("user-{n}")).collect();
    let first: Vec<String> = users.iter().map(|user| of(user)).collect();
    let again: Vec<String> = users.iter().map(|user| of(user)).collect();
    assert_eq!(first, again);
    assert!(
        ["a", "b", "c"]
            .iter()
            .all(|name| first.iter().any(|x| x == name))
    );
}

/// Keeps the hashes that it is given.
#[derive(Default)]
struct Noting(Arc<Mutex<Vec<Option<u64>>>>);

impl Balancer for Noting {
    fn pick(&self, _: &[Candidate<'_>], wish: &Wish<'_>) -> usize {
        self.0.lock().expect("no panic").push(wish.hash);
        0
    }
}

#[test]
fn the_hash_is_the_documented_one_for_whatever_is_hashed() {
    let origin = Origin::ok("ok");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = |keys: &str, target: &str, headers: &[(&str, &str)]| {
        let keys = format!("balance: noting\n{keys}\n");
        let gw = Gw::embed(route("/", &[origin.url()], &keys), |gateway| {
            gateway.balancer("noting", Noting(seen.clone()))
        });
        assert_eq!(gw.client().call("GET", target, headers, b"").status, 200);
        seen.lock().expect("no panic").pop().expect("it was asked")
    };
    let cookies = [("Cookie", "a=b; user=anna")];
    assert_eq!(told("hash_on: client_ip", "/", &[]), Some(LOCALHOST));
    assert_eq!(
        told("hash_on: \"header:X-User\"", "/", &[("x-user", "anna")]),
        Some(ANNA)
    );
    assert_eq!(told("hash_on: \"header:X-User\"", "/", &[]), None);
    assert_eq!(told("hash_on: \"cookie:user\"", "/", &cookies), Some(ANNA));
    assert_eq!(
        told("hash_on: path", "/x/../orders/7?page=2", &[]),
        Some(ORDERS)
    );
    // A session is hashed as a request is.
    let redis = Origin::raw(|conn| conn.until_closed());
    let tcp = "tcp_proxy: {enabled: true, listen_addr: \"127.0.0.1:0\"}\n";
    let keys = "balance: noting\nhash_on: client_ip\nhealth_check: false\n";
    let upstream = [format!("redis://{}", redis.addr())];
    let gw = Gw::embed(
        format!("{tcp}{}", route("cache", &upstream, keys)),
        |gateway| gateway.balancer("noting", Noting(seen.clone())),
    );
    let _session = TcpStream::connect(gw.tcp_addr(0)).expect("the gateway accepts");
    eventually(Duration::from_secs(10), "it was asked", || {
        seen.lock().expect("no panic").last() == Some(&Some(LOCALHOST))
    });
}

// FNV-1a, 64 bits.
const LOCALHOST: u64 = 0x6c0b_1539_76ee_1fad;
const ANNA: u64 = 0x96bc_ca83_b55a_a4bb;
const ORDERS: u64 = 0x6c7e_7bd9_5441_d065;

#[test]
fn who_was_tried_is_no_candidate_of_the_next_try() {
    let dead = "http://127.0.0.1:1".to_owned();
    let live = Origin::ok("live");
    let gw = Gw::embed(
        route("/", &[dead, live.url()], "balance: first\nretry_count: 1\n"),
        |gateway| gateway.balancer("first", Nth::default()),
    );
    assert_eq!(gw.get("/").text(), "live");
}

#[test]
fn a_balancer_that_panics_or_points_beside_is_replaced_by_turns() {
    let (_origins, urls) = three();
    for name in ["broken", "beside"] {
        let keys = format!("balance: {name}\n");
        let gw = Gw::embed(route("/", &urls, &keys), |gateway| {
            let beside = Nth {
                nth: 3,
                ..Nth::default()
            };
            gateway
                .balancer("broken", Broken)
                .balancer("beside", beside)
        });
        let mut all = answers(&mut gw.client(), 6);
        all.sort();
        assert_eq!(all, ["a", "a", "b", "b", "c", "c"], "{name}");
    }
}

#[test]
fn an_unknown_balancer_is_refused_at_its_place_with_those_that_are_known() {
    let (_origins, urls) = three();
    let gw = Gw::embed(route("/", &urls, "balance: second\n"), |gateway| {
        gateway.balancer("second", Nth::default())
    });
    let answer = gw.reload(route("/", &urls, "balance: secnd\n"));
    assert_eq!(answer.status, 422);
    let said = answer.text();
    let wanted = "routes./.balance: `secnd` is not a value of `balance` (did you mean `second`?)";
    assert!(said.contains(wanted), "{said}");
    let answer = gw.reload(route("/", &urls, "balance: zzz\n"));
    let said = answer.text();
    let wanted = "(one of round_robin, least_requests, random, hash, second)";
    assert!(said.contains(wanted), "{said}");
    assert_eq!(gw.get("/").text(), "a", "nothing changed");
}

fn config(text: &str) -> config::Config {
    config::parse(text, "c.yml".as_ref()).expect("it parses")
}

const HEAD: &str = "listen_addr: 127.0.0.1:0\nglobal_timeout_ms: 1\nmax_connections: 1\n";

#[test]
fn filters_and_balancers_that_nobody_knows_are_told_at_once() {
    let text = format!(
        "{HEAD}routes:\n  /a: {{upstream: \"http://h\", balance: best}}\n  \
         /b: {{upstream: \"http://h\", filters: [{{type: nothing}}]}}\n"
    );
    let refused = Gateway::new(config(&text)).check().unwrap_err();
    assert!(refused.is_config());
    let said = refused.to_string();
    assert!(said.contains("c.yml:5:30: routes./a.balance: "), "{said}");
    assert!(said.contains("unknown filter type `nothing`"), "{said}");
}

#[test]
fn a_built_in_word_cannot_be_taken() {
    let text = format!("{HEAD}routes: {{/: {{upstream: \"http://h\"}}}}\n");
    let gateway = Gateway::new(config(&text)).balancer("random", Nth::default());
    let said = gateway.check().unwrap_err().to_string();
    assert!(
        said.contains("`random`") && said.contains("built in"),
        "{said}"
    );
}

#[test]
fn the_schema_takes_a_registered_balancer_and_no_other() {
    let minimal = || {
        config(&format!(
            "{HEAD}routes: {{/: {{upstream: \"http://h\"}}}}\n"
        ))
    };
    let takes = |gateway: &Gateway, balance: serde_json::Value| {
        let schema = jsonschema::validator_for(&gateway.schema()).expect("the schema is valid");
        let mut route = balance;
        route["upstream"] = "http://h".into();
        schema.is_valid(&serde_json::json!({
            "listen_addr": "127.0.0.1:0", "global_timeout_ms": 1, "max_connections": 1,
            "routes": {"/": route},
        }))
    };
    let (without, with) = (
        Gateway::new(minimal()),
        Gateway::new(minimal()).balancer("best", ByHash),
    );
    let best = serde_json::json!({"balance": "best"});
    let hashing = serde_json::json!({"balance": "best", "hash_on": "path"});
    let random = serde_json::json!({"balance": "random", "hash_on": "path"});
    assert!(takes(&with, best.clone()) && takes(&with, hashing));
    assert!(!takes(&without, best));
    assert!(!takes(&with, random));
    assert!(!takes(&with, serde_json::json!({"balance": "worst"})));
}
