//! What Pingora asks of a stream besides bytes.
//!
//! Together with `AsyncRead` and `AsyncWrite` it makes a [`GateStream`] a Pingora `IO`. Values are
//! those of Pingora's own TCP stream (pingora-core 0.9.1).

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::GateStream;

#[async_trait]
impl Shutdown for GateStream {
    async fn shutdown(&mut self) {
        // Pingora awaits this without a limit of its own.
        let _ = timeout(SHUTDOWN, AsyncWriteExt::shutdown(self)).await;
    }
}

impl UniqueID for GateStream {
    fn id(&self) -> UniqueIDType {
        self.socket
            .as_ref()
            .map_or(-1, |transport| transport.socket().as_raw_fd())
    }
}

impl Ssl for GateStream {}

impl Peek for GateStream {}

impl GetTimingDigest for GateStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        vec![Some(TimingDigest {
            established_ts: self.established,
            ..TimingDigest::default()
        })]
    }
}

impl GetProxyDigest for GateStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for GateStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.digest.clone())
    }
}

/// For sending what is left and FIN.
const SHUTDOWN: Duration = Duration::from_secs(1);
