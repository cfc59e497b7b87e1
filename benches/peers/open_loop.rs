//! Requests at a steady rate, whether answers come or not, from one thread: what drives the load
//! takes a part of a core, so that the delays it tells are the proxy's and not its own.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::load::{Done, SMALL};

const REQUEST: &[u8] = b"GET /1k HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// A proxy that answers nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// A load to drive at one proxy.
pub struct OpenLoop {
    pub port: u16,
    /// Requests per second, all connections together.
    pub rate: f64,
    pub connections: u32,
    pub time: Duration,
}

/// A connection, with a plan when to send: what could not be sent in time is late from then, not
/// from when it was sent (so a stall is counted for all it held up).
struct Planned {
    stream: TcpStream,
    due: Instant,
    /// Of an answer that is under way.
    seen: Option<Vec<u8>>,
    /// Something can be read.
    ready: bool,
}

impl OpenLoop {
    pub fn drive(&self) -> Result<Done, String> {
        let every = Duration::from_secs_f64(f64::from(self.connections) / self.rate);
        let begin = Instant::now() + Duration::from_millis(50);
        let mut all = (0..self.connections)
            .map(|n| {
                let stream = TcpStream::connect(("127.0.0.1", self.port))?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                let due = begin + every.mul_f64(f64::from(n) / f64::from(self.connections));
                Ok(Planned {
                    stream,
                    due,
                    seen: None,
                    ready: false,
                })
            })
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(|why| format!("connect: {why}"))?;
        let (mut latencies, mut errors) = (Vec::new(), 0.0);
        let end = begin + self.time;
        while !all.is_empty() {
            wait(&mut all, end)?;
            let now = Instant::now();
            all.retain_mut(|planned| match planned.go_on(now, end) {
                Ok(Next::Wait) => true,
                Ok(Next::Answered(late)) => {
                    latencies.push(late.as_secs_f64() * 1e3);
                    planned.due += every;
                    true
                }
                Ok(Next::Ended) => false,
                Err(_) => {
                    errors += 1.0;
                    false
                }
            });
        }
        latencies.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let last = latencies.len().saturating_sub(1) as f64;
            latencies
                .get((last * share) as usize)
                .copied()
                .unwrap_or(f64::NAN)
        };
        match latencies.is_empty() {
            true => Err("no request was answered".into()),
            false => Ok(Done {
                requests: latencies.len() as f64,
                seconds: self.time.as_secs_f64(),
                errors,
                p50: at(0.5),
                p99: at(0.99),
                p999: at(0.999),
            }),
        }
    }
}

/// Until a request is due or an answer comes.
fn wait(all: &mut [Planned], end: Instant) -> Result<(), String> {
    let now = Instant::now();
    let resting = all.iter().filter(|one| one.seen.is_none());
    let next = resting.map(|one| one.due.min(end)).min();
    let time = next.map_or(PATIENCE, |next| next.saturating_duration_since(now));
    let time = Timespec::try_from(time).map_err(|why| why.to_string())?;
    let mut polled: Vec<PollFd<'_>> = all
        .iter()
        .map(|one| PollFd::new(&one.stream, PollFlags::IN))
        .collect();
    match poll(&mut polled, Some(&time)) {
        Ok(0) if next.is_none() => return Err(format!("no answer in {PATIENCE:?}")),
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(why) => return Err(why.to_string()),
    }
    let ready: Vec<bool> = polled.iter().map(|one| !one.revents().is_empty()).collect();
    for (one, ready) in all.iter_mut().zip(ready) {
        one.ready = ready;
    }
    Ok(())
}

enum Next {
    Wait,
    /// So long after it was due.
    Answered(Duration),
    Ended,
}

impl Planned {
    fn go_on(&mut self, now: Instant, end: Instant) -> std::io::Result<Next> {
        let Some(seen) = &mut self.seen else {
            if now >= end || self.due >= end {
                return Ok(Next::Ended);
            }
            if now >= self.due {
                self.stream.write_all(REQUEST)?;
                self.seen = Some(Vec::with_capacity(2 * SMALL));
            }
            return Ok(Next::Wait);
        };
        if !self.ready {
            return Ok(Next::Wait);
        }
        let mut piece = [0; 4 * SMALL];
        match self.stream.read(&mut piece) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => seen.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Next::Wait),
            Err(error) => return Err(error),
        }
        let Some(head) = seen.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(Next::Wait);
        };
        if !seen.starts_with(b"HTTP/1.1 200") {
            return Err(std::io::Error::other("not 200"));
        }
        if seen.len() < head + 4 + SMALL {
            return Ok(Next::Wait);
        }
        self.seen = None;
        Ok(Next::Answered(self.due.elapsed()))
    }
}
