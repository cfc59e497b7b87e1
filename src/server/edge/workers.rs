//! The threads that carry connections, each with a runtime of its own.
//!
//! Pingora knows two kinds of runtime: one whose threads take work from each other, which costs a
//! wake-up and often a change of thread for every event, and one that spawns on a thread chosen by
//! chance. Here a connection is given to the thread that carries fewest and stays there, its
//! server's side included, so that none of its events crosses threads. Invariant: what a worker
//! carries is counted before it is spawned and uncounted by Drop. `assembled.rs` starts them,
//! `accept.rs` gives them connections.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::telemetry::{Carried, Load};

/// Where connections can be carried.
pub struct Workers {
    all: Vec<Worker>,
    /// Listeners given out so far.
    listeners: AtomicUsize,
}

/// One thread.
struct Worker {
    handle: Handle,
    load: Load,
}

/// Ends the threads, and with them whatever they still carry, when it is dropped.
pub struct Threads {
    all: Vec<Thread>,
}

struct Thread {
    /// Dropped: it ends.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Which of the workers.
#[derive(Clone, Copy)]
pub struct WorkerId(usize);

impl Workers {
    /// Starts `count` threads, at least one.
    pub fn start(count: usize) -> io::Result<(Workers, Threads)> {
        let mut threads = Threads { all: Vec::new() };
        let mut all = Vec::new();
        for number in 0..count.max(1) {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .global_queue_interval(REMOTE_EVERY)
                .build()?;
            let (stop, stopped) = oneshot::channel::<()>();
            all.push(Worker {
                handle: runtime.handle().clone(),
                load: Load::default(),
            });
            let thread = std::thread::Builder::new()
                .name(format!("worker {number}"))
                .spawn(move || {
                    runtime.block_on(until(stopped));
                    // Not waiting for what blocks in a thread of its own.
                    runtime.shutdown_background();
                })?;
            threads.all.push(Thread {
                stop: Some(stop),
                thread: Some(thread),
            });
        }
        let workers = Workers {
            all,
            listeners: AtomicUsize::new(0),
        };
        Ok((workers, threads))
    }

    /// Those that accept for the next listener: listeners take turns.
    pub fn for_listener(&self) -> impl Iterator<Item = WorkerId> + use<> {
        let (all, turn) = (
            self.all.len(),
            self.listeners.fetch_add(1, Ordering::Relaxed),
        );
        (0..all.min(ACCEPTING)).map(move |number| WorkerId(turn.wrapping_add(number) % all))
    }

    /// The runtime of one worker. Ids come from `for_listener` and so are never out of range.
    pub fn at(&self, WorkerId(number): WorkerId) -> &Handle {
        &self.all[number].handle
    }

    /// The one with the fewest connections, counted as one more. The one `here` if it has hardly
    /// more, because nobody has to be woken for it.
    pub fn for_connection(&self, here: WorkerId) -> (&Handle, Carried) {
        let mut least = &self.all[here.0];
        let mut fewest = least.load.connections();
        for worker in &self.all {
            let connections = worker.load.connections();
            if connections < fewest {
                (least, fewest) = (worker, connections);
            }
        }
        let here = &self.all[here.0];
        if here.load.connections() <= fewest + fewest / SLACK {
            least = here;
        }
        (&least.handle, least.load.carry())
    }
}

/// Ticks until `stopped`. Tokio wakes a thread for each timer that is due before all others, and so
/// for every connection, whose first timer is far away: unless something is always due earlier.
async fn until(mut stopped: oneshot::Receiver<()>) {
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            _ = &mut stopped => return,
            _ = tick.tick() => {}
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        for thread in &mut self.all {
            thread.stop.take();
        }
        for thread in &mut self.all {
            if let Some(thread) = thread.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

/// What other threads hand over is looked for after so many steps. With Tokio's 31 a connection
/// that was accepted elsewhere waits for tens of milliseconds while its worker is busy.
const REMOTE_EVERY: u32 = 2;

/// All workers that accept on a socket are woken for each of its connections when they have nothing
/// to do, so on large machines it is not for all to accept.
const ACCEPTING: usize = 4;

/// How many connections make room for one more than elsewhere.
const SLACK: usize = 8;

const TICK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_goes_where_fewest_are_and_stays_here_among_near_equals() {
        let (workers, _threads) = Workers::start(2).unwrap();
        let loads = || -> Vec<usize> {
            let connections = |worker: &Worker| worker.load.connections();
            workers.all.iter().map(connections).collect()
        };
        let mut carried: Vec<Carried> = Vec::new();
        for expected in [[1, 0], [1, 1], [2, 1], [2, 2]] {
            carried.push(workers.for_connection(WorkerId(0)).1);
            assert_eq!(loads(), expected);
        }
        while carried.len() < 40 {
            carried.push(workers.for_connection(WorkerId(0)).1);
        }
        let counted = loads();
        assert!(
            counted[0] > counted[1] && counted[0] <= counted[1] + 4,
            "{counted:?}"
        );
        carried.clear();
        assert_eq!(loads(), [0, 0]);
    }
}
