//! One stream of HTTP/2 as a session of Pingora's.
//!
//! Pingora's own has no timeout for bodies and hides interim responses, so this stands on h2 itself.
//! Invariants: a read of the client's body ends when the client is silent for longer than the route
//! allows, a write when it takes nothing for as long; a response that is not whole ends with a reset
//! (RFC 9113, section 8.1), never as if it were. Long because Pingora's trait has three dozen methods.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use h2::server::SendResponse;
use h2::{Reason as Http2Reason, RecvStream, SendStream};
use http::header::HeaderMap;
use http::{Response, StatusCode, header};
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::HttpTask;
use pingora_core::protocols::http::custom::CustomMessageWrite;
use pingora_core::protocols::http::custom::server::Session;
use pingora_core::protocols::http::date::get_cached_date;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::time::timeout;

use super::head::NOT_IN_RESPONSES;
use crate::http::deadline::{ClientReads, Coarse};

/// A request and its response.
pub(super) struct StreamSession {
    request: RequestHeader,
    body: RecvStream,
    /// Nothing more of the body comes.
    body_over: bool,
    respond: SendResponse<Bytes>,
    /// There once the response has begun.
    send: Option<SendStream<Bytes>>,
    written: Option<Box<ResponseHeader>>,
    /// The response is whole, or was given up.
    ended: bool,
    read: usize,
    sent: usize,
    retry: Option<RetryBuffer>,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    drain_timeout: Option<Duration>,
    digest: Arc<Digest>,
    watch: Arc<StreamWatch>,
}

/// What others want to know of a stream that Pingora has.
#[derive(Default)]
pub(super) struct StreamWatch {
    /// 0: the client takes what it gets; the largest number: it does not; else since when it does.
    client_reads: AtomicU64,
    /// The client gave the stream up before it had a response.
    reset_early: AtomicBool,
}

impl StreamWatch {
    /// Whether the client takes what it is sent.
    pub(super) fn client_reads(&self) -> ClientReads {
        match self.client_reads.load(Ordering::Relaxed) {
            0 => ClientReads::Yes,
            u64::MAX => ClientReads::No,
            since => ClientReads::Since(Coarse::from_millis(since)),
        }
    }

    /// Whether the client gave it up before it had a response.
    pub(super) fn was_reset_early(&self) -> bool {
        self.reset_early.load(Ordering::Relaxed)
    }
}

/// The body so far, for another try.
#[derive(Default)]
struct RetryBuffer {
    bytes: BytesMut,
    is_truncated: bool,
}

impl RetryBuffer {
    fn add(&mut self, data: &Bytes) {
        if self.is_truncated || self.bytes.len() + data.len() > MAX_RETRY_BYTES {
            self.is_truncated = true;
            self.bytes = BytesMut::new();
        } else {
            self.bytes.extend_from_slice(data);
        }
    }
}

impl StreamSession {
    pub(super) fn new(
        request: RequestHeader,
        body: RecvStream,
        respond: SendResponse<Bytes>,
        digest: Arc<Digest>,
    ) -> StreamSession {
        StreamSession {
            request,
            body_over: body.is_end_stream(),
            body,
            respond,
            send: None,
            written: None,
            ended: false,
            read: 0,
            sent: 0,
            retry: None,
            read_timeout: None,
            write_timeout: None,
            drain_timeout: None,
            digest,
            watch: Arc::default(),
        }
    }

    pub(super) fn watch(&self) -> Arc<StreamWatch> {
        self.watch.clone()
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        let data = match self.body.poll_data(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => {
                self.body_over = true;
                return Poll::Ready(Ok(None));
            }
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(self.lost(error))),
            Poll::Ready(Some(Ok(data))) => data,
        };
        self.read += data.len();
        if let Some(retry) = &mut self.retry {
            retry.add(&data);
        }
        // Fails only where the stream is gone, which the next read finds out.
        let _ = self.body.flow_control().release_capacity(data.len());
        self.body_over = self.body.is_end_stream();
        Poll::Ready(Ok(Some(data)))
    }

    /// The client reset the stream, or the connection is gone.
    fn lost(&self, error: h2::Error) -> Box<Error> {
        if self.written.is_none() && error.is_reset() && error.is_remote() {
            self.watch.reset_early.store(true, Ordering::Relaxed);
        }
        Error::because(ErrorType::ReadError, "a stream of HTTP/2", error).into_down()
    }

    /// Done when the client gives the stream up.
    async fn given_up(&mut self) -> Box<Error> {
        let reason = poll_fn(|cx| match &mut self.send {
            Some(send) => send.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        })
        .await;
        if self.written.is_none() && reason.is_ok() {
            self.watch.reset_early.store(true, Ordering::Relaxed);
        }
        let why = match reason {
            Ok(reason) => format!("the client reset the stream: {reason}"),
            Err(error) => format!("the connection is gone: {error}"),
        };
        Error::explain(ErrorType::ConnectionClosed, why).into_down()
    }

    fn begin(&mut self, mut head: Box<ResponseHeader>, end: bool) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        for name in &NOT_IN_RESPONSES {
            head.remove_header(name);
        }
        if head.status.is_informational() {
            // RFC 9113, section 8.6: there is no 101.
            if head.status != StatusCode::SWITCHING_PROTOCOLS {
                let interim = Response::from_parts(head.as_owned_parts(), ());
                // A client that is gone is found out by what follows.
                let _ = self.respond.send_informational(interim);
            }
            return Ok(());
        }
        if self.written.is_some() {
            return Ok(());
        }
        if !head.headers.contains_key(header::DATE) {
            head.insert_header(header::DATE, get_cached_date())?;
        }
        let response = Response::from_parts(head.as_owned_parts(), ());
        let send = self.respond.send_response(response, end);
        let send = send
            .or_err(ErrorType::WriteError, "a response of HTTP/2")
            .map_err(|error| error.into_down())?;
        self.send = Some(send);
        self.written = Some(head);
        self.ended = end;
        Ok(())
    }

    async fn send(&mut self, mut data: Bytes, end: bool) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        let Some(send) = &mut self.send else {
            return Error::e_explain(ErrorType::WriteError, "a body before its head");
        };
        while !data.is_empty() {
            send.reserve_capacity(data.len().min(MAX_RESERVED));
            let mut waited = false;
            let capacity = poll_fn(|cx| match send.poll_capacity(cx) {
                Poll::Pending => {
                    // One that has given up takes nothing either.
                    if let Poll::Ready(reason) = send.poll_reset(cx) {
                        return Poll::Ready(Some(reason.and_then(|reason| Err(reason.into()))));
                    }
                    if !waited {
                        waited = true;
                        self.watch.client_reads.store(u64::MAX, Ordering::Relaxed);
                    }
                    Poll::Pending
                }
                // It may be told of nothing new.
                Poll::Ready(Some(Ok(0))) => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                ready => ready,
            });
            let capacity = match self.write_timeout {
                Some(longest) => timeout(longest, capacity).await,
                None => Ok(capacity.await),
            };
            if waited {
                let now = Coarse::now().as_millis();
                self.watch.client_reads.store(now, Ordering::Relaxed);
            }
            let capacity = match capacity {
                Ok(Some(Ok(capacity))) => capacity,
                Ok(Some(Err(error))) => {
                    let error = Error::because(ErrorType::WriteError, "a response body", error);
                    return Err(error.into_down());
                }
                Ok(None) => {
                    let gone = Error::explain(ErrorType::WriteError, "the stream is over");
                    return Err(gone.into_down());
                }
                Err(_) => {
                    let slow = "the client takes nothing of its response";
                    return Err(Error::explain(ErrorType::WriteTimedout, slow).into_down());
                }
            };
            let part = data.split_to(capacity.min(data.len()));
            self.sent += part.len();
            let is_last = end && data.is_empty();
            send.send_data(part, is_last)
                .or_err(ErrorType::WriteError, "a response body")
                .map_err(|error| error.into_down())?;
            self.ended = is_last;
        }
        if end && !self.ended {
            self.close()?;
        }
        Ok(())
    }

    /// The response is whole.
    fn close(&mut self) -> Result<()> {
        if let Some(send) = &mut self.send
            && !std::mem::replace(&mut self.ended, true)
        {
            send.send_data(Bytes::new(), true)
                .or_err(ErrorType::WriteError, "the end of a response")
                .map_err(|error| error.into_down())?;
        }
        Ok(())
    }

    fn trail(&mut self, trailers: HeaderMap) -> Result<()> {
        if let Some(send) = &mut self.send
            && !std::mem::replace(&mut self.ended, true)
        {
            send.send_trailers(trailers)
                .or_err(ErrorType::WriteError, "trailers of a response")
                .map_err(|error| error.into_down())?;
        }
        Ok(())
    }

    fn reset(&mut self, reason: Http2Reason) {
        if !std::mem::replace(&mut self.ended, true) {
            match &mut self.send {
                Some(send) => send.send_reset(reason),
                None => self.respond.send_reset(reason),
            }
        }
    }
}

/// Pingora drops what it cannot finish; a client must not take it for whole.
impl Drop for StreamSession {
    fn drop(&mut self) {
        self.reset(Http2Reason::INTERNAL_ERROR);
    }
}

#[async_trait]
impl Session for StreamSession {
    fn req_header(&self) -> &RequestHeader {
        &self.request
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.request
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        if self.body_over {
            return Ok(None);
        }
        let longest = self.read_timeout;
        let read = poll_fn(|cx| self.poll_body(cx));
        match longest {
            None => read.await,
            Some(longest) => match timeout(longest, read).await {
                Ok(read) => read,
                Err(_) => {
                    let silent = "the client is silent in its body";
                    Err(Error::explain(ErrorType::ReadTimedout, silent).into_down())
                }
            },
        }
    }

    /// What is left of a body is no other request's trouble here.
    async fn drain_request_body(&mut self) -> Result<()> {
        Ok(())
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<()> {
        self.begin(head, end)
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, end: bool) -> Result<()> {
        self.begin(Box::new(head.clone()), end)
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.send(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.trail(trailers)
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut over = false;
        for task in tasks {
            over = match task {
                HttpTask::Header(head, end) => {
                    self.begin(head, end)?;
                    end
                }
                HttpTask::Body(data, end) => {
                    self.send(data.unwrap_or_default(), end).await?;
                    end
                }
                HttpTask::UpgradedBody(..) => {
                    let none = "nothing switches protocols here";
                    return Error::e_explain(ErrorType::InternalError, none);
                }
                HttpTask::Trailer(trailers) => {
                    match trailers {
                        Some(trailers) => self.trail(*trailers)?,
                        None => self.close()?,
                    }
                    true
                }
                HttpTask::Done => true,
                HttpTask::Failed(error) => return Err(error),
            } || over;
        }
        if over {
            self.close()?;
        }
        Ok(over)
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.read_timeout = timeout;
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.read_timeout
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.write_timeout = timeout;
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.write_timeout
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.drain_timeout = timeout;
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.drain_timeout
    }

    fn request_summary(&self) -> String {
        let path = String::from_utf8_lossy(self.request.raw_path());
        format!("{} {path} HTTP/2", self.request.method)
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.written.as_deref()
    }

    async fn shutdown(&mut self, _code: u32, _why: &str) {
        self.reset(Http2Reason::INTERNAL_ERROR);
    }

    fn is_body_done(&mut self) -> bool {
        self.body_over
    }

    async fn finish(&mut self) -> Result<()> {
        self.close()
    }

    fn is_body_empty(&mut self) -> bool {
        self.read == 0 && self.body_over
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if no_body_expected || self.body_over {
            return Err(self.given_up().await);
        }
        self.read_body_bytes().await
    }

    fn body_bytes_sent(&self) -> usize {
        self.sent
    }

    fn body_bytes_read(&self) -> usize {
        self.read
    }

    fn digest(&self) -> Option<&Digest> {
        Some(&self.digest)
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        Arc::get_mut(&mut self.digest)
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.digest.socket_digest.as_ref()?.peer_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.digest.socket_digest.as_ref()?.local_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        Bytes::from(self.request_summary())
    }

    fn enable_retry_buffering(&mut self) {
        self.retry.get_or_insert_default();
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.retry.as_ref().is_some_and(|retry| retry.is_truncated)
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        let retry = self.retry.as_ref()?;
        let whole = !retry.is_truncated && !retry.bytes.is_empty();
        whole.then(|| Bytes::copy_from_slice(&retry.bytes))
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _reader: Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(
        &mut self,
        _writer: Box<dyn CustomMessageWrite>,
    ) -> Result<()> {
        Ok(())
    }
}

/// As much of a body as Pingora keeps for another try.
const MAX_RETRY_BYTES: usize = 64 * 1024;

/// Asked of the client's window at a time.
const MAX_RESERVED: usize = 64 * 1024;
