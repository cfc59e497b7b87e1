//! What a session's log line says of its server and its bytes.

use crate::tcp::connect::Efforts;

/// What a session's log line says of its server and its bytes.
#[derive(Debug, Default)]
pub struct SessionStats {
    pub efforts: Efforts,
    pub up: u64,
    pub down: u64,
}
