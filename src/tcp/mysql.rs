//! The beginning of a MySQL or MariaDB session on a route with several endpoints, up to its first
//! command of its own: a `KILL` belongs to the server of the thread that it names.
//!
//! The server speaks first and its salt is in the client's proof, so a session cannot move once it
//! is logged in, and what it wants is said only then. So a client that may be about to kill (one of
//! its sessions waits for an answer, at another server) is asked for a second proof before it
//! receives the OK of its login (AuthSwitchRequest), and logged in at that server too; its first
//! command decides which of the two it has. Invariants: a KILL never reaches a server at which
//! another session of the gateway has that id, unless it is the only one that has it; no server
//! sees an abandoned handshake; what is passed on is passed on unchanged; whatever cannot be read
//! (TLS, compression) is relayed as it is. Long because all steps of the login share one state.

mod second;

use std::net::SocketAddr;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep_until, timeout};

use self::second::{Greeted, Second};
use super::routed::Routed;
use super::threads::{PATIENCE, Thread};
use crate::error::Reason;
use crate::telemetry::Direction;
use crate::transport::Transport;
use crate::wire::mysql::{self, Answer, Command, Greeting, Packet};

/// A session that goes on in a relay.
pub(super) struct Begun {
    pub client: Transport,
    pub server: Transport,
    /// What the server gets first, and what the client does.
    pub to_server: Bytes,
    pub to_client: Bytes,
    /// What both have got already.
    pub up: u64,
    pub down: u64,
    pub thread: Option<Thread>,
    /// It has begun, and is to end like this.
    pub over: Option<Reason>,
}

/// Both sides while they are watched.
struct LoginRelay<'t, 'r> {
    routed: &'t Routed<'r>,
    client: Transport,
    server: Transport,
    /// Where `server` is.
    at: SocketAddr,
    preface: Bytes,
    from_client: BytesMut,
    from_server: BytesMut,
    up: u64,
    down: u64,
    thread: Option<Thread>,
    /// The login that was passed on, and the salt's method, until it is answered.
    login: Option<Bytes>,
    native: bool,
    second: Option<Second>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Greeting,
    Login,
    /// The server is to say whether it lets the client in.
    Verdict,
    Commands {
        seen: u32,
    },
}

/// Whether it is still to be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    On,
    Done,
}

/// What there is to read.
enum Ready {
    Client,
    Server,
    /// The second login was not needed in time.
    Unneeded,
    Idle,
}

impl Routed<'_> {
    /// The servers of the route.
    fn servers(&self) -> Vec<SocketAddr> {
        let endpoints = self.route.upstream.endpoints();
        endpoints.iter().map(|endpoint| endpoint.addr()).collect()
    }

    /// Watches a session begin.
    pub(super) async fn begin_mysql(
        &self,
        client: Transport,
        server: Transport,
        at: SocketAddr,
        preface: Bytes,
    ) -> Begun {
        let mut login = LoginRelay {
            routed: self,
            client,
            server,
            at,
            preface,
            from_client: BytesMut::new(),
            from_server: BytesMut::new(),
            up: 0,
            down: 0,
            thread: None,
            login: None,
            native: false,
            second: None,
            stage: Stage::Greeting,
        };
        let over = tokio::select! {
            biased;
            () = self.sessions.cut_off() => Some(Reason::Drained),
            over = login.run() => over,
        };
        if let Some(second) = login.second.take() {
            second.leave();
        }
        Begun {
            client: login.client,
            server: login.server,
            to_server: login.from_client.freeze(),
            to_client: login.from_server.freeze(),
            up: login.up,
            down: login.down,
            thread: login.thread,
            over,
        }
    }
}

impl LoginRelay<'_, '_> {
    /// To the point from which both are relayed; a reason when it is over before.
    async fn run(&mut self) -> Option<Reason> {
        // Whoever has gone is found by the relay.
        let preface = std::mem::take(&mut self.preface);
        self.server.write_all(&preface).await.ok()?;
        self.server.flush().await.ok()?;
        loop {
            let read = match self.ready().await {
                Ready::Idle => return Some(Reason::IdleTimeout),
                Ready::Unneeded => {
                    self.second.take()?.leave();
                    continue;
                }
                Ready::Client if self.stage == Stage::Greeting => return None,
                Ready::Client => read(&mut self.client, &mut self.from_client),
                Ready::Server => read(&mut self.server, &mut self.from_server),
            };
            match read {
                Read::Some => {}
                Read::None => continue,
                Read::End => return None,
            }
            while let Some(watch) = self.advance().await {
                if watch == Watch::Done {
                    return None;
                }
            }
        }
    }

    async fn ready(&self) -> Ready {
        let idle = self.routed.route.idle_timeout;
        let idle = idle.map(|idle| Instant::now() + idle);
        let unneeded = self.second.as_ref().map(|second| second.until);
        tokio::select! {
            ready = self.server.readable() => { drop(ready); Ready::Server }
            ready = self.client.readable() => { drop(ready); Ready::Client }
            () = at(unneeded) => Ready::Unneeded,
            () = at(idle) => Ready::Idle,
        }
    }

    /// Takes what has come by one step. `None`: more must come first.
    async fn advance(&mut self) -> Option<Watch> {
        match self.stage {
            Stage::Greeting => self.greeting().await,
            Stage::Login => self.login().await,
            Stage::Verdict => self.verdict().await,
            Stage::Commands { seen } => self.commands(seen).await,
        }
    }

    async fn greeting(&mut self) -> Option<Watch> {
        let (number, payload) = match mysql::read_packet(&self.from_server) {
            Packet::NeedMore => return None,
            Packet::Whole {
                number, payload, ..
            } => (number, payload),
            Packet::Malformed => return Some(Watch::Done),
        };
        let content = payload.strip_prefix(&[mysql::GREETING]);
        let Some(greeting) = content.and_then(Greeting::read).filter(|_| number == 0) else {
            return Some(Watch::Done);
        };
        self.native = greeting.method == mysql::NATIVE;
        let (threads, client) = (&self.routed.sessions.threads, self.routed.client.ip());
        self.thread = Some(threads.enter(self.at, greeting.id, client));
        self.stage = Stage::Login;
        self.tell_client().await
    }

    async fn login(&mut self) -> Option<Watch> {
        if !self.from_server.is_empty() {
            return Some(Watch::Done);
        }
        let payload = match mysql::read_packet(&self.from_client) {
            Packet::NeedMore => return None,
            Packet::Whole {
                payload, rest: [], ..
            } => payload,
            Packet::Whole { .. } | Packet::Malformed => return Some(Watch::Done),
        };
        let Answer::Login(login) = Answer::read(payload) else {
            return Some(Watch::Done);
        };
        let again = self.native && login.may_be_asked_again();
        self.login = again.then(|| Bytes::copy_from_slice(payload));
        self.stage = Stage::Verdict;
        self.tell_server(usize::MAX).await
    }

    async fn verdict(&mut self) -> Option<Watch> {
        if !self.from_client.is_empty() {
            // More of a proof.
            return self.tell_server(usize::MAX).await;
        }
        let (number, payload) = match mysql::read_packet(&self.from_server) {
            Packet::NeedMore => return None,
            Packet::Whole {
                number,
                payload,
                rest,
            } if rest.is_empty() || payload[0] != mysql::OK => (number, payload),
            Packet::Whole { .. } | Packet::Malformed => return Some(Watch::Done),
        };
        match payload[0] {
            mysql::OK => {}
            mysql::ERR => return Some(Watch::Done),
            _ => {
                // Another method, or more to say: no second proof.
                self.login = None;
                return self.tell_client_one().await;
            }
        }
        self.stage = Stage::Commands { seen: 0 };
        if let Some(login) = self.login.take() {
            let routed = self.routed;
            let (threads, client) = (&routed.sessions.threads, routed.client.ip());
            let awaited = threads.awaited_elsewhere(&routed.servers(), self.at, client);
            if let Some(server) = awaited {
                match self.log_in_at(server, &login, number).await {
                    // As it follows the client's second proof.
                    Asked::Yes => self.from_server[3] = number.wrapping_add(2),
                    Asked::No => {}
                    Asked::Gone => return Some(Watch::Done),
                }
            }
        }
        self.tell_client().await
    }

    async fn commands(&mut self, seen: u32) -> Option<Watch> {
        if !self.from_server.is_empty() {
            return self.tell_client().await;
        }
        let &[low, middle, high, number, ..] = &self.from_client[..] else {
            return None;
        };
        let length = u32::from_le_bytes([low, middle, high, 0]) as usize;
        if number != 0 || !(1..=LONGEST).contains(&length) || seen >= MOST {
            return Some(Watch::Done);
        }
        let payload = self.from_client.get(4..4 + length)?;
        let command = Command::read(payload);
        self.stage = Stage::Commands { seen: seen + 1 };
        match command {
            Command::Other => Some(Watch::Done),
            Command::Setup => self.tell_server(4 + length).await,
            Command::Kill(id) => self.kill(id, 4 + length).await,
        }
    }

    /// To the server that has this thread, and to no other that has a thread of this id.
    async fn kill(&mut self, id: u64, length: usize) -> Option<Watch> {
        let routed = self.routed;
        let threads = &routed.sessions.threads;
        let mut owners = threads.owners(&routed.servers(), id);
        // Young servers count alike, so the id may be this session's own, too; it does not mean
        // itself while another one of its client waits for an answer.
        if let (Some(own), [_, _]) = (&self.thread, owners.as_slice())
            && own.is_at(self.at, id)
        {
            let client = routed.client.ip();
            if owners
                .iter()
                .any(|&server| server != self.at && threads.is_awaited(server, id, client))
            {
                owners.retain(|&server| server != self.at);
            }
        }
        let why = match owners.as_slice() {
            // Of no known session: its own server reports that, or ends a session from elsewhere.
            [] => return self.tell_server(length).await,
            [only] if *only == self.at => return self.tell_server(length).await,
            [only] => match self.second.take() {
                Some(second) if second.at == *only => {
                    self.move_to(second).await;
                    return self.tell_server(length).await;
                }
                second => {
                    self.second = second;
                    "it is at another server than this connection"
                }
            },
            _ => "several servers have a thread with this id",
        };
        log::info!(
            "{}: KILL {id} refused: {why}; peer={}",
            routed.route.label,
            routed.client
        );
        self.from_client.advance(length);
        let text = format!("Unknown thread id: {id} ({why}; the gateway does not guess)");
        self.from_server = mysql::error(1, NO_SUCH_THREAD, b"HY000", &text)[..].into();
        self.tell_client().await
    }

    /// The client's session is the one at the second server from now on.
    async fn move_to(&mut self, second: Second) {
        let Second { server, at, id, .. } = second;
        let (threads, client) = (&self.routed.sessions.threads, self.routed.client.ip());
        self.thread = Some(threads.enter(at, id, client));
        self.at = at;
        let mut first = std::mem::replace(&mut self.server, server);
        tokio::spawn(async move {
            let _ = timeout(PATIENCE, first.write_all(&mysql::quit())).await;
        });
    }

    /// Asks the client to prove its password to `server`, too, and logs it in there.
    async fn log_in_at(&mut self, server: SocketAddr, login: &[u8], number: u8) -> Asked {
        let preface = self.routed.preface(&self.client);
        let endpoints = self.routed.route.upstream.endpoints();
        let Some(endpoint) = endpoints.iter().find(|e| e.addr() == server) else {
            return Asked::No;
        };
        let Some(greeted) = Greeted::by(endpoint, &preface).await else {
            return Asked::No;
        };
        let Some(proof) = greeted.ask(&mut self.client, number).await else {
            return Asked::Gone;
        };
        self.note(Direction::Downstream, proof.asked);
        self.note(Direction::Upstream, proof.packet.len());
        self.second = greeted.log_in(login, &proof).await;
        Asked::Yes
    }

    /// All that has come from the server.
    async fn tell_client(&mut self) -> Option<Watch> {
        self.pass_down(self.from_server.len()).await
    }

    async fn tell_client_one(&mut self) -> Option<Watch> {
        let length = match mysql::read_packet(&self.from_server) {
            Packet::Whole { payload, .. } => payload.len() + 4,
            _ => self.from_server.len(),
        };
        self.pass_down(length).await
    }

    async fn pass_down(&mut self, length: usize) -> Option<Watch> {
        let bytes = self.from_server.split_to(length);
        let written = write(&mut self.client, &bytes).await;
        self.note(Direction::Downstream, bytes.len());
        self.tidy();
        Some(written.map_or(Watch::Done, |()| Watch::On))
    }

    /// So many bytes of the client.
    async fn tell_server(&mut self, length: usize) -> Option<Watch> {
        let bytes = self
            .from_client
            .split_to(length.min(self.from_client.len()));
        let written = write(&mut self.server, &bytes).await;
        self.note(Direction::Upstream, bytes.len());
        self.tidy();
        Some(written.map_or(Watch::Done, |()| Watch::On))
    }

    fn note(&mut self, direction: Direction, bytes: usize) {
        let bytes = bytes as u64;
        match direction {
            Direction::Upstream => self.up += bytes,
            Direction::Downstream => self.down += bytes,
        }
        self.routed.route.metrics.bytes(direction, bytes);
    }

    /// A session at rest holds no buffer.
    fn tidy(&mut self) {
        for buffer in [&mut self.from_client, &mut self.from_server] {
            if buffer.is_empty() {
                *buffer = BytesMut::new();
            }
        }
    }
}

/// Whether the client has proved its password once more.
enum Asked {
    No,
    Yes,
    /// It left instead.
    Gone,
}

enum Read {
    Some,
    None,
    End,
}

fn read(stream: &mut Transport, buffer: &mut BytesMut) -> Read {
    if buffer.len() > MAX_HELD {
        return Read::End;
    }
    buffer.reserve(READ_BYTES);
    match stream.try_read_buf(buffer) {
        Ok(0) => Read::End,
        Ok(_) => Read::Some,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Read::None,
        Err(_) => Read::End,
    }
}

async fn write(stream: &mut Transport, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// ER_NO_SUCH_THREAD
const NO_SUCH_THREAD: u16 = 1094;
/// A command with a KILL in it is shorter.
const LONGEST: usize = 1024;
/// Commands of drivers before the first of their programs, and KILLs.
const MOST: u32 = 64;
const READ_BYTES: usize = 1024;
const MAX_HELD: usize = 32 * 1024;
