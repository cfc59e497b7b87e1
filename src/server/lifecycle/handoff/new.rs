//! The new process of an upgrade: takes the sockets, reports when it is ready, and when it serves.
//!
//! It runs where there is no runtime yet, and ends with an exit code and a message. Invariant:
//! nothing is accepted before the old process sends GO. When the old process dies in the middle,
//! the new one goes on alone, so that the addresses stay served. Nearly half of the file is tests.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::control::{Control, SocketFile, connect};
use super::protocol::{Channel, ChannelError, Message, VERSION, shortened};
use super::{SERVING_TIMEOUT, broken, trusts};
use crate::error::Error;
use crate::server::edge::listener::Identity;

/// An upgrade under way, seen from the process that comes.
#[derive(Debug)]
pub struct Takeover {
    /// `None` once the old process has died.
    channel: Option<Channel>,
    /// Where the old process listens for us. Looked at before the account changes.
    file: SocketFile,
    received: Received,
}

/// What the old process has given.
#[derive(Debug)]
struct Received {
    /// The old process.
    pid: u32,
    control: UnixListener,
    pid_file: Option<OwnedFd>,
    sockets: Vec<(Identity, TcpListener)>,
}

impl Takeover {
    /// Asks the gateway that listens on `path` for its sockets. `None`: nobody does. Blocks for
    /// some seconds at most.
    ///
    /// # Errors
    /// A process listens there and does not give them.
    pub fn begin(path: &Path) -> Result<Option<Takeover>, Error> {
        let asking_since = Instant::now();
        loop {
            match Takeover::ask(path) {
                // It was just being replaced itself, or was just ending.
                Err(AskError::Gone) if asking_since.elapsed() < RETRY_FOR => {
                    std::thread::sleep(RETRY_AFTER);
                }
                Err(AskError::Gone) => {
                    return Err(broken("the running gateway closes the connection"));
                }
                Err(AskError::Failed(why)) => return Err(broken(why)),
                Ok(takeover) => return Ok(takeover),
            }
        }
    }

    fn ask(path: &Path) -> Result<Option<Takeover>, AskError> {
        use std::io::ErrorKind::{ConnectionRefused, NotFound};
        let stream = match connect(path) {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), ConnectionRefused | NotFound) => return Ok(None),
            Err(error) => {
                let why = format!("cannot reach {}: {error}", path.display());
                return Err(AskError::Failed(why));
            }
        };
        let mut channel = Channel::new(stream);
        match channel.peer_uid() {
            Ok(uid) if trusts(uid) => {}
            _ => {
                let why = format!("{} belongs to another user", path.display());
                return Err(AskError::Failed(why));
            }
        }
        let file = SocketFile::at(path).map_err(|_| AskError::Gone)?;
        let received = receive(&mut channel)?;
        let (count, pid) = (received.sockets.len(), received.pid);
        info!("upgrade: {count} sockets come from process {pid}");
        Ok(Some(Takeover {
            channel: Some(channel),
            file,
            received,
        }))
    }

    /// The socket that listens where `identity` wants one, if the old process has it.
    pub fn socket(&mut self, identity: &Identity) -> Option<TcpListener> {
        let sockets = &mut self.received.sockets;
        let same = sockets.iter().position(|(has, _)| has == identity);
        // What is behind an address may change; that the address is bound does not.
        let at = same.or_else(|| {
            sockets.iter().position(|(has, _)| {
                has.configured == identity.configured && has.configured.port() != 0
            })
        })?;
        let (_, socket) = sockets.swap_remove(at);
        let fits = socket
            .local_addr()
            .is_ok_and(|addr| is_for(addr, identity.configured));
        (fits && socket.set_nonblocking(true).is_ok()).then_some(socket)
    }

    /// What the new configuration does not want is closed here; the old process still has it.
    pub fn close_the_rest(&mut self) {
        self.received.sockets.clear();
    }

    /// The pid file that the old process holds, to be inherited.
    pub fn pid_file(&mut self) -> Option<OwnedFd> {
        self.received.pid_file.take()
    }

    /// Says READY and waits for GO. Blocks.
    ///
    /// # Errors
    /// The old process changed its mind.
    pub fn ready(mut self) -> Result<Takeover, Error> {
        match self.say(&Message::Ready, PATIENCE) {
            None | Some(Message::Go) => Ok(self),
            Some(other) => Err(refusal(other)),
        }
    }

    /// Says SERVING, and has the upgrade socket once the old process drains. Blocks.
    ///
    /// # Errors
    /// The old process waited no longer and goes on: this one must go.
    pub fn serving(mut self) -> Result<Option<Control>, Error> {
        match self.say(&Message::Serving, SERVING_TIMEOUT) {
            None => {}
            Some(Message::Done) => info!("upgrade: process {} drains", self.received.pid),
            Some(other) => return Err(refusal(other)),
        }
        let control = Control::adopt(self.received.control, self.file)
            .inspect_err(|error| warn!("the next upgrade will not find this process: {error}"));
        Ok(control.ok())
    }

    /// Tells the old process why it goes on.
    pub fn failed(mut self, why: &Error) {
        let why = shortened(&why.to_string());
        if let Some(channel) = &mut self.channel {
            // It notices the end of this process, too.
            let _ = channel.send(&Message::Failed { why }, &[]);
        }
    }

    /// Sends `message` and gives the answer; `None` when nobody is there to give one.
    fn say(&mut self, message: &Message, patience: Duration) -> Option<Message> {
        let channel = self.channel.as_mut()?;
        // A refusal may be there already, so what was not sent is no reason not to read.
        let sent = channel.send(message, &[]);
        match (channel.receive(Instant::now() + patience), sent) {
            (Ok((answer, _)), _) => Some(answer),
            (Err(error), _) => {
                let pid = self.received.pid;
                warn!("upgrade: process {pid}: {error}; going on without it");
                self.channel = None;
                None
            }
        }
    }
}

/// Why there are no sockets.
enum AskError {
    Gone,
    Failed(String),
}

impl From<String> for AskError {
    fn from(why: String) -> AskError {
        AskError::Failed(why)
    }
}

/// The upgrade socket and the pid file, then all others, in pieces.
fn receive(channel: &mut Channel) -> Result<Received, AskError> {
    let hello = Message::Hello {
        version: VERSION,
        pid: std::process::id(),
    };
    // Whatever could not be sent, the answer names the reason.
    let _ = channel.send(&hello, &[]);
    let deadline = Instant::now() + PATIENCE;
    let mut next = || match channel.receive(deadline) {
        Ok((Message::Refused { why }, _)) => {
            Err(format!("the running gateway refuses: {why}").into())
        }
        Ok(received) => Ok(received),
        Err(ChannelError::Gone) => Err(AskError::Gone),
        Err(error) => Err(format!("the running gateway gives no sockets: {error}").into()),
    };
    let (message, descriptors) = next()?;
    let Message::Sockets { pid, count } = message else {
        return Err(format!("{message:?} instead of sockets").into());
    };
    let mut descriptors = descriptors.into_iter();
    let Some(control) = descriptors.next() else {
        return Err("the upgrade socket is missing".to_owned().into());
    };
    let pid_file = descriptors.next();
    let mut sockets = Vec::new();
    while sockets.len() < count.min(MAX_SOCKETS) {
        let (message, descriptors) = next()?;
        match message {
            Message::Listening { identities } if identities.len() == descriptors.len() => {
                let received = descriptors.into_iter().map(TcpListener::from);
                sockets.extend(identities.into_iter().zip(received));
            }
            other => {
                let got = descriptors.len();
                return Err(format!("{other:?} with {got} sockets").into());
            }
        }
    }
    Ok(Received {
        pid,
        control: control.into(),
        pid_file,
        sockets,
    })
}

/// Whether a socket that is bound to `bound` is what `configured` asks for.
fn is_for(bound: SocketAddr, configured: SocketAddr) -> bool {
    bound.ip() == configured.ip() && (configured.port() == 0 || bound.port() == configured.port())
}

fn refusal(answer: Message) -> Error {
    broken(match answer {
        Message::Refused { why } => format!("the running gateway refuses: {why}"),
        other => format!("{other:?} was not expected"),
    })
}

/// For an answer of the old process.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a gateway that is just being replaced is asked again.
const RETRY_FOR: Duration = Duration::from_secs(2);
const RETRY_AFTER: Duration = Duration::from_millis(20);
const MAX_SOCKETS: usize = 65_536;

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, BorrowedFd};
    use std::thread::JoinHandle;

    use tempfile::TempDir;

    use super::super::protocol::CHUNK;
    use super::*;
    use crate::server::Gateway;
    use crate::server::edge::listener::Kind;

    /// What an old process says once it was greeted.
    type Script = fn(&mut Channel);

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    /// A process that was asked for its sockets, up to its end or that of its script.
    fn old(path: &Path, sockets: Vec<TcpListener>, script: Script) -> JoinHandle<Control> {
        let control = Control::bind(path).unwrap();
        let listener = control.listener().unwrap();
        listener.set_nonblocking(false).unwrap();
        std::thread::spawn(move || {
            let mut channel = Channel::new(listener.accept().unwrap().0);
            let (hello, _) = channel.receive(soon()).unwrap();
            assert!(matches!(
                hello,
                Message::Hello {
                    version: VERSION,
                    ..
                }
            ));
            let announced = Message::Sockets {
                pid: 1,
                count: sockets.len(),
            };
            channel.send(&announced, &[control.as_fd()]).unwrap();
            for chunk in sockets.chunks(CHUNK) {
                let identities = chunk.iter().map(identity).collect();
                let descriptors: Vec<BorrowedFd> = chunk.iter().map(AsFd::as_fd).collect();
                channel
                    .send(&Message::Listening { identities }, &descriptors)
                    .unwrap();
            }
            script(&mut channel);
            control
        })
    }

    fn identity(socket: &TcpListener) -> Identity {
        Identity {
            kind: Kind::Tcp,
            configured: socket.local_addr().unwrap(),
        }
    }

    fn file() -> (TempDir, std::path::PathBuf) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("gateway.sock");
        (folder, path)
    }

    fn expect(channel: &mut Channel, expected: &Message) {
        assert_eq!(channel.receive(soon()).unwrap().0, *expected);
    }

    fn refused() -> Message {
        Message::Refused {
            why: "it has thought better of it".to_owned(),
        }
    }

    #[test]
    fn all_goes_well_with_more_sockets_than_one_message_takes() {
        let (_folder, path) = file();
        let sockets: Vec<_> = (0..CHUNK + 1)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let identities: Vec<_> = sockets.iter().map(identity).collect();
        let old = old(&path, sockets, |channel| {
            expect(channel, &Message::Ready);
            channel.send(&Message::Go, &[]).unwrap();
            expect(channel, &Message::Serving);
            channel.send(&Message::Done, &[]).unwrap();
        });
        let mut takeover = Takeover::begin(&path).unwrap().unwrap();
        for identity in &identities {
            let socket = takeover.socket(identity).unwrap();
            assert_eq!(socket.local_addr().unwrap(), identity.configured);
            assert!(takeover.socket(identity).is_none(), "there is one of it");
        }
        takeover.close_the_rest();
        let control = takeover.ready().unwrap().serving().unwrap();
        old.join().unwrap().owns_path(false);
        connect(&path).unwrap();
        drop(control);
        assert!(!path.exists());
    }

    #[test]
    fn an_address_is_taken_over_for_whatever_is_behind_it_now() {
        let (_folder, path) = file();
        let [one, other] = [(), ()].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let (one_is, other_is) = (identity(&one), identity(&other));
        let _old = old(&path, vec![one, other], |_| {});
        let mut takeover = Takeover::begin(&path).unwrap().unwrap();
        let any_port = Identity {
            kind: Kind::Tcp,
            configured: "127.0.0.1:0".parse().unwrap(),
        };
        assert!(takeover.socket(&any_port).is_none());
        let as_http = Identity {
            kind: Kind::Http,
            ..one_is
        };
        let socket = takeover.socket(&as_http).unwrap();
        assert_eq!(socket.local_addr().unwrap(), one_is.configured);
        assert!(takeover.socket(&one_is).is_none());
        takeover.close_the_rest();
        assert!(takeover.socket(&other_is).is_none());
    }

    #[test]
    fn a_gateway_that_was_refused_at_the_end_ends_and_says_why() {
        let scripts: [Script; 2] = [
            |channel| {
                expect(channel, &Message::Ready);
                channel.send(&refused(), &[]).unwrap();
            },
            |channel| {
                expect(channel, &Message::Ready);
                channel.send(&Message::Go, &[]).unwrap();
                expect(channel, &Message::Serving);
                channel.send(&refused(), &[]).unwrap();
            },
        ];
        for script in scripts {
            let (_folder, path) = file();
            let old = old(&path, Vec::new(), script);
            let text = format!(
                "listen_addr: 127.0.0.1:0\nglobal_timeout_ms: 1000\nmax_connections: 10\n\
                 admin: false\nserver: {{upgrade_sock: {}}}\n\
                 routes: {{/: {{upstream: \"http://127.0.0.1:9\"}}}}\n",
                path.display()
            );
            let config = crate::config::parse(&text, Path::new("config.yml")).unwrap();
            let never = || Box::pin(std::future::pending());
            let gateway = Gateway::new(config).upgrading();
            let error = gateway.run_until(never(), never()).unwrap_err();
            assert!(error.to_string().contains("thought better"), "{error}");
            old.join().unwrap();
        }
    }

    #[test]
    fn when_the_old_one_is_gone_the_new_one_goes_on() {
        let (_folder, path) = file();
        let old = old(&path, Vec::new(), |channel| {
            expect(channel, &Message::Ready);
        });
        let takeover = Takeover::begin(&path).unwrap().unwrap();
        let takeover = takeover.ready().unwrap();
        // Its path goes with it, and is bound again.
        drop(old.join().unwrap());
        let control = takeover.serving().unwrap();
        connect(&path).unwrap();
        drop(control);
    }

    #[test]
    fn nobody_there_is_no_error_and_nonsense_is() {
        let (_folder, path) = file();
        assert!(Takeover::begin(&path).unwrap().is_none());
        drop(UnixListener::bind(&path).unwrap());
        assert!(Takeover::begin(&path).unwrap().is_none(), "a left-over");
        std::fs::remove_file(&path).unwrap();
        let control = Control::bind(&path).unwrap();
        let listener = control.listener().unwrap();
        listener.set_nonblocking(false).unwrap();
        let other = std::thread::spawn(move || {
            let mut channel = Channel::new(listener.accept().unwrap().0);
            channel.receive(soon()).unwrap();
            channel.send(&Message::Go, &[]).unwrap();
        });
        let error = Takeover::begin(&path).unwrap_err().to_string();
        assert!(error.contains("Go instead of sockets"), "{error}");
        other.join().unwrap();
    }
}
