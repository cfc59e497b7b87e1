//! The process log: to stderr, or to `server.log_file`, written by a thread of its own.
//!
//! A log that nobody reads (a full pipe, a hung disk) must not stop the gateway: failing requests
//! are logged by the workers that serve all others. Invariant: a caller that logs never waits; a
//! line that finds no room is dropped, and the number of dropped lines is logged as soon as there
//! is room again; a line is in the file that was there when it was logged, or in the one after.
//! Embedders bring a logger of their own.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use env_logger::{Builder, Env, Target};

use crate::error::Error;
use crate::server::process::daemon::point_output_at;

/// The running log. What was logged last is written when it is dropped.
pub(super) struct ProcessLog {
    lines: SyncSender<Line>,
    asked: Arc<Asked>,
    /// One more descriptor of the file.
    file: Option<File>,
}

impl ProcessLog {
    /// Starts logging to `file`, or to stderr. `RUST_LOG` overrides `filter`.
    ///
    /// # Errors
    /// The file cannot be opened, or no thread be started.
    pub(super) fn start(file: Option<&Path>, filter: &str) -> Result<ProcessLog, Error> {
        let sink = match file {
            Some(path) => Sink::File(path.to_owned(), open(path)?),
            None => Sink::Other(Box::new(io::stderr())),
        };
        let file = match &sink {
            Sink::File(path, file) => Some(file.try_clone().map_err(|e| cannot_open(path, e))?),
            Sink::Other(_) => None,
        };
        let entry = Entry::new(sink)?;
        let (lines, asked) = (entry.lines.clone(), entry.asked.clone());
        // A logger that is there already is an embedder's, and stays.
        let _ = Builder::from_env(Env::default().default_filter_or(filter))
            .target(Target::Pipe(Box::new(entry)))
            .try_init();
        Ok(ProcessLog { lines, asked, file })
    }

    /// What opens the file again (log rotation).
    pub(super) fn reopening(&self) -> Reopening {
        Reopening {
            lines: self.lines.clone(),
            asked: self.asked.clone(),
        }
    }

    /// The file, where stdout and stderr shall go too; they follow it when it is opened again.
    ///
    /// # Errors
    /// There is no further descriptor.
    pub(super) fn output(&self) -> Result<Option<File>, Error> {
        self.asked.output.store(true, Ordering::Release);
        let file = self.file.as_ref().map(File::try_clone).transpose();
        file.map_err(|source| Error::io("server.log_file: cannot be opened twice").because(source))
    }
}

/// Opens the log's file again.
pub(super) struct Reopening {
    lines: SyncSender<Line>,
    asked: Arc<Asked>,
}

impl Reopening {
    /// Before the next line is written, the file of the same name is opened, which may be another
    /// one. When that fails, it is logged and the old one is kept. Never waits.
    pub(super) fn now(&self) {
        self.asked.reopen.store(true, Ordering::Release);
        // A queue without room has a line that wakes the writer.
        let _ = self.lines.try_send(Line::Text(Vec::new()));
    }
}

/// What the thread that writes is asked for beside lines.
#[derive(Default)]
struct Asked {
    reopen: AtomicBool,
    /// Stdout and stderr go where the log goes.
    output: AtomicBool,
}

/// Where lines go.
enum Sink {
    File(PathBuf, File),
    Other(Box<dyn Write + Send>),
}

impl Sink {
    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Sink::File(_, file) => file,
            Sink::Other(other) => other,
        }
    }

    fn reopen(&mut self, asked: &Asked) {
        let Sink::File(path, file) = self else {
            return;
        };
        match open(path) {
            Ok(new) => {
                if asked.output.load(Ordering::Acquire) {
                    // Who still writes there writes to the old file.
                    let _ = point_output_at(&new);
                }
                *file = new;
            }
            Err(error) => {
                let _ = writeln!(file, "{error}; this file is written on");
            }
        }
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

fn open(path: &Path) -> Result<File, Error> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.map_err(|source| cannot_open(path, source))
}

fn cannot_open(path: &Path, source: io::Error) -> Error {
    Error::io(format!("server.log_file: cannot open {}", path.display())).because(source)
}

/// The end that the logger writes to: one call for each line.
struct Entry {
    lines: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
    asked: Arc<Asked>,
}

enum Line {
    Text(Vec<u8>),
    /// Everything before it is written when this is answered.
    Last(Sender<()>),
}

impl Entry {
    fn new(sink: Sink) -> Result<Entry, Error> {
        let (lines, waiting) = sync_channel(WAITING_LINES);
        let (dropped, asked) = (Arc::<AtomicU64>::default(), Arc::<Asked>::default());
        let entry = Entry {
            lines,
            dropped: dropped.clone(),
            asked: asked.clone(),
        };
        std::thread::Builder::new()
            .name("process log".to_string())
            .spawn(move || write_all(sink, &waiting, &dropped, &asked))
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

fn write_all(mut sink: Sink, waiting: &Receiver<Line>, dropped: &AtomicU64, asked: &Asked) {
    while let Ok(line) = waiting.recv() {
        if asked.reopen.swap(false, Ordering::AcqRel) {
            sink.reopen(asked);
        }
        let sink = sink.writer();
        // There is no other place to report that the log itself cannot be written.
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
        let mut entry = Entry::new(Sink::Other(Box::new(Stuck {
            door: door.clone(),
            written: written.clone(),
        })))
        .unwrap();
        let logged = 3 * WAITING_LINES;
        for n in 0..logged {
            entry.write_all(format!("{n}\n").as_bytes()).unwrap();
        }
        drop(closed);
        let log = ProcessLog {
            lines: entry.lines.clone(),
            asked: entry.asked.clone(),
            file: None,
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
        let reports = text.lines().filter(|line| line.contains("were dropped"));
        let lost: usize = reports
            .map(|line| line.split(' ').next().unwrap().parse::<usize>().unwrap())
            .sum();
        let whole = text.lines().filter(|line| !line.contains(' ')).count();
        assert_eq!(whole + lost, logged);
        assert!(lost >= logged - WAITING_LINES - 1, "{lost}");
    }

    #[test]
    fn a_rotated_log_goes_on_in_the_new_file_and_loses_no_line() {
        let folder = tempfile::TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        let path = at("a.log");
        let mut entry = Entry::new(Sink::File(path.clone(), open(&path).unwrap())).unwrap();
        let log = ProcessLog {
            lines: entry.lines.clone(),
            asked: entry.asked.clone(),
            file: None,
        };
        let rotations = 20;
        for n in 0..rotations {
            for line in 0..10 {
                entry.write_all(format!("{n} {line}\n").as_bytes()).unwrap();
            }
            let (written, is_written) = channel();
            log.lines.send(Line::Last(written)).unwrap();
            is_written.recv_timeout(Duration::from_secs(5)).unwrap();
            std::fs::rename(&path, at(&n.to_string())).unwrap();
            log.reopening().now();
        }
        entry.write_all(b"last\n").unwrap();
        let (written, is_written) = channel();
        log.lines.send(Line::Last(written)).unwrap();
        is_written.recv_timeout(Duration::from_secs(5)).unwrap();
        for n in 0..rotations {
            let expected: String = (0..10).map(|line| format!("{n} {line}\n")).collect();
            let text = std::fs::read_to_string(at(&n.to_string())).unwrap();
            assert_eq!(text, expected);
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "last\n");
    }

    #[test]
    fn a_file_that_cannot_be_opened_again_is_written_on() {
        let folder = tempfile::TempDir::new().unwrap();
        let inner = folder.path().join("logs");
        std::fs::create_dir(&inner).unwrap();
        let path = inner.join("a.log");
        let mut sink = Sink::File(path.clone(), open(&path).unwrap());
        std::fs::rename(&inner, folder.path().join("moved")).unwrap();
        sink.reopen(&Asked::default());
        sink.writer().write_all(b"line\n").unwrap();
        let text = std::fs::read_to_string(folder.path().join("moved/a.log")).unwrap();
        assert!(
            text.contains("cannot open") && text.ends_with("line\n"),
            "{text}"
        );
    }
}
