//! What a request costs, counted instead of timed: system calls and instructions.
//!
//! A plain program, because it is also the barest possible Pingora proxy, which it counts beside
//! the gateway; run by `make count`. Only the release profile is counted: it is what is shipped, and
//! debug assertions make system calls, too. Repeated counts of one build were the same in system
//! calls; in instructions they differed by 0.1 % on a quiet machine, and by 1 % on one with twice as
//! much to do as it has cores. They are compared with `baseline.json`: more than 3 % above it is a
//! failure, more than 3 % below it asks for a new baseline, which `make count RECORD=1` writes.
//! Without strace or valgrind, or where they may not trace, the test fails and says so.

#[path = "../../benches/peers/bare.rs"]
mod bare;
mod baseline;
mod instructions;
mod lockstep;
mod subject;
mod syscalls;

use std::path::Path;
use std::process::ExitCode;

use self::baseline::Baseline;

/// What counts, under its name, into the baseline. The errors say what to do.
type Count = (&'static str, fn(&mut Baseline) -> Result<(), String>);

const COUNTS: [Count; 2] = [
    ("system_calls", syscalls::count),
    ("instructions", instructions::count),
];

/// The program's, so that the bare proxy has it, too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [as_bare, listen, origin] = &args[..]
        && as_bare == subject::AS_BARE
    {
        bare::serve(listen, origin, 1);
    }
    if args.iter().any(|arg| arg == "--list") {
        COUNTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if cfg!(debug_assertions) {
        println!("counted in release builds only: make count");
        return ExitCode::SUCCESS;
    }
    let asked: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/counting/baseline.json");
    match run(&asked, &file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("counting failed: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(asked: &[&String], file: &Path) -> Result<(), String> {
    let mut baseline = Baseline::read(file)?;
    for (name, count) in COUNTS {
        if asked.is_empty() || asked.iter().any(|asked| name.contains(asked.as_str())) {
            count(&mut baseline).map_err(|why| format!("{name}: {why}"))?;
        }
    }
    baseline.conclude(file)
}
