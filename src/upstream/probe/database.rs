//! Health checks in the words of the databases, and what role a server has.
//!
//! Invariants: a check reads at most `MAX_READ_BYTES`; it counts with no server as a failed or
//! abandoned login and, where the server is well, leaves no line in its log; whoever drops it
//! leaves nothing behind. The prober sets the timeout.
//!
//! # MySQL and MariaDB
//! They block an address (`max_connect_errors`) after as many connections that ended before the
//! client's part of the handshake, by FIN or by RST alike. Measured with MariaDB 10.11: a connect
//! that is reset at once is counted in a good third of the cases, because the server may have sent
//! its greeting already. So a check without a login never lets the connection come about: the last
//! packet of TCP's own handshake is held back, and the reset goes out in its place. The server's
//! kernel has answered, its process has seen nothing.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::Probe;
use crate::config::{DbType, Secret};
use crate::upstream::warm::Ready;
use crate::upstream::{Encryption, Endpoint, Role, Term, dial};
use crate::wire::login::{self, Login, LoginStep};
use crate::wire::postgres::GSSENC_REQUEST;
use crate::wire::probe::{self, Verdict};
use crate::wire::tls;

/// Whether a Postgres server takes clients. It decides that when one connects, and says it only to
/// one that begins a session: this one goes no further than to the server's first word. That costs
/// the server a process and, where it trusts everybody but has no user `postgres`, a line in its
/// log; so it is for the moments in which there is doubt.
pub struct BeginSession;

#[async_trait]
impl Ready for BeginSession {
    async fn ask(&self, endpoint: &Endpoint) -> io::Result<()> {
        let mut stream = dial::connect(endpoint, LONGEST).await?;
        stream.write_all(&probe::begin_session()).await?;
        let mut answer = Vec::with_capacity(READ_BYTES);
        let verdict = loop {
            let read = stream.read_buf(&mut answer).await?;
            match probe::takes_clients(&answer) {
                Verdict::NeedMore if read > 0 && answer.len() < MAX_READ_BYTES => {}
                verdict => break verdict,
            }
        };
        // In order, so that the server has nothing to say about it. The verdict stands already.
        let leave = async {
            stream.shutdown().await?;
            let mut rest = (&mut stream).take(MAX_READ_BYTES as u64);
            tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
        };
        let _left = tokio::time::timeout(PATIENCE, leave).await;
        match verdict {
            Verdict::Alive => Ok(()),
            Verdict::Refused(text) => Err(io::Error::other(text)),
            Verdict::NeedMore => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// The check of one endpoint.
pub(super) struct DatabaseProbe {
    db_type: DbType,
    user: Option<String>,
    password: Option<Secret>,
    /// This Postgres does not know GSSENCRequest.
    without_gssenc: AtomicBool,
    /// This Postgres does not say its timeline.
    without_term: AtomicBool,
}

#[async_trait]
impl Probe for DatabaseProbe {
    async fn check(&self, endpoint: &Endpoint, _timeout: Duration) -> Result<Role, String> {
        let has_login = self.user.is_some() || self.password.is_some();
        match self.db_type {
            DbType::Mysql if has_login => self.log_in_to_mysql(endpoint).await,
            DbType::Mysql => knock(endpoint).await,
            DbType::Postgres if !has_login => self.ask_postgres(endpoint).await,
            DbType::Postgres | DbType::Redis if has_login => {
                let mut conversation = Conversation::connect(endpoint, self.db_type).await?;
                let mut login = self.login()?;
                if self.without_term.load(Ordering::Relaxed) {
                    login.spare_term();
                }
                let (role, termination) = conversation.converse(login.as_mut()).await?;
                conversation.write(&termination).await?;
                conversation.end().await;
                self.note_term(endpoint, role, login.as_ref());
                Ok(role)
            }
            DbType::Redis | DbType::Mongodb => self.ask_for_role(endpoint).await,
            db_type => {
                let mut conversation = Conversation::connect(endpoint, self.db_type).await?;
                conversation
                    .ask(db_type, &probe::probe(db_type).unwrap_or_default())
                    .await?;
                conversation.end().await;
                Ok(Role::Unknown)
            }
        }
    }
}

impl DatabaseProbe {
    pub(super) fn new(db_type: DbType, user: Option<String>, password: Option<Secret>) -> Self {
        DatabaseProbe {
            db_type,
            user,
            password,
            without_gssenc: AtomicBool::new(false),
            without_term: AtomicBool::new(false),
        }
    }

    fn login(&self) -> Result<Box<dyn Login>, String> {
        let password = self.password.as_ref().map(Secret::reveal);
        login::login(self.db_type, self.user.as_deref(), password)
            .ok_or_else(|| "there is no login for this protocol".to_owned())
    }

    /// Until it is logged in the socket closes by RST, whoever drops it: the server then waits for
    /// nobody.
    async fn log_in_to_mysql(&self, endpoint: &Endpoint) -> Result<Role, String> {
        let mut conversation = Conversation::connect(endpoint, self.db_type).await?;
        conversation.linger(Some(Duration::ZERO))?;
        let (role, termination) = conversation.converse(self.login()?.as_mut()).await?;
        conversation.linger(None)?;
        conversation.write(&termination).await?;
        conversation.end().await;
        Ok(role)
    }

    /// Asks for encryption by GSSAPI, which any answer refuses or grants, and leaves. Asking for
    /// TLS is the fallback for what does not know that (PostgreSQL before 12, some poolers): a
    /// server with TLS logs each client that goes without it. One that declined TLS is asked for it
    /// again and again, since clients get that answer before a server is picked.
    async fn ask_postgres(&self, endpoint: &Endpoint) -> Result<Role, String> {
        let declines_tls = endpoint.encryption() == Some(Encryption::Declined);
        if !declines_tls && !self.without_gssenc.load(Ordering::Relaxed) {
            let mut conversation = Conversation::connect(endpoint, self.db_type).await?;
            conversation.write(&GSSENC_REQUEST).await?;
            if let Ok(Some(b'G' | b'N')) = conversation.read_byte().await {
                conversation.end().await;
                return Ok(Role::Unknown);
            }
        }
        let question = probe::probe(DbType::Postgres).unwrap_or_default();
        let mut conversation = Conversation::connect(endpoint, self.db_type).await?;
        let answer = conversation.ask(DbType::Postgres, &question).await?;
        if let Some(encryption) = answer
            .first()
            .copied()
            .and_then(Encryption::from_ssl_answer)
        {
            endpoint.note_encryption(encryption);
        }
        if !declines_tls {
            self.without_gssenc.store(true, Ordering::Relaxed);
        }
        conversation.end().await;
        Ok(Role::Unknown)
    }

    /// Servers that show their role to any client, unless they want a password first: they live,
    /// then, and nothing is known.
    async fn ask_for_role(&self, endpoint: &Endpoint) -> Result<Role, String> {
        let mut conversation = Conversation::connect(endpoint, self.db_type).await?;
        let question = probe::probe(self.db_type).unwrap_or_default();
        let answer = conversation.ask(self.db_type, &question).await?;
        let mut login = self.login()?;
        let start = login.start();
        let step = if start == question {
            // MongoDB has said it already.
            login.advance(&answer)
        } else {
            conversation.write(&start).await?;
            conversation.answer(login.as_mut()).await?
        };
        conversation.end().await;
        let role = match step {
            LoginStep::Done { role, .. } => known(role),
            _ => Role::Unknown,
        };
        self.note_term(endpoint, role, login.as_ref());
        Ok(role)
    }

    /// Tells the endpoint which of several primaries it is. One that was asked and does not know is
    /// not asked again: each question may leave an error in its log.
    fn note_term(&self, endpoint: &Endpoint, role: Role, login: &dyn Login) {
        let term = login.term().map(|term| Term {
            group: term.group,
            number: term.number,
        });
        if role == Role::Primary && term.is_none() {
            self.without_term.store(true, Ordering::Relaxed);
        }
        endpoint.note_term(term);
    }
}

/// One connection to a server, read up to a bound.
struct Conversation {
    stream: TcpStream,
    db_type: DbType,
    left: usize,
}

impl Conversation {
    async fn connect(endpoint: &Endpoint, db_type: DbType) -> Result<Conversation, String> {
        let stream = dial::connect(endpoint, LONGEST).await;
        Ok(Conversation {
            stream: stream.map_err(|error| format!("connect: {error}"))?,
            db_type,
            left: MAX_READ_BYTES,
        })
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        let written = self.stream.write_all(bytes).await;
        written.map_err(|error| format!("write: {error}"))
    }

    /// Reads into `buffer`; never nothing.
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, String> {
        if self.left == 0 {
            return Err(format!("answered with more than {MAX_READ_BYTES} bytes"));
        }
        let room = buffer.len().min(self.left);
        match self.stream.read(&mut buffer[..room]).await {
            Ok(0) => Err(format!(
                "closed the connection without an answer{}",
                self.perhaps_tls()
            )),
            Ok(count) if self.is_unheard() && tls::is_alert(&buffer[..count]) => Err(format!(
                "answers with a TLS alert: it speaks TLS only{CLEAR_TEXT}"
            )),
            Ok(count) => {
                self.left -= count;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                Err(format!("read: {error}{}", self.perhaps_tls()))
            }
            Err(error) => Err(format!("read: {error}")),
        }
    }

    fn is_unheard(&self) -> bool {
        self.left == MAX_READ_BYTES
    }

    /// What is to be said of a server that leaves before its first byte. PostgreSQL and MySQL begin
    /// in clear text also where they want TLS, and ask for it.
    fn perhaps_tls(&self) -> &'static str {
        match self.db_type {
            DbType::Postgres | DbType::Mysql => "",
            _ if self.is_unheard() => PERHAPS_TLS,
            _ => "",
        }
    }

    /// The first byte of an answer; `None` when the server closed instead.
    async fn read_byte(&mut self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        let count = self.stream.read(&mut byte).await?;
        Ok((count > 0).then_some(byte[0]))
    }

    /// Asks and returns the answer, when that is one of life.
    async fn ask(&mut self, db_type: DbType, question: &[u8]) -> Result<Vec<u8>, String> {
        self.write(question).await?;
        let mut answer = Vec::new();
        let mut buffer = [0; READ_BYTES];
        loop {
            let count = self.read(&mut buffer).await?;
            answer.extend_from_slice(&buffer[..count]);
            match probe::judge(db_type, &answer) {
                Verdict::NeedMore => {}
                Verdict::Alive => return Ok(answer),
                Verdict::Refused(why) => return Err(why),
            }
        }
    }

    /// What a close does with what is unsent: zero throws it away and resets.
    fn linger(&self, of: Option<Duration>) -> Result<(), String> {
        let set = SockRef::from(&self.stream).set_linger(of);
        set.map_err(|error| format!("SO_LINGER: {error}"))
    }

    /// The whole login but for its termination.
    async fn converse(&mut self, login: &mut dyn Login) -> Result<(Role, Vec<u8>), String> {
        let mut next = login.start();
        loop {
            self.write(&next).await?;
            match self.answer(login).await? {
                LoginStep::Send(bytes) => next = bytes,
                LoginStep::Done { role, termination } => return Ok((known(role), termination)),
                LoginStep::Failed(why) => return Err(why),
                LoginStep::NeedMore => next = Vec::new(),
            }
        }
    }

    /// Reads until the login has its next step.
    async fn answer(&mut self, login: &mut dyn Login) -> Result<LoginStep, String> {
        let mut buffer = [0; READ_BYTES];
        loop {
            let count = self.read(&mut buffer).await?;
            match login.advance(&buffer[..count]) {
                LoginStep::NeedMore => {}
                step => return Ok(step),
            }
        }
    }

    /// Leaves in order: sends the end, and takes what is still on its way, so that no answer turns
    /// the close into a reset. The verdict stands already, so nothing here can fail.
    async fn end(mut self) {
        let drain = async {
            self.stream.shutdown().await?;
            let mut buffer = [0; READ_BYTES];
            while self.left > 0 {
                let count = self.stream.read(&mut buffer).await?;
                if count == 0 {
                    break;
                }
                self.left = self.left.saturating_sub(count);
            }
            io::Result::Ok(())
        };
        // Late or broken: the peer's own way to leave.
        let _left = tokio::time::timeout(PATIENCE, drain).await;
    }
}

/// Finds out that a server's kernel accepts connections, without making one; see the module.
async fn knock(endpoint: &Endpoint) -> Result<Role, String> {
    let knocked = dial::reach(endpoint, LONGEST, knock_at).await;
    knocked
        .map(|()| Role::Unknown)
        .map_err(|error| format!("connect: {error}"))
}

async fn knock_at(addr: SocketAddr) -> io::Result<()> {
    let prepare = || -> io::Result<TcpSocket> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        // Linux then delays the acknowledgement that completes the handshake (by up to 200 ms).
        #[cfg(target_os = "linux")]
        socket.set_tcp_quickack(false)?;
        socket.set_linger(Some(Duration::ZERO))?;
        Ok(TcpSocket::from_std_stream(socket.into()))
    };
    // Dropped at once, by RST.
    prepare()?.connect(addr).await.map(drop)
}

fn known(role: login::Role) -> Role {
    match role {
        login::Role::Primary => Role::Primary,
        login::Role::Replica => Role::Replica,
    }
}

const CLEAR_TEXT: &str = ", and checks speak clear text so far";
const PERHAPS_TLS: &str = " (perhaps it speaks TLS only; checks speak clear text so far)";

/// The most that one check reads.
const MAX_READ_BYTES: usize = 16 * 1024;

const READ_BYTES: usize = 4 * 1024;

/// For a connect; whoever asks for the check cuts it short.
const LONGEST: Duration = Duration::from_secs(3600);

/// How long a server may take to close, once its answer is there.
const PATIENCE: Duration = Duration::from_millis(100);
