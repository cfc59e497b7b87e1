//! What all sessions of a gateway share.

use std::sync::Arc;

use tokio::sync::watch;

use crate::error::Reason;
use crate::tcp::cancel::Cancels;
use crate::tcp::relay::Pipes;
use crate::tcp::threads::Threads;
use crate::upstream::warm::Warm;

/// One for all sessions, by reference.
pub struct Shared {
    pub warm: Arc<Warm>,
    pub pipes: Arc<Pipes>,
    pub cancels: Cancels,
    /// Likewise, for the KILL of MySQL.
    pub threads: Threads,
    /// Turns to the reason when a drain has waited long enough.
    pub cut: watch::Receiver<Option<Reason>>,
}

impl Shared {
    pub fn new(warm: Arc<Warm>, cut: watch::Receiver<Option<Reason>>) -> Shared {
        Shared {
            warm,
            pipes: Pipes::new(MAX_PIPES),
            cancels: Cancels::default(),
            threads: Threads::default(),
            cut,
        }
    }

    /// Done when a drain has waited long enough.
    pub fn cut_off(&self) -> impl Future<Output = ()> + use<> {
        let mut cut = self.cut.clone();
        async move {
            if cut.wait_for(Option::is_some).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Pipes that splicing may hold at a time, two descriptors each; what comes above is copied.
const MAX_PIPES: usize = 64;
