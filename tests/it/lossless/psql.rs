//! One psql session that is asked one thing after another; `support::postgres` has single commands.
//!
//! An answer comes in time or the test fails. The session is ended when the value is dropped.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::support::Postgres;

/// A running psql, which ends at the first error.
pub struct Psql {
    child: Child,
    lines: Receiver<String>,
}

impl Psql {
    #[track_caller]
    pub fn start(addr: SocketAddr) -> Psql {
        let mut child = Postgres::psql(addr)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("psql starts");
        let out = BufReader::new(child.stdout.take().expect("a pipe was asked for"));
        let (line, lines) = channel();
        std::thread::spawn(move || {
            for text in out.lines().map_while(Result::ok) {
                // Nobody asks any more.
                let _ = line.send(text);
            }
        });
        Psql { child, lines }
    }

    /// The one line that `query` is answered with.
    #[track_caller]
    pub fn ask(&mut self, query: &str) -> String {
        self.tell(query);
        self.lines
            .recv_timeout(Duration::from_secs(20))
            .unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// Something that is answered with nothing.
    #[track_caller]
    pub fn tell(&mut self, command: &str) {
        let input = self.child.stdin.as_mut().expect("a pipe was asked for");
        writeln!(input, "{command};").expect("psql reads");
    }

    /// Leaves; psql must have been content to the end.
    #[track_caller]
    pub fn leave(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().expect("the child is ours").success());
        assert_eq!(self.lines.try_recv().ok(), None, "nobody asked for that");
    }
}

impl Drop for Psql {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
