//! Relays between real sockets.

mod layered;

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

/// How a peer of the big transfers goes about it.
#[derive(Clone, Copy)]
enum Pace {
    Full,
    /// Bulk, pauses, dribbles, by turns, as the seed has it.
    Uneven(u64),
}

impl Pace {
    /// The size of the next portion, and whether to let others run before.
    fn next(&mut self) -> (usize, bool) {
        match self {
            Pace::Full => (256 * 1024, false),
            Pace::Uneven(state) => {
                *state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let dice = (*state >> 33) as usize;
                match dice % 64 {
                    0 => (1 + dice % 100, true),
                    1..=3 => (1 + dice % 5000, true),
                    _ => (1 + dice % 400_000, false),
                }
            }
        }
    }
}

async fn pause(yes: bool) {
    if yes {
        tokio::time::sleep(Duration::from_micros(300)).await;
    }
}

async fn send(mut to: impl AsyncWriteExt + Unpin, total: usize, mut pace: Pace) {
    let block = block();
    let mut sent = 0;
    while sent < total {
        let at = sent % block.len();
        let (portion, rest) = pace.next();
        let portion = portion.min(block.len() - at).min(total - sent);
        pause(rest).await;
        to.write_all(&block[at..at + portion]).await.unwrap();
        sent += portion;
    }
    to.shutdown().await.unwrap();
}

async fn receive(mut from: impl AsyncReadExt + Unpin, total: usize, mut pace: Pace) {
    let block = block();
    let mut buffer = vec![0; 512 * 1024];
    let mut received = 0;
    loop {
        let (portion, rest) = pace.next();
        pause(rest).await;
        let read = from.read(&mut buffer[..portion]).await.unwrap();
        if read == 0 {
            break;
        }
        let mut checked = 0;
        while checked < read {
            let at = (received + checked) % block.len();
            let now = (block.len() - at).min(read - checked);
            assert!(
                buffer[checked..checked + now] == block[at..at + now],
                "other bytes within {} of {received}",
                checked + now
            );
            checked += now;
        }
        received += read;
    }
    assert_eq!(received, total);
}

async fn transfer(session: Session, up: usize, down: usize, paces: [Pace; 4]) {
    let Session {
        client,
        server,
        relay,
        counted,
        ..
    } = session;
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    let tasks = [
        tokio::spawn(send(client_writes, up, paces[0])),
        tokio::spawn(receive(server_reads, up, paces[1])),
        tokio::spawn(send(server_writes, down, paces[2])),
        tokio::spawn(receive(client_reads, down, paces[3])),
    ];
    for task in tasks {
        soon(task).await.unwrap();
    }
    let ended = soon(relay).await.unwrap();
    assert_eq!(ended.reason, Reason::Ok);
    assert_eq!((ended.up, ended.down), (up as u64, down as u64));
    assert_eq!(counted[0].load(Ordering::Relaxed), up as u64);
    assert_eq!(counted[1].load(Ordering::Relaxed), down as u64);
}

const MB: usize = 1_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_megabytes_each_way_arrive_as_they_were() {
    let session = start(|_| {}).await;
    let pipes = Arc::clone(&session.pipes);
    transfer(session, 300 * MB, 300 * MB, [Pace::Full; 4]).await;
    assert!(pipes.made() > 0, "never spliced");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uneven_peers_with_small_buffers_lose_nothing() {
    for seed in 1..4 {
        let session = start_with(Some(40_000), |_| {}).await;
        let paces = [seed, seed + 10, seed + 20, seed + 30].map(Pace::Uneven);
        transfer(session, 11 * MB, 13 * MB, paces).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uneven_peers_with_large_buffers_lose_nothing() {
    for seed in 1..4 {
        let session = start(|_| {}).await;
        let paces = [seed, seed + 10, seed + 20, seed + 30].map(Pace::Uneven);
        transfer(session, 40 * MB, 50 * MB, paces).await;
    }
}

#[tokio::test]
async fn a_byte_goes_to_and_fro_without_delay() {
    let mut session = start(|_| {}).await;
    let start = Instant::now();
    for n in 0..500_u16 {
        let byte = [n as u8];
        says(&mut session.client, &byte).await;
        hears(&mut session.server, &byte).await;
        says(&mut session.server, &byte).await;
        hears(&mut session.client, &byte).await;
    }
    // One held back for its acknowledgement would alone take 40 ms.
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn the_last_bytes_of_a_long_answer_are_not_kept_back() {
    let mut session = start(|_| {}).await;
    let long = vec![b'x'; 40_000_000];
    for round in 0..3 {
        let mut heard = vec![0; long.len()];
        let sent = session.server.write_all(&long);
        let received = session.client.read_exact(&mut heard);
        let (sent, received) = soon(async { tokio::join!(sent, received) }).await;
        sent.unwrap();
        received.unwrap();
        assert!(heard == long, "round {round}");
        for n in 0..100_u32 {
            let n = n.to_be_bytes();
            says(&mut session.client, &n).await;
            hears(&mut session.server, &n).await;
            says(&mut session.server, &n).await;
            hears(&mut session.client, &n).await;
        }
    }
}

#[tokio::test]
async fn the_end_of_the_client_is_passed_on_and_the_answer_still_comes() {
    let mut session = start(|_| {}).await;
    says(&mut session.client, b"question").await;
    session.client.shutdown().await.unwrap();
    hears(&mut session.server, b"question").await;
    hears_the_end(&mut session.server).await;
    says(&mut session.server, b"answer").await;
    hears(&mut session.client, b"answer").await;
    says(&mut session.server, b"more").await;
    session.server.shutdown().await.unwrap();
    hears(&mut session.client, b"more").await;
    hears_the_end(&mut session.client).await;
    let (ended, ..) = session.ended().await;
    assert_eq!(ended.reason, Reason::Ok);
    assert_eq!((ended.up, ended.down), (8, 10));
    assert!(matches!(ended.rest, Rest::Closed));
}

#[tokio::test]
async fn the_end_of_the_server_is_passed_on_and_the_client_goes_on() {
    let mut session = start(|_| {}).await;
    says(&mut session.client, b"hello").await;
    hears(&mut session.server, b"hello").await;
    says(&mut session.server, b"bye").await;
    session.server.shutdown().await.unwrap();
    hears(&mut session.client, b"bye").await;
    hears_the_end(&mut session.client).await;
    says(&mut session.client, b"wait, there is more").await;
    hears(&mut session.server, b"wait, there is more").await;
    session.client.shutdown().await.unwrap();
    hears_the_end(&mut session.server).await;
    assert_eq!(session.ended().await.0.reason, Reason::Ok);
}

#[tokio::test]
async fn a_reset_of_the_client_is_a_reset_for_the_server() {
    let mut session = start(|_| {}).await;
    says(&mut session.client, b"hello").await;
    hears(&mut session.server, b"hello").await;
    let Session {
        client,
        mut server,
        relay,
        ..
    } = session;
    close_with_reset(client);
    hears_a_reset(&mut server).await;
    let ended = soon(relay).await.unwrap();
    assert_eq!(ended.reason, Reason::ClientClosed);
}

#[tokio::test]
async fn a_reset_of_the_server_is_a_reset_for_the_client_after_all_its_bytes() {
    let mut session = start(|_| {}).await;
    says(&mut session.client, b"hello").await;
    hears(&mut session.server, b"hello").await;
    says(&mut session.server, b"FATAL").await;
    let Session {
        mut client,
        server,
        relay,
        ..
    } = session;
    close_with_reset(server);
    hears(&mut client, b"FATAL").await;
    hears_a_reset(&mut client).await;
    let ended = soon(relay).await.unwrap();
    assert_eq!(ended.reason, Reason::UpstreamReset);
}

/// As PostgreSQL does after Terminate, when TLS's close_notify lies unread in its socket.
#[tokio::test]
async fn a_reset_in_answer_to_the_last_words_of_a_client_is_no_failure() {
    let mut session = start(|_| {}).await;
    says(&mut session.client, b"query").await;
    hears(&mut session.server, b"query").await;
    says(&mut session.server, b"answer").await;
    hears(&mut session.client, b"answer").await;
    says(&mut session.client, b"terminate").await;
    hears(&mut session.server, b"terminate").await;
    says(&mut session.client, b"close_notify").await;
    soon(session.server.peek(&mut [0])).await.unwrap();
    let Session {
        client,
        server,
        relay,
        ..
    } = session;
    drop(client);
    drop(server);
    let ended = soon(relay).await.unwrap();
    assert_eq!(ended.reason, Reason::Ok);
}

#[tokio::test]
async fn a_client_that_closes_on_an_answer_resets_the_server() {
    let mut session = start(|_| {}).await;
    says(&mut session.client, b"select").await;
    hears(&mut session.server, b"select").await;
    let Session {
        client,
        mut server,
        relay,
        ..
    } = session;
    // Closed, not half closed: what comes now is refused with a reset.
    drop(client);
    let flood = vec![1; 100_000];
    while server.write_all(&flood).await.is_ok() {}
    let ended = soon(relay).await.unwrap();
    assert_eq!(ended.reason, Reason::ClientClosed);
}

#[tokio::test]
async fn a_server_that_closes_on_a_request_has_its_last_words_heard() {
    let mut session = start(|_| {}).await;
    says(&mut session.client, b"x").await;
    hears(&mut session.server, b"x").await;
    // Unread bytes at close make this a reset.
    says(&mut session.client, b"unread").await;
    soon(session.server.peek(&mut [0])).await.unwrap();
    says(&mut session.server, b"57P01").await;
    let Session {
        mut client,
        server,
        relay,
        ..
    } = session;
    drop(server);
    hears(&mut client, b"57P01").await;
    hears_a_reset(&mut client).await;
    let ended = soon(relay).await.unwrap();
    assert_eq!(ended.reason, Reason::UpstreamReset);
}

const WHOLE_LINES: ServerBehavior<'static> = ServerBehavior {
    are_whole: |last| last.ends_with(b"\r\n"),
    ..ServerBehavior::NONE
};

/// A server that says no on sight, with what it was sent first lying unread in its socket.
async fn closes_unread(
    words: &[u8],
    options: impl FnOnce(&mut Relay<'_>) + Send + 'static,
) -> (TcpStream, Ended) {
    let mut session = start(options).await;
    soon(session.server.peek(&mut [0])).await.unwrap();
    says(&mut session.server, words).await;
    let Session {
        client,
        server,
        relay,
        ..
    } = session;
    drop(server);
    (client, soon(relay).await.unwrap())
}

#[tokio::test]
async fn a_server_that_closes_on_our_first_bytes_is_heard_and_ends_in_order() {
    let preface = |relay: &mut Relay<'_>| relay.preface = Bytes::from_static(b"PROXY");
    let held = |relay: &mut Relay<'_>| {
        relay.to_server = Bytes::from_static(b"*1\r\n$4\r\nPING\r\n");
        relay.behavior = &WHOLE_LINES;
    };
    for ended in [
        closes_unread(b"-ERR no\r\n", preface).await,
        closes_unread(b"no", preface).await,
        closes_unread(b"-ERR no\r\n", held).await,
    ] {
        let (mut client, ended) = ended;
        assert_eq!(ended.reason, Reason::UpstreamError);
        let Rest::LastWords { client: mut ours } = ended.rest else {
            panic!("{:?}", ended.rest);
        };
        ours.shutdown().await.unwrap();
        let mut heard = Vec::new();
        soon(client.read_to_end(&mut heard)).await.unwrap();
        assert_eq!(heard.len() as u64, ended.down);
    }
}

#[tokio::test]
async fn a_reset_is_one_where_our_first_bytes_cannot_have_caused_it() {
    let cut = |relay: &mut Relay<'_>| {
        relay.to_server = Bytes::from_static(b"GET a\r\n");
        relay.behavior = &WHOLE_LINES;
    };
    let (mut client, ended) = closes_unread(b"$100\r\nhalf", cut).await;
    assert_eq!(ended.reason, Reason::UpstreamReset);
    hears_a_reset(&mut client).await;

    let much = |relay: &mut Relay<'_>| relay.preface = Bytes::from_static(b"PROXY");
    let (mut client, ended) = closes_unread(&[1; 5000], much).await;
    assert_eq!(ended.reason, Reason::UpstreamReset);
    hears_a_reset(&mut client).await;

    // The client has spoken since.
    let mut session = start(|relay| relay.preface = Bytes::from_static(b"PROXY")).await;
    hears(&mut session.server, b"PROXY").await;
    says(&mut session.server, b"greeting").await;
    hears(&mut session.client, b"greeting").await;
    says(&mut session.client, b"login").await;
    soon(session.server.peek(&mut [0])).await.unwrap();
    says(&mut session.server, b"half an ans").await;
    hears(&mut session.client, b"half an ans").await;
    drop(session.server);
    hears_a_reset(&mut session.client).await;
    let ended = soon(session.relay).await.unwrap();
    assert_eq!(ended.reason, Reason::UpstreamReset);
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

#[tokio::test]
async fn a_slow_reader_stops_its_direction_only_and_costs_no_memory() {
    let mut session = start(|_| {}).await;
    let sent = fill(&mut session.server).await;
    for _ in 0..100 {
        says(&mut session.client, b"still here").await;
        hears(&mut session.server, b"still here").await;
    }
    let (given, total) = (session.counted[1].load(Ordering::Relaxed) as usize, sent);
    assert!(given < total, "the buffers of the system are full");
    session.server.shutdown().await.unwrap();
    let mut all = Vec::new();
    soon(session.client.read_to_end(&mut all)).await.unwrap();
    assert_eq!(all.len(), sent);
    let block = block();
    assert!(all[..200_000] == block[..200_000]);
}

#[tokio::test]
async fn a_client_that_breaks_while_the_server_takes_nothing_is_found_out() {
    let mut session = start(|_| {}).await;
    fill(&mut session.client).await;
    let Session {
        client,
        server,
        relay,
        ..
    } = session;
    close_with_reset(client);
    let ended = soon(relay).await.unwrap();
    assert_eq!(ended.reason, Reason::ClientClosed);
    drop(server);
}

#[tokio::test]
async fn a_fast_direction_does_not_starve_the_other() {
    let session = start(|_| {}).await;
    let Session {
        client,
        server,
        relay,
        ..
    } = session;
    let (mut client_reads, mut client_writes) = client.into_split();
    let (mut server_reads, mut server_writes) = server.into_split();
    let flood = tokio::spawn(async move {
        let block = block();
        while server_writes.write_all(&block).await.is_ok() {}
    });
    let sink = tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 20];
        while client_reads.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    });
    for n in 0..1000_u16 {
        let byte = n.to_be_bytes();
        soon(client_writes.write_all(&byte)).await.unwrap();
        let mut heard = [0; 2];
        soon(server_reads.read_exact(&mut heard)).await.unwrap();
        assert_eq!(heard, byte);
    }
    for task in [flood, sink] {
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }
    drop((client_writes, server_reads));
    soon(relay).await.unwrap();
}

#[tokio::test]
async fn a_session_in_which_nothing_moves_ends_and_can_be_told() {
    const IDLE: Duration = Duration::from_secs(1);
    let mut session = start(|relay| relay.idle_timeout = Some(IDLE)).await;
    for _ in 0..4 {
        tokio::time::sleep(IDLE / 3).await;
        says(&mut session.client, b"tick").await;
        hears(&mut session.server, b"tick").await;
    }
    let last = Instant::now();
    let (ended, mut client, mut server) = session.ended().await;
    assert!(last.elapsed() > IDLE - Duration::from_millis(20));
    assert_eq!(ended.reason, Reason::IdleTimeout);
    assert_eq!((ended.up, ended.down), (16, 0));
    let Rest::Open {
        client: mut to_client,
        server: to_server,
        cut,
        ..
    } = ended.rest
    else {
        panic!("was closed");
    };
    assert!(!cut);
    says(&mut to_client, b"57P05").await;
    drop((to_client, to_server));
    hears(&mut client, b"57P05").await;
    hears_the_end(&mut client).await;
    hears_the_end(&mut server).await;
}

#[tokio::test]
async fn a_client_that_waits_for_an_answer_is_not_idle() {
    const IDLE: Duration = Duration::from_millis(300);
    let mut session = start(|relay| {
        relay.idle_timeout = Some(IDLE);
        relay.behavior = &ServerBehavior {
            idle: Idle::Answered,
            ..ServerBehavior::NONE
        };
    })
    .await;
    says(&mut session.client, b"query").await;
    hears(&mut session.server, b"query").await;
    tokio::time::sleep(IDLE * 4).await;
    assert!(!session.relay.is_finished());
    says(&mut session.server, b"answer").await;
    hears(&mut session.client, b"answer").await;
    let last = Instant::now();
    let (ended, ..) = session.ended().await;
    assert!(last.elapsed() > IDLE - Duration::from_millis(20));
    assert_eq!(ended.reason, Reason::IdleTimeout);
}

#[tokio::test]
async fn a_client_that_is_slow_to_take_its_answer_is_not_idle() {
    const IDLE: Duration = Duration::from_millis(300);
    const ANSWER: usize = 64 << 20;
    let mut session = start(|relay| {
        relay.idle_timeout = Some(IDLE);
        relay.behavior = &ServerBehavior {
            idle: Idle::Answered,
            ..ServerBehavior::NONE
        };
    })
    .await;
    says(&mut session.client, b"query").await;
    hears(&mut session.server, b"query").await;
    let mut server = session.server;
    let answers = tokio::spawn(async move {
        server.write_all(&vec![b'x'; ANSWER]).await.unwrap();
        server
    });
    // More than all sockets on the way hold.
    tokio::time::sleep(IDLE * 4).await;
    assert!(!answers.is_finished(), "the sockets hold all of it");
    assert!(!session.relay.is_finished());
    let mut answer = vec![0; ANSWER];
    soon(session.client.read_exact(&mut answer)).await.unwrap();
    session.server = soon(answers).await.unwrap();
    // Then it is.
    let (ended, ..) = session.ended().await;
    assert_eq!(
        (ended.reason, ended.down),
        (Reason::IdleTimeout, ANSWER as u64)
    );
}

/// Which bytes still pass, and how it ends.
#[tokio::test]
async fn a_server_is_asked_to_come_to_an_end_before_its_session_is_stopped() {
    const NEVER: Duration = Duration::from_secs(3600);
    const fn asking(
        ask: &'static (dyn Fn() -> Option<Asking> + Send + Sync),
    ) -> ServerBehavior<'static> {
        ServerBehavior {
            graceful_end: Some(GracefulEnd {
                is_over: |last| last.ends_with(b"ready"),
                ask,
            }),
            ..ServerBehavior::NONE
        }
    }
    const ASK: ServerBehavior<'static> = asking(&|| Some(Box::pin(tokio::time::sleep(NEVER))));
    const IN_VAIN: ServerBehavior<'static> = asking(&|| Some(Box::pin(std::future::ready(()))));
    const CANNOT: ServerBehavior<'static> = asking(&|| None);
    // It answers, and that is passed on.
    let mut session = start(|relay| relay.behavior = &ASK).await;
    says(&mut session.client, b"query").await;
    hears(&mut session.server, b"query").await;
    session.stop();
    says(&mut session.server, b"cancelled, rea").await;
    hears(&mut session.client, b"cancelled, rea").await;
    assert!(!session.relay.is_finished());
    says(&mut session.server, b"dy").await;
    hears(&mut session.client, b"dy").await;
    let (ended, ..) = session.ended().await;
    assert_eq!(ended.reason, Reason::Drained);
    assert!(matches!(ended.rest, Rest::Open { last: Some(last), .. } if &last == b" ready"));

    // It does not answer, or cannot be asked.
    for behavior in [&IN_VAIN, &CANNOT] {
        let mut session = start(move |relay| relay.behavior = behavior).await;
        says(&mut session.client, b"query").await;
        hears(&mut session.server, b"query").await;
        session.stop();
        assert_eq!(session.ended().await.0.reason, Reason::Drained);
    }

    // It has nothing to do, and is not asked.
    let mut session = start(|relay| relay.behavior = &ASK).await;
    says(&mut session.server, b"greeting, ready").await;
    hears(&mut session.client, b"greeting, ready").await;
    session.stop();
    assert_eq!(session.ended().await.0.reason, Reason::Drained);
}

#[tokio::test]
async fn a_half_open_session_ends_when_nothing_moves() {
    const PATIENCE: Duration = Duration::from_secs(1);
    let mut session = start(|relay| {
        relay.half_open_timeout = PATIENCE;
        relay.idle_timeout = Some(Duration::from_secs(3600));
    })
    .await;
    // Not half open: it may be silent for longer.
    tokio::time::sleep(PATIENCE + PATIENCE / 2).await;
    says(&mut session.client, b"select").await;
    session.client.shutdown().await.unwrap();
    hears(&mut session.server, b"select").await;
    hears_the_end(&mut session.server).await;
    for _ in 0..4 {
        tokio::time::sleep(PATIENCE / 3).await;
        says(&mut session.server, b"row").await;
        hears(&mut session.client, b"row").await;
    }
    let last = Instant::now();
    let (ended, mut client, mut server) = session.ended().await;
    assert!(last.elapsed() > PATIENCE - Duration::from_millis(20));
    assert_eq!(ended.reason, Reason::HalfOpen);
    assert!(matches!(ended.rest, Rest::Closed));
    // Nobody may take that for an end in order.
    hears_a_reset(&mut client).await;
    assert!(server.write_all(b"row").await.is_err() || server.write_all(b"row").await.is_err());
}

#[tokio::test]
async fn stopped_it_hands_both_sides_back() {
    let mut session = start(|_| {}).await;
    says(&mut session.client, b"hello").await;
    hears(&mut session.server, b"hello").await;
    session.stop();
    let (ended, mut client, _server) = session.ended().await;
    assert_eq!(ended.reason, Reason::Drained);
    let Rest::Open {
        client: mut to_client,
        cut: false,
        ..
    } = ended.rest
    else {
        panic!("was closed or cut");
    };
    says(&mut to_client, b"57P01").await;
    hears(&mut client, b"57P01").await;
}

#[tokio::test]
async fn stopped_in_the_middle_of_an_answer_it_says_so() {
    let mut session = start(|_| {}).await;
    fill(&mut session.server).await;
    session.stop();
    let (ended, ..) = session.ended().await;
    assert_eq!(ended.reason, Reason::Drained);
    assert!(matches!(ended.rest, Rest::Open { cut: true, .. }));
}

#[tokio::test]
async fn bytes_read_before_go_first() {
    let mut session = start(|relay| {
        relay.to_server = Bytes::from_static(b"startup,");
        relay.to_client = Bytes::from_static(b"greeting,");
    })
    .await;
    hears(&mut session.server, b"startup,").await;
    hears(&mut session.client, b"greeting,").await;
    says(&mut session.client, b"query").await;
    hears(&mut session.server, b"query").await;
    session.client.shutdown().await.unwrap();
    session.server.shutdown().await.unwrap();
    hears_the_end(&mut session.client).await;
    let (ended, ..) = session.ended().await;
    assert_eq!((ended.up, ended.down), (13, 9));
    assert_eq!(ended.reason, Reason::Ok);
}

#[tokio::test]
async fn observers_see_what_passes_until_they_have_seen_enough() {
    let seen = Arc::new(std::sync::Mutex::new((Vec::new(), Vec::new())));
    let (of_client, of_server) = (Arc::clone(&seen), Arc::clone(&seen));
    let mut session = start(move |relay| {
        relay.to_server = Bytes::from_static(b"not shown");
        relay.on_client_bytes = Some(Box::new(move |bytes| {
            of_client.lock().unwrap().0.extend_from_slice(bytes);
            Seen::More
        }));
        relay.on_server_bytes = Some(Box::new(move |bytes| {
            of_server.lock().unwrap().1.extend_from_slice(bytes);
            Seen::Enough
        }));
    })
    .await;
    hears(&mut session.server, b"not shown").await;
    for word in [b"one", b"two"] {
        says(&mut session.client, word).await;
        hears(&mut session.server, word).await;
        says(&mut session.server, word).await;
        hears(&mut session.client, word).await;
    }
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen, (b"onetwo".to_vec(), b"one".to_vec()));
}

#[tokio::test]
async fn who_leaves_without_a_word_is_named_in_the_reason() {
    // The client first, silent.
    let mut session = start(|_| {}).await;
    session.client.shutdown().await.unwrap();
    hears_the_end(&mut session.server).await;
    session.server.shutdown().await.unwrap();
    assert_eq!(session.ended().await.0.reason, Reason::ClientClosed);

    // The server first, silent.
    let mut session = start(|_| {}).await;
    session.server.shutdown().await.unwrap();
    hears_the_end(&mut session.client).await;
    session.client.shutdown().await.unwrap();
    assert_eq!(session.ended().await.0.reason, Reason::UpstreamReset);

    // The server first, with words of its own.
    let mut session = start(|_| {}).await;
    says(&mut session.server, b"1129 blocked").await;
    session.server.shutdown().await.unwrap();
    hears(&mut session.client, b"1129 blocked").await;
    hears_the_end(&mut session.client).await;
    session.client.shutdown().await.unwrap();
    assert_eq!(session.ended().await.0.reason, Reason::UpstreamError);
}

#[tokio::test]
async fn the_server_of_a_silent_client_is_handed_back_where_that_is_asked_for() {
    for leave in [drop as Leave, close_with_reset] {
        let mut session = start(|relay| {
            relay.silent_client = SilentClient::HandBack;
            relay.preface = Bytes::from_static(b"not of the client");
        })
        .await;
        hears(&mut session.server, b"not of the client").await;
        says(&mut session.server, b"greeting").await;
        hears(&mut session.client, b"greeting").await;
        let Session {
            client,
            mut server,
            relay,
            ..
        } = session;
        leave(client);
        let ended = soon(relay).await.unwrap();
        assert_eq!(ended.reason, Reason::ClientClosed);
        let Rest::Abandoned { server: mut ours } = ended.rest else {
            panic!("{:?}", ended.rest);
        };
        ours.write_all(b"farewell").await.unwrap();
        hears(&mut server, b"farewell").await;
    }

    // One that has said something ends like any other.
    let mut session = start(|relay| relay.silent_client = SilentClient::HandBack).await;
    says(&mut session.client, b"login").await;
    session.client.shutdown().await.unwrap();
    hears(&mut session.server, b"login").await;
    hears_the_end(&mut session.server).await;
    session.server.shutdown().await.unwrap();
    assert_eq!(session.ended().await.0.reason, Reason::Ok);
}

/// How a server goes.
type Leave = fn(TcpStream);

#[tokio::test]
async fn a_server_that_goes_before_its_first_byte_can_be_replaced_unseen() {
    let ways: [Leave; 2] = [close_with_reset, drop];
    for leave in ways {
        let mut session = start(|relay| {
            relay.preface = Bytes::from_static(b"PROXY");
            relay.to_server = Bytes::from_static(b"start");
            relay.keep_unanswered = 100;
        })
        .await;
        hears(&mut session.server, b"PROXYstart").await;
        says(&mut session.client, b"up").await;
        hears(&mut session.server, b"up").await;
        session.client.shutdown().await.unwrap();
        let Session {
            mut client,
            server,
            relay,
            ..
        } = session;
        leave(server);
        let ended = soon(relay).await.unwrap();
        assert_eq!((ended.reason, ended.down), (Reason::UpstreamReset, 0));
        let Rest::Unanswered {
            client: accepted,
            sent,
        } = ended.rest
        else {
            panic!("the client was told");
        };
        assert_eq!(sent, b"startup"[..], "what the client sent, and no more");
        // Another server; the end of the client, which the first one had heard, comes again.
        let (connected, mut server) = connection(None).await;
        let again = tokio::spawn(async move {
            let mut relay = Relay::new(&|_, _| {});
            relay.to_server = sent;
            let stop = std::future::pending();
            relay.run(accepted, connected.into(), stop).await
        });
        hears(&mut server, b"startup").await;
        hears_the_end(&mut server).await;
        says(&mut server, b"welcome").await;
        drop(server);
        hears(&mut client, b"welcome").await;
        hears_the_end(&mut client).await;
        assert_eq!(soon(again).await.unwrap().reason, Reason::Ok);
    }
}

#[tokio::test]
async fn a_silent_server_is_replaced_for_a_client_that_still_waits_and_for_no_other() {
    let mut session = start(|relay| relay.keep_unanswered = 100).await;
    session.server.shutdown().await.unwrap();
    let (ended, client, _server) = session.ended().await;
    assert!(matches!(ended.rest, Rest::Unanswered { sent, .. } if sent.is_empty()));
    drop(client);

    let mut session = start(|relay| relay.keep_unanswered = 100).await;
    session.client.shutdown().await.unwrap();
    hears_the_end(&mut session.server).await;
    session.server.shutdown().await.unwrap();
    let (ended, ..) = session.ended().await;
    assert_eq!(ended.reason, Reason::ClientClosed);
    assert!(matches!(ended.rest, Rest::Closed));
}

#[tokio::test]
async fn a_server_that_has_answered_or_was_told_too_much_is_not_replaced() {
    let mut session = start(|relay| relay.keep_unanswered = 100).await;
    says(&mut session.client, b"startup").await;
    hears(&mut session.server, b"startup").await;
    says(&mut session.server, b"R").await;
    hears(&mut session.client, b"R").await;
    let Session {
        mut client,
        server,
        relay,
        ..
    } = session;
    close_with_reset(server);
    hears_a_reset(&mut client).await;
    let ended = soon(relay).await.unwrap();
    assert!(matches!(ended.rest, Rest::Closed));

    let mut session = start(|relay| relay.keep_unanswered = 6).await;
    says(&mut session.client, b"startup").await;
    hears(&mut session.server, b"startup").await;
    let Session {
        mut client,
        server,
        relay,
        ..
    } = session;
    close_with_reset(server);
    hears_a_reset(&mut client).await;
    assert!(matches!(soon(relay).await.unwrap().rest, Rest::Closed));
}

#[tokio::test]
async fn sockets_are_set_up_for_sessions() {
    let (near, _far) = connection(None).await;
    tune(&near).unwrap();
    let socket = SockRef::from(&near);
    assert!(socket.tcp_nodelay().unwrap());
    assert!(Socket::keepalive(&socket).unwrap());
    assert_eq!(
        socket.tcp_keepalive_time().unwrap(),
        Duration::from_secs(60)
    );
    // It would end sessions whose peer is slow.
    assert_eq!(socket.tcp_user_timeout().unwrap(), None);
}

/// What the system waits for in vain, which takes it a quarter of an hour where nobody hurries it.
#[tokio::test]
async fn a_peer_that_answers_no_more_has_a_reason_of_its_own() {
    let impatient = |stream: &TcpStream| {
        let patience = Some(Duration::from_millis(100));
        SockRef::from(stream)
            .set_tcp_user_timeout(patience)
            .unwrap();
    };
    for slow in [Direction::Downstream, Direction::Upstream] {
        let (mut client, accepted) = connection(Some(4096)).await;
        let (connected, mut server) = connection(Some(4096)).await;
        let (fast, slow) = match slow {
            Direction::Downstream => (&mut server, &accepted),
            Direction::Upstream => (&mut client, &connected),
        };
        impatient(slow);
        let relay = tokio::spawn(async move {
            let relay = Relay::new(&|_, _| {});
            relay
                .run(accepted.into(), connected.into(), std::future::pending())
                .await
        });
        let bytes = vec![1; 1 << 20];
        soon(async { while fast.write_all(&bytes).await.is_ok() {} }).await;
        let ended = soon(relay).await.unwrap();
        assert_eq!(ended.reason, Reason::PeerTimeout);
        assert!(matches!(ended.rest, Rest::Closed));
    }
}

/// The same without hurry: who takes nothing for a while gets all of it later.
#[tokio::test]
async fn a_peer_that_only_takes_nothing_is_not_lost() {
    let mut session = start_with(Some(4096), |_| {}).await;
    says(&mut session.client, b"copy").await;
    hears(&mut session.server, b"copy").await;
    let filled = fill(&mut session.server).await;
    assert!(!session.relay.is_finished());
    let mut taken = vec![0; filled];
    soon(session.client.read_exact(&mut taken)).await.unwrap();
    session.client.shutdown().await.unwrap();
    session.server.shutdown().await.unwrap();
    let (ended, ..) = session.ended().await;
    assert_eq!(ended.reason, Reason::Ok);
}

#[tokio::test]
async fn a_session_at_rest_is_small() {
    let (client, accepted) = connection(None).await;
    let (connected, server) = connection(None).await;
    let count = |_, _| {};
    let relay = Relay::new(&count).run(accepted.into(), connected.into(), std::future::pending());
    let size = size_of_val(&relay);
    eprintln!(
        "SIZE {size} flow {} clock {}",
        size_of::<super::flow::Flow>(),
        size_of::<super::clock::Clock>()
    );
    assert!(size <= 500, "{size} bytes");
    drop((client, server));
}
