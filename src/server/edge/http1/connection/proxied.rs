//! The loop with a real Pingora proxy and a real origin behind it: what the small application of
//! `tests` cannot show.

use std::time::Duration;

use async_trait::async_trait;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{FailToProxy, HttpProxy, ProxyHttp, Session, http_proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::server::drain::stages::Stages;
use crate::server::edge::http1::io::tests::connected;
use crate::wire::http1::Malformed;

/// Sends everything to one origin and reports what it received about each request.
struct Through {
    origin: SocketAddr,
    told: mpsc::UnboundedSender<String>,
}

#[async_trait]
impl ProxyHttp for Through {
    type CTX = Option<Box<Arrival>>;

    fn new_ctx(&self) -> Self::CTX {
        None
    }

    fn on_connection_reuse(
        &self,
        _session: &mut Session,
        ctx: &mut Self::CTX,
        context: Box<dyn std::any::Any + Send + Sync>,
    ) {
        *ctx = context.downcast().ok();
    }

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        _ctx: &mut Self::CTX,
    ) -> pingora_core::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.origin, false, String::new())))
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &pingora_core::Error,
        _ctx: &mut Self::CTX,
    ) -> FailToProxy {
        // Pingora's own choice is no answer at all: to it, a failed read is a dead connection.
        let error_code = match Malformed::behind(error.root_cause()) {
            Some(_) => 400,
            None => 0,
        };
        if error_code > 0 {
            session.respond_error(error_code).await.expect("open");
        }
        FailToProxy {
            error_code,
            can_reuse_downstream: false,
        }
    }

    async fn logging(
        &self,
        session: &mut Session,
        error: Option<&pingora_core::Error>,
        ctx: &mut Self::CTX,
    ) {
        let before = ctx.as_ref().map(|arrival| arrival.requests_before);
        let client = ctx.as_ref().map(|arrival| arrival.client);
        let known = client.is_some()
            && client.as_ref() == session.client_addr().and_then(|address| address.as_inet());
        let error = error.map_or("fine", |error| error.etype().as_str());
        let _ = self.told.send(format!("{before:?} {known} {error}"));
    }
}

/// Answers each request with its request line and body; `/ws` with 101 and then with what comes.
async fn origin(listener: TcpListener) {
    while let Ok((mut socket, _)) = listener.accept().await {
        tokio::spawn(async move {
            loop {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match socket.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
                if head.starts_with("get /silent") {
                    let _ = socket.read_u8().await;
                    return;
                }
                if head.starts_with("get /ws") {
                    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
                    socket.write_all(answer.as_bytes()).await.expect("open");
                    let (mut read, mut write) = socket.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                    return;
                }
                let mut body = Vec::new();
                if let Some((_, length)) = head.split_once("content-length: ") {
                    let digits = length.split("\r\n").next().expect("split gives one");
                    body.resize(digits.parse().expect("a number"), 0);
                    socket.read_exact(&mut body).await.expect("a body");
                } else if head.contains("chunked") {
                    while !body.ends_with(b"0\r\n\r\n") {
                        match socket.read_u8().await {
                            Ok(byte) => body.push(byte),
                            Err(_) => return,
                        }
                    }
                }
                let line = head.lines().next().expect("a request line");
                let body = String::from_utf8_lossy(&body).replace("\r\n", " ");
                let text = format!("{line}|{body}");
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}",
                    text.len()
                );
                if socket.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

struct Unrefusing;

impl Edge for Unrefusing {
    fn limits(&self) -> EdgeLimits {
        EdgeLimits {
            max_header_bytes: 65_536,
            header_timeout: PATIENCE,
            keepalive_timeout: PATIENCE,
        }
    }

    fn refused(&self, request: &RefusedRequest<'_>) {
        panic!("{request:?}");
    }
}

/// A client of a proxy of an origin, and what the proxy received.
async fn proxied() -> (TcpStream, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(origin(listener));
    let (told, hears) = mpsc::unbounded_channel();
    let through = Through {
        origin: address,
        told,
    };
    let app: Arc<HttpProxy<Through>> =
        Arc::new(http_proxy(&Arc::new(ServerConf::default()), through));
    let (client, stream) = connected().await;
    let (keep, never) = watch::channel(false);
    let stop = Stop {
        announce: never,
        stages: Stages::default().watch(),
    };
    tokio::spawn(async move {
        serve(&app, &Unrefusing, stream, "a".into(), stop).await;
        drop(keep);
    });
    (client, hears)
}

async fn until(client: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    let read = async {
        while !text.ends_with(end.as_bytes()) {
            text.push(client.read_u8().await.expect("more"));
        }
    };
    let done = timeout(PATIENCE, read).await;
    assert!(done.is_ok(), "{}", String::from_utf8_lossy(&text));
    String::from_utf8_lossy(&text).into_owned()
}

async fn hear(hears: &mut mpsc::UnboundedReceiver<String>) -> String {
    timeout(PATIENCE, hears.recv())
        .await
        .expect("told in time")
        .expect("the proxy lives")
}

const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn proxies_pipelined_requests_in_order_and_tells_how_each_arrived() {
    let (mut client, mut hears) = proxied().await;
    client
        .write_all(
            concat!(
                "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\none",
                "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n",
                "GET /c HTTP/1.1\r\nHost: a\r\n\r\n",
            )
            .as_bytes(),
        )
        .await
        .expect("open");
    until(&mut client, "\r\n\r\npost /a http/1.1|one").await;
    until(&mut client, "\r\n\r\npost /b http/1.1|3 two 0  ").await;
    until(&mut client, "\r\n\r\nget /c http/1.1|").await;
    client
        .write_all(b"GET /d HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .expect("open");
    until(&mut client, "\r\n\r\nget /d http/1.1|").await;
    for before in 0..4 {
        assert_eq!(hear(&mut hears).await, format!("Some({before}) true fine"));
    }
}

#[tokio::test]
async fn proxies_a_websocket() {
    let (mut client, _hears) = proxied().await;
    let head = concat!(
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    );
    client.write_all(head.as_bytes()).await.expect("open");
    let answer = until(&mut client, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    for frame in ["\u{1}frame", "GET / HTTP/1.1\r\n\r\n", "\n\0"] {
        client.write_all(frame.as_bytes()).await.expect("open");
        assert_eq!(until(&mut client, frame).await, frame);
    }
}

#[tokio::test]
async fn answers_malformed_chunks_with_400() {
    let (mut client, mut hears) = proxied().await;
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n")
        .await
        .expect("open");
    let answer = until(&mut client, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(hear(&mut hears).await, "Some(0) true ReadError");
    let mut rest = Vec::new();
    let end = timeout(PATIENCE, client.read_to_end(&mut rest)).await;
    assert_eq!(end.expect("it closes").expect("orderly"), 0);
}

#[tokio::test]
async fn tells_the_proxy_that_its_client_left() {
    let (mut client, mut hears) = proxied().await;
    client
        .write_all(b"GET /silent HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .expect("open");
    client.shutdown().await.expect("open");
    assert_eq!(hear(&mut hears).await, "Some(0) true ConnectionClosed");
}
