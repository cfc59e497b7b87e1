//! Every byte arrives, whatever the pace of both sides.

use super::*;

/// How a peer of the big transfers goes about it.
#[derive(Clone, Copy)]
pub(super) enum Pace {
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

pub(super) async fn send(mut to: impl AsyncWriteExt + Unpin, total: usize, mut pace: Pace) {
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

pub(super) async fn receive(mut from: impl AsyncReadExt + Unpin, total: usize, mut pace: Pace) {
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
