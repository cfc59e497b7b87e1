//! What makes a running gateway reload or reopen: HUP, USR1, a changed configuration or certificate.
//!
//! Invariant: what is asked for is done on a thread that may wait; the next trigger is taken when
//! it is done.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use log::info;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;
use tokio::signal::unix::Signal;

use crate::server::lifecycle::reload::{Refused, Reload};
use crate::server::lifecycle::watch::{FilesWatch, PERIOD, Watch};
use crate::server::process::signals::Signals;
use crate::telemetry::AccessLog;
use crate::tls::ServerTls;

/// The service.
pub struct ReloadTriggers {
    /// What HUP and a changed file (`server.watch_config`) start.
    pub reload: Arc<Reload>,
    /// What USR1 reopens, for logrotate.
    pub access_log: Arc<AccessLog>,
    /// Opens the logs of whoever runs us again.
    pub reopen: Box<dyn Fn() + Send + Sync>,
    /// Taken at the start. `None`: they are not ours.
    pub signals: Mutex<Option<Signals>>,
}

#[async_trait]
impl BackgroundService for ReloadTriggers {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let signals = {
            let mut signals = self.signals.lock().unwrap_or_else(PoisonError::into_inner);
            signals.take()
        };
        let (hangup, user1) = signals.map(|all| (all.hangup, all.user1)).unzip();
        tokio::select! {
            _ = shutdown.changed() => {}
            () = self.reload_at(hangup) => {}
            () = self.reopen_at(user1) => {}
            () = self.watch() => {}
            () = self.watch_certificates() => {}
        }
    }
}

impl ReloadTriggers {
    async fn reload_at(&self, mut hangup: Option<Signal>) {
        loop {
            next(&mut hangup).await;
            self.reload().await;
        }
    }

    /// What comes of it is in the log and in the metrics.
    async fn reload(&self) -> Again {
        let reload = self.reload.clone();
        match tokio::task::spawn_blocking(move || reload.run()).await {
            Ok(Err(Refused::ForNow)) => Again::Yes,
            Ok(Ok(_) | Err(Refused::Wrong(_))) | Err(_) => Again::No,
        }
    }

    async fn reopen_at(&self, mut user1: Option<Signal>) {
        loop {
            next(&mut user1).await;
            self.access_log.reopen();
            (self.reopen)();
            info!("log files opened again");
        }
    }

    /// Whether to watch is asked each time: a reload changes it. What changes during an upgrade is
    /// seen when the upgrade has failed; after one that has not, it is for the successor to see.
    async fn watch(&self) {
        let mut watch = Watch::default();
        loop {
            tokio::time::sleep(PERIOD).await;
            if self.reload.is_frozen() {
                continue;
            }
            let snapshot = self.reload.snapshots.load();
            if !snapshot.config.server.watch_config {
                watch = Watch::default();
                continue;
            }
            let look = move || {
                let config = &snapshot.config;
                let changed = watch.changed(&config.file, config.text.as_bytes());
                (watch, changed)
            };
            let Ok((looked, changed)) = tokio::task::spawn_blocking(look).await else {
                return std::future::pending().await;
            };
            watch = looked;
            if changed && self.reload().await == Again::Yes {
                watch = Watch::default();
            }
        }
    }
}

impl ReloadTriggers {
    /// Certificates are renewed by programs that know nothing of us: their files are always watched.
    /// The configuration file is not read for it.
    async fn watch_certificates(&self) {
        let mut watch = FilesWatch::default();
        loop {
            tokio::time::sleep(PERIOD).await;
            if self.reload.is_frozen() {
                continue;
            }
            let snapshot = self.reload.snapshots.load();
            if snapshot.config.tls.is_none() {
                watch = FilesWatch::default();
                continue;
            }
            let reload = self.reload.clone();
            let look = move || {
                let tls = snapshot.config.tls.as_ref();
                if tls.is_some_and(|tls| watch.changed(&ServerTls::files(tls))) {
                    reload.renew_certificates();
                }
                watch
            };
            let Ok(looked) = tokio::task::spawn_blocking(look).await else {
                return std::future::pending().await;
            };
            watch = looked;
        }
    }
}

/// Whether a reload that was refused is to be tried again without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    Yes,
    No,
}

/// The next one; without a stream, never.
async fn next(signal: &mut Option<Signal>) {
    if let Some(signal) = signal
        && signal.recv().await.is_some()
    {
        return;
    }
    std::future::pending().await
}
