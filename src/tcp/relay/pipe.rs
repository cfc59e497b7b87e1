//! Kernel pipes for `splice(2)`, shared by all relays of one gateway.
//!
//! Pipes are descriptors, which need an owner and a bound. Invariants: never more than `most` pipes
//! exist; a pipe that comes back with bytes in it is closed, so no session can ever get another
//! one's bytes; a [`Pipe`] is filled only while it is empty, since a full pipe and an empty socket
//! give the same error.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

/// The pipes of one gateway. Made when first needed, then kept.
pub struct Pipes {
    idle: Mutex<Vec<Ends>>,
    /// Those in `idle` and those in use.
    made: AtomicUsize,
    most: usize,
}

/// One pipe with what is in it. Goes back to its [`Pipes`] when dropped empty.
pub(super) struct Pipe {
    /// `None` only while it is dropped.
    ends: Option<Ends>,
    filled: usize,
    home: Arc<Pipes>,
}

struct Ends {
    read: OwnedFd,
    write: OwnedFd,
    /// In bytes. Packets smaller than a page fill a page each, so it may take less than that.
    capacity: usize,
}

impl Pipes {
    /// At most `most` pipes, of two descriptors each. With 0 nothing is ever spliced.
    pub fn new(most: usize) -> Arc<Pipes> {
        Arc::new(Pipes {
            idle: Mutex::new(Vec::new()),
            made: AtomicUsize::new(0),
            most,
        })
    }

    /// An empty pipe; `None` when all are in use or the system gives no (large enough) one.
    pub(super) fn take(self: &Arc<Pipes>) -> Option<Pipe> {
        let kept = self.idle().pop();
        let ends = match kept {
            Some(ends) => ends,
            None => self.make()?,
        };
        Some(Pipe {
            ends: Some(ends),
            filled: 0,
            home: Arc::clone(self),
        })
    }

    fn make(&self) -> Option<Ends> {
        self.made
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |made| {
                (made < self.most).then_some(made + 1)
            })
            .ok()?;
        let ends = Ends::new().ok().filter(|ends| ends.capacity >= LEAST_SIZE);
        if ends.is_none() {
            self.made.fetch_sub(1, Ordering::Relaxed);
        }
        ends
    }

    #[cfg(test)]
    pub(super) fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Ends>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pipes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipes")
            .field("made", &self.made.load(Ordering::Relaxed))
            .field("most", &self.most)
            .finish_non_exhaustive()
    }
}

impl Pipe {
    /// How many bytes are in it.
    pub(super) fn filled(&self) -> usize {
        self.filled
    }

    /// Moves what `source` has into the empty pipe. `Ok(0)` is the end of the stream, `WouldBlock`
    /// means that nothing was there.
    pub(super) fn fill(&mut self, source: impl AsFd) -> io::Result<usize> {
        debug_assert_eq!(self.filled, 0, "a pipe is filled only while it is empty");
        let (write, capacity) = match &self.ends {
            Some(ends) => (&ends.write, ends.capacity),
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        let moved = retried(|| splice(&source, None, write, None, capacity, flags()))?;
        self.filled += moved;
        Ok(moved)
    }

    /// Moves what is in the pipe to `sink`, as much as it takes.
    pub(super) fn drain(&mut self, sink: impl AsFd) -> io::Result<usize> {
        let read = match &self.ends {
            Some(ends) => &ends.read,
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        let moved = retried(|| splice(read, None, &sink, None, self.filled, flags()))?;
        if moved == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.filled = self.filled.saturating_sub(moved);
        Ok(moved)
    }

    /// Puts bytes in, for tests whose sockets are no sockets.
    #[cfg(test)]
    pub(super) fn put(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert_eq!(self.filled, 0, "a pipe is filled only while it is empty");
        let ends = self.ends.as_ref().expect("not dropped");
        let moved = retried(|| nix::unistd::write(&ends.write, bytes))?;
        self.filled += moved;
        Ok(moved)
    }

    /// Gets bytes out, for tests whose sockets are no sockets.
    #[cfg(test)]
    pub(super) fn get(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let ends = self.ends.as_ref().expect("not dropped");
        let moved = retried(|| nix::unistd::read(&ends.read, into))?;
        self.filled -= moved;
        Ok(moved)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let Some(ends) = self.ends.take() else { return };
        if self.filled == 0 {
            self.home.idle().push(ends);
        } else {
            drop(ends);
            self.home.made.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Ends {
    fn new() -> nix::Result<Ends> {
        let (read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        // Refused (EPERM) when this user has too many pipe pages already: the size stays.
        let _refused = fcntl(&write, FcntlArg::F_SETPIPE_SZ(SIZE));
        let capacity = usize::try_from(fcntl(&write, FcntlArg::F_GETPIPE_SZ)?).unwrap_or(0);
        Ok(Ends {
            read,
            write,
            capacity,
        })
    }
}

fn flags() -> SpliceFFlags {
    // Not SPLICE_F_MORE: it would hold the last packet back for up to 200 ms.
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}

fn retried(mut call: impl FnMut() -> nix::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result.map_err(io::Error::from),
        }
    }
}

/// Asked for, in bytes.
const SIZE: i32 = 512 * 1024;

/// A pipe smaller than this is no better than copying. The system gives such pipes to users who
/// have many already (`fs.pipe-user-pages-soft`).
const LEAST_SIZE: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_more_than_allowed_and_empty_ones_are_used_again() {
        let pipes = Pipes::new(2);
        let (first, second) = (pipes.take().unwrap(), pipes.take().unwrap());
        assert!(pipes.take().is_none());
        drop(first);
        let third = pipes.take().unwrap();
        assert!(pipes.take().is_none());
        drop((second, third));
        assert_eq!(pipes.made(), 2);
        assert_eq!(pipes.idle().len(), 2);
        assert!(Pipes::new(0).take().is_none());
    }

    #[test]
    fn one_with_bytes_in_it_is_never_given_to_anybody_else() {
        let pipes = Pipes::new(1);
        let mut pipe = pipes.take().unwrap();
        assert_eq!(pipe.put(b"secret").unwrap(), 6);
        drop(pipe);
        let mut pipe = pipes.take().expect("its place is free again");
        assert_eq!(pipe.filled(), 0);
        let nothing = pipe.get(&mut [0; 10]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }
}
