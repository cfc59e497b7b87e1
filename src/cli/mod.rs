//! The command line: arguments and verbs.
//!
//! [`main`] is all that our binary needs, and [`main_with`] all that an embedder's does to have the
//! same command line with its own filters. Invariants: a verb returns its exit code and never ends
//! the process itself; an embedder's code runs after the process forked, never before. Exit codes:
//! 0 fine, 2 usage, 78 bad or missing configuration (EX_CONFIG of sysexits.h), 1 anything else.

mod demo;
mod explain;
mod health;
mod log;
mod mallopt;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};

use crate::config::{self, Config};
use crate::error::Error;
use crate::server::Gateway;
use crate::server::edge::listener;
use crate::server::process::daemon::{self, Outcome, Report, Side};
use crate::server::process::paths::{Mode, Paths};

use self::log::ProcessLog;

/// A programmable gateway for HTTP and databases.
#[derive(Debug, Parser)]
#[command(
    name = "harbr-router",
    version,
    args_conflicts_with_subcommands = false
)]
struct Args {
    /// The configuration file [default: $CONFIG_FILE, else config.yml]
    #[arg(short, long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Run in the background
    #[arg(short, long)]
    daemon: bool,
    /// Check the configuration and exit: resolves no name, binds nothing
    #[arg(short, long)]
    test: bool,
    /// Take over from the running gateway
    #[arg(short, long)]
    upgrade: bool,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the way of a request or a session: its route, filter by filter, upstream and timeouts.
    /// Exit 1 when there is none
    Explain {
        /// The request's method
        #[arg(long, value_name = "M", default_value = "GET")]
        method: String,
        /// The client's address, for filters that look at it
        #[arg(long, value_name = "IP")]
        client: Option<std::net::IpAddr>,
        /// A path like /api/x, a URL like http://example.org/api/x or
        /// postgres://127.0.0.1:5432/shop?user=app, or the name of a TCP route
        url: String,
    },
    /// Print the JSON Schema of the configuration, for editors
    Schema,
    /// Start two tiny origins and the gateway in front of them
    Demo,
    /// Ask the running gateway's /readyz: exit 0 when it is ready, 1 when not
    Health {
        /// Where its admin listener is [default: what the running gateway says, else the file]
        #[arg(long, value_name = "ADDR")]
        admin: Option<String>,
    },
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    main_with(|gateway| gateway)
}

/// As [`main`], for a gateway to which `add` adds filters and the like.
///
/// `add` is called once, whatever is asked for but `health`, and with `-d` in the process that
/// stays: it may start threads. The program must not have any before.
///
/// ```no_run
/// use harbr_router::{cli, filter};
///
/// fn main() -> std::process::ExitCode {
///     cli::main_with(|gateway| {
///         gateway.every_request("greet", filter::from_fn(|cx| {
///             cx.request_mut().set("x-greeting", "hello")?;
///             Ok(filter::Verdict::Continue)
///         }))
///     })
/// }
/// ```
pub fn main_with(add: impl FnOnce(Gateway) -> Gateway) -> ExitCode {
    main_from(std::env::args_os(), add)
}

/// As [`main_with`], for the command line `args`, the program's name first.
pub fn main_from(
    args: impl IntoIterator<Item = OsString>,
    add: impl FnOnce(Gateway) -> Gateway,
) -> ExitCode {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(usage) => {
            let _ = usage.print();
            return ExitCode::from(usage.exit_code() as u8);
        }
    };
    match run(&args, add) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(code_of(&error))
        }
    }
}

fn code_of(error: &Error) -> u8 {
    match error.is_config() {
        true => EX_CONFIG,
        false => 1,
    }
}

fn run(args: &Args, add: impl FnOnce(Gateway) -> Gateway) -> Result<ExitCode, Error> {
    match &args.verb {
        Some(Verb::Schema) => {
            let any = config::parse(ANY, Path::new("any.yml"));
            let any = any.map_err(|problems| Error::config(problems.to_string()))?;
            println!("{:#}", add(Gateway::new(any)).schema());
            Ok(ExitCode::SUCCESS)
        }
        Some(Verb::Demo) => demo::run(add),
        Some(Verb::Explain {
            method,
            client,
            url,
        }) => {
            let gateway = add(Gateway::new(load(&file(args))?));
            let question = explain::Question {
                method,
                url,
                client: *client,
            };
            let explained = explain::explain(&gateway.compiled()?, &question)?;
            print!("{}", explained.text);
            Ok(match explained.found {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            })
        }
        Some(Verb::Health { admin: Some(addr) }) => health::at(addr),
        Some(Verb::Health { admin: None }) => health::of(&file(args)),
        None if args.test => {
            let config = load(&file(args))?;
            let summary = summary(&config);
            warn_of(&config);
            for warning in add(Gateway::new(config)).check()? {
                eprintln!("warning: {warning}");
            }
            println!("{summary}");
            Ok(ExitCode::SUCCESS)
        }
        None => serve(args, add),
    }
}

fn serve(args: &Args, add: impl FnOnce(Gateway) -> Gateway) -> Result<ExitCode, Error> {
    let config = load_for_good(&file(args))?;
    warn_of(&config);
    if !args.daemon {
        run_gateway(args, config, add, None)?;
        return Ok(ExitCode::SUCCESS);
    }
    match daemon::fork()? {
        Side::Starter(starting) => Ok(match starting.outcome() {
            Outcome::Serving => ExitCode::SUCCESS,
            Outcome::Failed { code, text } => {
                eprintln!("{text}");
                ExitCode::from(code)
            }
        }),
        Side::Daemon(report) => {
            let report = Arc::new(report);
            let Err(error) = run_gateway(args, config, add, Some(report.clone())) else {
                return Ok(ExitCode::SUCCESS);
            };
            let code = code_of(&error);
            report.failed(code, &error.to_string());
            Ok(ExitCode::from(code))
        }
    }
}

/// Runs to the end. `report` is a daemon's.
fn run_gateway(
    args: &Args,
    config: Config,
    add: impl FnOnce(Gateway) -> Gateway,
    report: Option<Arc<Report>>,
) -> Result<(), Error> {
    mallopt::keep_freed_memory();
    let mode = match report {
        Some(_) => Mode::Daemon,
        None => Mode::Foreground,
    };
    let paths = Paths::of(&config, mode);
    let log = ProcessLog::start(paths.log_file.as_deref(), LOG_FILTER)?;
    if paths.log_file.is_some() {
        // The terminal has them already, and nobody looks there later.
        for warning in &config.warnings {
            ::log::warn!("{warning}");
        }
    }
    let reopening = log.reopening();
    let mut gateway = add(Gateway::new(config))
        .pid_file(paths.pid_file)
        .on_reopen(move || reopening.now());
    if args.upgrade {
        gateway = gateway.upgrading();
    }
    if let Some(report) = report {
        let output = log.output()?;
        gateway = gateway.on_serving(move || report.serving(output.as_ref()));
    }
    gateway.run()
}

/// The file from `-c`, else `CONFIG_FILE`, else `config.yml`.
fn file(args: &Args) -> PathBuf {
    args.config
        .clone()
        .or_else(|| {
            // Set to nothing is how shells and compose files unset it.
            let named = std::env::var_os("CONFIG_FILE").filter(|name| !name.is_empty());
            named.map(PathBuf::from)
        })
        .unwrap_or_else(|| PathBuf::from("config.yml"))
}

fn load(file: &Path) -> Result<Config, Error> {
    config::load(file).map_err(|problems| Error::config(problems.to_string()))
}

/// As [`load`], and the configuration knows where it is from wherever the process goes: a daemon
/// leaves its folder, a reload reads the file again. Problems name it as it was asked for.
fn load_for_good(file: &Path) -> Result<Config, Error> {
    let absolute = std::path::absolute(file)
        .map_err(|source| Error::config(file.display().to_string()).because(source))?;
    config::load(&absolute).map_err(|mut problems| {
        for problem in &mut problems.0 {
            problem.file = file.to_path_buf();
        }
        Error::config(problems.to_string())
    })
}

fn warn_of(config: &Config) {
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
}

/// What `--test` prints.
fn summary(config: &Config) -> String {
    format!(
        "configuration ok: {} http routes, {} tcp routes, {} listeners",
        config.http_routes.len(),
        config.tcp_routes.len(),
        listener::wanted(config).len()
    )
}

/// Pingora logs each of its services and requests; what matters of it we log ourselves.
const LOG_FILTER: &str = "info,pingora_core=warn,pingora_core::protocols::http=error,\
    pingora_pool=error,pingora_proxy=error,pingora_load_balancing=error";
/// For what does not depend on a configuration.
const ANY: &str = "listen_addr: 127.0.0.1:0\nglobal_timeout_ms: 1\nmax_connections: 1\n\
    routes: {/: {upstream: \"http://127.0.0.1:1\"}}\n";
const EX_CONFIG: u8 = 78;
