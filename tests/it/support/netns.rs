//! A network namespace with one cable to this machine: another host, as far as a server can tell. Some
//! servers treat their own host with leniency.
//!
//! Needs root and iproute2. Name and addresses are nobody else's, and all of it goes when the value is
//! dropped.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, unshare};

use super::daemon::{is_root, output, program};

/// A namespace of its own, until dropped.
pub struct Netns {
    name: String,
    outside: Ipv4Addr,
    inside: Ipv4Addr,
}

impl Netns {
    #[track_caller]
    pub fn new() -> Netns {
        assert!(
            is_root(),
            "this test needs root: it makes a network namespace, to be seen as another host"
        );
        let mut last = String::new();
        for _ in 0..20 {
            let nth = NEXT.fetch_add(1, Ordering::Relaxed);
            // 10.231.0.0/16 in portions of four addresses, somewhere else for each process.
            let portion = std::process::id().wrapping_mul(61).wrapping_add(nth) % (1 << 14);
            let base = u32::from(Ipv4Addr::new(10, 231, 0, 0)) + portion * 4;
            let netns = Netns {
                name: format!("hr{}x{nth}", std::process::id()),
                outside: Ipv4Addr::from(base + 1),
                inside: Ipv4Addr::from(base + 2),
            };
            match netns.make() {
                Ok(()) => return netns,
                Err(error) => last = error,
            }
        }
        panic!("no network namespace can be made: {last}");
    }

    /// The address of this machine, seen from inside.
    pub fn outside(&self) -> Ipv4Addr {
        self.outside
    }

    /// The address of the namespace, seen from here.
    pub fn inside(&self) -> Ipv4Addr {
        self.inside
    }

    /// A program that runs inside; its process is the program itself.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = ip();
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    fn make(&self) -> Result<(), String> {
        let (name, here, there) = (&*self.name, self.end("h"), self.end("n"));
        run(&["netns", "add", name])?;
        run(&["link", "add", &here, "type", "veth", "peer", "name", &there])?;
        run(&["link", "set", &there, "netns", name])?;
        run(&["addr", "add", &format!("{}/30", self.outside), "dev", &here])?;
        run(&["link", "set", &here, "up"])?;
        let inside = format!("{}/30", self.inside);
        run(&["-n", name, "addr", "add", &inside, "dev", &there])?;
        run(&["-n", name, "link", "set", &there, "up"])?;
        run(&["-n", name, "link", "set", "lo", "up"])
    }

    fn end(&self, side: &str) -> String {
        format!("{}{side}", self.name)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // The cable goes first: a namespace stays while anything of it is in use.
        let _not_made = run(&["link", "del", &self.end("h")]);
        let _not_made = run(&["netns", "del", &self.name]);
    }
}

/// Runs `test` in a thread with a network of its own, where no port is taken: what it starts is in
/// there with it, threads and processes. For tests of files that name ports.
#[track_caller]
pub fn alone(test: impl FnOnce() + Send + 'static) {
    assert!(
        is_root(),
        "this test needs root: it makes a network namespace, for ports of its own"
    );
    // The namespace is that of one thread, which the runner of the tests must not get back.
    let name = std::thread::current().name().map(str::to_owned);
    let thread = std::thread::Builder::new()
        .name(name.unwrap_or_default())
        .spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may make a namespace");
            run(&["link", "set", "lo", "up"]).expect("there is a loopback in it");
            test();
        })
        .expect("one more thread");
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn run(words: &[&str]) -> Result<(), String> {
    output(ip().args(words))
        .map(drop)
        .map_err(|error| format!("ip {words:?}: {error}"))
}

fn ip() -> Command {
    Command::new(program("ip", &[], "iproute2"))
}

static NEXT: AtomicU32 = AtomicU32::new(0);
