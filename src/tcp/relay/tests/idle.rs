//! Sessions in which nothing moves, and sessions that are stopped.

use super::*;

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

#[tokio::test]
async fn a_session_at_rest_is_small() {
    let (client, accepted) = connection(None).await;
    let (connected, server) = connection(None).await;
    let count = |_, _| {};
    let relay = Relay::new(&count).run(accepted.into(), connected.into(), std::future::pending());
    let size = size_of_val(&relay);
    eprintln!(
        "SIZE {size} flow {} clock {}",
        size_of::<crate::tcp::relay::flow::Flow>(),
        size_of::<crate::tcp::relay::clock::Clock>()
    );
    assert!(size <= 500, "{size} bytes");
    drop((client, server));
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
