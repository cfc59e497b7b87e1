//! The old process of an upgrade: gives its sockets away and drains once the new one serves.
//!
//! It runs beside traffic and must survive whatever connects. Invariants: one upgrade at a time; a
//! stranger, half a message or a dead peer changes nothing; while sockets are on their way no
//! reload changes them. Run by `assembled` once all listeners accept.

use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::Signal;
use tokio::sync::Semaphore;

use super::control::Control;
use super::protocol::{CHUNK, Channel, ChannelError, Message, VERSION, shortened};
use super::{SERVING_TIMEOUT, trusts};
use crate::server::drain::{Drain, Exit};
use crate::server::edge::listener::{Identity, Kind};
use crate::server::lifecycle::reload::Reload;
use crate::server::process::pid_file::name_us;

/// The listening sockets that accept now. They stay with their accept loops, so that a listener
/// that is closed is closed. Cloning shares the list.
#[derive(Clone, Debug, Default)]
pub struct ListeningSockets {
    sockets: Arc<Mutex<Vec<Socket>>>,
}

/// A socket that an accept loop holds.
type Socket = (Identity, Weak<TcpListener>);

impl ListeningSockets {
    /// Notes one that starts to accept.
    pub fn note(&self, identity: Identity, socket: &Arc<TcpListener>) {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.retain(|(_, socket)| socket.strong_count() > 0);
        sockets.push((identity, Arc::downgrade(socket)));
    }

    fn all(&self) -> Vec<(Identity, Arc<TcpListener>)> {
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let held = sockets
            .iter()
            .filter_map(|(identity, socket)| Some((*identity, socket.upgrade()?)));
        held.collect()
    }
}

/// What a running gateway needs to be replaced.
pub struct Offer {
    control: Control,
    pid_file: Option<OwnedFd>,
    accepting: ListeningSockets,
    reload: Arc<Reload>,
    drain: Arc<Drain>,
    /// One for each process that is talked to, those that have said nothing yet included.
    talks: Arc<Semaphore>,
    /// Whether one of them is an upgrade.
    upgrading: AtomicBool,
}

/// Waits for a successor, and on QUIT says when none comes. Returns when there is one, or when the
/// gateway stops. `None`: nobody can ask this process for its sockets.
pub async fn offer(offer: Option<Arc<Offer>>, mut quit: Signal, drain: Arc<Drain>) {
    // A drain waits for this as for an accept loop: the process does not end before its path is
    // gone.
    let _accepting = drain.accept_loop();
    let mut left = drain.left();
    let mut stopping = drain.stop_accepting();
    let asked = async {
        match &offer {
            Some(offer) => offer.accept().await,
            None => std::future::pending().await,
        }
    };
    let quits = on_quit(&mut quit, offer.as_deref());
    tokio::select! {
        () = asked => {}
        () = quits => {}
        _ = left.wait_for(|left| *left != Exit::Stay) => {}
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
    if let Some(offer) = &offer {
        offer.control.close();
    }
}

/// QUIT means: hand over, then drain. The successor comes by itself; all that is left to do is to
/// log when none does.
async fn on_quit(quit: &mut Signal, offer: Option<&Offer>) {
    while quit.recv().await.is_some() {
        let Some(offer) = offer else {
            error!("QUIT received, but this process has no upgrade socket: going on");
            continue;
        };
        info!("QUIT received: waiting for a successor (start one with --upgrade)");
        tokio::time::sleep(SUCCESSOR_TIMEOUT).await;
        if !offer.upgrading.load(Ordering::Acquire) {
            error!("QUIT received, but no successor came within {SUCCESSOR_TIMEOUT:?}: going on");
        }
    }
}

impl Offer {
    /// `pid_file` is the open, locked file that a successor inherits; `None`: there is none.
    pub fn new(
        control: Control,
        pid_file: Option<OwnedFd>,
        accepting: ListeningSockets,
        reload: Arc<Reload>,
        drain: Arc<Drain>,
    ) -> Offer {
        Offer {
            control,
            pid_file,
            accepting,
            reload,
            drain,
            talks: Arc::new(Semaphore::new(MAX_TALKS)),
            upgrading: AtomicBool::new(false),
        }
    }

    async fn accept(self: &Arc<Self>) {
        let listener = self.control.listener().and_then(UnixListener::from_std);
        let listener = match listener {
            Ok(listener) => listener,
            Err(error) => {
                error!("{}: {error}", self.control.path().display());
                return std::future::pending().await;
            }
        };
        loop {
            match listener.accept().await {
                Ok((stream, _)) => self.admit(stream),
                Err(error) => {
                    warn!("{}: cannot accept: {error}", self.control.path().display());
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Talks to a process of this user or of root, in a thread where it may block.
    fn admit(self: &Arc<Self>, stream: UnixStream) {
        let stream = stream.into_std();
        let blocking = stream.and_then(|stream| stream.set_nonblocking(false).map(|()| stream));
        let Ok(stream) = blocking else {
            return;
        };
        let mut channel = Channel::new(stream);
        match channel.peer_uid() {
            Ok(uid) if trusts(uid) => {}
            peer => {
                warn!("upgrade socket: refused a process of another user: {peer:?}");
                return refuse(&mut channel, "it belongs to another user");
            }
        }
        let Ok(talking) = self.talks.clone().try_acquire_owned() else {
            return refuse(&mut channel, "too many processes ask at once");
        };
        let offer = self.clone();
        tokio::task::spawn_blocking(move || {
            let _talking = talking;
            offer.talk(&mut channel);
        });
    }

    fn talk(&self, channel: &mut Channel) {
        let pid = match channel.receive(Instant::now() + HELLO_TIMEOUT) {
            Ok((Message::Hello { version, pid }, _)) if version == VERSION => pid,
            Ok((Message::Hello { version, pid }, _)) => {
                warn!("upgrade: process {pid} speaks version {version}, this one {VERSION}");
                let why = format!("it speaks version {VERSION} of the upgrade, not {version}");
                return refuse(channel, &why);
            }
            Ok((Message::Where, _)) => return self.tell(channel),
            // A process that only looks whether a gateway is there.
            Err(ChannelError::Gone) => return debug!("upgrade socket: a process said nothing"),
            Ok((other, _)) => return warn!("upgrade socket: {other:?} is no greeting"),
            Err(error) => return warn!("upgrade socket: no greeting: {error}"),
        };
        let Some(_upgrading) = Upgrading::begin(&self.upgrading) else {
            warn!("upgrade: process {pid} refused, another upgrade is under way");
            return refuse(channel, "another upgrade is under way");
        };
        // A reload in between would open sockets that nobody hands over.
        let Some(frozen) = self.reload.freeze() else {
            // Replaced a moment ago: who asks again finds the successor.
            return debug!("upgrade: process {pid} came too late for this one");
        };
        info!("upgrade: process {pid} asks for the sockets");
        match self.hand_over(channel) {
            Ok(()) => {
                frozen.for_good();
                (self.reload.supervisor)(&format!("MAINPID={pid}"));
                self.drain.leave(Exit::HandedOver);
                info!("upgrade: process {pid} serves, this one drains");
            }
            Err(why) => {
                error!("upgrade failed, this process goes on: process {pid}: {why}");
                if let Some(Err(error)) = self.pid_file.as_ref().map(name_us) {
                    warn!("server.pid_file: cannot be written: {error}");
                }
                refuse(channel, &why);
            }
        }
    }

    /// Where the admin listener is, as it is now.
    fn tell(&self, channel: &mut Channel) {
        let sockets = self.accepting.all().into_iter();
        let admin = sockets
            .filter(|(identity, _)| identity.kind == Kind::Admin)
            .filter_map(|(_, socket)| socket.local_addr().ok())
            .collect();
        let here = Message::Here {
            pid: std::process::id(),
            config: self.reload.file().to_string_lossy().into_owned(),
            admin,
        };
        if let Err(error) = channel.send(&here, &[]) {
            debug!("upgrade socket: who asked does not listen: {error}");
        }
    }

    /// All of the talk, in its order. Only when it returns `Ok` has anything changed.
    fn hand_over(&self, channel: &mut Channel) -> Result<(), String> {
        let sockets = self.accepting.all();
        let announced = Message::Sockets {
            pid: std::process::id(),
            count: sockets.len(),
        };
        let failed = |error: ChannelError| error.to_string();
        let mut kept = vec![self.control.as_fd()];
        kept.extend(self.pid_file.as_ref().map(AsFd::as_fd));
        channel.send(&announced, &kept).map_err(failed)?;
        for chunk in sockets.chunks(CHUNK) {
            let identities = chunk.iter().map(|(identity, _)| *identity).collect();
            let descriptors: Vec<_> = chunk.iter().map(|(_, socket)| socket.as_fd()).collect();
            channel
                .send(&Message::Listening { identities }, &descriptors)
                .map_err(failed)?;
        }
        // From here on a listener can be closed again.
        drop(sockets);
        expect(channel, &Message::Ready, READY_TIMEOUT)?;
        channel.send(&Message::Go, &[]).map_err(failed)?;
        expect(channel, &Message::Serving, SERVING_TIMEOUT)?;
        self.control.owns_path(false);
        channel.send(&Message::Done, &[]).map_err(|error| {
            self.control.owns_path(true);
            error.to_string()
        })
    }
}

/// Waits for `message`.
fn expect(channel: &mut Channel, message: &Message, patience: Duration) -> Result<(), String> {
    match channel.receive(Instant::now() + patience) {
        Ok((received, _)) if received == *message => Ok(()),
        Ok((Message::Failed { why }, _)) => Err(why),
        Ok((other, _)) => Err(format!("{other:?} instead of {message:?}")),
        Err(error) => Err(format!("no {message:?}: {error}")),
    }
}

fn refuse(channel: &mut Channel, why: &str) {
    let why = shortened(why);
    // Who has gone needs no answer.
    let _ = channel.send(&Message::Refused { why }, &[]);
}

/// The one upgrade under way; over by Drop.
struct Upgrading<'t>(&'t AtomicBool);

impl Upgrading<'_> {
    fn begin(upgrading: &AtomicBool) -> Option<Upgrading<'_>> {
        let before = upgrading.swap(true, Ordering::AcqRel);
        (!before).then_some(Upgrading(upgrading))
    }
}

impl Drop for Upgrading<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// For a greeting. A peer that sends nothing holds up no other.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// For names, health and whatever the new process has to build.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// From QUIT to a successor.
const SUCCESSOR_TIMEOUT: Duration = Duration::from_secs(10);
/// Processes that are talked to at once.
const MAX_TALKS: usize = 8;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
