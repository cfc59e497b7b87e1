//! Connections as clients see them: real sockets, the real loop, a tiny application behind it.
//!
//! Long because every way in which a connection can end has its test.

use std::collections::VecDeque;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::apps::HttpPersistentSettings;
use pingora_core::server::ShutdownWatch;
use pingora_http::ResponseHeader;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::*;
use crate::server::drain::stages::Stages;
use crate::server::edge::http1::io::tests::connected;
use crate::wire::http1::cases::{CASES, Verdict};

/// Answers every request with `METHOD target requests_before body`. Before it answers `/wait`, it
/// watches the client as a proxy does and waits for a permit.
struct Echo {
    permits: Semaphore,
    seen: mpsc::UnboundedSender<String>,
}

#[async_trait]
impl HttpServerApp for Echo {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let arrival = session
            .take_connection_user_context()?
            .downcast::<Arrival>()
            .ok()?;
        if !session.read_request().await.expect("only good heads come") {
            return None;
        }
        if *shutdown.borrow() {
            session.set_keepalive(None);
        }
        let request = session.req_header();
        let method = request.method.clone();
        let target = String::from_utf8_lossy(request.raw_path()).into_owned();
        let _ = self.seen.send(target.clone());
        if target == "/early" {
            let mut head = ResponseHeader::build(413, None).ok()?;
            head.insert_header("Content-Length", "0").ok()?;
            session.write_response_header(Box::new(head)).await.ok()?;
            session.write_response_body(Bytes::new(), true).await.ok()?;
            let settings = HttpPersistentSettings::for_session(&session);
            let stream = session.finish().await.ok()??;
            return Some(ReusedHttpStream::from_reusable_stream(stream, settings));
        }
        if target == "/upgrade" {
            let mut head = ResponseHeader::build(101, None).ok()?;
            head.insert_header("Upgrade", "echo").ok()?;
            session.write_response_header(Box::new(head)).await.ok()?;
            while let Ok(Some(bytes)) = session.read_request_body().await {
                session.write_response_body(bytes, false).await.ok()?;
            }
            return None;
        }
        let mut body = Vec::new();
        loop {
            match session.read_request_body().await {
                Ok(Some(bytes)) => body.extend_from_slice(&bytes),
                Ok(None) => break,
                Err(error) => {
                    let _ = self.seen.send(format!("failed: {error}"));
                    return None;
                }
            }
        }
        if target == "/wait" {
            tokio::select! {
                left = session.read_body_or_idle(true) => {
                    let _ = self.seen.send(format!("left: {}", left.is_err()));
                    return None;
                }
                permit = self.permits.acquire() => permit.expect("never closed").forget(),
            }
        }
        let text = format!(
            "{method} {target} {} {}",
            arrival.requests_before,
            String::from_utf8_lossy(&body)
        );
        let mut head = ResponseHeader::build(200, None).ok()?;
        head.insert_header("Content-Length", text.len()).ok()?;
        session.write_response_header(Box::new(head)).await.ok()?;
        session.write_response_body(text.into(), true).await.ok()?;
        let settings = HttpPersistentSettings::for_session(&session);
        let stream = session.finish().await.ok()??;
        Some(ReusedHttpStream::from_reusable_stream(stream, settings))
    }
}

/// Limits of the test, and a list of what was refused.
struct TestEdge {
    limits: EdgeLimits,
    refused: Mutex<VecDeque<String>>,
}

impl Edge for TestEdge {
    fn limits(&self) -> EdgeLimits {
        self.limits
    }

    fn refused(&self, request: &RefusedRequest<'_>) {
        self.refused
            .lock()
            .expect("no test panics with it")
            .push_back(format!(
                "{} {} {} {} {}",
                request.status,
                request.reason,
                request.method.unwrap_or("-"),
                request.target.unwrap_or("-"),
                request.bytes,
            ));
    }
}

/// One connection: its client's end, and everything behind it.
struct Fixture {
    client: TcpStream,
    served: JoinHandle<Reason>,
    edge: Arc<TestEdge>,
    app: Arc<Echo>,
    seen: mpsc::UnboundedReceiver<String>,
    announce: watch::Sender<bool>,
    stages: Stages,
}

const LIMITS: EdgeLimits = EdgeLimits {
    max_header_bytes: 4096,
    header_timeout: Duration::from_secs(20),
    keepalive_timeout: Duration::from_secs(20),
};

impl Fixture {
    async fn new(limits: EdgeLimits) -> Fixture {
        let (client, stream) = connected().await;
        let (sender, seen) = mpsc::unbounded_channel();
        let app = Arc::new(Echo {
            permits: Semaphore::new(0),
            seen: sender,
        });
        let edge = Arc::new(TestEdge {
            limits,
            refused: Mutex::default(),
        });
        let (announce, announced) = watch::channel(false);
        let stages = Stages::default();
        let served = tokio::spawn({
            let (app, edge) = (app.clone(), edge.clone());
            let stop = Stop {
                announce: announced,
                stages: stages.watch(),
            };
            async move { serve(&app, &*edge, stream, "127.0.0.1:80".into(), stop).await }
        });
        Fixture {
            client,
            served,
            edge,
            app,
            seen,
            announce,
            stages,
        }
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.client
            .write_all(bytes.as_ref())
            .await
            .expect("the gateway reads");
    }

    /// Reads one response; answers its head and body.
    async fn response(&mut self) -> (String, String) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = timeout(PATIENCE, self.client.read_u8()).await;
            head.push(byte.expect("a response in time").expect("a whole response"));
        }
        let head = String::from_utf8(head).expect("ASCII");
        let length = head
            .to_ascii_lowercase()
            .split_once("content-length: ")
            .map_or(0, |(_, rest)| {
                let digits = rest.split("\r\n").next().expect("split gives one");
                digits.parse().expect("a number")
            });
        let mut body = vec![0; length];
        timeout(PATIENCE, self.client.read_exact(&mut body))
            .await
            .expect("a body in time")
            .expect("a whole body");
        (head, String::from_utf8(body).expect("ASCII"))
    }

    async fn body(&mut self) -> String {
        self.response().await.1
    }

    /// Everything until the connection ends, and whether it ended in an orderly way.
    async fn rest(&mut self) -> (String, bool) {
        let mut bytes = Vec::new();
        let end = timeout(PATIENCE, self.client.read_to_end(&mut bytes))
            .await
            .expect("the connection ends");
        (String::from_utf8_lossy(&bytes).into_owned(), end.is_ok())
    }

    async fn ended(self) -> Reason {
        drop(self.client);
        timeout(PATIENCE, self.served)
            .await
            .expect("the loop ends")
            .expect("without panic")
    }

    async fn saw(&mut self) -> String {
        timeout(PATIENCE, self.seen.recv())
            .await
            .expect("seen in time")
            .expect("the application lives")
    }

    fn refused(&self) -> Vec<String> {
        let mut refused = self.edge.refused.lock().expect("no test panics with it");
        refused.drain(..).collect()
    }
}

/// For what must happen; never waited out when it does.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn serves_request_after_request_on_one_connection() {
    let mut fixture = Fixture::new(LIMITS).await;
    for before in 0..3 {
        fixture.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let (head, body) = fixture.response().await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("Connection: keep-alive\r\n"), "{head}");
        assert_eq!(body, format!("GET /a {before} "));
    }
    assert!(fixture.refused().is_empty());
    assert_eq!(fixture.ended().await, Reason::Ok);
}

#[tokio::test]
async fn answers_pipelined_requests_in_order_with_their_own_bodies() {
    let mut fixture = Fixture::new(LIMITS).await;
    fixture
        .send(concat!(
            "POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nfirst",
            "POST /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            "3\r\nsec\r\n3;x=y\r\nond\r\n0\r\nT: t\r\n\r\n",
            "GET /none HTTP/1.1\r\nHost: a\r\n\r\n",
        ))
        .await;
    assert_eq!(fixture.body().await, "POST /length 0 first");
    assert_eq!(fixture.body().await, "POST /chunked 1 second");
    assert_eq!(fixture.body().await, "GET /none 2 ");
    fixture.send("GET /after HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(fixture.body().await, "GET /after 3 ");
    assert!(fixture.refused().is_empty());
}

#[tokio::test]
async fn takes_a_head_in_any_pieces() {
    let mut fixture = Fixture::new(LIMITS).await;
    let request =
        "\r\nPOST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    for byte in request.bytes() {
        fixture.send([byte]).await;
    }
    assert_eq!(fixture.body().await, "POST /a 0 hi");
    assert_eq!(fixture.ended().await, Reason::Ok);
}

#[tokio::test]
async fn refuses_what_the_table_refuses_and_reports_each_once() {
    for (name, _, bytes, verdict) in CASES {
        let Verdict::Status(status) = verdict else {
            continue;
        };
        let mut fixture = Fixture::new(LIMITS).await;
        fixture.send(bytes).await;
        fixture
            .send("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
            .await;
        let (answer, orderly) = fixture.rest().await;
        assert!(orderly, "{name}: {answer}");
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{name}: {answer}"
        );
        assert!(
            answer.contains("Connection: close\r\n\r\n{\"status\":") && answer.ends_with("\"}"),
            "{name}: {answer}"
        );
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{name}: {answer}");
        let refused = fixture.refused();
        assert_eq!(refused.len(), 1, "{name}: {refused:?}");
        assert!(
            refused[0].starts_with(&format!("{status} bad_request")),
            "{name}: {refused:?}"
        );
        assert!(
            fixture.seen.try_recv().is_err(),
            "{name}: a request got through"
        );
        assert_eq!(fixture.ended().await, Reason::BadRequest, "{name}");
    }
}

#[tokio::test]
async fn refuses_a_bad_request_that_follows_a_good_one() {
    let mut fixture = Fixture::new(LIMITS).await;
    fixture
        .send("GET /good HTTP/1.1\r\nHost: a\r\n\r\nTRACE /bad HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert_eq!(fixture.body().await, "GET /good 0 ");
    let (answer, orderly) = fixture.rest().await;
    assert!(
        answer.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"),
        "{answer}"
    );
    assert!(answer.contains("Allow: GET, "), "{answer}");
    assert!(orderly);
    assert_eq!(fixture.refused(), ["405 bad_request TRACE /bad 32"]);
}

#[tokio::test]
async fn answers_431_though_the_client_still_sends() {
    let mut fixture = Fixture::new(LIMITS).await;
    fixture.send("GET / HTTP/1.1\r\nX: ").await;
    // Far more than sockets hold.
    fixture.send(vec![b'x'; 16 * 1024 * 1024]).await;
    let (answer, orderly) = fixture.rest().await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert!(orderly, "the answer was followed by a reset");
    let refused = fixture.refused();
    assert!(
        refused[0].starts_with("431 header_too_large GET / "),
        "{refused:?}"
    );
    assert_eq!(fixture.ended().await, Reason::HeaderTooLarge);
}

#[tokio::test]
async fn closes_a_dripping_head_at_its_deadline_on_each_request() {
    let limits = EdgeLimits {
        header_timeout: Duration::from_millis(300),
        ..LIMITS
    };
    for before in [0, 1] {
        let mut fixture = Fixture::new(limits).await;
        for _ in 0..before {
            fixture.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
            fixture.response().await;
        }
        let began = Instant::now();
        fixture.send("GET /drip HTTP/1.1\r\nHost: a\r\nX: ").await;
        let mut answer = [0; 512];
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        let read = loop {
            tokio::select! {
                read = fixture.client.read(&mut answer) => break read.expect("an answer"),
                _ = tick.tick() => {}
            }
            fixture.send("x").await;
        };
        let took = began.elapsed();
        let answer = String::from_utf8_lossy(&answer[..read]);
        assert!(
            answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"),
            "{answer}"
        );
        assert!(took >= Duration::from_millis(299), "{took:?}");
        assert!(took < Duration::from_millis(900), "{took:?}");
        let refused = fixture.refused();
        assert!(
            refused[0].starts_with("408 header_timeout GET /drip "),
            "{refused:?}"
        );
        assert_eq!(fixture.ended().await, Reason::HeaderTimeout);
    }
}

#[tokio::test]
async fn closes_silent_connections_without_an_answer() {
    let fast = Duration::from_millis(100);
    for said in ["", "\r", "\r\n"] {
        let limits = EdgeLimits {
            header_timeout: fast,
            ..LIMITS
        };
        let mut fixture = Fixture::new(limits).await;
        let began = Instant::now();
        fixture.send(said).await;
        assert_eq!(fixture.rest().await, (String::new(), true));
        assert!(began.elapsed() >= fast);
        assert!(fixture.refused().is_empty());
        assert_eq!(fixture.ended().await, Reason::IdleTimeout);
    }
    let limits = EdgeLimits {
        keepalive_timeout: fast,
        ..LIMITS
    };
    let mut fixture = Fixture::new(limits).await;
    fixture.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    fixture.response().await;
    let began = Instant::now();
    assert_eq!(fixture.rest().await, (String::new(), true));
    assert!(began.elapsed() >= fast / 2);
    assert_eq!(fixture.ended().await, Reason::IdleTimeout);
}

#[tokio::test]
async fn tells_a_client_that_leaves_from_one_that_is_done() {
    let fixture = Fixture::new(LIMITS).await;
    assert_eq!(fixture.ended().await, Reason::ClientClosed);

    let mut fixture = Fixture::new(LIMITS).await;
    fixture
        .send("GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /half HTTP/1.1\r\n")
        .await;
    fixture.response().await;
    assert_eq!(fixture.ended().await, Reason::ClientClosed);
}

#[tokio::test]
async fn speaks_http_1_0() {
    let mut fixture = Fixture::new(LIMITS).await;
    fixture
        .send("GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        .await;
    let (head, body) = fixture.response().await;
    assert!(head.contains("Connection: keep-alive\r\n"), "{head}");
    assert_eq!(body, "GET /a 0 ");
    fixture.send("GET /b HTTP/1.0\r\n\r\n").await;
    let (rest, orderly) = fixture.rest().await;
    assert!(rest.contains("Connection: close\r\n"), "{rest}");
    assert!(rest.ends_with("GET /b 1 "), "{rest}");
    assert!(orderly);
}

#[tokio::test]
async fn closes_after_the_request_that_asks_for_it() {
    // The second form is one that Pingora overlooks.
    for fields in ["Connection: close", "Connection: x\r\nConnection: close"] {
        let mut fixture = Fixture::new(LIMITS).await;
        fixture
            .send(format!("GET /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"))
            .await;
        assert_eq!(fixture.body().await, "GET /a 0 ");
        assert_eq!(fixture.rest().await, (String::new(), true), "{fields}");
        assert_eq!(fixture.ended().await, Reason::Ok);
    }
}

#[tokio::test]
async fn drains_idle_connections_and_lets_a_head_under_way_finish() {
    let mut idle = Fixture::new(LIMITS).await;
    idle.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    idle.response().await;
    let mut fresh = Fixture::new(LIMITS).await;
    let mut busy = Fixture::new(LIMITS).await;
    // Whole by its second request, so that the half head after it was surely received.
    busy.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /late HTTP/1.1\r\n")
        .await;
    busy.response().await;

    for fixture in [&idle, &fresh, &busy] {
        fixture.announce.send_replace(true);
        fixture.stages.begin(Stage::IdleCloses);
    }
    assert_eq!(idle.rest().await, (String::new(), true));
    assert_eq!(idle.ended().await, Reason::Drained);
    assert_eq!(fresh.rest().await, (String::new(), true));
    assert_eq!(fresh.ended().await, Reason::Drained);

    busy.send("Host: a\r\n\r\n").await;
    let (rest, orderly) = busy.rest().await;
    assert!(rest.contains("Connection: close\r\n"), "{rest}");
    assert!(rest.ends_with("GET /late 1 "), "{rest}");
    assert!(orderly);
}

#[tokio::test]
async fn announces_the_end_without_closing_what_is_idle() {
    let mut fixture = Fixture::new(LIMITS).await;
    fixture.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    fixture.response().await;
    fixture.announce.send_replace(true);
    fixture.send("GET /b HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (head, body) = fixture.response().await;
    assert!(head.contains("Connection: close\r\n"), "{head}");
    assert_eq!(body, "GET /b 1 ");
    assert_eq!(fixture.rest().await, (String::new(), true));
}

#[tokio::test]
async fn notices_a_client_that_leaves_while_its_request_is_served() {
    let mut fixture = Fixture::new(LIMITS).await;
    fixture.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(fixture.saw().await, "/wait");
    fixture.client.shutdown().await.expect("open");
    assert_eq!(fixture.saw().await, "left: true");
}

#[tokio::test]
async fn keeps_a_request_that_arrives_early_from_the_one_being_served() {
    let wait = "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n";
    let half = "GET /early-bird HTTP/1.1\r\nHo";
    // With the request that is served, and while that is waited for.
    for (first, then) in [(format!("{wait}{half}"), ""), (wait.to_owned(), half)] {
        let mut fixture = Fixture::new(LIMITS).await;
        fixture.send(first).await;
        assert_eq!(fixture.saw().await, "/wait");
        fixture.send(then).await;
        fixture.app.permits.add_permits(1);
        assert_eq!(fixture.body().await, "GET /wait 0 ");
        fixture.send("st: a\r\n\r\n").await;
        assert_eq!(fixture.body().await, "GET /early-bird 1 ");
    }
}

#[tokio::test]
async fn lets_the_response_arrive_though_the_client_still_uploads() {
    let mut fixture = Fixture::new(LIMITS).await;
    let length = 16 * 1024 * 1024;
    fixture
        .send(format!(
            "PUT /early HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"
        ))
        .await;
    fixture.send(vec![b'x'; length]).await;
    let (answer, orderly) = fixture.rest().await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(orderly, "the answer was followed by a reset");
    assert_eq!(fixture.ended().await, Reason::Ok);
}

#[tokio::test]
async fn fails_the_request_whose_chunks_are_malformed_and_serves_nothing_after_it() {
    let mut fixture = Fixture::new(LIMITS).await;
    fixture
        .send(concat!(
            "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            "1\r\naX\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        ))
        .await;
    assert_eq!(fixture.saw().await, "/a");
    let failed = fixture.saw().await;
    assert!(failed.contains("chunk longer than its size"), "{failed}");
    assert_eq!(fixture.rest().await, (String::new(), true));
    assert!(fixture.seen.try_recv().is_err());
}

#[tokio::test]
async fn passes_every_byte_after_an_upgrade() {
    let mut fixture = Fixture::new(LIMITS).await;
    // What comes with the head must pass too, once the response was a 101.
    fixture
        .send("GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n\0early\n")
        .await;
    let (head, _) = fixture.response().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut echoed = [0; 7];
    fixture
        .client
        .read_exact(&mut echoed)
        .await
        .expect("echoed");
    assert_eq!(&echoed, b"\0early\n");
    fixture.send(b"GET \xff\r\n\r\n").await;
    let mut echoed = [0; 9];
    fixture
        .client
        .read_exact(&mut echoed)
        .await
        .expect("echoed");
    assert_eq!(&echoed, b"GET \xff\r\n\r\n");
    assert_eq!(fixture.ended().await, Reason::Ok);
}

#[tokio::test]
async fn goes_on_with_http_when_an_upgrade_is_not_granted() {
    let mut fixture = Fixture::new(LIMITS).await;
    fixture
        .send(concat!(
            "POST /plain HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 4\r\n\r\nbody",
            "GET /next HTTP/1.1\r\nHost: a\r\n\r\n",
        ))
        .await;
    assert_eq!(fixture.body().await, "POST /plain 0 body");
    assert_eq!(fixture.body().await, "GET /next 1 ");
}

#[tokio::test]
async fn carries_bodies_larger_than_any_buffer() {
    let mut fixture = Fixture::new(LIMITS).await;
    let body = "0123456789abcdef".repeat(200_000);
    let head = format!(
        "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut chunked =
        "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
    for chunk in body.as_bytes().chunks(70_001) {
        chunked.push_str(&format!("{:x}\r\n", chunk.len()));
        chunked.push_str(std::str::from_utf8(chunk).expect("ASCII"));
        chunked.push_str("\r\n");
    }
    chunked.push_str("0\r\n\r\n");
    fixture.send(head).await;
    fixture.send(&body).await;
    assert_eq!(fixture.body().await, format!("POST /a 0 {body}"));
    fixture.send(chunked).await;
    assert_eq!(fixture.body().await, format!("POST /b 1 {body}"));
}

#[tokio::test]
async fn refuses_a_connection_with_a_status_and_when_to_come_back() {
    let (mut client, stream) = connected().await;
    let socket = Box::new(stream).into_socket().expect("it has one");
    let refused = tokio::spawn(refusal::refuse(socket, 503, Some(1)));
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .expect("open");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("no reset");
    assert_eq!(
        answer,
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
    );
    drop(client);
    timeout(PATIENCE, refused)
        .await
        .expect("lingers no longer than the client")
        .expect("no panic");
}

#[tokio::test]
async fn costs_less_than_a_kilobyte_while_idle() {
    let fixture = Fixture::new(LIMITS).await;
    let (_client, stream) = connected().await;
    let stop = Stop {
        announce: fixture.announce.subscribe(),
        stages: fixture.stages.watch(),
    };
    let future = serve(&fixture.app, &*fixture.edge, stream, "a".into(), stop);
    // The buffers are not there while idle (a test of `io`).
    let (future, stream) = (size_of_val(&future), size_of::<GateStream>());
    assert!(
        future + stream + size_of::<Stop>() < 1024,
        "{future} + {stream}"
    );
}

#[tokio::test]
async fn lingers_no_longer_than_a_second_for_a_client_that_stays() {
    let mut fixture = Fixture::new(LIMITS).await;
    fixture.send("TRACE / HTTP/1.1\r\n").await;
    let began = Instant::now();
    let reason = timeout(PATIENCE, &mut fixture.served)
        .await
        .expect("it ends")
        .expect("no panic");
    assert_eq!(reason, Reason::BadRequest);
    assert!(
        began.elapsed() >= Duration::from_millis(900),
        "{:?}",
        began.elapsed()
    );
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
}
