//! Closures as filters: one that answers, one that changes responses.
//!
//! `cargo run --example closure_filter -- conf/minimal.yaml`, then ask for `/teapot`.

use std::sync::atomic::{AtomicU64, Ordering};

use harbr_router::Error;
use harbr_router::filter::{Response, Verdict, from_fn, from_response_fn};
use harbr_router::server::Gateway;
use http::StatusCode;

fn main() -> Result<(), Error> {
    let config = std::env::args().nth(1).unwrap_or("config.yml".into());

    // Sees each request before an endpoint is picked, and may answer it here.
    let teapot = from_fn(|cx| {
        Ok(match cx.target() {
            "/teapot" => {
                Verdict::Respond(Response::new(StatusCode::IM_A_TEAPOT).body("short and stout\n"))
            }
            _ => Verdict::Continue,
        })
    });

    // Sees the head of each response, also of the one above. What it captures is its state.
    let answered = AtomicU64::new(0);
    let count = from_response_fn(move |cx, head| {
        let nth = answered.fetch_add(1, Ordering::Relaxed) + 1;
        head.set("x-answer", nth)?;
        head.set("x-route", cx.route())
    });

    Gateway::from_file(config)?
        .every_request("count", count)
        .every_request("teapot", teapot)
        .run()
}
