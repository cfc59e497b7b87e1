//! Two gateways in one process, each with its own configuration, listeners, metrics and filters.
//!
//! `cargo run --example two_gateways -- outer.yml inner.yml` prints their addresses and runs until
//! its input ends.

use harbr_router::Error;
use harbr_router::filter::{Verdict, from_fn};
use harbr_router::server::{Gateway, Running};

/// A gateway that notes on each request that it came through here.
fn start(name: &'static str, config: &str) -> Result<Running, Error> {
    let via = from_fn(move |cx| {
        cx.request_mut().add("x-via", name)?;
        Ok(Verdict::Continue)
    });
    let running = Gateway::from_file(config)?
        .every_request("via", via)
        .spawn()?;
    println!("{name} serves on {}", running.http_addr());
    Ok(running)
}

fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let mut next = |default: &str| args.next().unwrap_or(default.to_owned());
    let outer = start("outer", &next("outer.yml"))?;
    let inner = start("inner", &next("inner.yml"))?;
    // Until Ctrl-D, or whoever started this closes its end.
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    // Each lets its requests end.
    outer.stop();
    inner.stop();
    Ok(())
}
