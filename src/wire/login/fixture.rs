//! What the tests of the logins share.

use super::conversation::{Login, LoginStep};

/// Feeds `bytes` in pieces of `step`: everything written, and how it ended.
pub(super) fn feed(login: &mut dyn Login, bytes: &[u8], step: usize) -> (Vec<u8>, LoginStep) {
    let mut written = Vec::new();
    let mut last = LoginStep::NeedMore;
    'pieces: for piece in bytes.chunks(step.max(1)) {
        // What a server says too early is looked at once it is its turn, however it was cut.
        let mut fresh = piece;
        loop {
            last = login.advance(fresh);
            match &last {
                LoginStep::NeedMore => break,
                LoginStep::Send(bytes) => written.extend(bytes),
                LoginStep::Done { termination, .. } => {
                    written.extend(termination);
                    break 'pieces;
                }
                LoginStep::Failed(_) => break 'pieces,
            }
            fresh = &[];
        }
    }
    (written, last)
}
