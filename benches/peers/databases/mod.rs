//! PostgreSQL and Redis through each peer, and direct.
//!
//! Its own folder because two programs run it: `peers`, with HTTP, and `databases`, alone. Started
//! are a PostgreSQL and a Redis that write nothing to disk in time, and for each scenario anew, so
//! that the peak memory is that scenario's, harbr-router, HAProxy in TCP mode (`splice-auto`) and
//! PgBouncer with session pooling, the mode that a client cannot tell from PostgreSQL. Two threads
//! each, but PgBouncer has one, whatever is wanted. PgBouncer gives a server connection that one
//! client left to the next: with a connection for each transaction it saves PostgreSQL the start of
//! a process, which nobody else here may. Nobody has TLS or a log of sessions.
//!
//! On few cores throughput mostly measures how much CPU the proxy takes from server and client.

mod bare;
mod clients;
mod servers;
mod ways;

pub use self::bare::serve_if_asked;
use self::clients::{Client, Load};
use self::servers::{Kind, Server};
use crate::plan::Plan;
use crate::process::Process;
use crate::report::Report;

struct Scenario {
    name: &'static str,
    server: Kind,
    client: Client,
    /// What is done in a second, and the CPU of the proxy for one of it.
    rate: &'static str,
    cost: &'static str,
    /// The cost's unit in a second.
    unit: f64,
    /// A relay that does nothing else is a way, too.
    beside_bare: bool,
}

/// Runs all that the plan wants; what cannot be run is left out with its reason.
pub fn run(plan: &Plan, report: &mut Report) {
    for kind in [Kind::Postgres, Kind::Redis] {
        let wanted = |s: &&Scenario| s.server == kind && plan.wants(s.name);
        let scenarios: Vec<&Scenario> = SCENARIOS.iter().filter(wanted).collect();
        if scenarios.is_empty() {
            continue;
        }
        match Server::start(kind) {
            Ok(server) => {
                for scenario in scenarios {
                    scenario.run(&server, plan, report);
                }
            }
            Err(why) => {
                for scenario in scenarios {
                    report.leave_out(scenario.name, "all", &why);
                }
            }
        }
    }
}

impl Scenario {
    fn run(&self, server: &Server, plan: &Plan, report: &mut Report) {
        println!("{} ...", self.name);
        let load = match self.client.load(server.port, plan.seconds) {
            Ok(load) => load,
            Err(why) => return report.leave_out(self.name, "all", &why),
        };
        let mut ways = Vec::new();
        let mut all = ways::to(server);
        if self.beside_bare {
            all.push(("bare relay", ways::bare(server)));
        }
        for (name, way) in all {
            match way {
                Ok(way) => ways.push(way),
                Err(why) => report.leave_out(self.name, name, &why),
            }
        }
        for (round, way) in plan.turns(&ways) {
            self.measure(&load, way, round, report);
        }
        for way in &ways {
            let peak = way.proxy.as_ref().and_then(Process::peak_megabytes);
            if let Some(peak) = peak {
                report.turn(self.name, way.name, 0).add("peak MB", peak);
            }
        }
    }

    fn measure(&self, load: &Load, way: &ways::Way, round: usize, report: &mut Report) {
        let before = way.proxy.as_ref().map(Process::cpu);
        let done = match load.drive(way.port) {
            Ok(done) => done,
            Err(why) => return report.leave_out(self.name, way.name, &why),
        };
        let after = way.proxy.as_ref().map(Process::cpu);
        let mut turn = report.turn(self.name, way.name, round);
        if let (Some(before), Some(after)) = (before, after) {
            turn.add(self.cost, (after - before) / done.operations * self.unit);
        }
        turn.add(self.rate, done.per_second);
        if let Some(latency) = done.latency {
            turn.add("p50 ms", latency.p50);
            turn.add("p99 ms", latency.p99);
        }
    }
}

const SCENARIOS: [Scenario; 6] = [
    Scenario {
        name: "pgbench simple",
        client: Client::Pgbench(&["-S", "-c16", "-j2", "-M", "simple"]),
        ..PGBENCH
    },
    Scenario {
        name: "pgbench prepared",
        client: Client::Pgbench(&["-S", "-c16", "-j2", "-M", "prepared"]),
        ..PGBENCH
    },
    // A connection for each transaction.
    Scenario {
        name: "pgbench connect",
        client: Client::Pgbench(&["-S", "-C", "-c1"]),
        beside_bare: true,
        ..PGBENCH
    },
    Scenario {
        name: "COPY 1 GB",
        server: Kind::Postgres,
        client: Client::Copy,
        rate: "GB/s",
        cost: "CPU s/GB",
        unit: 1.0,
        beside_bare: false,
    },
    Scenario {
        name: "redis -P 1",
        client: Client::Redis { pipeline: 1 },
        ..REDIS
    },
    Scenario {
        name: "redis -P 16",
        client: Client::Redis { pipeline: 16 },
        ..REDIS
    },
];

const PGBENCH: Scenario = Scenario {
    name: "",
    server: Kind::Postgres,
    client: Client::Copy,
    rate: "transactions/s",
    cost: "CPU µs/transaction",
    unit: 1e6,
    beside_bare: false,
};

const REDIS: Scenario = Scenario {
    name: "",
    server: Kind::Redis,
    client: Client::Redis { pipeline: 1 },
    rate: "commands/s",
    cost: "CPU µs/command",
    unit: 1e6,
    beside_bare: false,
};
