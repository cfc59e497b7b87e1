//! Relays between real sockets.

mod bulk;
mod ends;
mod idle;
mod layered;
mod replaced;

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use socket2::{SockRef, Socket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{
    Asking, Ended, GracefulEnd, Idle, Pipes, Relay, Rest, Seen, ServerBehavior, SilentClient,
};
use crate::error::Reason;
use crate::telemetry::Direction;
use crate::transport::Transport;
use crate::upstream::tune;

/// A relay between two peers that the test plays.
struct Session {
    client: TcpStream,
    server: TcpStream,
    stop: Option<oneshot::Sender<()>>,
    relay: JoinHandle<Ended>,
    pipes: Arc<Pipes>,
    counted: Arc<[AtomicU64; 2]>,
}

/// Two ends of one connection.
async fn connection(buffers: Option<usize>) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap());
    let (near, (far, _)) = tokio::try_join!(near, listener.accept()).unwrap();
    for stream in [&near, &far] {
        tune(stream).unwrap();
        if let Some(size) = buffers {
            SockRef::from(stream).set_send_buffer_size(size).unwrap();
            SockRef::from(stream).set_recv_buffer_size(size).unwrap();
        }
    }
    (near, far)
}

async fn start(options: impl FnOnce(&mut Relay<'_>) + Send + 'static) -> Session {
    start_with(None, options).await
}

async fn start_with(
    buffers: Option<usize>,
    options: impl FnOnce(&mut Relay<'_>) + Send + 'static,
) -> Session {
    let (client, accepted) = connection(buffers).await;
    let (connected, server) = connection(buffers).await;
    let (stop, stopped) = oneshot::channel();
    let pipes = Pipes::new(8);
    let counted = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let (to, counts) = (Arc::clone(&pipes), Arc::clone(&counted));
    let relay = tokio::spawn(async move {
        let count = |direction, bytes| {
            counts[usize::from(direction == Direction::Downstream)]
                .fetch_add(bytes, Ordering::Relaxed);
        };
        let mut relay = Relay::new(&count);
        relay.pipes = Some(to);
        options(&mut relay);
        let stop = pin!(async {
            // A dropped sender means that the test does not stop the relay.
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        });
        relay.run(accepted.into(), connected.into(), stop).await
    });
    Session {
        client,
        server,
        stop: Some(stop),
        relay,
        pipes,
        counted,
    }
}

impl Session {
    /// The end of the relay; both peers stay open.
    async fn ended(self) -> (Ended, TcpStream, TcpStream) {
        let ended = soon(self.relay).await.unwrap();
        let counted = |n: usize| self.counted[n].load(Ordering::Relaxed);
        assert_eq!((ended.up, ended.down), (counted(0), counted(1)));
        (ended, self.client, self.server)
    }

    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }
}

fn close_with_reset(stream: TcpStream) {
    super::close_with_reset(stream.into());
}

/// Fails instead of waiting for ever.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(120), future)
        .await
        .expect("it happens soon")
}

async fn says(to: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) {
    soon(to.write_all(bytes)).await.unwrap();
}

async fn hears(from: &mut TcpStream, bytes: &[u8]) {
    let mut heard = vec![0; bytes.len()];
    soon(from.read_exact(&mut heard)).await.unwrap();
    assert_eq!(heard, bytes);
}

async fn hears_the_end(from: &mut TcpStream) {
    let mut rest = Vec::new();
    soon(from.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty(), "{} bytes before the end", rest.len());
}

async fn hears_a_reset(from: &mut TcpStream) {
    let error = soon(from.read_to_end(&mut Vec::new())).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// A long block of bytes without a short period.
fn block() -> Arc<[u8]> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..1_048_573)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// Writes until nothing more is taken.
async fn fill(stream: &mut TcpStream) -> usize {
    let block = block();
    let mut sent = 0;
    loop {
        let write = stream.write(&block);
        match tokio::time::timeout(Duration::from_millis(500), write).await {
            Ok(n) => sent += n.unwrap(),
            Err(_) => return sent,
        }
    }
}

const MB: usize = 1_000_000;

const WHOLE_LINES: ServerBehavior<'static> = ServerBehavior {
    are_whole: |last| last.ends_with(b"\r\n"),
    ..ServerBehavior::NONE
};

/// How a server goes.
type Leave = fn(TcpStream);
