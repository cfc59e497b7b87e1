//! Databases through harbr-router and through its peers, in one run: those scenarios of `peers`
//! alone, for whoever has no interest in HTTP.
//!
//! A plain program, by hand, on a quiet machine: `cargo bench --bench databases [SCENARIO…]`; what
//! it does is told in `peers/databases/mod.rs`. Written are `target/databases.json` and
//! `target/databases.svg`.

#[path = "peers/databases/mod.rs"]
mod databases;
#[path = "peers/plan.rs"]
mod plan;
#[path = "peers/process.rs"]
mod process;
#[path = "peers/report.rs"]
mod report;

fn main() {
    databases::serve_if_asked();
    let Some(plan) = plan::Plan::new() else {
        return;
    };
    let mut report = report::Report::default();
    databases::run(&plan, &mut report);
    report.finish("databases");
}
