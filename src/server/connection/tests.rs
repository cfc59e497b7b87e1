//! Connections as clients see them: real sockets, the real loop, a tiny application behind it.

use std::collections::VecDeque;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::apps::HttpPersistentSettings;
use pingora_core::server::ShutdownWatch;
use pingora_http::ResponseHeader;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::*;

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
    close_idle: watch::Sender<bool>,
}

const LIMITS: EdgeLimits = EdgeLimits {
    max_header_bytes: 4096,
    header_timeout: Duration::from_secs(20),
    keepalive_timeout: Duration::from_secs(20),
};

impl Fixture {
    async fn new(limits: EdgeLimits) -> Fixture {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let client = TcpStream::connect(address).await.expect("listening");
        let (socket, peer) = listener.accept().await.expect("connected");
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
        let (close_idle, closing) = watch::channel(false);
        let stream = GateStream::new(socket, peer).expect("connected");
        let served = tokio::spawn({
            let (app, edge) = (app.clone(), edge.clone());
            let stop = Stop {
                announce: announced,
                close_idle: closing,
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
            close_idle,
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
