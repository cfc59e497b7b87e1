//! Clients and servers that take turns with the program between them.
//!
//! This is what makes counts repeat: no byte is sent to the program before all of its threads sleep. So
//! it is woken for each event alone, and never finds the next one there already, however fast or slow
//! this machine is. A busy gateway is woken less often than that.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use socket2::SockRef;

/// The program that is counted. No process before it is told.
#[derive(Clone, Default)]
pub struct Turn(Arc<AtomicU32>);

impl Turn {
    pub fn is_of(&self, pid: u32) {
        self.0.store(pid, Ordering::SeqCst);
    }

    /// Returns when every thread of the program sleeps, or when it has ended.
    fn wait(&self) -> Result<(), String> {
        let pid = self.0.load(Ordering::SeqCst);
        let end = Instant::now() + PATIENCE;
        while pid != 0 && !sleeps(pid) {
            if Instant::now() > end {
                return Err(format!("process {pid} does not come to rest"));
            }
            std::thread::yield_now();
        }
        Ok(())
    }
}

fn sleeps(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return true;
    };
    threads.flatten().all(|thread| {
        // A thread that ended meanwhile has no state, and does nothing either.
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit(") ").next().and_then(|s| s.chars().next());
        matches!(state, None | Some('S' | 'I' | 'Z'))
    })
}

/// One message of a client and the answer to it.
#[derive(Clone)]
pub struct Talk {
    pub ask: &'static str,
    /// How it ends, also as the program sends it on.
    pub end: &'static str,
    /// Its first line and its last bytes come to the client as they are.
    pub answer: String,
}

/// A server that gives one answer to everything, in its turn.
pub fn server(talk: Talk, turn: &Turn) -> Result<SocketAddr, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| format!("a server: {e}"))?;
    let addr = listener.local_addr().map_err(|e| e.to_string())?;
    let turn = turn.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (talk, turn) = (talk.clone(), turn.clone());
            std::thread::spawn(move || serve(stream, &talk, &turn));
        }
    });
    Ok(addr)
}

fn serve(mut stream: TcpStream, talk: &Talk, turn: &Turn) -> Result<(), String> {
    let (mut asked, mut chunk) = (Vec::new(), [0; 4096]);
    let _ = stream.set_nodelay(true);
    loop {
        let got = read(&mut stream, &mut chunk)?;
        asked.extend_from_slice(&chunk[..got]);
        if got == 0 {
            return Ok(());
        }
        if asked.ends_with(talk.end.as_bytes()) {
            asked.clear();
            turn.wait()?;
            stream
                .write_all(talk.answer.as_bytes())
                .map_err(|e| e.to_string())?;
        }
    }
}

/// Clients at `addr`, which ask one after the other.
pub struct Clients {
    pub addr: SocketAddr,
    pub talk: Talk,
    pub turn: Turn,
}

impl Clients {
    /// `asks` in all, over `connections` that stay open.
    pub fn keep_alive(&self, asks: u32, connections: usize) -> Result<(), String> {
        let streams: Result<Vec<TcpStream>, String> =
            (0..connections).map(|_| self.connect()).collect();
        let mut streams = streams?;
        for (_, nth) in (0..asks).zip((0..connections).cycle()) {
            self.ask(&mut streams[nth])?;
        }
        streams
            .into_iter()
            .try_for_each(|stream| self.leave(stream))
    }

    /// As many connections one after the other, with one message in each.
    pub fn connections(&self, connections: u32) -> Result<(), String> {
        for _ in 0..connections {
            let mut stream = self.connect()?;
            self.ask(&mut stream)?;
            self.leave(stream)?;
        }
        Ok(())
    }

    fn connect(&self) -> Result<TcpStream, String> {
        self.turn.wait()?;
        let failed = |e| format!("{}: {e}", self.addr);
        let stream = TcpStream::connect_timeout(&self.addr, PATIENCE).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        Ok(stream)
    }

    fn ask(&self, stream: &mut TcpStream) -> Result<(), String> {
        let sent = self.talk.answer.as_bytes();
        let last = &sent[sent.len().saturating_sub(5)..];
        let first = sent
            .split_inclusive(|byte| *byte == b'\n')
            .next()
            .unwrap_or(sent);
        self.turn.wait()?;
        stream
            .write_all(self.talk.ask.as_bytes())
            .map_err(|e| e.to_string())?;
        let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
        while !answer.ends_with(last) {
            let got = read(stream, &mut chunk)?;
            answer.extend_from_slice(&chunk[..got]);
            if got == 0 {
                let answer = String::from_utf8_lossy(&answer);
                return Err(format!("the answer ends early: {answer}"));
            }
        }
        match answer.starts_with(first) {
            true => Ok(()),
            false => Err(format!("refused: {}", String::from_utf8_lossy(&answer))),
        }
    }

    /// Says that it goes, and waits until the program has closed its side, too.
    fn leave(&self, mut stream: TcpStream) -> Result<(), String> {
        self.turn.wait()?;
        stream
            .shutdown(Shutdown::Write)
            .map_err(|e| e.to_string())?;
        let mut rest = Vec::new();
        stream
            .read_to_end(&mut rest)
            .map_err(|e| format!("it does not close: {e}"))?;
        // Not to run out of ports: no TIME_WAIT on this side.
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        drop(stream);
        self.turn.wait()
    }
}

/// As `Read::read`, also where this process was stopped meanwhile: Linux breaks off a read that has
/// a timeout then.
fn read(stream: &mut TcpStream, chunk: &mut [u8]) -> Result<usize, String> {
    loop {
        match stream.read(chunk) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            other => return other.map_err(|e| format!("nothing to read: {e}")),
        }
    }
}

pub const PATIENCE: Duration = Duration::from_secs(60);
