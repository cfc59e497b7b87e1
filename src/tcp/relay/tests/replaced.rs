//! Servers handed back, or replaced before the client saw them.

use super::*;

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
