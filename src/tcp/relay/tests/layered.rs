//! Relays whose sides are not plain: bytes change on the way, and the end has a record of its own.

use tokio::io::split;

use super::bulk::{Pace, receive, send};
use super::*;
use crate::transport::masked::Masked;

struct LayeredSession {
    client: Transport,
    server: Transport,
    stop: oneshot::Sender<()>,
    relay: JoinHandle<Ended>,
    pipes: Arc<Pipes>,
}

fn masked(stream: TcpStream) -> Transport {
    Transport::Tls(Box::new(Masked::new(stream)))
}

/// Which sides of the gateway are masked.
const BOTH: [bool; 2] = [true, true];
const SIDES: [[bool; 2]; 3] = [BOTH, [true, false], [false, true]];

async fn layered(sides: [bool; 2], idle: Option<Duration>) -> LayeredSession {
    let wrap = |layer: bool, stream| match layer {
        true => masked(stream),
        false => Transport::from(stream),
    };
    let (client, accepted) = connection(Some(16 * 1024)).await;
    let (connected, server) = connection(Some(16 * 1024)).await;
    let (client, accepted) = (wrap(sides[0], client), wrap(sides[0], accepted));
    let (connected, server) = (wrap(sides[1], connected), wrap(sides[1], server));
    let (stop, stopped) = oneshot::channel();
    let pipes = Pipes::new(8);
    let to = Arc::clone(&pipes);
    let relay = tokio::spawn(async move {
        let mut relay = Relay::new(&|_, _| {});
        relay.pipes = Some(to);
        relay.idle_timeout = idle;
        let stop = pin!(async {
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        });
        relay.run(accepted, connected, stop).await
    });
    LayeredSession {
        client,
        server,
        stop,
        relay,
        pipes,
    }
}

async fn speaks(to: &mut Transport, bytes: &[u8]) {
    soon(to.write_all(bytes)).await.unwrap();
    soon(to.flush()).await.unwrap();
}

async fn listens(from: &mut Transport, bytes: &[u8]) {
    let mut heard = vec![0; bytes.len()];
    soon(from.read_exact(&mut heard)).await.unwrap();
    assert_eq!(heard, bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_and_each_end_passes_where_a_side_is_not_plain() {
    for sides in SIDES {
        let session = layered(sides, None).await;
        let (client_reads, client_writes) = split(session.client);
        let (server_reads, server_writes) = split(session.server);
        let tasks = [
            tokio::spawn(send(client_writes, 2 * MB, Pace::Full)),
            tokio::spawn(receive(server_reads, 2 * MB, Pace::Uneven(1))),
            tokio::spawn(send(server_writes, 3 * MB, Pace::Full)),
            tokio::spawn(receive(client_reads, 3 * MB, Pace::Uneven(2))),
        ];
        for task in tasks {
            soon(task).await.unwrap();
        }
        let ended = soon(session.relay).await.unwrap();
        assert_eq!(ended.reason, Reason::Ok);
        assert_eq!((ended.up, ended.down), (2 * MB as u64, 3 * MB as u64));
        assert_eq!(session.pipes.made(), 0, "these bytes cannot be spliced");
    }
}

#[tokio::test]
async fn one_side_that_ended_in_order_is_still_answered_where_it_is_not_plain() {
    let mut session = layered(BOTH, None).await;
    speaks(&mut session.client, b"select").await;
    session.client.shutdown().await.unwrap();
    listens(&mut session.server, b"select").await;
    assert_eq!(soon(session.server.read(&mut [0; 8])).await.unwrap(), 0);
    speaks(&mut session.server, b"row").await;
    listens(&mut session.client, b"row").await;
    session.server.shutdown().await.unwrap();
    assert_eq!(soon(session.client.read(&mut [0; 8])).await.unwrap(), 0);
    assert_eq!(soon(session.relay).await.unwrap().reason, Reason::Ok);
}

/// Also an end of the socket without one of the session: what was said may have been cut short.
#[tokio::test]
async fn a_side_that_breaks_breaks_the_other_where_it_is_not_plain() {
    let ways: [fn(Transport); 2] = [super::super::close_with_reset, drop];
    for leave in ways {
        let mut session = layered(BOTH, None).await;
        speaks(&mut session.client, b"select").await;
        listens(&mut session.server, b"select").await;
        leave(session.client);
        let error = soon(session.server.read(&mut [0; 8])).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let ended = soon(session.relay).await.unwrap();
        assert_eq!(ended.reason, Reason::ClientClosed);
    }
}

#[tokio::test]
async fn a_session_is_idle_and_is_stopped_where_it_is_not_plain() {
    let session = layered(BOTH, Some(Duration::from_millis(50))).await;
    let ended = soon(session.relay).await.unwrap();
    assert_eq!(ended.reason, Reason::IdleTimeout);
    assert!(matches!(ended.rest, Rest::Open { cut: false, .. }));

    let mut session = layered(BOTH, None).await;
    speaks(&mut session.server, b"greeting").await;
    listens(&mut session.client, b"greeting").await;
    session.stop.send(()).unwrap();
    let ended = soon(session.relay).await.unwrap();
    assert_eq!(ended.reason, Reason::Drained);
    let Rest::Open { mut client, .. } = ended.rest else {
        panic!("was closed");
    };
    speaks(&mut client, b"57P01").await;
    listens(&mut session.client, b"57P01").await;
}
