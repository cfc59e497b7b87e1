//! The socket on which a running gateway can be asked for its listening sockets.
//!
//! A path in the file system outlives processes: this decides who may bind it, who removes it, and
//! what becomes of one that a crash left behind. Invariants: only its owner and root reach it; a
//! path that belongs to another process or is no socket is never touched; at no moment of an
//! upgrade does the path lead nowhere. Made at start, and passed on by `old` and `new`.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use log::info;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::error::Error;

/// A listening upgrade socket; its path goes with it, unless another process has it by then.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    file: SocketFile,
    /// Whether the path is ours to remove.
    owns_path: AtomicBool,
}

/// A path, and the file that it led to when we last knew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Control {
    /// Listens on `path`, for this user and root only. What a crash left there is replaced.
    ///
    /// # Errors
    /// The path belongs to a running gateway or is no socket; the folder does not take it.
    pub fn bind(path: &Path) -> Result<Control, Error> {
        let failed = |source: std::io::Error| {
            Error::io(format!(
                "server.upgrade_sock: cannot listen on {}",
                path.display()
            ))
            .because(source)
        };
        if connect(path).is_ok() {
            return Err(Error::io(format!(
                "server.upgrade_sock: {} belongs to a running gateway",
                path.display()
            )));
        }
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let new = PathBuf::from(name);
        for taken in [path, &new] {
            if is_something_else(taken) {
                return Err(Error::io(format!(
                    "server.upgrade_sock: {} is there and is no socket",
                    taken.display()
                )));
            }
        }
        // Left over by a process that died between these lines.
        let _ = std::fs::remove_file(&new);
        let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None).map_err(failed)?;
        socket
            .bind(&SockAddr::unix(&new).map_err(failed)?)
            .map_err(failed)?;
        // Nobody can connect before it listens, so nobody can before this.
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        socket.listen(BACKLOG).map_err(failed)?;
        std::fs::rename(&new, path).map_err(failed)?;
        Ok(Control {
            listener: socket.into(),
            file: SocketFile::at(path).map_err(failed)?,
            owns_path: AtomicBool::new(true),
        })
    }

    /// Goes on with a socket that listens at `file` already and was handed over.
    ///
    /// # Errors
    /// The path was removed meanwhile, and cannot be bound again.
    pub(super) fn adopt(listener: UnixListener, file: SocketFile) -> Result<Control, Error> {
        if !file.is_as_it_was() {
            return Control::bind(&file.path);
        }
        Ok(Control {
            listener,
            file,
            owns_path: AtomicBool::new(true),
        })
    }

    /// Another handle of the listening socket, for an event loop.
    pub(super) fn listener(&self) -> std::io::Result<UnixListener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    /// Where it listens: `server.upgrade_sock`, or its default for this configuration file.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Removes the path, if it is still ours. Dropping does so, too: this is for an end that waits
    /// for nobody else who holds it.
    pub(super) fn close(&self) {
        if !self.owns_path.swap(false, Ordering::AcqRel) || !self.file.is_as_it_was() {
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.file.path) {
            // The account may have changed; who starts next replaces it.
            info!("{} stays: {error}", self.file.path.display());
        }
    }

    /// The path is the successor's now: or not, when it has died at this very moment.
    pub(super) fn owns_path(&self, owns: bool) {
        self.owns_path.store(owns, Ordering::Release);
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.close();
    }
}

impl SocketFile {
    /// # Errors
    /// There is nothing, or it may not be looked at.
    pub(super) fn at(path: &Path) -> std::io::Result<SocketFile> {
        let file = std::fs::symlink_metadata(path)?;
        Ok(SocketFile {
            path: path.to_owned(),
            device: file.dev(),
            inode: file.ino(),
        })
    }

    /// Whether the path still leads there. One that may not be looked at any more, by an account
    /// that was changed to, is taken to.
    fn is_as_it_was(&self) -> bool {
        match SocketFile::at(&self.path) {
            Ok(now) => now == *self,
            Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied,
        }
    }
}

/// Connects to whoever listens on `path`; waits for a moment only when many do.
pub(super) fn connect(path: &Path) -> std::io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
    socket.set_write_timeout(Some(CONNECT_TIMEOUT))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket.into())
}

fn is_something_else(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|file| !file.file_type().is_socket())
}

const BACKLOG: i32 = 16;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn the_socket_is_private_and_goes_with_its_owner() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("sock");
        let control = Control::bind(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        connect(&path).unwrap();
        let second = Control::bind(&path).unwrap_err().to_string();
        assert!(second.contains("running gateway"), "{second}");
        connect(&path).unwrap();
        drop(control);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_crash_left_is_replaced_and_another_file_is_not() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("sock");
        drop(UnixListener::bind(&path).unwrap());
        drop(UnixListener::bind(folder.path().join("sock.new")).unwrap());
        let control = Control::bind(&path).unwrap();
        connect(&path).unwrap();
        drop(control);
        std::fs::write(&path, "precious").unwrap();
        let refused = Control::bind(&path).unwrap_err().to_string();
        assert!(refused.contains("no socket"), "{refused}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_path_that_another_one_has_by_now_stays() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("sock");
        let old = Control::bind(&path).unwrap();
        let file = SocketFile::at(&path).unwrap();
        let new = Control::adopt(old.listener().unwrap(), file).unwrap();
        old.owns_path(false);
        drop(old);
        connect(&path).unwrap();
        // Removed from outside, and bound by another process.
        std::fs::remove_file(&path).unwrap();
        let other = Control::bind(&path).unwrap();
        drop(new);
        connect(&path).unwrap();
        drop(other);
        assert!(!path.exists());
    }

    #[test]
    fn a_path_that_vanished_is_bound_again() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("sock");
        let old = Control::bind(&path).unwrap();
        let file = SocketFile::at(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let new = Control::adopt(old.listener().unwrap(), file).unwrap();
        old.owns_path(false);
        drop(old);
        connect(&path).unwrap();
        drop(new);
        assert!(!path.exists());
    }
}
