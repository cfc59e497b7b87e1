//! The access log: one line for each request and each connection.
//!
//! Invariants: a worker never waits for a disk: logging is formatting and one copy into memory; the
//! queue is bounded in bytes and in lines, and what does not fit is dropped and counted.

mod record;
mod timestamp;
mod wall;
mod writer;

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use prometheus::IntCounter;

pub use record::{ClientAddress, Record};
pub use timestamp::{Second, rfc3339};
pub use wall::wall_clock;
use writer::Output;

/// Where records go. Dropping it writes what is queued, for at most two seconds.
pub struct AccessLog {
    on: Option<On>,
}

struct On {
    queue: Arc<Queue>,
    writer: Mutex<Writer>,
}

/// The thread that writes, before, while and after it runs.
enum Writer {
    Ready(Output),
    Running(JoinHandle<()>),
    Gone,
}

impl AccessLog {
    /// A log that keeps nothing.
    pub fn off() -> AccessLog {
        AccessLog { on: None }
    }

    /// A log on standard output. `dropped` counts the records that were not written.
    pub fn stdout(dropped: IntCounter) -> AccessLog {
        AccessLog::to(Output::stdout(), dropped)
    }

    /// A log in a file, which is opened now and appended to; it is made with mode 0640 when there
    /// is none. `dropped` counts the records that were not written.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn file(path: &Path, dropped: IntCounter) -> io::Result<AccessLog> {
        Ok(AccessLog::to(Output::file(path)?, dropped))
    }

    fn to(output: Output, dropped: IntCounter) -> AccessLog {
        AccessLog {
            on: Some(On {
                queue: Arc::new(Queue::new(dropped)),
                writer: Mutex::new(Writer::Ready(output)),
            }),
        }
    }

    /// Starts the thread that writes. Until then records are queued. Not part of making a log,
    /// because a process that forks keeps no thread but one.
    ///
    /// # Errors
    /// The thread cannot be started; the log is off for good and counts its records as dropped.
    pub fn start(&self) -> io::Result<()> {
        let Some(on) = &self.on else { return Ok(()) };
        let mut writer = locked(&on.writer);
        *writer = match std::mem::replace(&mut *writer, Writer::Gone) {
            Writer::Ready(output) => {
                let queue = Arc::clone(&on.queue);
                let thread = thread::Builder::new().name("access-log".into());
                on.queue.locked().running = true;
                let spawned = thread.spawn(move || queue.run(output));
                Writer::Running(spawned.inspect_err(|_| on.queue.abandon())?)
            }
            other => other,
        };
        Ok(())
    }

    /// Whether records are kept; a caller need not make them otherwise.
    pub fn is_on(&self) -> bool {
        self.on.is_some()
    }

    /// Queues a record. Never waits for the writer: when the queue is full, it is dropped and
    /// counted.
    pub fn log(&self, record: &Record<'_>) {
        let Some(on) = &self.on else { return };
        let mut desk = DESK.try_with(Cell::take).unwrap_or_default();
        desk.line.clear();
        record.write(&mut desk.line, &mut desk.second);
        on.queue.push(&desk.line);
        // Fails only while the thread ends, when the buffer is not needed any more.
        let _ = DESK.try_with(|kept| kept.set(desk));
    }

    /// Opens the file again before the next line is written (log rotation).
    pub fn reopen(&self) {
        if let Some(on) = &self.on {
            on.queue.locked().reopen = true;
            on.queue.wake.notify_one();
        }
    }

    /// Waits until everything logged so far is written, or counted as dropped; `false` when that
    /// took longer than `within`.
    pub fn flush(&self, within: Duration) -> bool {
        self.on.as_ref().is_none_or(|on| on.queue.flush(within))
    }

    /// Writes what is queued and stops; what is not written after `within` is lost.
    fn close(&mut self, within: Duration) {
        let Some(on) = self.on.take() else { return };
        let closed = on.queue.close(within);
        let writer = std::mem::replace(&mut *locked(&on.writer), Writer::Gone);
        match writer {
            Writer::Running(thread) if closed => {
                if thread.join().is_err() {
                    log::error!("the access log's writer panicked");
                }
            }
            Writer::Running(_) => log::warn!("the access log is stuck, its last lines are lost"),
            // The writer was never started, and this thread must not wait for a disk either.
            Writer::Ready(_) => on.queue.abandon(),
            Writer::Gone => {}
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.close(CLOSE);
    }
}

/// Lines between the workers and the writer, one after the other in one buffer.
struct Queue {
    state: Mutex<State>,
    /// There is something to do for the writer.
    wake: Condvar,
    /// The writer got further.
    progress: Condvar,
    dropped: IntCounter,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    /// Lines in `lines`.
    waiting: usize,
    /// Lines that were ever queued, and those that are through.
    queued: u64,
    through: u64,
    /// A caller waits in `flush`: no lingering.
    urgent: bool,
    reopen: bool,
    closing: bool,
    running: bool,
}

impl Queue {
    fn new(dropped: IntCounter) -> Queue {
        Queue {
            state: Mutex::default(),
            wake: Condvar::new(),
            progress: Condvar::new(),
            dropped,
        }
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.locked();
        let before = state.lines.len();
        let full = before + line.len() > QUEUE_BYTES || state.waiting == QUEUE_LINES;
        if full || state.closing {
            drop(state);
            self.dropped.inc();
            return;
        }
        state.lines.extend_from_slice(line);
        state.waiting += 1;
        state.queued += 1;
        let after = state.lines.len();
        drop(state);
        // The first line ends the writer's sleep, a full batch its lingering; in between it needs
        // no system call of ours.
        if before == 0 || (before < BATCH && after >= BATCH) {
            self.wake.notify_one();
        }
    }

    /// What the writer's thread does until the log is closed.
    fn run(&self, mut output: Output) {
        let mut batch = Vec::new();
        loop {
            let mut state = self.next();
            std::mem::swap(&mut state.lines, &mut batch);
            let lines = std::mem::take(&mut state.waiting);
            let reopen = std::mem::take(&mut state.reopen);
            let closing = state.closing;
            state.urgent = false;
            drop(state);

            if reopen {
                output.reopen();
            }
            output.write(&batch, &self.dropped);
            batch.clear();
            batch.shrink_to(KEPT_BYTES);

            let mut state = self.locked();
            state.through += lines as u64;
            // Nothing is queued once it is closing.
            state.running = !closing;
            drop(state);
            self.progress.notify_all();
            if closing {
                return;
            }
        }
    }

    /// Waits for something to do, then for a batch worth a write.
    fn next(&self) -> MutexGuard<'_, State> {
        let idle = |state: &mut State| state.lines.is_empty() && !state.reopen && !state.closing;
        let state = self.wake.wait_while(self.locked(), idle);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        let small = |state: &mut State| {
            state.lines.len() < BATCH && !state.urgent && !state.reopen && !state.closing
        };
        let state = self.wake.wait_timeout_while(state, LINGER, small);
        state.unwrap_or_else(PoisonError::into_inner).0
    }

    fn flush(&self, within: Duration) -> bool {
        let mut state = self.locked();
        let target = state.queued;
        state.urgent = state.through < target;
        self.wake.notify_one();
        let before = |state: &mut State| state.through < target;
        let waited = self.progress.wait_timeout_while(state, within, before);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.through >= target
    }

    /// Takes no more lines; whether the writer wrote the rest and ended in time.
    fn close(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let mut state = self.locked();
        state.closing = true;
        self.wake.notify_one();
        let within = deadline.saturating_duration_since(Instant::now());
        let running = |state: &mut State| state.running;
        let waited = self.progress.wait_timeout_while(state, within, running);
        !waited.unwrap_or_else(PoisonError::into_inner).0.running
    }

    /// Takes no more lines and drops those there are: no thread will write them.
    fn abandon(&self) {
        let mut state = self.locked();
        state.closing = true;
        state.running = false;
        state.lines = Vec::new();
        state.through = state.queued;
        let lost = std::mem::take(&mut state.waiting);
        drop(state);
        self.dropped.inc_by(lost as u64);
        self.progress.notify_all();
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }
}

/// Nothing that runs under these locks leaves its value half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    static DESK: Cell<Desk> = const {
        Cell::new(Desk {
            line: Vec::new(),
            second: Second::new(),
        })
    };
}

/// What a thread keeps between two records, so that one costs no allocation.
#[derive(Default)]
struct Desk {
    line: Vec<u8>,
    second: Second,
}

/// What the queue holds at most.
const QUEUE_BYTES: usize = 8 << 20;
const QUEUE_LINES: usize = 65_536;
/// What is worth a write at once, and how long less than that may wait for more.
const BATCH: usize = 64 << 10;
const LINGER: Duration = Duration::from_millis(50);
/// What a buffer keeps of its memory after a burst.
const KEPT_BYTES: usize = 1 << 20;
/// How long the last lines may take.
const CLOSE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
