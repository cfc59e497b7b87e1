//! Load: closed-loop clients that count every outcome, each kind of failure by itself.
//!
//! Requests sent = statuses + failures.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::client::{Client, Failure};
use super::eventually;
use super::http1::Response;
use super::origin::Origin;

/// How much is sent, and how.
#[derive(Clone, Debug)]
pub struct Load {
    pub clients: usize,
    /// Over all clients together.
    pub requests: usize,
    /// Whether a client keeps its connection.
    pub keep_alive: bool,
    pub target: String,
    /// Requests in a second over all clients; `None`: as fast as answers come.
    pub rate: Option<u32>,
}

/// What came back.
#[derive(Debug, Default)]
pub struct Outcome {
    pub statuses: BTreeMap<u16, usize>,
    pub failures: BTreeMap<Failure, usize>,
    /// How often each body came, the first hundred different ones.
    pub bodies: BTreeMap<String, usize>,
}

impl Load {
    /// `requests` GETs of `target` over `clients` kept connections.
    pub fn new(clients: usize, requests: usize, target: &str) -> Load {
        Load {
            clients,
            requests,
            keep_alive: true,
            target: target.to_owned(),
            rate: None,
        }
    }

    /// Sends everything and returns when the last answer is in.
    pub fn run(&self, addr: SocketAddr) -> Outcome {
        self.run_until(addr, &AtomicBool::new(false))
    }

    /// As [`run`](Load::run), and begins no request once `stop` is true.
    pub fn run_until(&self, addr: SocketAddr, stop: &AtomicBool) -> Outcome {
        let next = AtomicUsize::new(0);
        let outcome = Mutex::new(Outcome::default());
        let start = Instant::now();
        thread::scope(|scope| {
            for _ in 0..self.clients {
                scope.spawn(|| {
                    let mut client = None;
                    loop {
                        let nth = next.fetch_add(1, Ordering::Relaxed);
                        if nth >= self.requests || stop.load(Ordering::Relaxed) {
                            return;
                        }
                        if let Some(rate) = self.rate {
                            let due = start + Duration::from_secs(1) * nth as u32 / rate;
                            thread::sleep(due.saturating_duration_since(Instant::now()));
                        }
                        let result = self.one(addr, &mut client);
                        outcome.lock().expect("no panic while held").add(result);
                    }
                });
            }
        });
        outcome.into_inner().expect("no panic while held")
    }

    fn one(&self, addr: SocketAddr, kept: &mut Option<Client>) -> Result<Response, Failure> {
        let mut client = match kept.take() {
            Some(client) => client,
            None => Client::try_connect(addr)?,
        };
        client.request("GET", &self.target, &[], b"");
        let response = client.response()?;
        if self.keep_alive && !response.closes() {
            *kept = Some(client);
        }
        Ok(response)
    }
}

impl Outcome {
    /// How many requests were answered with `status`.
    pub fn status(&self, status: u16) -> usize {
        self.statuses.get(&status).copied().unwrap_or(0)
    }

    fn add(&mut self, result: Result<Response, Failure>) {
        match result {
            Ok(response) => {
                *self.statuses.entry(response.status).or_default() += 1;
                if self.bodies.len() < 100 {
                    *self.bodies.entry(response.text()).or_default() += 1;
                }
            }
            Err(failure) => *self.failures.entry(failure).or_default() += 1,
        }
    }
}

/// HTTP clients of both kinds before, during and after `work`: those that keep their connections,
/// and those that open one for each request. No request may fail. `origin` answers them.
#[track_caller]
pub fn under_load<T>(addr: SocketAddr, origin: &Origin, work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    let (result, outcomes) = thread::scope(|scope| {
        let loads = [true, false].map(|keep_alive| {
            let load = Load {
                keep_alive,
                rate: Some(250),
                ..Load::new(6, usize::MAX, "/")
            };
            let stop = &stop;
            scope.spawn(move || load.run_until(addr, stop))
        });
        let stopping = Stopping(&stop);
        let many_more = || {
            let now = origin.requests();
            eventually(Duration::from_secs(15), "requests come", || {
                origin.requests() > now + 100
            });
        };
        many_more();
        let result = work();
        many_more();
        drop(stopping);
        (result, loads.map(|load| load.join().unwrap()))
    });
    for Outcome {
        statuses, failures, ..
    } in &outcomes
    {
        assert!(failures.is_empty(), "{failures:?} {statuses:?}");
        assert_eq!(statuses.keys().collect::<Vec<_>>(), [&200], "{statuses:?}");
    }
    result
}

/// Ends the load that runs until `stop` when it goes, also when something panics.
pub struct Stopping<'s>(pub &'s AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
