//! Clients of HTTP/2: a well-behaved one of the h2 crate, and one that sends any frame.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response, StatusCode};
use rustls::pki_types::ServerName;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::authority::TlsSetup;

/// One connection; its requests are streams.
pub struct Http2Client {
    send: SendRequest<Bytes>,
    /// Ends with the connection.
    pub connection: JoinHandle<Result<(), h2::Error>>,
    authority: String,
}

/// A response, whole.
#[derive(Debug)]
pub struct Whole {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Whole {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

impl Http2Client {
    /// In TLS, agreed on by ALPN.
    pub async fn in_tls(setup: &TlsSetup, addr: SocketAddr, name: &str) -> Http2Client {
        let mut setup = setup.clone();
        setup.alpn = vec![b"h2"];
        let socket = tokio::net::TcpStream::connect(addr)
            .await
            .expect("connects");
        let server = ServerName::try_from(name.to_owned()).expect("a name");
        let tls = TlsConnector::from(setup.config());
        let stream = tls.connect(server, socket).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        Http2Client::over(stream, format!("https://{name}")).await
    }

    /// In clear, by prior knowledge.
    pub async fn in_clear(addr: SocketAddr) -> Http2Client {
        let socket = tokio::net::TcpStream::connect(addr)
            .await
            .expect("connects");
        Http2Client::over(socket, "http://a.test".to_owned()).await
    }

    async fn over<T>(io: T, authority: String) -> Http2Client
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1 << 20);
        let (send, connection) = builder.handshake(io).await.expect("a preface");
        Http2Client {
            send,
            connection: tokio::spawn(connection),
            authority,
        }
    }

    /// Begins a stream. `end`: without a body.
    pub async fn begin(
        &self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        end: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let uri = format!("{}{target}", self.authority);
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut send = self.send.clone().ready().await?;
        send.send_request(request.body(()).expect("a request"), end)
    }

    pub async fn call(
        &self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Whole, h2::Error> {
        let (response, mut send) = self.begin(method, target, fields, body.is_empty()).await?;
        if !body.is_empty() {
            send_all(&mut send, Bytes::copy_from_slice(body), true).await?;
        }
        whole(response.await?).await
    }

    pub async fn get(&self, target: &str) -> Result<Whole, h2::Error> {
        self.call("GET", target, &[], b"").await
    }
}

/// Sends within the window that the server leaves.
pub async fn send_all(
    send: &mut SendStream<Bytes>,
    mut data: Bytes,
    end: bool,
) -> Result<(), h2::Error> {
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let capacity = std::future::poll_fn(|cx| send.poll_capacity(cx)).await;
        let capacity = capacity.expect("the stream is open")?;
        let part = data.split_to(capacity.min(data.len()));
        let last = end && data.is_empty();
        send.send_data(part, last)?;
    }
    Ok(())
}

pub async fn whole(response: Response<RecvStream>) -> Result<Whole, h2::Error> {
    let (parts, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok(Whole {
        status: parts.status,
        headers: parts.headers,
        body: bytes,
    })
}

/// A client that sends what it is told to.
pub struct RawHttp2 {
    stream: Box<dyn ReadWrite>,
}

/// What a client of bytes stands on.
trait ReadWrite: Read + Write {}

impl<T: Read + Write> ReadWrite for T {}

/// A frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

impl RawHttp2 {
    /// Preface and empty settings are sent.
    pub fn connect(addr: SocketAddr) -> RawHttp2 {
        let mut raw = RawHttp2::silent(addr);
        raw.begin();
        raw
    }

    /// Nothing is sent.
    pub fn silent(addr: SocketAddr) -> RawHttp2 {
        let stream = TcpStream::connect(addr).expect("connects");
        stream.set_nodelay(true).expect("a socket");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a socket");
        RawHttp2 {
            stream: Box::new(stream),
        }
    }

    /// The same in TLS.
    pub fn in_tls(setup: &TlsSetup, addr: SocketAddr, name: &str) -> RawHttp2 {
        let mut setup = setup.clone();
        setup.alpn = vec![b"h2"];
        let client = setup.connect(addr, name).expect("a handshake");
        let mut raw = RawHttp2 {
            stream: Box::new(client.stream),
        };
        raw.begin();
        raw
    }

    fn begin(&mut self) {
        self.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        self.send(SETTINGS, 0, 0, b"");
    }

    /// A frame. False: the server is gone.
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.write(&frame(kind, flags, stream, payload))
    }

    pub fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok() && self.stream.flush().is_ok()
    }

    /// A whole head, with these fields in this order.
    pub fn head(&mut self, stream: u32, flags: u8, fields: &[(&str, &str)]) -> bool {
        let block = block(fields);
        self.send(HEADERS, flags | END_HEADERS, stream, &block)
    }

    /// The next frame; `None` at the end of the connection.
    pub fn frame(&mut self) -> io::Result<Option<Frame>> {
        let mut head = [0; 9];
        match self.stream.read_exact(&mut head) {
            Ok(()) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::UnexpectedEof
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::BrokenPipe
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload)?;
        Ok(Some(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff,
            payload,
        }))
    }

    /// The next frame of one of these kinds; settings are acknowledged.
    pub fn next_of(&mut self, kinds: &[u8]) -> io::Result<Option<Frame>> {
        while let Some(frame) = self.frame()? {
            if frame.kind == SETTINGS && frame.flags & 1 == 0 {
                self.send(SETTINGS, 1, 0, b"");
            }
            if kinds.contains(&frame.kind) {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .expect("a short payload")
        .to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Fields as HPACK has them without table and without Huffman (RFC 7541, section 6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

fn integer(block: &mut Vec<u8>, value: usize) {
    if value < 127 {
        block.push(value as u8);
        return;
    }
    block.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        block.push((rest % 128 + 128) as u8);
        rest /= 128;
    }
    block.push(rest as u8);
}

/// The error code of RST_STREAM or GOAWAY.
pub fn code(frame: &Frame) -> u32 {
    let at = if frame.kind == GOAWAY { 4 } else { 0 };
    let bytes = frame.payload[at..at + 4].try_into().expect("four bytes");
    u32::from_be_bytes(bytes)
}
