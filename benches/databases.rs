//! Postgres through harbr-router and through HAProxy in TCP mode, and direct, in one run.
//!
//! A plain program, by hand: `cargo bench --bench databases`. It starts its own PostgreSQL, HAProxy
//! and gateway on loopback and runs pgbench and a bulk COPY through each in interleaved rounds
//! (`ROUNDS`, 5; `SECONDS` each, 3). Printed are medians: transactions per second, CPU of the proxy
//! per transaction (from /proc, all threads), and ratios to HAProxy and to direct of the same run.
//! Throughput on few cores mostly measures how much CPU the proxy takes from server and client.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn main() {
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let bench = match Bench::start() {
        Ok(bench) => bench,
        Err(why) => {
            println!("cannot run: {why}");
            return;
        }
    };
    let seconds = number("SECONDS", 3);
    let seconds = seconds.to_string();
    let mut table = Table::default();
    for _ in 0..number("ROUNDS", 5) {
        for way in &bench.ways {
            for (scenario, options) in [
                ("-S simple", &["-S", "-c16", "-j2", "-M", "simple"][..]),
                ("-S prepared", &["-S", "-c16", "-j2", "-M", "prepared"][..]),
                ("-S -C -c1", &["-S", "-C", "-c1"][..]),
            ] {
                let cpu = way.cpu();
                let (tps, transactions) = bench.pgbench(way, options, &seconds);
                let spent = way.cpu() - cpu;
                table.add(scenario, way, "tps", tps);
                table.add(scenario, way, "µs/tx", spent / transactions * 1e6);
            }
            let cpu = way.cpu();
            let started = Instant::now();
            let gigabytes = bench.copy_out(way);
            let (spent, took) = (way.cpu() - cpu, started.elapsed().as_secs_f64());
            table.add("COPY", way, "CPU-s/GB", spent / gigabytes);
            table.add("COPY", way, "GB/s", gigabytes / took);
        }
    }
    table.print();
}

/// One way to the server.
struct Way {
    name: &'static str,
    port: u16,
    /// `None`: direct.
    proxy: Option<u32>,
}

impl Way {
    /// CPU seconds that the proxy has used.
    fn cpu(&self) -> f64 {
        let Some(pid) = self.proxy else { return 0.0 };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        // USER_HZ, which Linux fixes at 100 for programs.
        ticks as f64 / 100.0
    }
}

struct Bench {
    ways: [Way; 3],
    programs: PathBuf,
    folder: tempfile::TempDir,
    proxies: Vec<Child>,
}

impl Bench {
    fn start() -> Result<Bench, String> {
        let programs = postgres_programs()?;
        let haproxy = program("haproxy")?;
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let postgres = start_postgres(&programs, folder.path())?;
        let ports = [free_port(), free_port()];
        let config = folder.path().join("haproxy.cfg");
        let text = format!(
            "global\n  nbthread 2\n  maxconn 4000\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
             timeout client 1h\n  timeout server 1h\nlisten pg\n  bind 127.0.0.1:{}\n  \
             server one 127.0.0.1:{postgres}\n",
            ports[0]
        );
        std::fs::write(&config, text).map_err(|e| e.to_string())?;
        let mut run = Command::new(haproxy);
        run.arg("-db").arg("-f").arg(&config);
        let haproxy = quiet(&mut run)?;
        let config = folder.path().join("config.yml");
        let text = format!(
            "listen_addr: 127.0.0.1:{}\nglobal_timeout_ms: 5000\nmax_connections: 2000\nadmin: false\n\
             server: {{threads: 2}}\ntcp_proxy: {{enabled: true, listen_addr: \"127.0.0.1:{}\"}}\nroutes:\n  \
             \"/\": {{upstream: \"http://127.0.0.1:9\"}}\n  pg: {{upstream: \"postgres://127.0.0.1:{postgres}\"}}\n",
            free_port(),
            ports[1]
        );
        std::fs::write(&config, text).map_err(|e| e.to_string())?;
        let mut run = Command::new(env!("CARGO_BIN_EXE_harbr-router"));
        run.arg("-c").arg(&config);
        let gateway = quiet(&mut run)?;
        let ways = [
            Way {
                name: "direct",
                port: postgres,
                proxy: None,
            },
            Way {
                name: "haproxy",
                port: ports[0],
                proxy: Some(haproxy.id()),
            },
            Way {
                name: "harbr-router",
                port: ports[1],
                proxy: Some(gateway.id()),
            },
        ];
        let bench = Bench {
            ways,
            programs,
            folder,
            proxies: vec![haproxy, gateway],
        };
        for way in &bench.ways {
            await_port(way.port)?;
        }
        let direct = &bench.ways[0];
        bench.client(direct, "pgbench", &["-i", "-q", "-s", "5"])?;
        Ok(bench)
    }

    fn client(&self, way: &Way, name: &str, options: &[&str]) -> Result<String, String> {
        let output = Command::new(self.programs.join(name))
            .args(["-h", "127.0.0.1", "-U", "postgres", "-p"])
            .arg(way.port.to_string())
            .args(options)
            .arg("postgres")
            .env("PGSSLMODE", "disable")
            .env("PGCONNECT_TIMEOUT", "10")
            .output()
            .map_err(|e| e.to_string())?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Transactions per second, and how many there were.
    fn pgbench(&self, way: &Way, options: &[&str], seconds: &str) -> (f64, f64) {
        let mut all = options.to_vec();
        all.extend(["-n", "-T", seconds]);
        let text = self.client(way, "pgbench", &all).unwrap_or_else(|why| {
            panic!("pgbench through {}: {why}", way.name);
        });
        let after = |label: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(label));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok())
                .unwrap_or_else(|| panic!("no `{label}` in {text}"))
        };
        (
            after("tps = "),
            after("number of transactions actually processed: "),
        )
    }

    /// Sends one bulk COPY to a client that throws it away. Returns its gigabytes.
    fn copy_out(&self, way: &Way) -> f64 {
        const ROWS: u32 = 1_000_000;
        let query = format!(
            "\\copy (SELECT repeat('x', 1000) FROM generate_series(1, {ROWS})) TO '/dev/null'"
        );
        self.client(way, "psql", &["-q", "-c", &query])
            .unwrap_or_else(|why| panic!("COPY through {}: {why}", way.name));
        f64::from(ROWS) * 1001.0 / 1e9
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for proxy in &mut self.proxies {
            let _ = proxy.kill();
            let _ = proxy.wait();
        }
        let data = self.folder.path().join("data");
        let _ = as_postgres(&self.programs.join("pg_ctl"))
            .args(["-m", "immediate", "-D"])
            .arg(data)
            .arg("stop")
            .stdout(Stdio::null())
            .status();
    }
}

#[derive(Default)]
struct Table {
    values: BTreeMap<(&'static str, &'static str, &'static str), Vec<f64>>,
}

impl Table {
    fn add(&mut self, scenario: &'static str, way: &Way, what: &'static str, value: f64) {
        let row = self.values.entry((scenario, what, way.name)).or_default();
        row.push(value);
    }

    fn median(&self, scenario: &str, what: &str, way: &str) -> f64 {
        let found = self
            .values
            .iter()
            .find(|((s, w, n), _)| *s == scenario && *w == what && *n == way);
        let Some((_, values)) = found else {
            return f64::NAN;
        };
        let mut values = values.clone();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }

    fn print(&self) {
        let mut out = std::io::stdout().lock();
        let mut seen = Vec::new();
        for (scenario, what, _) in self.values.keys() {
            if seen.contains(&(scenario, what)) {
                continue;
            }
            seen.push((scenario, what));
            let of = |way| self.median(scenario, what, way);
            let (direct, haproxy, ours) = (of("direct"), of("haproxy"), of("harbr-router"));
            let _ = writeln!(
                out,
                "{scenario:<12} {what:<9} direct {direct:>10.2}  haproxy {haproxy:>10.2}  \
                 harbr-router {ours:>10.2}  = {:.2} x haproxy, {:.2} x direct",
                ours / haproxy,
                ours / direct
            );
        }
    }
}

fn number(name: &str, otherwise: u32) -> u32 {
    let value = std::env::var(name).ok();
    value.and_then(|v| v.parse().ok()).unwrap_or(otherwise)
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}

fn await_port(port: u16) -> Result<(), String> {
    let end = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if Instant::now() > end {
            return Err(format!("nothing listens on port {port}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn quiet(command: &mut Command) -> Result<Child, String> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("{command:?}: {e}"))
}

fn program(name: &str) -> Result<PathBuf, String> {
    let folders = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
    let found = folders.iter().map(|dir| Path::new(dir).join(name));
    found
        .into_iter()
        .find(|path| path.exists())
        .ok_or_else(|| format!("{name} is not installed (apt-get install {name})"))
}

fn postgres_programs() -> Result<PathBuf, String> {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .map_err(|_| "PostgreSQL is not installed (apt-get install postgresql)")?;
    versions
        .flatten()
        .map(|version| version.path().join("bin"))
        .find(|bin| bin.join("initdb").exists())
        .ok_or_else(|| "PostgreSQL's initdb is not there".to_string())
}

/// PostgreSQL refuses to run as root.
fn as_postgres(program: &Path) -> Command {
    if !nix::unistd::Uid::effective().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]).arg(program);
    command
}

fn start_postgres(programs: &Path, folder: &Path) -> Result<u16, String> {
    let data = folder.join("data");
    std::fs::create_dir(&data).map_err(|e| e.to_string())?;
    if nix::unistd::Uid::effective().is_root() {
        for path in [folder, data.as_path()] {
            let owned = Command::new("chown").arg("postgres").arg(path).status();
            owned.map_err(|e| e.to_string())?;
        }
    }
    let made = as_postgres(&programs.join("initdb"))
        .args(["-A", "trust", "-U", "postgres", "-D"])
        .arg(&data)
        .stdout(Stdio::null())
        .status();
    if !made.is_ok_and(|status| status.success()) {
        return Err("initdb failed".into());
    }
    let port = free_port();
    let options = format!(
        "-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={} -c fsync=off",
        folder.display()
    );
    let started = as_postgres(&programs.join("pg_ctl"))
        .args(["-w", "-D"])
        .arg(&data)
        .args(["-l", "/dev/null", "-o", &options, "start"])
        .stdout(Stdio::null())
        .status();
    match started.is_ok_and(|status| status.success()) {
        true => Ok(port),
        false => Err("PostgreSQL did not start".into()),
    }
}
