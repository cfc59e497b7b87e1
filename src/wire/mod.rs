//! What is known of each protocol on the wire: functions and small states over bytes.
//!
//! A layer of its own because it reads what untrusted peers send. Invariant: no sockets, no
//! runtime, no panic; every reader here is bounded and can be fed one byte at a time.
//!
//! [`sniff`] distinguishes the protocols, [`refusal`] refuses in each of them, [`probe`] asks
//! whether a server is alive, [`login`] also which role it has, [`replay`] knows what may be sent
//! twice. The other modules are one protocol each.

mod cql;
pub mod http1;
mod http_db;
pub mod login;
mod mongodb;
pub mod mysql;
pub mod postgres;
pub mod probe;
pub mod proxy_protocol;
mod reader;
mod redis;
pub mod refusal;
pub mod replay;
mod signature;
pub mod sniff;
mod tds;
pub mod tls;
mod tns;
mod verdict;

/// What a peer wrote, fit for a log line or an error: valid UTF-8 without control characters, at
/// most 200 characters.
fn printable(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(800)];
    String::from_utf8_lossy(bytes)
        .trim()
        .chars()
        .map(|char| if char.is_control() { ' ' } else { char })
        .take(200)
        .collect()
}
