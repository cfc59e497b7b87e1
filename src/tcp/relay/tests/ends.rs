//! How an end of one side reaches the other, and what it is called.

use super::*;

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

/// What the system gives up waiting for: after a quarter of an hour where no timeout is set.
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
