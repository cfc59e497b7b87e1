//! A second login of a client that may be about to kill, at the server of its other session.
//!
//! Invariant: a server whose greeting was read never sees the handshake abandoned
//! (`max_connect_errors`), whatever becomes of the client or of us meanwhile: the holder finishes
//! it or leaves it, by Drop, through a login that is refused.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use crate::tcp::refuse;
use crate::tcp::threads::PATIENCE;
use crate::transport::Transport;
use crate::upstream::{Endpoint, dial};
use crate::wire::mysql::{self, Answer, Greeting};

/// A login at the server that a KILL may be meant for.
pub(super) struct Second {
    pub server: Transport,
    pub at: SocketAddr,
    pub id: u32,
    /// Until when it is kept for that.
    pub until: Instant,
}

/// A server that was connected to and waits for a login.
pub(super) struct Greeted {
    /// `None` once the login is under way.
    stream: Option<Transport>,
    at: SocketAddr,
    id: u32,
    salt: Vec<u8>,
}

/// What a client answered, and how many bytes it was asked with.
pub(super) struct Proof {
    pub packet: Vec<u8>,
    pub asked: usize,
}

impl Second {
    /// Ends it in order.
    pub(super) fn leave(mut self) {
        tokio::spawn(async move {
            let quit = async {
                self.server.write_all(&mysql::quit()).await?;
                self.server.flush().await
            };
            let _: Result<std::io::Result<()>, _> = timeout(PATIENCE, quit).await;
        });
    }
}

impl Greeted {
    /// Connects to `endpoint`. `None`: it does not greet in time, or not as is known here.
    pub(super) async fn by(endpoint: &Endpoint, preface: &[u8]) -> Option<Greeted> {
        let stream = dial::connect(endpoint, PATIENCE).await.ok()?;
        let mut greeted = Greeted {
            stream: Some(stream.into()),
            at: endpoint.addr(),
            id: 0,
            salt: Vec::new(),
        };
        timeout(PATIENCE, greeted.hear(preface)).await.ok()??;
        Some(greeted)
    }

    async fn hear(&mut self, preface: &[u8]) -> Option<()> {
        let stream = self.stream.as_mut()?;
        stream.write_all(preface).await.ok()?;
        stream.flush().await.ok()?;
        let packet = next_packet(stream).await.ok()?;
        let greeting = Greeting::read(packet[4..].strip_prefix(&[mysql::GREETING])?)?;
        (self.id, self.salt) = (greeting.id, greeting.salt);
        (self.salt.len() == 20).then_some(())
    }

    /// Asks the client for a proof by this server's salt. `None`: it left instead.
    pub(super) async fn ask(&self, client: &mut Transport, number: u8) -> Option<Proof> {
        let switch = mysql::switch_to_native(number, &self.salt);
        let ask = async {
            client.write_all(&switch).await?;
            client.flush().await?;
            next_packet(client).await
        };
        let packet = timeout(PATIENCE, ask).await.ok()?.ok()?;
        let asked = switch.len();
        Some(Proof { packet, asked })
    }

    /// Logs in as `login` did elsewhere, with `proof`. `None`: it is not let in.
    pub(super) async fn log_in(mut self, login: &[u8], proof: &Proof) -> Option<Second> {
        let answer = match Answer::read(login) {
            Answer::Login(login) => login.proving(&proof.packet[4..])?,
            Answer::Opaque => return None,
        };
        let mut server = self.stream.take()?;
        let let_in = async {
            server.write_all(&answer).await?;
            server.flush().await?;
            next_packet(&mut server).await
        };
        let verdict = timeout(PATIENCE, let_in).await.ok()?.ok()?;
        match verdict[4] {
            mysql::OK => Some(Second {
                server,
                at: self.at,
                id: self.id,
                until: Instant::now() + HELD,
            }),
            mysql::ERR => None,
            _ => {
                // Another method there: an answer that is none is refused, which is not counted.
                let wrong = mysql::packet(verdict[3].wrapping_add(1), &[0]);
                tokio::spawn(async move {
                    let refused = async {
                        server.write_all(&wrong).await?;
                        server.flush().await?;
                        next_packet(&mut server).await
                    };
                    let _ = timeout(PATIENCE, refused).await;
                });
                None
            }
        }
    }
}

impl Drop for Greeted {
    fn drop(&mut self) {
        let stream = self.stream.take();
        // Without a runtime all connections end.
        if let (Some(stream), Ok(runtime)) = (stream, Handle::try_current()) {
            runtime.spawn(refuse::leave_mysql(stream));
        }
    }
}

/// One whole packet with its head; its payload has a byte at least.
async fn next_packet(stream: &mut Transport) -> std::io::Result<Vec<u8>> {
    let mut packet = vec![0; 4];
    stream.read_exact(&mut packet).await?;
    let length = u32::from_le_bytes([packet[0], packet[1], packet[2], 0]) as usize;
    if !(1..=LONGEST).contains(&length) {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    packet.resize(4 + length, 0);
    stream.read_exact(&mut packet[4..]).await?;
    Ok(packet)
}

/// Every packet of a login is shorter.
const LONGEST: usize = 1024;
/// For the first command of a client that was logged in twice.
const HELD: Duration = Duration::from_secs(10);
