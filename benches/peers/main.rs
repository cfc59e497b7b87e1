//! HTTP through harbr-router and through its peers, in one run.
//!
//! A plain program, by hand, on a quiet machine: `cargo bench --bench peers [SCENARIO…]`. It starts
//! one nginx as the origin and in front of it harbr-router (with metrics, an access log to a file,
//! timeouts and health checks), the barest possible Pingora proxy (this very program, so the same
//! profile and allocator), nginx, HAProxy, Caddy and Envoy, each with two threads; drives one after
//! the other in interleaved rounds (`ROUNDS`, 5; `SECONDS` each, 3) and prints medians and the median
//! of the ratios to HAProxy within a round. A peer that is not installed is left out and named
//! (`ENVOY` may name Envoy's binary). CPU is that of the proxy's process tree, from /proc. Written
//! are `target/peers.json` and `target/peers.svg`. Numbers of different runs cannot be compared.

mod bare;
mod load;
mod process;
mod proxies;
mod report;

use std::time::Duration;

use self::load::{Load, OpenLoop};
use self::proxies::Fleet;
use self::report::Report;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [as_bare, listen, origin] = &args[..]
        && as_bare == "--as-bare"
    {
        bare::serve(listen, origin);
    }
    if args.iter().any(|arg| arg == "--test") {
        return;
    }
    let asked: Vec<&str> = args
        .iter()
        .map(String::as_str)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let mut fleet = match Fleet::start(folder.path()) {
        Ok(fleet) => fleet,
        Err(why) => {
            println!("cannot run: {why}");
            return;
        }
    };
    let (rounds, seconds) = (number("ROUNDS", 5), number("SECONDS", 3));
    let mut report = Report::default();
    for load in load::LOADS {
        if wanted(&asked, load.name) {
            run(&fleet, load, rounds, seconds, folder.path(), &mut report);
        }
    }
    if wanted(&asked, "half load") {
        half_load(&fleet, rounds, seconds, folder.path(), &mut report);
    }
    if wanted(&asked, "idle") {
        idle(&fleet, &mut report);
    }
    if wanted(&asked, "routes") {
        routes(&mut fleet, rounds, seconds, folder.path(), &mut report);
    }
    report.print();
    let target = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    match report.write(&target) {
        Ok(()) => println!("written: {0}/peers.json, {0}/peers.svg", target.display()),
        Err(why) => println!("not written: {why}"),
    }
}

fn wanted(asked: &[&str], name: &str) -> bool {
    asked.is_empty() || asked.iter().any(|asked| name.contains(asked))
}

fn run(
    fleet: &Fleet,
    load: &Load,
    rounds: u32,
    seconds: u32,
    folder: &std::path::Path,
    report: &mut Report,
) {
    for _ in 0..rounds {
        for proxy in &fleet.proxies {
            let before = process::cpu(proxy.pid());
            let result = load.drive(proxy.port, seconds, folder);
            let spent = process::cpu(proxy.pid()) - before;
            match result {
                Ok(done) => {
                    report.add(
                        load.name,
                        "CPU µs/request",
                        proxy.name,
                        spent / done.requests * 1e6,
                    );
                    report.add(
                        load.name,
                        "requests/s",
                        proxy.name,
                        done.requests / done.seconds,
                    );
                    report.add(load.name, "p50 ms", proxy.name, done.p50);
                    report.add(load.name, "p99 ms", proxy.name, done.p99);
                    report.add(load.name, "p99.9 ms", proxy.name, done.p999);
                    report.add(load.name, "errors", proxy.name, done.errors);
                    let peak = process::peak_megabytes(proxy.pid());
                    report.add(load.name, "peak MB", proxy.name, peak);
                }
                Err(why) => report.leave_out(load.name, proxy.name, &why),
            }
        }
    }
}

/// Half of what nginx can take, sent whether answers come or not; a request that had to wait for
/// its turn has waited.
fn half_load(
    fleet: &Fleet,
    rounds: u32,
    seconds: u32,
    folder: &std::path::Path,
    report: &mut Report,
) {
    const NAME: &str = "half load";
    let Some(yardstick) = fleet.proxies.iter().find(|proxy| proxy.name == "nginx") else {
        report.leave_out(
            NAME,
            "all",
            "nginx is not installed, and its load is the measure",
        );
        return;
    };
    let most = load::LOADS[0].drive(yardstick.port, seconds, folder);
    let rate = match most {
        Ok(done) => done.requests / done.seconds / 2.0,
        Err(why) => return report.leave_out(NAME, "all", &why),
    };
    println!("half load: {rate:.0} requests/s on 32 connections");
    for _ in 0..rounds {
        for proxy in &fleet.proxies {
            let open = OpenLoop {
                port: proxy.port,
                rate,
                connections: 32,
                time: Duration::from_secs(seconds.into()),
            };
            let before = process::cpu(proxy.pid());
            match open.drive() {
                Ok(done) => {
                    let spent = process::cpu(proxy.pid()) - before;
                    report.add(
                        NAME,
                        "CPU µs/request",
                        proxy.name,
                        spent / done.requests * 1e6,
                    );
                    report.add(NAME, "p50 ms", proxy.name, done.p50);
                    report.add(NAME, "p99 ms", proxy.name, done.p99);
                    report.add(NAME, "p99.9 ms", proxy.name, done.p999);
                    report.add(NAME, "errors", proxy.name, done.errors);
                }
                Err(why) => report.leave_out(NAME, proxy.name, &why),
            }
        }
    }
}

/// What a connection costs that has had one request and waits for the next.
fn idle(fleet: &Fleet, report: &mut Report) {
    let connections = number("CONNECTIONS", 5_000) as usize;
    for proxy in &fleet.proxies {
        let before = process::kilobytes(proxy.pid());
        match load::idle(proxy.port, connections) {
            Ok(held) => {
                let more = process::kilobytes(proxy.pid()) - before;
                report.add(
                    "idle",
                    "KB/connection",
                    proxy.name,
                    more / connections as f64,
                );
                drop(held);
            }
            Err(why) => report.leave_out("idle", proxy.name, &why),
        }
    }
}

/// Ours alone: the same request with 10 routes and with 10,000, and how long a start takes.
fn routes(
    fleet: &mut Fleet,
    rounds: u32,
    seconds: u32,
    folder: &std::path::Path,
    report: &mut Report,
) {
    for (name, count) in [("10 routes", 10), ("10,000 routes", 10_000)] {
        match fleet.start_with_routes(count) {
            Ok((proxy, took)) => {
                report.add("routes", "start ms", name, took.as_secs_f64() * 1e3);
                fleet.more.push((name, proxy));
            }
            Err(why) => report.leave_out("routes", name, &why),
        }
    }
    for _ in 0..rounds {
        for (name, proxy) in &fleet.more {
            let before = process::cpu(proxy.pid());
            match load::LOADS[0].drive(proxy.port, seconds, folder) {
                Ok(done) => {
                    let spent = process::cpu(proxy.pid()) - before;
                    report.add(
                        "routes",
                        "CPU µs/request",
                        name,
                        spent / done.requests * 1e6,
                    );
                }
                Err(why) => report.leave_out("routes", name, &why),
            }
        }
    }
}

fn number(name: &str, otherwise: u32) -> u32 {
    let value = std::env::var(name).ok();
    value.and_then(|v| v.parse().ok()).unwrap_or(otherwise)
}
