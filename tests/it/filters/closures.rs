//! Closures as filters: those that wait, and headers written as texts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use harbr_router::filter::{
    Context, Response, Result, Verdict, from_async_fn, from_fn, from_response_fn,
};
use http::{HeaderName, HeaderValue, StatusCode};
use tokio::sync::Semaphore;

use crate::support::{Gw, Origin, echoed, eventually, route};

async fn named(cx: &mut Context<'_>) -> Result<Verdict> {
    tokio::task::yield_now().await;
    cx.request_mut().add("x-fn", "an async fn")?;
    Ok(Verdict::Continue)
}

#[test]
fn an_async_closure_waits_and_changes_the_request() {
    let origin = Origin::echo();
    let gate = Arc::new(Semaphore::new(0));
    let waiting = Arc::new(AtomicUsize::new(0));
    let (opened, arrived) = (gate.clone(), waiting.clone());
    let gw = Gw::embed(route("/", &[origin.url()], ""), move |gateway| {
        gateway
            .every_request(
                "waits",
                from_async_fn(async move |cx| {
                    let path = cx.target().to_owned();
                    arrived.fetch_add(1, Ordering::SeqCst);
                    opened.acquire().await?.forget();
                    cx.request_mut().set("x-path", path)?;
                    Ok(Verdict::Continue)
                }),
            )
            .every_request("named", from_async_fn(named))
            .every_request(
                "answers",
                from_async_fn(async |cx| {
                    tokio::task::yield_now().await;
                    Ok(match cx.target() {
                        "/teapot" => Verdict::Respond(Response::new(StatusCode::IM_A_TEAPOT)),
                        "/fails" => Err("an error after a wait")?,
                        _ => Verdict::Continue,
                    })
                }),
            )
    });
    std::thread::scope(|scope| {
        let asked = ["/a", "/b", "/teapot", "/fails"].map(|path| {
            let gw = &gw;
            scope.spawn(move || gw.get(path))
        });
        eventually(Duration::from_secs(10), "four wait at once", || {
            waiting.load(Ordering::SeqCst) == 4
        });
        assert_eq!(origin.requests(), 0, "none has passed");
        gate.add_permits(4);
        let [a, b, teapot, fails] = asked.map(|asked| asked.join().unwrap());
        for (response, path) in [(a, "/a"), (b, "/b")] {
            assert_eq!(echoed(&response.json(), "x-path"), [path]);
            assert_eq!(echoed(&response.json(), "x-fn"), ["an async fn"]);
        }
        assert_eq!(teapot.status, 418);
        assert_eq!(fails.status, 500);
        assert_eq!(fails.json()["reason"], "filter_error");
    });
    assert_eq!(origin.requests(), 2);
}

#[test]
fn headers_are_set_from_texts_numbers_and_types() {
    let origin = Origin::echo();
    let gw = Gw::embed(route("/", &[origin.url()], ""), |gateway| {
        gateway
            .every_request(
                "request",
                from_fn(|cx| {
                    let mut head = cx.request_mut();
                    head.set("X-Text", "text")?;
                    head.set(String::from("x-owned"), format!("{}{}", "ow", "ned"))?;
                    head.set(
                        HeaderName::from_static("x-typed"),
                        HeaderValue::from_static("typed"),
                    )?;
                    head.add("x-text", 7)?;
                    head.remove("x-gone")?;
                    head.remove(HeaderName::from_static("x-gone-too"))?;
                    match head.headers().get("x-try").map(|name| name.to_str()) {
                        Some(Ok("name")) => head.set("not a name", "x")?,
                        Some(Ok("value")) => head.add("x-value", "line\r\nbreak")?,
                        Some(Ok("framing")) => head.set("Content-Length", "0")?,
                        Some(Ok("removal")) => head.remove("transfer-encoding")?,
                        Some(Ok("answer")) => {
                            return Ok(Verdict::Respond(
                                Response::new(StatusCode::OK)
                                    .header("x-own", "a")
                                    .header("x-own", 2),
                            ));
                        }
                        Some(Ok("bad answer")) => {
                            return Ok(Verdict::Respond(
                                Response::new(StatusCode::OK).header("x own", "a"),
                            ));
                        }
                        _ => {}
                    }
                    Ok(Verdict::Continue)
                }),
            )
            .every_request(
                "response",
                from_response_fn(|cx, head| head.set("x-route", cx.route())),
            )
    });
    let mut client = gw.client();
    let gone = [("X-Gone", "1"), ("X-Gone-Too", "2"), ("X-Text", "client's")];
    let response = client.call("GET", "/", &gone, b"");
    assert_eq!(echoed(&response.json(), "x-text"), ["text", "7"]);
    assert_eq!(echoed(&response.json(), "x-owned"), ["owned"]);
    assert_eq!(echoed(&response.json(), "x-typed"), ["typed"]);
    assert!(echoed(&response.json(), "x-gone").is_empty());
    assert!(echoed(&response.json(), "x-gone-too").is_empty());
    assert_eq!(response.headers.first("x-route"), Some("/"));
    let answer = client.call("GET", "/", &[("X-Try", "answer")], b"");
    assert_eq!(answer.headers.all("x-own").collect::<Vec<_>>(), ["a", "2"]);
    for bad in ["name", "value", "framing", "removal", "bad answer"] {
        let response = client.call("GET", "/", &[("X-Try", bad)], b"");
        assert_eq!(response.status, 500, "{bad}");
        assert_eq!(response.json()["reason"], "filter_error", "{bad}");
    }
    assert_eq!(origin.requests(), 1, "nothing wrong went up");
}
