//! Answers that the edge gives before there is a request, and how a connection ends after one.
//!
//! Both the listener (connection limit, a bare status) and the connection loop (bad heads, with the
//! rule that was broken) refuse, and every refusal must linger: closing a socket with unread bytes
//! sends a RST that can destroy the answer on its way (RFC 9112, section 9.6). Invariant: bounded
//! in time and bytes, whatever the client does.

use std::mem::MaybeUninit;
use std::pin::Pin;
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use crate::http::respond::problem;
use crate::transport::Transport;
use crate::wire::http1::Refusal;

/// Answers `status` without a body, then closes the connection. Takes at most two seconds.
///
/// `retry_after` is in seconds (RFC 9110 10.2.3).
pub async fn refuse(socket: Transport, status: u16, retry_after: Option<u32>) {
    let mut answer = head(status, 0, retry_after);
    answer.push_str("Connection: close\r\n\r\n");
    send(socket, answer).await;
}

/// Answers a head that must not pass with the reason, then closes the connection. Takes at most two
/// seconds. `method` is there if the request line was well formed: HEAD gets no body.
pub(in crate::server) fn refuse_head(
    socket: Transport,
    refusal: Refusal,
    method: Option<&str>,
) -> impl Future<Output = ()> + use<> {
    let body = problem(refusal.status, refusal.reason, Some(refusal.why));
    let mut answer = head(refusal.status, body.len(), None);
    answer.push_str("Content-Type: application/problem+json\r\nCache-Control: no-store\r\n");
    answer.push_str("Connection: close\r\n\r\n");
    if method != Some("HEAD") {
        answer.push_str(&body);
    }
    send(socket, answer)
}

async fn send(mut socket: Transport, answer: String) {
    if let Ok(Ok(())) = timeout(LINGER, socket.write_all(answer.as_bytes())).await {
        linger(socket).await;
    }
}

/// Says that nothing more will be sent, reads and drops what the client still sends until it is
/// done or a second is over, then closes.
pub(in crate::server) async fn linger(mut socket: Transport) {
    let drained = async {
        if socket.shutdown().await.is_err() {
            return;
        }
        let mut left = LINGER_BYTES;
        while left > 0 {
            match discard(&mut socket).await {
                Ok(0) | Err(_) => return,
                Ok(read) => left = left.saturating_sub(read),
            }
        }
    };
    // Over time is as good as drained: the socket closes either way.
    let _ = timeout(LINGER, drained).await;
}

/// Reads once and forgets. The buffer is on the stack of one poll, not in the task.
async fn discard(socket: &mut Transport) -> std::io::Result<usize> {
    std::future::poll_fn(|cx| {
        let mut space = [MaybeUninit::<u8>::uninit(); 16 * 1024];
        let mut buf = ReadBuf::uninit(&mut space);
        Pin::new(&mut *socket)
            .poll_read(cx, &mut buf)
            .map_ok(|()| buf.filled().len())
    })
    .await
}

/// Status and what belongs to it: nothing about us.
fn head(status: u16, length: usize, retry_after: Option<u32>) -> String {
    let reason = StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or_default();
    let mut answer = format!("HTTP/1.1 {status} {reason}\r\nContent-Length: {length}\r\n");
    if status == StatusCode::METHOD_NOT_ALLOWED {
        // RFC 9110 15.5.6 demands it.
        answer.push_str("Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n");
    }
    if let Some(seconds) = retry_after {
        answer.push_str(&format!("Retry-After: {seconds}\r\n"));
    }
    answer
}

/// How long a refused client may take to read its answer and stop sending.
const LINGER: Duration = Duration::from_secs(1);

/// How much of what a refused client still sends is read before the connection is closed all the
/// same.
const LINGER_BYTES: usize = 32 * 1024 * 1024;
