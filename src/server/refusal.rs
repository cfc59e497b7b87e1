//! Answers that the edge gives before there is a request, and how a connection ends after one.
//!
//! Its own file because both the listener (connection limit) and the connection loop (bad heads)
//! refuse, and every refusal must linger: closing a socket with unread bytes sends a RST that can
//! destroy the answer on its way (RFC 9112 9.6). Invariant: bounded in time and bytes, whatever the
//! client does.

use std::mem::MaybeUninit;
use std::pin::Pin;
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Answers `status` without a body, then closes the connection. Takes at most two seconds.
///
/// `retry_after` is in seconds (RFC 9110 10.2.3).
pub async fn refuse(mut socket: TcpStream, status: u16, retry_after: Option<u32>) {
    let answer = answer(status, retry_after);
    if let Ok(Ok(())) = timeout(LINGER, socket.write_all(answer.as_bytes())).await {
        linger(socket).await;
    }
}

/// Says that nothing more will be sent, reads and drops what the client still sends until it is
/// done or a second is over, then closes.
pub(super) async fn linger(mut socket: TcpStream) {
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
async fn discard(socket: &mut TcpStream) -> std::io::Result<usize> {
    std::future::poll_fn(|cx| {
        let mut space = [MaybeUninit::<u8>::uninit(); 16 * 1024];
        let mut buf = ReadBuf::uninit(&mut space);
        Pin::new(&mut *socket)
            .poll_read(cx, &mut buf)
            .map_ok(|()| buf.filled().len())
    })
    .await
}

/// A bare status: no body, and nothing about us.
fn answer(status: u16, retry_after: Option<u32>) -> String {
    let reason = StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or_default();
    let mut answer = format!("HTTP/1.1 {status} {reason}\r\nContent-Length: 0\r\n");
    if status == StatusCode::METHOD_NOT_ALLOWED {
        // RFC 9110 15.5.6 demands it.
        answer.push_str("Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n");
    }
    if let Some(seconds) = retry_after {
        answer.push_str(&format!("Retry-After: {seconds}\r\n"));
    }
    answer.push_str("Connection: close\r\n\r\n");
    answer
}

/// How long a refused client may take to read its answer and stop sending.
const LINGER: Duration = Duration::from_secs(1);

/// How much of what a refused client still sends is read before the connection is closed all the
/// same.
const LINGER_BYTES: usize = 32 * 1024 * 1024;
