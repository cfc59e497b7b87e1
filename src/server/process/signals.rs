//! The signals of a process that is one gateway.
//!
//! They must be caught from before the first socket is bound to the very end: one that comes in
//! between would end the process. Invariant: [`Heard`] is complete when [`listen`] returns; a
//! signal that comes before it is waited for is kept.

use std::sync::Arc;

use log::info;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Mutex;

use crate::error::Error;
use crate::server::drain::Stop;

/// The signals that are caught from now on.
pub(crate) struct Heard {
    /// Done at the first TERM or INT.
    pub stop: Stop,
    /// Done at the second one.
    pub again: Stop,
    pub signals: Signals,
    /// Asks for a successor.
    pub quit: Signal,
}

/// The signals that ask a gateway for something while it runs.
pub struct Signals {
    pub hangup: Signal,
    pub user1: Signal,
}

/// Takes the signals over from the system, which would end the process at each of them.
///
/// # Errors
/// The system refuses.
pub(crate) fn listen() -> Result<Heard, Error> {
    let failed = |source: std::io::Error| Error::io("cannot listen to signals").because(source);
    // Streams outlive the runtime they were made in: any other of the process drives them.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let _inside = runtime.enter();
    let hear = |kind| signal(kind).map_err(failed);
    let ends = (
        hear(SignalKind::terminate())?,
        hear(SignalKind::interrupt())?,
    );
    let ends = Arc::new(Mutex::new(ends));
    let next = |ends: Arc<Mutex<(Signal, Signal)>>| async move {
        let mut ends = ends.lock().await;
        let (term, int) = &mut *ends;
        tokio::select! {
            _ = term.recv() => info!("TERM received"),
            _ = int.recv() => info!("INT received"),
        }
    };
    Ok(Heard {
        stop: Box::pin(next(ends.clone())),
        again: Box::pin(next(ends)),
        signals: Signals {
            hangup: hear(SignalKind::hangup())?,
            user1: hear(SignalKind::user_defined1())?,
        },
        quit: hear(SignalKind::quit())?,
    })
}
