//! Where the lines go: a file or standard output, written by one thread.
//!
//! Its own file because only this side, which the access log runs on its own thread, may wait for a
//! disk. Invariant: every line that was taken is either written whole or counted as dropped, and
//! the file never holds half a line followed by another.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use prometheus::IntCounter;

/// An open destination of lines.
pub(super) struct Output {
    sink: Sink,
    /// The last write failed. Logged when it begins and when it ends, not for each line.
    failing: bool,
    /// A write broke off inside a line.
    torn: bool,
}

enum Sink {
    /// Not a copy of the descriptor: becoming a daemon points it elsewhere.
    Stdout,
    File(PathBuf, File),
}

impl Output {
    pub(super) fn stdout() -> Output {
        Output::new(Sink::Stdout)
    }

    /// Appends to a file, made with mode 0640 when there is none.
    pub(super) fn file(path: &Path) -> io::Result<Output> {
        Ok(Output::new(Sink::File(path.to_owned(), open(path)?)))
    }

    fn new(sink: Sink) -> Output {
        Output {
            sink,
            failing: false,
            torn: false,
        }
    }

    /// Opens the file of the same name, which may be another one after a rotation. When that
    /// fails, the old file is kept.
    pub(super) fn reopen(&mut self) {
        if let Sink::File(path, file) = &mut self.sink {
            match open(path) {
                Ok(new) => {
                    *file = new;
                    self.torn = false;
                }
                Err(error) => log::error!(
                    "access log {} cannot be opened again, writing to the old one: {error}",
                    path.display()
                ),
            }
        }
    }

    /// Writes whole lines; those that could not be written are counted as dropped.
    pub(super) fn write(&mut self, lines: &[u8], dropped: &IntCounter) {
        let mut written = 0;
        let result = self.write_from(lines, &mut written);
        if written > 0 {
            self.torn = lines[written - 1] != b'\n';
        }
        match result {
            Ok(()) if self.failing => {
                self.failing = false;
                log::warn!("access log {} is written again", self.name());
            }
            Ok(()) => {}
            Err(error) => {
                let lost = lines[written..].iter().filter(|byte| **byte == b'\n');
                dropped.inc_by(lost.count() as u64);
                if !self.failing {
                    self.failing = true;
                    log::error!("access log {} cannot be written: {error}", self.name());
                }
            }
        }
    }

    fn write_from(&mut self, lines: &[u8], written: &mut usize) -> io::Result<()> {
        if self.torn {
            self.sink.write_all(b"\n")?;
            self.torn = false;
        }
        while *written < lines.len() {
            match self.sink.write(&lines[*written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => *written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.sink.flush()
    }

    fn name(&self) -> String {
        match &self.sink {
            Sink::Stdout => "on standard output".to_owned(),
            Sink::File(path, _) => path.display().to_string(),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Sink::Stdout => io::stdout().write(bytes),
            Sink::File(_, file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Sink::Stdout => io::stdout().flush(),
            Sink::File(_, file) => file.flush(),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}
