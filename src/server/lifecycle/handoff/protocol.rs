//! What two processes of the gateway send each other during an upgrade, and how it is framed.
//!
//! A codec over a socket; `old` and `new` decide. The format is private to the gateway and
//! versioned by the first message: four bytes of length (big endian), then JSON; descriptors travel
//! with a frame's first byte. Invariants: nothing waits past its deadline, nothing is larger than
//! [`MAX_FRAME`], a received descriptor is owned at once.

use std::fmt;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::server::edge::listener::Identity;

/// One message. In the order in which they are said; `Refused` and `Failed` end the talk.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// New to old. Its shape is the same in all versions.
    Hello { version: u32, pid: u32 },
    /// Of a caller that does not want to take over: where is the admin listener?
    Where,
    /// The answer.
    Here {
        pid: u32,
        config: String,
        admin: Vec<SocketAddr>,
    },
    /// Old to new: how many listening sockets follow. With it come the socket that upgrades are
    /// asked for on, and the pid file where there is one.
    Sockets { pid: u32, count: usize },
    /// Old to new: some of them, a descriptor for each identity.
    Listening { identities: Vec<Identity> },
    /// New to old: everything that can fail has not.
    Ready,
    /// Old to new: accept.
    Go,
    /// New to old: accepting.
    Serving,
    /// Old to new: the old one drains.
    Done,
    /// Old to new, at any time: the old one goes on, the new one must not.
    Refused { why: String },
    /// New to old, until it is ready: it ends.
    Failed { why: String },
}

/// Why a message did not come or could not be sent.
#[derive(Debug)]
pub(super) enum ChannelError {
    /// The other process closed the connection or has died.
    Gone,
    Late,
    Broken(String),
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChannelError::Gone => f.write_str("it has gone"),
            ChannelError::Late => f.write_str("it said nothing in time"),
            ChannelError::Broken(why) => f.write_str(why),
        }
    }
}

/// A blocking connection to the other process.
#[derive(Debug)]
pub(super) struct Channel {
    stream: UnixStream,
}

impl Channel {
    /// `stream` is in blocking mode.
    pub(super) fn new(stream: UnixStream) -> Channel {
        Channel { stream }
    }

    /// The user of the process at the other end, as the kernel has it (SO_PEERCRED, unix(7)).
    pub(super) fn peer_uid(&self) -> std::io::Result<u32> {
        Ok(getsockopt(&self.stream, sockopt::PeerCredentials)?.uid())
    }

    /// Sends `message`, with at most [`CHUNK`] descriptors.
    pub(super) fn send(
        &mut self,
        message: &Message,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let frame = frame(message)?;
        self.stream
            .set_write_timeout(Some(SEND_TIMEOUT))
            .map_err(channel_error)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(CHUNK))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        // The space is a little larger than asked for when it happens to lie aligned.
        let fits = descriptors.is_empty()
            || descriptors.len() <= CHUNK
                && control.push(SendAncillaryMessage::ScmRights(descriptors));
        if !fits {
            return Err(ChannelError::Broken(format!(
                "{} descriptors are too many for one message",
                descriptors.len()
            )));
        }
        let sent = sendmsg(
            &self.stream,
            &[IoSlice::new(&frame)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
        .map_err(|error| channel_error(error.into()))?;
        self.stream
            .write_all(frame.get(sent..).unwrap_or_default())
            .map_err(channel_error)
    }

    /// The next message and the descriptors that came with it.
    pub(super) fn receive(
        &mut self,
        deadline: Instant,
    ) -> Result<(Message, Vec<OwnedFd>), ChannelError> {
        let mut head = [0; 4];
        let mut descriptors = Vec::new();
        let mut have = 0;
        while have < head.len() {
            self.wait_until(deadline)?;
            have += self.receive_some(&mut head[have..], &mut descriptors)?;
        }
        let length = u32::from_be_bytes(head) as usize;
        if length > MAX_FRAME {
            return Err(ChannelError::Broken(format!(
                "a message of {length} bytes is none"
            )));
        }
        let mut text = vec![0; length];
        let mut have = 0;
        while have < length {
            self.wait_until(deadline)?;
            have += match self.stream.read(&mut text[have..]) {
                Ok(0) => return Err(ChannelError::Gone),
                Ok(got) => got,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => 0,
                Err(error) => return Err(channel_error(error)),
            };
        }
        let message = serde_json::from_slice(&text)
            .map_err(|error| ChannelError::Broken(format!("an unknown message: {error}")))?;
        Ok((message, descriptors))
    }

    fn wait_until(&self, deadline: Instant) -> Result<(), ChannelError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ChannelError::Late);
        }
        self.stream
            .set_read_timeout(Some(left))
            .map_err(channel_error)
    }

    fn receive_some(
        &self,
        bytes: &mut [u8],
        descriptors: &mut Vec<OwnedFd>,
    ) -> Result<usize, ChannelError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(CHUNK))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.stream,
            &mut [IoSliceMut::new(bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        let received = match received {
            Ok(received) => received,
            Err(rustix::io::Errno::INTR) => return Ok(0),
            Err(error) => return Err(channel_error(error.into())),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(sent) = message {
                descriptors.extend(sent);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(ChannelError::Broken(
                "sockets were lost on the way: is the limit of open files too low?".to_owned(),
            ));
        }
        match received.bytes {
            0 => Err(ChannelError::Gone),
            got => Ok(got),
        }
    }
}

fn frame(message: &Message) -> Result<Vec<u8>, ChannelError> {
    let text =
        serde_json::to_vec(message).map_err(|error| ChannelError::Broken(error.to_string()))?;
    let length = u32::try_from(text.len()).ok();
    let length = length.filter(|length| *length as usize <= MAX_FRAME);
    let Some(length) = length else {
        return Err(ChannelError::Broken(format!(
            "a message of {} bytes is too long",
            text.len()
        )));
    };
    Ok([&length.to_be_bytes()[..], &text].concat())
}

fn channel_error(error: std::io::Error) -> ChannelError {
    use std::io::ErrorKind::*;
    match error.kind() {
        UnexpectedEof | ConnectionReset | BrokenPipe | ConnectionAborted => ChannelError::Gone,
        WouldBlock | TimedOut => ChannelError::Late,
        _ => ChannelError::Broken(error.to_string()),
    }
}

/// `why` as a message may carry it.
pub(super) fn shortened(why: &str) -> String {
    why.chars().take(MAX_WHY).collect()
}

/// Of the talk. Raised with every change that an older process would not understand.
pub(super) const VERSION: u32 = 1;
/// Descriptors in one message; the kernel takes 253 (SCM_MAX_FD, unix(7)).
pub(super) const CHUNK: usize = 64;
/// The longest message, in bytes; [`CHUNK`] identities are about a third of it.
const MAX_FRAME: usize = 16 * 1024;
/// Characters of a reason; each may take 12 bytes of JSON.
const MAX_WHY: usize = 1000;
/// For a process that reads nothing.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    use super::*;
    use crate::server::edge::listener::Kind;

    fn pair() -> (Channel, Channel) {
        let (one, other) = UnixStream::pair().unwrap();
        (Channel::new(one), Channel::new(other))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[test]
    fn sockets_come_with_their_identities() {
        let (mut old, mut new) = pair();
        let sockets: Vec<TcpListener> = (0..CHUNK)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let identities: Vec<Identity> = sockets
            .iter()
            .map(|socket| Identity {
                kind: Kind::Tcp,
                configured: socket.local_addr().unwrap(),
            })
            .collect();
        let message = Message::Listening {
            identities: identities.clone(),
        };
        let descriptors: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        old.send(&message, &descriptors).unwrap();
        old.send(&Message::Go, &[]).unwrap();
        let (received, descriptors) = new.receive(soon()).unwrap();
        assert_eq!(received, message);
        for (descriptor, identity) in descriptors.into_iter().zip(&identities) {
            let socket = TcpListener::from(descriptor);
            assert_eq!(socket.local_addr().unwrap(), identity.configured);
        }
        let (received, descriptors) = new.receive(soon()).unwrap();
        assert_eq!(received, Message::Go);
        assert!(descriptors.is_empty());
        let too_many: Vec<_> = (0..=CHUNK).map(|_| sockets[0].as_fd()).collect();
        assert!(old.send(&Message::Go, &too_many).is_err());
    }

    #[test]
    fn half_a_message_a_wrong_one_and_none_are_told_apart() {
        let (mut old, new) = pair();
        let mut stream = new.stream;
        stream.write_all(&[0, 0, 0, 9, b'{']).unwrap();
        let late = old.receive(Instant::now() + Duration::from_millis(20));
        assert!(matches!(late, Err(ChannelError::Late)), "{late:?}");
        drop(stream);
        assert!(matches!(old.receive(soon()), Err(ChannelError::Gone)));
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0\0\0\x02{}"] {
            let (mut old, mut new) = pair();
            new.stream.write_all(bytes).unwrap();
            let wrong = old.receive(soon());
            assert!(matches!(wrong, Err(ChannelError::Broken(_))), "{wrong:?}");
        }
    }

    #[test]
    fn a_dripping_peer_does_not_move_the_deadline() {
        let (mut old, new) = pair();
        let mut stream = new.stream;
        let dripping = std::thread::spawn(move || {
            let mut frame = (MAX_FRAME as u32).to_be_bytes().to_vec();
            frame.resize(1000, b' ');
            for byte in frame {
                if stream.write_all(&[byte]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let started = Instant::now();
        let late = old.receive(started + Duration::from_millis(50));
        assert!(matches!(late, Err(ChannelError::Late)), "{late:?}");
        assert!(started.elapsed() < Duration::from_millis(500));
        drop(old);
        dripping.join().unwrap();
    }

    #[test]
    fn the_longest_reason_fits_into_a_message() {
        let (mut old, mut new) = pair();
        let message = Message::Refused {
            why: shortened(&"\u{1}\u{10ffff}".repeat(MAX_WHY)),
        };
        old.send(&message, &[]).unwrap();
        assert_eq!(new.receive(soon()).unwrap().0, message);
    }
}
