//! The stream by itself; and whatever the gate lets pass, Pingora must read the same way: method,
//! target, and where the body ends.
//!
//! Long because the comparison with the parser of Pingora is here, too.

use std::future::poll_fn;
use std::io::Cursor;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;
use std::time::Duration;

use pingora_core::protocols::Shutdown;
use pingora_core::protocols::http::ServerSession;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::buffers::OUTBOX_BYTES;
use super::*;
use crate::http::deadline::Clock;
use crate::server::drain::stages::Stages;
use crate::transport::masked::{CLOSE, Masked, mask};
use crate::wire::http1::cases::{CASES, heads};
use crate::wire::http1::{HeadScanner, HeadSummary, MAX_TARGET_BYTES, Scan};

/// A client and the gate it talks to.
pub(in crate::server) async fn connected() -> (TcpStream, GateStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let client = TcpStream::connect(address).await.expect("listening");
    let (socket, peer) = listener.accept().await.expect("connected");
    let stream = GateStream::new(socket, peer).expect("connected");
    (client, stream)
}

const BOUNDS: HeadBounds = HeadBounds {
    max_bytes: 4096,
    idle: Duration::from_secs(20),
    whole: Duration::from_secs(20),
};

#[tokio::test]
async fn what_stands_between_the_gate_and_the_socket_is_flushed_and_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut client = TcpStream::connect(address).await.expect("listening");
    let (socket, peer) = listener.accept().await.expect("connected");
    let session = Transport::Tls(Box::new(Masked::new(socket)));
    let mut stream = GateStream::new(session, peer).expect("connected");
    assert_eq!(stream.local(), address);

    let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n";
    client.write_all(&mask(head)).await.expect("open");
    client.write_all(&mask(b"bodyGET /")).await.expect("open");
    let stages = Stages::default().watch();
    let gate = stream
        .await_head(&BOUNDS, &stages, &mut Clock::default())
        .await;
    assert!(matches!(gate, Gate::Head(_)), "{gate:?}");
    let mut read = vec![0; head.len() + 4];
    stream.read_exact(&mut read).await.expect("held");
    assert_eq!(read, [&head[..], b"body"].concat());

    // More than is kept goes out at once; the session may hold it back until the flush.
    let answer = vec![b'a'; OUTBOX_BYTES + 1];
    stream.write_all(&answer).await.expect("open");
    assert!(!stream.is_flushed());
    stream.flush().await.expect("open");
    assert!(stream.is_flushed());
    AsyncWriteExt::shutdown(&mut stream).await.expect("open");
    let mut heard = Vec::new();
    let end = [mask(&answer), CLOSE.to_vec()].concat();
    while heard.len() < end.len() {
        assert_ne!(client.read_buf(&mut heard).await.expect("open"), 0);
    }
    assert_eq!(heard, end);
}

#[tokio::test]
async fn gives_its_buffers_back_while_idle() {
    let (mut client, mut stream) = connected().await;
    let stages = Stages::default().watch();
    let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    client.write_all(head).await.expect("open");
    let gate = stream
        .await_head(&BOUNDS, &stages, &mut Clock::default())
        .await;
    assert!(matches!(gate, Gate::Head(_)), "{gate:?}");
    let mut read = [0; 100];
    assert_eq!(stream.read(&mut read).await.expect("held"), head.len());
    assert_eq!(&read[..head.len()], head);

    stream.write_all(b"answer").await.expect("open");
    assert!(!stream.is_flushed(), "sent before it was flushed");
    assert!(!stream.is_reusable());
    stream.flush().await.expect("open");
    assert!(stream.is_reusable());
    assert_ne!(stream.outbox.capacity(), 0);

    let mut clock = Clock::default();
    let mut waiting = Box::pin(stream.await_head(&BOUNDS, &stages, &mut clock));
    let polled = poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_pending())).await;
    assert!(polled, "there is no second head");
    drop(waiting);
    assert_eq!(stream.inbox.capacity(), 0);
    assert_eq!(stream.outbox.capacity(), 0);
}

#[tokio::test]
async fn sends_what_it_kept_together_with_what_does_not_fit() {
    let (mut client, mut stream) = connected().await;
    let mut expected = Vec::new();
    for (round, length) in [0, 1, 4095, 4096, 4097, 9000].into_iter().enumerate() {
        let head = [b'h'; 100];
        let body = vec![b'0' + round as u8; length];
        stream.write_all(&head).await.expect("open");
        let slices = [
            IoSlice::new(&body[..length / 2]),
            IoSlice::new(&body[length / 2..]),
        ];
        let mut left = length - stream.write_vectored(&slices).await.expect("open");
        while left > 0 {
            left -= stream.write(&body[length - left..]).await.expect("open");
        }
        assert!(stream.outbox.capacity() <= OUTBOX_BYTES);
        assert_eq!(stream.is_flushed(), 100 + length > OUTBOX_BYTES, "{length}");
        stream.flush().await.expect("open");
        expected.extend_from_slice(&head);
        expected.extend_from_slice(&body);
    }
    Shutdown::shutdown(&mut stream).await;
    let mut sent = Vec::new();
    client.read_to_end(&mut sent).await.expect("orderly");
    assert_eq!(sent, expected);
}

/// Whether a read has nothing to give, now or at the end.
async fn gives_nothing(stream: &mut GateStream) -> bool {
    let mut byte = [0];
    let mut buf = ReadBuf::new(&mut byte);
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_read(cx, &mut buf).is_pending())).await
}

#[tokio::test]
async fn keeps_what_follows_a_body_in_the_same_read() {
    let (mut client, mut stream) = connected().await;
    let stages = Stages::default().watch();
    let messages = [
        ("Content-Length: 4", "body"),
        (
            "Transfer-Encoding: chunked",
            "4;x\r\nbody\r\n0\r\nT: t\r\n\r\n",
        ),
        ("X: y", ""),
    ];
    let head = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
    let first = head(messages[0].0);
    client.write_all(first.as_bytes()).await.expect("open");
    for (at, (fields, body)) in messages.into_iter().enumerate() {
        let gate = stream
            .await_head(&BOUNDS, &stages, &mut Clock::default())
            .await;
        assert!(matches!(gate, Gate::Head(_)), "{gate:?}");
        let mut read = [0; 200];
        let length = stream.read(&mut read).await.expect("held");
        assert_eq!(&read[..length], head(fields).as_bytes());
        // One segment, larger than the body and smaller than the buffer it is read into.
        let next = messages.get(at + 1).map(|(fields, _)| head(fields));
        let rest = format!("{body}{}", next.unwrap_or_default());
        client.write_all(rest.as_bytes()).await.expect("open");
        if !body.is_empty() {
            let length = stream.read(&mut read).await.expect("open");
            assert_eq!(String::from_utf8_lossy(&read[..length]), body);
        }
        assert!(gives_nothing(&mut stream).await);
        assert!(stream.is_reusable());
    }
}

#[tokio::test]
async fn sends_what_it_keeps_once_it_is_asked_to() {
    let (mut client, mut stream) = connected().await;
    let socket_handle = stream.socket_handle();
    assert!(!socket_handle.send_on(), "nothing is kept");
    stream.write_all(b"half").await.expect("open");
    assert!(gives_nothing(&mut stream).await);
    assert!(!stream.is_flushed(), "sent before it was asked for");
    assert!(socket_handle.send_on());
    assert!(gives_nothing(&mut stream).await);
    assert!(stream.is_flushed());
    let mut read = [0; 100];
    let got = client.read(&mut read).await.expect("open");
    assert_eq!(&read[..got], b"half");
    assert!(!socket_handle.send_on(), "it is gone");
}

#[tokio::test]
async fn wakes_a_reader_whose_bytes_were_held_when_an_upgrade_is_granted() {
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    let (mut client, mut stream) = connected().await;
    let stages = Stages::default().watch();
    let head = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n";
    client.write_all(head.as_bytes()).await.expect("open");
    client.write_all(b"early").await.expect("open");
    stream
        .await_head(&BOUNDS, &stages, &mut Clock::default())
        .await;
    let mut read = [0; 200];
    assert_eq!(stream.read(&mut read).await.expect("held"), head.len());
    while stream.inbox.is_empty() {
        let nothing = gives_nothing(&mut stream).await;
        assert!(nothing, "passed before the upgrade");
        tokio::task::yield_now().await;
    }

    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Waker::from(woken.clone());
    let mut buf = ReadBuf::new(&mut read);
    let mut cx = Context::from_waker(&waker);
    assert!(
        Pin::new(&mut stream)
            .poll_read(&mut cx, &mut buf)
            .is_pending()
    );
    for (answer, granted) in [
        ("HTTP/1.1 100 Continue\r\n\r\n", false),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", true),
    ] {
        stream.write_all(answer.as_bytes()).await.expect("open");
        assert_eq!(woken.0.load(Ordering::SeqCst), granted, "{answer}");
    }
    assert!(
        Pin::new(&mut stream)
            .poll_read(&mut cx, &mut buf)
            .is_ready()
    );
    assert_eq!(buf.filled(), b"early");
    assert!(!stream.is_reusable());
}

#[tokio::test]
async fn tells_pingora_who_is_at_both_ends() {
    let (client, stream) = connected().await;
    let session = ServerSession::new_http1(Box::new(stream));
    let address = |address: Option<&pingora_core::protocols::l4::socket::SocketAddr>| {
        *address
            .and_then(|address| address.as_inet())
            .expect("known")
    };
    assert_eq!(
        address(session.client_addr()),
        client.local_addr().expect("open")
    );
    assert_eq!(
        address(session.server_addr()),
        client.peer_addr().expect("open")
    );
}

/// What Pingora makes of `bytes`: method, target, body, and the bytes it leaves to the next
/// request.
type Reading = (Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>);

async fn pingora_reads(bytes: &[u8]) -> Result<Reading, String> {
    let mut session = ServerSession::new_http1(Box::new(Cursor::new(bytes.to_vec())));
    session.set_pipelining_enabled(true);
    match session.read_request().await {
        Ok(true) => {}
        other => return Err(format!("{other:?}")),
    }
    let request = session.req_header();
    let method = request.method.as_str().as_bytes().to_vec();
    let target = request.raw_path().to_vec();
    let mut body = Vec::new();
    loop {
        match session.read_request_body().await {
            Ok(Some(bytes)) => body.extend_from_slice(&bytes),
            Ok(None) => break,
            Err(error) => return Err(format!("body: {error}")),
        }
    }
    session.set_keepalive(Some(0));
    let reusable = match session.finish().await {
        Ok(Some(reusable)) => reusable,
        other => return Err(format!("finish: {:?}", other.is_ok())),
    };
    let (stream, prefix) = reusable.into_parts();
    let mut rest = prefix.unwrap_or_default().to_vec();
    let stream = stream
        .into_any()
        .downcast::<Cursor<Vec<u8>>>()
        .expect("it went in");
    rest.extend_from_slice(&stream.get_ref()[stream.position() as usize..]);
    Ok((method, target, body, rest))
}

fn summary(bytes: &[u8]) -> Option<HeadSummary> {
    match HeadScanner::new(1_048_575).scan(bytes) {
        Scan::Complete(summary) => Some(summary),
        Scan::NeedMore | Scan::Refused(_) => None,
    }
}

/// Puts a body and a second request behind the head that `bytes` start with, and compares.
fn compare(bytes: &[u8]) {
    let Some(raw) = summary(bytes) else {
        return;
    };
    // As the gate gives it on.
    let head = raw.rewritten(bytes);
    let mut bytes = head.unwrap_or_else(|| bytes[..raw.head.end].to_vec());
    let summary = summary(&bytes).expect("what goes on passes");
    assert_eq!(summary.body, raw.body);
    let body = match summary.body {
        BodyFraming::None => Vec::new(),
        BodyFraming::Length(length) => vec![b'b'; length.min(100_000) as usize],
        BodyFraming::Chunked => b"3;x\r\nabc\r\n1 ;y=z\r\nd\r\n0\r\nT: u\r\n\r\n".to_vec(),
    };
    if let BodyFraming::Length(length) = summary.body
        && length > 100_000
    {
        return;
    }
    let next = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n";
    let message = bytes.len() + body.len();
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(next);

    let mut tracker = BodyTracker::new(summary.body, 1000);
    let ours = tracker.advance(&bytes[summary.head.end..]);
    assert_eq!(ours, Ok(body.len()));
    assert!(tracker.is_done());

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (method, target, read, rest) = runtime
        .block_on(pingora_reads(&bytes))
        .unwrap_or_else(|error| panic!("{error}: {text:?}"));
    assert_eq!(method, bytes[summary.method], "{text:?}");
    assert_eq!(target, bytes[summary.target], "{text:?}");
    let expected = match summary.body {
        BodyFraming::Chunked => b"abcd".to_vec(),
        BodyFraming::None | BodyFraming::Length(_) => body,
    };
    assert_eq!(read, expected, "{text:?}");
    assert_eq!(rest, &bytes[message..], "{text:?}");
}

#[test]
fn pingora_reads_every_passing_head_of_the_table_the_same() {
    let passing = CASES.iter().filter(|case| summary(case.2).is_some());
    assert!(passing.clone().count() > 30);
    for (_, _, bytes, _) in passing {
        compare(bytes);
    }
}

#[test]
fn pingora_takes_every_byte_that_passes_in_a_target() {
    for byte in 0..=255u8 {
        for before in ["/a", "/?a", "http://a/", "http://a?"] {
            let mut head = format!("GET {before}").into_bytes();
            head.push(byte);
            head.extend_from_slice(b"b HTTP/1.1\r\nHost: a\r\n\r\n");
            compare(&head);
        }
    }
}

#[test]
fn pingora_takes_every_byte_that_passes_in_host_name_and_value() {
    for byte in 0..=255u8 {
        for (before, after) in [
            ("GET / HTTP/1.1\r\nHost: a", "b\r\n\r\n"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX", "Y: z\r\n\r\n"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: y", "z\r\n\r\n"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: ", "\r\n\r\n"),
            ("G", "T / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ] {
            let mut head = before.as_bytes().to_vec();
            head.push(byte);
            head.extend_from_slice(after.as_bytes());
            compare(&head);
        }
        let byte = char::from(byte);
        if byte.is_ascii_graphic() {
            compare(format!("GET http://a{byte}b/ HTTP/1.1\r\nHost: a{byte}b\r\n\r\n").as_bytes());
        }
    }
}

#[test]
fn pingora_takes_the_longest_head_that_passes() {
    for start in ["/", "/?", "http://a/", "http://a?"] {
        let target = format!("{start}{}", "t".repeat(MAX_TARGET_BYTES - start.len()));
        compare(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
    }
    let value = "v".repeat(1_000_000);
    compare(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {value}\r\n\r\n").as_bytes());
    let fields = format!("{}: x\r\n", "n".repeat(256)).repeat(99);
    compare(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes());
}

proptest! {
    #[test]
    fn pingora_reads_whatever_passes_the_same(bytes in heads()) {
        compare(&bytes);
    }
}
