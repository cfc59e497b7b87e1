//! The pid file: one live gateway for one file.
//!
//! Two starters may race here. Invariants: the process that holds the file has it locked for as
//! long as it lives, so an unlocked file is stale whatever it names; a file with a pid in it
//! appears whole or not at all; at the end only a file that still names us goes. Claimed by the
//! server before it binds.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;

/// A pid file that names this process. Removed by Drop.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    /// Locked, and open for who may no longer remove it.
    file: File,
    /// Not while it is still that of the process we take over from.
    ours: AtomicBool,
}

impl PidFile {
    /// Writes our pid to `path`, over a stale one too.
    ///
    /// # Errors
    /// Another live process holds it, or it cannot be written.
    pub fn claim(path: &Path) -> Result<PidFile, Error> {
        for _ in 0..ATTEMPTS {
            let before = match File::open(path) {
                Ok(before) => before,
                Err(error) if error.kind() == ErrorKind::NotFound => match place(path, Put::New) {
                    Ok(claimed) => return Ok(claimed),
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                    Err(error) => return Err(cannot("written", path, error)),
                },
                Err(error) => return Err(cannot("read", path, error)),
            };
            match before.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(held(path, before)),
                Err(TryLockError::Error(error)) => return Err(cannot("locked", path, error)),
            }
            // Another process may have put its own there since it was opened.
            if is_at(&before, path) {
                return place(path, Put::Over).map_err(|error| cannot("written", path, error));
            }
        }
        Err(Error::io(format!(
            "server.pid_file: {} changes all the time",
            path.display()
        )))
    }

    /// Goes on with a descriptor that the holder of `path` has given, and with its lock, which is
    /// that of the open file (flock(2)). `None` when it is another file's. Until
    /// [`settle`](PidFile::settle) the file stays the old holder's, who may yet go on.
    pub fn inherit(path: &Path, held: OwnedFd) -> Option<PidFile> {
        let file = File::from(held);
        is_at(&file, path).then(|| PidFile {
            path: path.to_owned(),
            file,
            ours: AtomicBool::new(false),
        })
    }

    /// The old holder goes: from now on the file ends with us.
    pub fn settle(&self) {
        self.ours.store(true, Ordering::Release);
    }

    /// For who inherits it.
    ///
    /// # Errors
    /// There is no room for another descriptor.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.file.try_clone().map(OwnedFd::from)
    }
}

/// Writes our pid into the pid file behind `descriptor`. In place: its folder may be closed to the
/// account we have by now. A successor does so before the old process may go, which removes a file
/// that still names it; the old process does so when it stays after all.
///
/// # Errors
/// It cannot be written.
pub fn name_us(descriptor: impl AsFd) -> io::Result<()> {
    let file = File::from(descriptor.as_fd().try_clone_to_owned()?);
    let line = line();
    file.write_all_at(line.as_bytes(), 0)?;
    file.set_len(line.len() as u64)
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if !self.ours.load(Ordering::Acquire) {
            return;
        }
        let names_us = fs::read_to_string(&self.path).is_ok_and(|text| text == line());
        if !names_us || !is_at(&self.file, &self.path) {
            return;
        }
        if fs::remove_file(&self.path).is_err() {
            // The folder may be closed to the account that was changed to; an empty file names
            // nobody.
            let _ = self.file.set_len(0);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Put {
    New,
    Over,
}

/// Puts a locked file with our pid to `path`, in one step.
fn place(path: &Path, put: Put) -> io::Result<PidFile> {
    let mut own = path.to_owned().into_os_string();
    own.push(format!(".{}", std::process::id()));
    let own = PathBuf::from(own);
    // Of a process with our pid that is gone.
    let _ = fs::remove_file(&own);
    let mut file = File::options().write(true).create_new(true).open(&own)?;
    let placed = file
        .lock()
        .and_then(|()| file.write_all(line().as_bytes()))
        .and_then(|()| match put {
            Put::New => fs::hard_link(&own, path),
            Put::Over => fs::rename(&own, path),
        });
    // Renamed it is not there, and otherwise it is in the way.
    let _ = fs::remove_file(&own);
    placed.map(|()| PidFile {
        path: path.to_owned(),
        file,
        ours: AtomicBool::new(true),
    })
}

/// Whether `path` is `file`.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let (file, at) = (file.metadata(), fs::metadata(path));
    file.map(identity).ok() == at.map(identity).ok()
}

fn line() -> String {
    format!("{}\n", std::process::id())
}

fn held(path: &Path, before: File) -> Error {
    let mut text = String::new();
    let _ = before.take(MAX_PID).read_to_string(&mut text);
    Error::io(format!(
        "server.pid_file: {} is held by the running process {}: stop it, or take over from it \
         with -u",
        path.display(),
        text.trim()
    ))
}

fn cannot(what: &str, path: &Path, error: io::Error) -> Error {
    let message = format!("server.pid_file: {} cannot be {what}", path.display());
    Error::io(message).because(error)
}

const ATTEMPTS: usize = 100;
/// Bytes of a pid file that are read.
const MAX_PID: u64 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("gateway.pid");
        (folder, path)
    }

    #[test]
    fn it_names_us_while_it_is_held_and_leaves_nothing() {
        let (_folder, path) = place();
        let held = PidFile::claim(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), line());
        drop(held);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn a_held_one_is_refused_with_its_pid_and_a_stale_one_replaced() {
        let (_folder, path) = place();
        for stale in ["", "nonsense", "1\n", &line()] {
            fs::write(&path, stale).unwrap();
            let held = PidFile::claim(&path).unwrap();
            let refused = PidFile::claim(&path).unwrap_err().to_string();
            assert!(refused.contains(line().trim()), "{refused}");
            assert!(refused.contains(path.to_str().unwrap()), "{refused}");
            assert_eq!(fs::read_to_string(&path).unwrap(), line());
            drop(held);
            assert!(!path.exists());
        }
    }

    #[test]
    fn who_took_over_keeps_the_file_when_the_old_one_ends() {
        let (_folder, path) = place();
        let old = PidFile::claim(&path).unwrap();
        let new = PidFile::inherit(&path, old.descriptor().unwrap()).unwrap();
        assert!(
            PidFile::inherit(&path.with_extension("other"), old.descriptor().unwrap()).is_none()
        );
        drop(new);
        assert!(path.exists(), "the upgrade failed, the old one goes on");
        let new = PidFile::inherit(&path, old.descriptor().unwrap()).unwrap();
        // The old one has another pid than we, who are both here.
        fs::write(&path, "1234567890\n").unwrap();
        drop(old);
        assert!(PidFile::claim(&path).is_err(), "the new one holds it");
        name_us(&new.file).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), line());
        new.settle();
        drop(new);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_names_another_is_left_alone() {
        let (_folder, path) = place();
        let held = PidFile::claim(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(held);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
    }
}
