//! The process log: to stderr, or to `server.log_file`, written by a thread of its own.
//!
//! Its own file because a log that nobody reads (a full pipe, a hung disk) must not stop the
//! gateway: failing requests are logged by the workers that serve all others. Invariant: whoever
//! logs never waits; a line that finds no room is dropped, and how many were is told in the log as
//! soon as there is room again. Started by the command line; embedders bring a logger of their own.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use env_logger::{Builder, Env, Target};

use crate::error::Error;

/// The running log. What was logged last is written when it is dropped.
pub struct ProcessLog {
    lines: SyncSender<Line>,
}

impl ProcessLog {
    /// Starts logging to `file`, or to stderr. `RUST_LOG` overrides `filter`.
    ///
    /// # Errors
    /// The file cannot be opened, or no thread be started.
    pub fn start(file: Option<&Path>, filter: &str) -> Result<ProcessLog, Error> {
        let sink: Box<dyn Write + Send> = match file {
            Some(path) => Box::new(open(path)?),
            None => Box::new(io::stderr()),
        };
        let entry = Entry::new(sink)?;
        let lines = entry.lines.clone();
        // A logger that is there already is an embedder's, and stays.
        let _ = Builder::from_env(Env::default().default_filter_or(filter))
            .target(Target::Pipe(Box::new(entry)))
            .try_init();
        Ok(ProcessLog { lines })
    }
}

impl Drop for ProcessLog {
    fn drop(&mut self) {
        let (written, is_written) = channel();
        if self.lines.try_send(Line::Last(written)).is_ok() {
            // A log that takes longer is not read by anybody.
            let _ = is_written.recv_timeout(LAST_LINES);
        }
    }
}

fn open(path: &Path) -> Result<std::fs::File, Error> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.map_err(|source| {
        Error::io(format!("server.log_file: cannot open {}", path.display())).because(source)
    })
}

/// The end that the logger writes to: one call for each line.
struct Entry {
    lines: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

enum Line {
    Text(Vec<u8>),
    /// Everything before it is written when this is answered.
    Last(Sender<()>),
}

impl Entry {
    fn new(sink: Box<dyn Write + Send>) -> Result<Entry, Error> {
        let (lines, waiting) = sync_channel(WAITING_LINES);
        let dropped = Arc::new(AtomicU64::new(0));
        let entry = Entry {
            lines,
            dropped: dropped.clone(),
        };
        std::thread::Builder::new()
            .name("process log".to_string())
            .spawn(move || write_all(sink, &waiting, &dropped))
            .map_err(|source| Error::io("cannot start a thread").because(source))?;
        Ok(entry)
    }
}

impl Write for Entry {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lines.try_send(Line::Text(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(mut sink: Box<dyn Write + Send>, waiting: &Receiver<Line>, dropped: &AtomicU64) {
    while let Ok(line) = waiting.recv() {
        // There is no other place to tell that the log itself cannot be written.
        match line {
            Line::Text(line) => {
                let _ = sink.write_all(&line);
            }
            Line::Last(written) => {
                let _ = sink.flush();
                let _ = written.send(());
            }
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(
                sink,
                "{lost} lines of this log were dropped: nobody read it"
            );
        }
    }
}

/// Lines that wait for the disk or the reader; more are dropped.
const WAITING_LINES: usize = 1024;
/// How long the last lines may take at the end of the program.
const LAST_LINES: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Takes nothing before its door is open.
    struct Stuck {
        door: Arc<Mutex<()>>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _open = self.door.lock().unwrap();
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn whoever_logs_never_waits_and_what_is_lost_is_told() {
        let (door, written) = (Arc::new(Mutex::new(())), Arc::new(Mutex::new(Vec::new())));
        let closed = door.lock().unwrap();
        let mut entry = Entry::new(Box::new(Stuck {
            door: door.clone(),
            written: written.clone(),
        }))
        .unwrap();
        let logged = 3 * WAITING_LINES;
        for n in 0..logged {
            entry.write_all(format!("{n}\n").as_bytes()).unwrap();
        }
        drop(closed);
        let log = ProcessLog {
            lines: entry.lines.clone(),
        };
        // The queue may still be full, and then the last word is not waited for.
        let mut last = channel();
        while log.lines.try_send(Line::Last(last.0)).is_err() {
            last = channel();
            std::thread::yield_now();
        }
        last.1.recv_timeout(Duration::from_secs(5)).unwrap();
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert!(text.starts_with("0\n"), "{text:.20}");
        let told = text.lines().filter(|line| line.contains("were dropped"));
        let lost: usize = told
            .map(|line| line.split(' ').next().unwrap().parse::<usize>().unwrap())
            .sum();
        let whole = text.lines().filter(|line| !line.contains(' ')).count();
        assert_eq!(whole + lost, logged);
        assert!(lost >= logged - WAITING_LINES - 1, "{lost}");
    }
}
