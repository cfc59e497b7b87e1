//! The phases: order, what each may change, and what the client and the endpoint see of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use harbr_router::Reason;
use harbr_router::filter::{
    Context, End, Filter, Last, RequestHead, Response, ResponseHead, Result, Verdict, from_fn,
    from_response_fn,
};
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::{Named, Noting, Seen};
use crate::support::{Client, Gw, Next, Origin, echoed, route};

const MARK: HeaderName = HeaderName::from_static("x-mark");

fn value(text: &'static str) -> HeaderValue {
    HeaderValue::from_static(text)
}

/// A gateway to one endpoint with the filters `a` and `b` behind one of every request.
fn noting(origin: &str, keys: &str) -> (Gw, Seen) {
    let seen = Seen::default();
    let (every, named) = (seen.clone(), seen.clone());
    let filters = "filters: [{type: noting, name: a}, {type: noting, name: b}]\n";
    let yaml = route("/", &[origin.to_owned()], &format!("{filters}{keys}"));
    let gw = Gw::embed(yaml, move |gateway| {
        let filter = Noting {
            name: "every".into(),
            seen: every,
        };
        gateway
            .every_request("every", filter)
            .filter("noting", move |named_as: Named| {
                Ok(Noting {
                    name: named_as.name,
                    seen: named.clone(),
                })
            })
    });
    (gw, seen)
}

#[test]
fn requests_pass_in_the_order_written_and_responses_in_reverse() {
    let origin = Origin::echo();
    let (gw, seen) = noting(&origin.url(), "");
    assert_eq!(gw.get("/").status, 200);
    let seen = seen.wait_for(18);
    let of = |phase: &str| -> Vec<&str> {
        let of_phase = seen.iter().filter(|note| note.contains(phase));
        of_phase
            .map(|note| note.split(' ').next().unwrap())
            .collect()
    };
    for phase in [" request", " upstream_request", " request_body", " log"] {
        let notes = match phase {
            " request" => seen
                .iter()
                .filter_map(|note| note.strip_suffix(" request"))
                .collect(),
            phase => of(phase),
        };
        assert_eq!(notes, ["every", "a", "b"], "{phase} in {seen:?}");
    }
    for phase in [" response 200", " response_body"] {
        assert_eq!(of(phase), ["b", "a", "every"], "{phase} in {seen:?}");
    }
    assert_eq!(seen.len(), 18, "{seen:?}");
    assert_eq!(
        seen[15..],
        ["every log 200 ok", "a log 200 ok", "b log 200 ok"]
    );
}

#[test]
fn the_gateways_own_answers_pass_the_response_phase() {
    let refusing = Origin::refusing();
    let (gw, seen) = noting(&refusing.url(), "");
    let response = gw.get("/");
    assert_eq!(response.status, 502);
    assert_eq!(response.json()["reason"], "connect_failed");
    let seen = seen.wait_for(12);
    assert_eq!(
        seen[3..9],
        [
            "b response 502",
            "a response 502",
            "every response 502",
            "b response_body",
            "a response_body",
            "every response_body"
        ]
    );
    assert_eq!(seen[9], "every log 502 connect_failed");
    assert_eq!(seen.len(), 12, "no endpoint, no try: {seen:?}");

    let origin = Origin::echo();
    let yaml = format!(
        "max_body_bytes: 10\n{}",
        route("/", &[origin.url()], "filters: [{type: noting, name: a}]\n")
    );
    let seen = Seen::default();
    let noted = seen.clone();
    let gw = Gw::embed(yaml, move |gateway| {
        gateway.filter("noting", move |named: Named| {
            Ok(Noting {
                name: named.name,
                seen: noted.clone(),
            })
        })
    });
    let mut client = gw.client();
    client.request("POST", "/", &[], b"more than ten bytes");
    assert_eq!(client.response().unwrap().status, 413);
    assert_eq!(
        seen.wait_for(4),
        [
            "a request",
            "a response 413",
            "a response_body",
            "a log 413 body_too_large"
        ]
    );
    assert_eq!(origin.connections(), 0);
}

#[test]
fn without_a_route_no_filter_is_called() {
    let origin = Origin::echo();
    let seen = Seen::default();
    let noted = seen.clone();
    let yaml = route("/api", &[origin.url()], "");
    let gw = Gw::embed(yaml, move |gateway| {
        let name = "every".to_owned();
        gateway.every_request("every", Noting { name, seen: noted })
    });
    assert_eq!(gw.get("/other").status, 404);
    assert_eq!(gw.get("/api").status, 200);
    assert_eq!(seen.wait_for(6).len(), 6);
}

/// Answers by path, between two filters.
fn answering() -> (Gw, Seen, Origin) {
    let origin = Origin::echo();
    let seen = Seen::default();
    let noted = seen.clone();
    let filters =
        "filters: [{type: noting, name: before}, {type: answer}, {type: noting, name: behind}]\n";
    let yaml = route("/", &[origin.url()], filters);
    let gw = Gw::embed(yaml, move |gateway| {
        gateway
            .filter("noting", move |named: Named| {
                Ok(Noting {
                    name: named.name,
                    seen: noted.clone(),
                })
            })
            .filter("answer", |(): ()| Ok(from_fn(answer)))
    });
    (gw, seen, origin)
}

fn answer(cx: &mut Context<'_>) -> Result<Verdict> {
    let response = match cx.target() {
        "/own" => Response::new(StatusCode::CREATED)
            .body("made here")
            .header(header::CONTENT_TYPE, value("text/x-own"))
            .header(header::SET_COOKIE, value("a=1"))
            .header(header::SET_COOKIE, value("b=2")),
        "/framed" => Response::new(StatusCode::OK)
            .body("four")
            .header(header::CONTENT_LENGTH, value("9"))
            .header(header::TRANSFER_ENCODING, value("chunked"))
            .header(header::CONNECTION, value("close")),
        "/empty" => Response::new(StatusCode::NO_CONTENT).body("never sent"),
        "/teapot" => Response::new(StatusCode::IM_A_TEAPOT),
        "/late" => Response::refusal(Reason::RateLimited).header(header::RETRY_AFTER, value("7")),
        "/interim" => Response::new(StatusCode::CONTINUE),
        _ => return Ok(Verdict::Continue),
    };
    Ok(Verdict::Respond(response))
}

#[test]
fn a_filter_answers_and_only_those_before_it_see_the_answer() {
    let (gw, seen, origin) = answering();
    let mut client = gw.client();
    let own = client.get("/own");
    assert_eq!((own.status, own.text().as_str()), (201, "made here"));
    assert_eq!(own.headers.first("content-type"), Some("text/x-own"));
    assert_eq!(own.headers.all("set-cookie").count(), 2);
    assert_eq!(
        seen.wait_for(5),
        [
            "before request",
            "before response 201",
            "before response_body",
            "before log 201 ok",
            "behind log 201 ok"
        ]
    );
    let framed = client.get("/framed");
    assert_eq!(framed.text(), "four");
    assert_eq!(framed.headers.first("content-length"), Some("4"));
    assert!(!framed.headers.has("transfer-encoding") && !framed.closes());
    let empty = client.get("/empty");
    assert_eq!((empty.status, empty.body.len), (204, 0));
    assert!(!empty.headers.has("content-length"));
    let head = client.call("HEAD", "/own", &[], b"");
    assert_eq!((head.status, head.body.len), (201, 0));
    assert_eq!(head.headers.first("content-length"), Some("9"));
    let late = client.get("/late");
    assert_eq!(late.status, 429);
    assert_eq!(late.json()["reason"], "rate_limited");
    assert_eq!(late.headers.first("retry-after"), Some("7"));
    assert_eq!(client.get("/teapot").status, 418);
    assert_eq!(client.get("/interim").status, 500);
    assert_eq!(origin.requests(), 0, "nothing went up");
    assert_eq!(client.get("/").status, 200, "all on one connection");
    assert_eq!(
        gw.reasons(8),
        [
            "ok",
            "ok",
            "ok",
            "ok",
            "rate_limited",
            "filter_refused",
            "filter_error",
            "ok"
        ]
    );
}

#[test]
fn an_answer_before_the_body_was_read_ends_the_connection() {
    let (gw, _seen, origin) = answering();
    let mut client = gw.client();
    client.request("POST", "/own", &[("Content-Length", "100000")], b"");
    let response = client.response().unwrap();
    assert_eq!(response.status, 201);
    assert!(response.closes(), "{:?}", response.headers);
    assert_eq!(origin.connections(), 0);
}

#[test]
fn headers_change_in_both_directions() {
    let origin = Origin::echo();
    let yaml = route("/", &[origin.url()], "filters: [{type: both}]\n");
    let gw = Gw::embed(yaml, |gateway| gateway.filter("both", |(): ()| Ok(Both)));
    let response = Client::connect(gw.addr()).call("GET", "/", &[("X-Gone", "1")], b"");
    let echo = response.json();
    assert_eq!(
        echoed(&echo, "x-mark"),
        ["request", "try of / by 127.0.0.1"]
    );
    assert!(echoed(&echo, "x-gone").is_empty());
    assert_eq!(
        echoed(&echo, "x-forwarded-for"),
        ["changed"],
        "after our own"
    );
    assert_eq!(response.headers.first("x-mark"), Some("1"));
    assert!(!response.headers.has("content-type"));
    assert_eq!(response.headers.all("x-refused").collect::<Vec<_>>(), ["5"]);
}

struct Both;

#[async_trait]
impl Filter for Both {
    async fn request(&self, cx: &mut Context<'_>) -> Result<Verdict> {
        assert_eq!((cx.tries(), cx.endpoint()), (0, None));
        let mut head = cx.request_mut();
        head.set(MARK, value("request"))?;
        head.remove(HeaderName::from_static("x-gone"))?;
        assert!(head.stream_body().is_err(), "how the body is read stays");
        Ok(Verdict::Continue)
    }

    fn upstream_request(&self, cx: &mut Context<'_>, head: &mut RequestHead<'_>) -> Result<()> {
        let client = cx.client_ip().expect("nobody speaks for another");
        let text = format!("try of {} by {client}", cx.route());
        head.add(MARK, HeaderValue::try_from(text)?)?;
        head.set(HeaderName::from_static("x-forwarded-for"), value("changed"))
    }

    fn response(&self, cx: &mut Context<'_>, head: &mut ResponseHead<'_>) -> Result<()> {
        assert!(cx.endpoint().is_some_and(|e| e.starts_with("127.0.0.1:")));
        assert!(
            !cx.request().headers.contains_key("via"),
            "the client's own"
        );
        head.set(MARK, HeaderValue::from(cx.tries()))?;
        head.remove(&header::CONTENT_TYPE)?;
        let framing = [
            head.set(header::CONTENT_LENGTH, value("1")).is_err(),
            head.add(header::TRANSFER_ENCODING, value("x")).is_err(),
            head.remove(&header::CONNECTION).is_err(),
            head.set(header::UPGRADE, value("x")).is_err(),
            head.set(header::TE, value("x")).is_err(),
        ];
        let refused = framing.iter().filter(|refused| **refused).count();
        head.set(
            HeaderName::from_static("x-refused"),
            HeaderValue::from(refused),
        )
    }
}

/// Holds the whole body back and sends it twice, in upper case.
struct Shout;

#[derive(Clone, Default)]
struct Up(Vec<u8>);
#[derive(Clone, Default)]
struct Down(Vec<u8>);

fn shouted(held: &mut Vec<u8>, body: &mut Option<Bytes>, last: Last) {
    held.extend(body.take().unwrap_or_default());
    if last == Last::Yes {
        let loud = held.to_ascii_uppercase();
        *body = Some(Bytes::from([&loud[..], &loud[..]].concat()));
    }
}

impl Filter for Shout {
    fn upstream_request(&self, _: &mut Context<'_>, head: &mut RequestHead<'_>) -> Result<()> {
        head.stream_body()
    }

    fn request_body(
        &self,
        cx: &mut Context<'_>,
        body: &mut Option<Bytes>,
        last: Last,
    ) -> Result<()> {
        let held = cx.attempt().get_or_insert_default::<Up>();
        shouted(&mut held.0, body, last);
        Ok(())
    }

    fn response(&self, _: &mut Context<'_>, head: &mut ResponseHead<'_>) -> Result<()> {
        head.stream_body()
    }

    fn response_body(
        &self,
        cx: &mut Context<'_>,
        body: &mut Option<Bytes>,
        last: Last,
    ) -> Result<()> {
        let held = cx.extensions_mut().get_or_insert_default::<Down>();
        shouted(&mut held.0, body, last);
        Ok(())
    }
}

fn shouting(origins: &[&Origin], keys: &str) -> Gw {
    let urls: Vec<String> = origins.iter().map(|origin| origin.url()).collect();
    let yaml = route("/", &urls, &format!("filters: [{{type: shout}}]\n{keys}"));
    Gw::embed(yaml, |gateway| gateway.filter("shout", |(): ()| Ok(Shout)))
}

/// Answers with the body it got, in two parts.
fn parrot() -> Origin {
    Origin::serve(|_, conn| {
        let body = conn.body()?;
        let (one, two) = body.bytes.split_at(body.bytes.len() / 2);
        conn.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            body.len
        ))?;
        conn.send(one)?;
        conn.send(two)?;
        Ok(Next::Keep)
    })
}

#[test]
fn bodies_change_in_both_directions_and_in_length() {
    let origin = parrot();
    let gw = shouting(&[&origin], "");
    let mut client = gw.client();
    let response = client.call("PUT", "/", &[], b"abc");
    assert_eq!(response.text(), "ABCABCABCABC");
    assert_eq!(response.headers.first("transfer-encoding"), Some("chunked"));
    let long = "x".repeat(100_000);
    let response = client.call("POST", "/", &[], long.as_bytes());
    assert_eq!(response.body.len, 400_000);
    let none = client.get("/");
    assert_eq!((none.status, none.body.len), (200, 0));
    let heads = origin.heads();
    assert_eq!(heads[0].headers.first("transfer-encoding"), Some("chunked"));
    assert!(!heads[0].headers.has("content-length"));
    assert!(!heads[2].headers.has("transfer-encoding"), "there is none");
    assert_eq!(gw.reasons(3), ["ok", "ok", "ok"]);
}

#[test]
fn a_client_of_http_1_0_gets_a_changed_body_without_chunks() {
    let origin = parrot();
    let gw = shouting(&[&origin], "");
    let mut client = gw.client();
    client.send("PUT / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc");
    let response = client.response().unwrap();
    assert_eq!(response.text(), "ABCABCABCABC");
    assert!(!response.headers.has("transfer-encoding") && response.closes());
}

#[test]
fn the_state_of_a_try_is_empty_when_the_request_is_sent_again() {
    let busy = Origin::status(503, "busy");
    let origin = parrot();
    let gw = shouting(&[&busy, &origin], "retry_count: 1\n");
    let mut client = gw.client();
    for _ in 0..4 {
        let response = client.call("PUT", "/", &[], b"again");
        assert_eq!(response.text(), "AGAIN".repeat(4));
    }
    assert!(busy.requests() > 0, "some were sent twice");
    assert_eq!(origin.requests(), 4);
}

#[test]
fn another_target_is_normalised_matched_by_hash_and_sent() {
    let origin = Origin::echo();
    let yaml = route(
        "/",
        &[origin.url()],
        "filters: [{type: to}]\nbalance: hash\nhash_on: path\n",
    );
    let gw = Gw::embed(yaml, |gateway| {
        gateway.filter("to", |(): ()| {
            Ok(from_fn(|cx| {
                if let Some(to) = cx.request().headers.get("x-to") {
                    let to = to.to_str()?.to_owned();
                    cx.set_target(to);
                }
                Ok(Verdict::Continue)
            }))
        })
    });
    let mut client = gw.client();
    let mut sent = |to: &str| {
        let response = client.call("GET", "/old?q=1", &[("X-To", to)], b"");
        (response.status, response.json())
    };
    let target = |(status, echo): (u16, serde_json::Value)| {
        assert_eq!(status, 200);
        echo["target"].as_str().unwrap().to_owned()
    };
    assert_eq!(target(sent("/new?x=2")), "/new?x=2");
    assert_eq!(target(sent("/a//b/%2e%2E/c")), "/a/c");
    for bad in ["no-slash", "/a b", "/../x", "/%zz", "/a#b", ""] {
        let (status, problem) = sent(bad);
        assert_eq!(
            (status, problem["reason"].as_str()),
            (500, Some("filter_error")),
            "{bad}"
        );
    }
    assert_eq!(client.get("/old").json()["target"], "/old");
    assert_eq!(origin.requests(), 3, "no bad target went up");
}

#[test]
fn what_one_filter_keeps_with_the_request_another_finds() {
    #[derive(Clone)]
    struct User(&'static str);

    let origin = Origin::echo();
    let seen = Seen::default();
    let noted = seen.clone();
    let yaml = route(
        "/",
        &[origin.url()],
        "filters: [{type: user}, {type: show}, {type: end}]\n",
    );
    struct EndOf(Seen);
    impl Filter for EndOf {
        fn log(&self, cx: &mut Context<'_>, end: &End) {
            let user = cx.extensions().get::<User>().map_or("-", |user| user.0);
            assert!(end.duration > std::time::Duration::ZERO);
            self.0
                .note(format!("{user} {} {}", cx.target(), end.status));
        }
    }
    let gw = Gw::embed(yaml, move |gateway| {
        gateway
            .filter("user", |(): ()| {
                Ok(from_fn(|cx| {
                    if cx.target() == "/known" {
                        cx.extensions_mut().insert(User("somebody"));
                    }
                    Ok(Verdict::Continue)
                }))
            })
            .filter("show", |(): ()| {
                Ok(from_response_fn(|cx, head| {
                    let user = cx.extensions().get::<User>().map_or("-", |user| user.0);
                    head.set(MARK, HeaderValue::from_static(user))
                }))
            })
            .filter("end", move |(): ()| Ok(EndOf(noted.clone())))
    });
    let mut client = gw.client();
    assert_eq!(
        client.get("/known").headers.first("x-mark"),
        Some("somebody")
    );
    assert_eq!(client.get("/other").headers.first("x-mark"), Some("-"));
    assert_eq!(seen.wait_for(2), ["somebody /known 200", "- /other 200"]);
}

#[test]
fn a_filter_that_several_own_keeps_one_state() {
    struct Count(AtomicUsize);
    #[async_trait]
    impl Filter for Count {
        async fn request(&self, _: &mut Context<'_>) -> Result<Verdict> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(Verdict::Continue)
        }
    }
    let origin = Origin::echo();
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let owned = count.clone();
    let yaml = route("/", &[origin.url()], "filters: [{type: count}]\n");
    let gw = Gw::embed(yaml, move |gateway| {
        gateway
            .every_request("every", owned.clone())
            .filter("count", move |(): ()| Ok(owned.clone()))
    });
    gw.get("/");
    gw.get("/");
    assert_eq!(count.0.load(Ordering::SeqCst), 4);
}

#[test]
fn interim_responses_pass_by_and_a_switch_of_protocols_does_not() {
    let origin = Origin::serve(|request, conn| {
        conn.body()?;
        if request.headers.has("upgrade") {
            conn.send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            )?;
            conn.echo_bytes()?;
            return Ok(Next::Close);
        }
        conn.send("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")?;
        conn.answer(200, &[], b"whole")
    });
    let (gw, seen) = noting(&origin.url(), "");
    let mut client = gw.client();
    client.request("GET", "/", &[], b"");
    assert_eq!(client.response().unwrap().status, 103);
    assert_eq!(client.response().unwrap().text(), "whole");
    let notes = seen.wait_for(18);
    assert!(!notes.iter().any(|note| note.contains("103")), "{notes:?}");
    let upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket")];
    client.request("GET", "/", &upgrade, b"");
    assert_eq!(client.head().unwrap().0.status, 101);
    client.send("to and fro");
    assert_eq!(client.read_some().unwrap(), b"to and fro");
    drop(client);
    let notes = seen.wait_for(18 + 12);
    assert!(notes.contains(&"a response 101".to_owned()), "{notes:?}");
    let bodies = notes.iter().filter(|note| note.ends_with(" response_body"));
    assert_eq!(bodies.count(), 3, "those of the first: {notes:?}");
}
