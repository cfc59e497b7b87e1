//! HTTP and databases through harbr-router and through its peers, in one run.
//!
//! A plain program, by hand, on a quiet machine: `cargo bench --bench peers [SCENARIO…]`. For HTTP it
//! starts one nginx as the origin and in front of it harbr-router (with metrics, an access log to a
//! file, timeouts and health checks), the barest possible Pingora proxy (this very program, so the
//! same profile and allocator), nginx, HAProxy, Caddy and Envoy, each with two threads; for
//! databases see `databases/mod.rs`, which `cargo bench --bench databases` runs alone. Every scenario
//! has proxies of its own, just started, so that no memory is that of an earlier load.
//!
//! Each proxy is driven in each of interleaved rounds (`ROUNDS`, 5; `SECONDS` each, 3); printed are
//! medians and the median of the ratios to HAProxy within a round. What is not installed or cannot
//! run is left out and named, with the reason (`ENVOY` may name Envoy's binary). CPU and memory are
//! those of the proxy's process tree, from /proc. Written are `target/peers.json` and
//! `target/peers.svg`. Numbers of different runs cannot be compared.
//!
//! `idle` holds `CONNECTIONS` (10,000) open through each proxy; it takes fewer where the hard limit
//! of open files has no room for that.

mod bare;
mod databases;
mod load;
mod open_loop;
mod plan;
mod process;
mod proxies;
mod report;

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use self::load::{Done, Idle, Load};
use self::open_loop::OpenLoop;
use self::plan::{Plan, number};
use self::proxies::{Fleet, Proxy};
use self::report::Report;

/// The program's, so that the bare proxy has it, too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    databases::serve_if_asked();
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [as_bare, listen, origin] = &args[..]
        && as_bare == "--as-bare"
    {
        bare::serve(listen, origin, 2);
    }
    let Some(plan) = Plan::new() else { return };
    let files = raise_file_limit();
    let mut report = Report::default();
    http(&plan, files, &mut report);
    databases::run(&plan, &mut report);
    report.finish("peers");
}

fn http(plan: &Plan, files: u64, report: &mut Report) {
    let own = ["half load", "idle", "routes"];
    let names = load::LOADS.iter().map(|load| load.name).chain(own);
    let wanted: Vec<&str> = names.filter(|name| plan.wants(name)).collect();
    if wanted.is_empty() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let origin = process::program("wrk").and_then(|_| proxies::origin(folder.path()));
    let origin = match origin {
        Ok(origin) => origin,
        Err(why) => {
            for scenario in wanted {
                report.leave_out(scenario, "all", &why);
            }
            return;
        }
    };
    for name in wanted {
        println!("{name} ...");
        let known = load::LOADS.iter().find(|load| load.name == name);
        let ran = match (known, name) {
            (Some(load), _) => most(load, origin.port, plan, report),
            (None, "half load") => half_load(name, origin.port, plan, report),
            (None, "idle") => idle(name, origin.port, files, report),
            (None, _) => routes(name, origin.port, plan, report),
        };
        if let Err(why) = ran {
            report.leave_out(name, "all", &why);
        }
    }
}

/// As much as goes.
fn most(load: &Load, origin: u16, plan: &Plan, report: &mut Report) -> Result<(), String> {
    let fleet = all(load.name, origin, report)?;
    for (round, proxy) in plan.turns(&fleet.proxies) {
        let drive = || load.drive(proxy.port, plan.seconds, fleet.folder());
        if let Some(done) = measure(load.name, proxy, round, report, drive) {
            let mut turn = report.turn(load.name, proxy.name, round);
            turn.add("requests/s", done.requests / done.seconds);
        }
    }
    peaks(load.name, &fleet, report);
    Ok(())
}

/// Half of what nginx can take, sent whether answers come or not; a request that had to wait for
/// its turn has waited.
fn half_load(
    name: &'static str,
    origin: u16,
    plan: &Plan,
    report: &mut Report,
) -> Result<(), String> {
    let full = Fleet::start(origin)?;
    let yardstick = full.proxies.iter().find(|proxy| proxy.name == "nginx");
    let yardstick = yardstick.ok_or("nginx does not run, and its load is the measure")?;
    let most = || load::LOADS[0].drive(yardstick.port, plan.seconds, full.folder());
    let mut rates = [most()?, most()?, most()?].map(|most| most.requests / most.seconds);
    rates.sort_by(f64::total_cmp);
    let rate = rates[1] / 2.0;
    drop(full);
    println!("half load: {rate:.0} requests/s on 32 connections");
    let fleet = all(name, origin, report)?;
    for (round, proxy) in plan.turns(&fleet.proxies) {
        let open = OpenLoop {
            port: proxy.port,
            rate,
            connections: 32,
            time: Duration::from_secs(plan.seconds.into()),
        };
        measure(name, proxy, round, report, || open.drive());
    }
    peaks(name, &fleet, report);
    Ok(())
}

/// What a connection costs that has had one request and waits for the next.
fn idle(name: &'static str, origin: u16, files: u64, report: &mut Report) -> Result<(), String> {
    // The proxies need some descriptors besides, and connections to the origin.
    let most = usize::try_from(files)
        .unwrap_or(usize::MAX)
        .saturating_sub(500);
    let wanted = number("CONNECTIONS", 10_000) as usize;
    let connections = wanted.min(most);
    if connections < wanted {
        println!("idle: {connections} connections, as {files} files may be open at once");
    }
    let fleet = all(name, origin, report)?;
    for proxy in &fleet.proxies {
        let before = proxy.process.memory("VmRSS:");
        match Idle::new(proxy.port, connections) {
            Ok(held) => {
                let after = proxy.process.memory("VmRSS:");
                if held.all_open() {
                    let mut turn = report.turn(name, proxy.name, 0);
                    turn.add("KB/connection", (after - before) / connections as f64);
                    turn.add("MB with all", after / 1e3);
                } else {
                    report.leave_out(name, proxy.name, "it closed connections");
                }
            }
            Err(why) => report.leave_out(name, proxy.name, &why),
        }
    }
    Ok(())
}

/// Ours alone: the same request with 10 routes and with 10,000, and how long a start takes.
fn routes(name: &'static str, origin: u16, plan: &Plan, report: &mut Report) -> Result<(), String> {
    let mut fleet = Fleet::empty(origin)?;
    for (routes, count) in [("10 routes", 10), ("10,000 routes", 10_000)] {
        match fleet.add_with_routes(routes, count) {
            Ok(took) => {
                let mut turn = report.turn(name, routes, 0);
                turn.add("start ms", took.as_secs_f64() * 1e3);
            }
            Err(why) => report.leave_out(name, routes, &why),
        }
    }
    for (round, proxy) in plan.turns(&fleet.proxies) {
        let drive = || load::LOADS[0].drive(proxy.port, plan.seconds, fleet.folder());
        measure(name, proxy, round, report, drive);
    }
    peaks(name, &fleet, report);
    Ok(())
}

/// Every proxy that can be had, just started.
fn all(scenario: &str, origin: u16, report: &mut Report) -> Result<Fleet, String> {
    let fleet = Fleet::start(origin)?;
    for (name, why) in &fleet.left_out {
        report.leave_out(scenario, name, why);
    }
    Ok(fleet)
}

/// One turn: CPU per request, latencies and errors. `None`: it failed, and is left out.
fn measure(
    scenario: &str,
    proxy: &Proxy,
    round: usize,
    report: &mut Report,
    drive: impl FnOnce() -> Result<Done, String>,
) -> Option<Done> {
    let before = proxy.process.cpu();
    let result = drive();
    let spent = proxy.process.cpu() - before;
    match result {
        Ok(done) => {
            let mut turn = report.turn(scenario, proxy.name, round);
            turn.add("CPU µs/request", spent / done.requests * 1e6);
            turn.add("p50 ms", done.p50);
            turn.add("p99 ms", done.p99);
            turn.add("p99.9 ms", done.p999);
            turn.add("errors", done.errors);
            Some(done)
        }
        Err(why) => {
            report.leave_out(scenario, proxy.name, &why);
            None
        }
    }
}

/// The most memory each had, over all rounds.
fn peaks(scenario: &str, fleet: &Fleet, report: &mut Report) {
    for proxy in &fleet.proxies {
        if let Some(peak) = proxy.process.peak_megabytes() {
            report.turn(scenario, proxy.name, 0).add("peak MB", peak);
        }
    }
}

/// Lets this program and what it starts have as many files open as they may; returns how many.
fn raise_file_limit() -> u64 {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("every process may ask");
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}
