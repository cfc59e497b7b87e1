//! What a byte costs on its way through: our relay against `copy_bidirectional` and, where it is
//! installed, HAProxy in TCP mode. One thread each, one process each, all in one interleaved run:
//!
//! ```text
//! cargo bench --bench relay
//! ```
//!
//! Printed are medians and the ratio to HAProxy's (or, without it, to `copy_bidirectional`'s). CPU
//! is what the proxy's process used, as the scheduler counts it; the peers are not in it. Numbers of
//! different machines, or of different runs, cannot be compared; ratios within a run can.

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harbr_router::tcp::relay::{Pipes, Relay};
use harbr_router::upstream::tune;

fn main() -> io::Result<()> {
    let args: Vec<String> = env::args().collect();
    if let [_, as_proxy, kind, server] = &args[..]
        && as_proxy == "--as-proxy"
    {
        let server = server.parse().expect("the parent gives an address");
        return proxy(kind, server);
    }
    let folder = tempfile::tempdir()?;
    let server = serve()?;
    let mut proxies = vec![Proxy::ours("relay", server)?, Proxy::ours("copy", server)?];
    for (name, option) in [("haproxy", ""), ("haproxy splice", "option splice-auto")] {
        match Proxy::haproxy(name, option, folder.path(), server) {
            Ok(proxy) => proxies.push(proxy),
            Err(error) => println!("{name} is left out: {error}"),
        }
    }
    for load in LOADS {
        compare(load, &mut proxies)?;
    }
    idle_memory(&proxies)
}

/// What is sent, and how its cost is told.
struct Load {
    name: &'static str,
    unit: &'static str,
    run: fn(SocketAddr) -> io::Result<Run>,
}

/// What was done: millions of exchanges, or thousands of GB, so that seconds for each are µs for an
/// exchange and ms for a GB.
struct Run {
    work: f64,
    seconds: f64,
}

const LOADS: &[Load] = &[
    Load {
        name: "ping-pong, 16 clients, 64 bytes each way",
        unit: "µs CPU per exchange",
        run: |proxy| ping_pong(proxy, 16, 64, 3000),
    },
    Load {
        name: "ping-pong, 1 client, 64 bytes each way",
        unit: "µs CPU per exchange",
        run: |proxy| ping_pong(proxy, 1, 64, 10_000),
    },
    Load {
        name: "echo of 100 kB, 4 clients",
        unit: "µs CPU per exchange",
        run: |proxy| ping_pong(proxy, 4, 100_000, 1000),
    },
    Load {
        name: "1 GB to the client, written by 8 KiB (as a Postgres COPY)",
        unit: "CPU-ms per GB",
        run: |proxy| bulk(proxy, 8 * 1024),
    },
    Load {
        name: "1 GB to the client, written by 256 KiB",
        unit: "CPU-ms per GB",
        run: |proxy| bulk(proxy, 256 * 1024),
    },
];

const ROUNDS: usize = 5;

fn compare(load: &Load, proxies: &mut [Proxy]) -> io::Result<()> {
    let mut costs = vec![Vec::new(); proxies.len()];
    let mut rates = vec![Vec::new(); proxies.len()];
    for round in 0..ROUNDS {
        for turn in 0..proxies.len() {
            // Everybody comes first equally often.
            let n = (turn + round) % proxies.len();
            let before = proxies[n].cpu()?;
            let run = (load.run)(proxies[n].addr)?;
            let used = proxies[n].cpu()? - before;
            costs[n].push(used.as_secs_f64() / run.work);
            rates[n].push(run.work / run.seconds);
        }
    }
    println!("\n{} ({ROUNDS} rounds)", load.name);
    let base = proxies
        .iter()
        .position(|p| p.name == "haproxy")
        .unwrap_or(1);
    let (base_cost, base_rate) = (median(&mut costs[base]), median(&mut rates[base]));
    for (n, proxy) in proxies.iter().enumerate() {
        let (cost, rate) = (median(&mut costs[n]), median(&mut rates[n]));
        println!(
            "  {:15} {:9.2} {} [{:.2} to {:.2}], ratio {:.2}; rate ratio {:.2}",
            proxy.name,
            cost,
            load.unit,
            costs[n][0],
            costs[n][ROUNDS - 1],
            cost / base_cost,
            rate / base_rate,
        );
    }
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn ping_pong(proxy: SocketAddr, clients: usize, size: u32, exchanges: usize) -> io::Result<Run> {
    let mut streams = (0..clients)
        .map(|_| connect(proxy, b'p', size))
        .collect::<io::Result<Vec<_>>>()?;
    let start = Instant::now();
    thread::scope(|scope| {
        let running: Vec<_> = streams
            .iter_mut()
            .map(|stream| {
                scope.spawn(move || -> io::Result<()> {
                    let mut message = vec![7; size as usize];
                    for _ in 0..exchanges {
                        stream.write_all(&message)?;
                        stream.read_exact(&mut message)?;
                    }
                    Ok(())
                })
            })
            .collect();
        running
            .into_iter()
            .try_for_each(|client| client.join().expect("a client does not panic"))
    })?;
    Ok(Run {
        work: (clients * exchanges) as f64 / 1e6,
        seconds: start.elapsed().as_secs_f64(),
    })
}

fn bulk(proxy: SocketAddr, portion: u32) -> io::Result<Run> {
    let mut stream = connect(proxy, b'b', portion)?;
    let start = Instant::now();
    let mut buffer = vec![0; 256 * 1024];
    let mut received = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            n => received += n,
        }
    }
    assert_eq!(received, BULK, "bytes were lost");
    Ok(Run {
        work: BULK as f64 / 1e12,
        seconds: start.elapsed().as_secs_f64(),
    })
}

const BULK: usize = 1_000_000_000;

/// What 2,000 sessions at rest, each of which was used before, add to a proxy's memory.
fn idle_memory(proxies: &[Proxy]) -> io::Result<()> {
    println!("\n{IDLE} sessions at rest, after one exchange of 20,000 bytes each way");
    for proxy in proxies {
        let before = proxy.memory()?;
        let mut held = Vec::with_capacity(IDLE);
        for _ in 0..IDLE {
            let mut stream = connect(proxy.addr, b'p', 20_000)?;
            let mut message = vec![7; 20_000];
            stream.write_all(&message)?;
            stream.read_exact(&mut message)?;
            held.push(stream);
        }
        thread::sleep(Duration::from_millis(200));
        let each = proxy.memory()?.saturating_sub(before) / IDLE;
        println!("  {:15} {each:6} bytes each", proxy.name);
    }
    Ok(())
}

const IDLE: usize = 2000;

/// Connects and says what is wanted of the server.
fn connect(proxy: SocketAddr, what: u8, portion: u32) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(proxy)?;
    stream.set_nodelay(true)?;
    let [a, b, c, d] = portion.to_be_bytes();
    stream.write_all(&[what, a, b, c, d])?;
    Ok(stream)
}

/// A server that does what the first bytes of a client say.
fn serve() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that leaves ends its thread with an error; that is how they all end.
            let _left = thread::Builder::new()
                .stack_size(64 * 1024)
                .spawn(move || answer(stream));
        }
    });
    Ok(addr)
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut wish = [0; 5];
    stream.read_exact(&mut wish)?;
    let portion = u32::from_be_bytes([wish[1], wish[2], wish[3], wish[4]]) as usize;
    let mut bytes = vec![7; portion];
    if wish[0] == b'b' {
        let mut left = BULK;
        while left > 0 {
            let now = left.min(portion);
            stream.write_all(&bytes[..now])?;
            left -= now;
        }
        return Ok(());
    }
    loop {
        stream.read_exact(&mut bytes)?;
        stream.write_all(&bytes)?;
    }
}

/// A proxy in a process of its own; ends with this value.
struct Proxy {
    name: &'static str,
    addr: SocketAddr,
    child: Child,
}

impl Proxy {
    /// This program again, as a proxy.
    fn ours(name: &'static str, server: SocketAddr) -> io::Result<Proxy> {
        let mut child = Command::new(env::current_exe()?)
            .args(["--as-proxy", name, &server.to_string()])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let out = child.stdout.take().expect("stdout is piped");
        BufReader::new(out).read_line(&mut line)?;
        let addr = line.trim().parse().map_err(io::Error::other)?;
        Ok(Proxy { name, addr, child })
    }

    fn haproxy(
        name: &'static str,
        option: &str,
        folder: &std::path::Path,
        server: SocketAddr,
    ) -> io::Result<Proxy> {
        // HAProxy has to be told a port.
        let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let file = folder.join(format!("{name}.cfg"));
        let text = format!(
            "global\n nbthread 1\n maxconn 4000\n\
             defaults\n mode tcp\n {option}\n timeout connect 5s\n timeout client 1h\n \
             timeout server 1h\n\
             listen bench\n bind {addr}\n server s {server}\n"
        );
        fs::write(&file, text)?;
        let child = Command::new("haproxy")
            .arg("-db")
            .arg("-f")
            .arg(&file)
            .spawn()?;
        let proxy = Proxy { name, addr, child };
        for _ in 0..500 {
            if TcpStream::connect(addr).is_ok() {
                return Ok(proxy);
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err(io::Error::other("does not listen"))
    }

    /// Time on a CPU so far, of all its threads.
    fn cpu(&self) -> io::Result<Duration> {
        let mut sum = Duration::ZERO;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            let nanos = text.split(' ').next().and_then(|word| word.parse().ok());
            sum += Duration::from_nanos(nanos.ok_or_else(|| io::Error::other("no schedstat"))?);
        }
        Ok(sum)
    }

    /// Resident bytes.
    fn memory(&self) -> io::Result<usize> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        text.lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|kib| kib.parse::<usize>().ok())
            .map(|kib| kib * 1024)
            .ok_or_else(|| io::Error::other("no VmRSS"))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// The child: says where it listens, then relays for ever.
fn proxy(kind: &str, server: SocketAddr) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ours = kind == "relay";
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        let pipes = Pipes::new(128);
        let (_stop, stopped) = tokio::sync::watch::channel(false);
        let counted = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        loop {
            let (mut client, _) = listener.accept().await?;
            let (pipes, counted) = (Arc::clone(&pipes), Arc::clone(&counted));
            let mut stopped = stopped.clone();
            tokio::spawn(async move {
                let mut server = tokio::net::TcpStream::connect(server).await?;
                tune(&client)?;
                tune(&server)?;
                if ours {
                    let count = |direction, bytes| {
                        counted[direction as usize].fetch_add(bytes, Ordering::Relaxed);
                    };
                    let stop = pin!(async {
                        // Nobody stops this one.
                        let _stopped = stopped.wait_for(|stop| *stop).await;
                    });
                    // A block of its own, so that the task has no room for what is used up.
                    {
                        let mut relay = Relay::new(&count);
                        relay.pipes = Some(pipes);
                        relay.run(client.into(), server.into(), stop)
                    }
                    .await;
                } else {
                    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
                }
                io::Result::Ok(())
            });
        }
    })
}
