//! The wait for a client to say anything at all, before it is known what it speaks.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::server::drain::stages::{Stage, StageWatch};

/// Waits until the client has sent something, has closed, or `within` is over. False: idle
/// connections close now, and this is one.
pub(super) async fn first_byte(stream: &TcpStream, stages: &StageWatch, within: Duration) -> bool {
    let waiting = poll_fn(|cx| {
        // In this order: what is there already is served whatever else happened.
        if stream.poll_read_ready(cx).is_ready() {
            return Poll::Ready(true);
        }
        stages.poll(Stage::IdleCloses, cx).map(|()| false)
    });
    timeout(within, waiting).await.unwrap_or(true)
}
