//! PostgreSQL's protocol 3 as far as a gateway needs it: how a session starts, how it is cancelled,
//! how it is refused, and when it is idle.
//!
//! The start of a session is read even where a route has its listener alone. Invariant: at most one
//! startup packet is ever held; what passes afterwards is only counted.
//!
//! Source: PostgreSQL manual, "Frontend/Backend Protocol", Message Formats.

mod frame;
mod idle_tracker;
mod startup;
mod startup_tracker;

pub use idle_tracker::IdleTracker;
pub use startup::{
    CancelKey, GSSENC_REQUEST, MAX_STARTUP_BYTES, SSL_REQUEST, Start, StartupMessage, parse_start,
};
pub(super) use startup::{only_starts, startup_packet};
pub use startup_tracker::{Progress, StartupTracker};

/// Whether the last bytes of a server are a ReadyForQuery: it waits for the client, and a message of
/// its own may follow.
pub fn ends_ready(last: [u8; 6]) -> bool {
    matches!(last, [b'Z', 0, 0, 0, 5, b'I' | b'T' | b'E'])
}

/// An ErrorResponse of severity FATAL with its SQLSTATE, as servers since 9.6 send it (`S` and `V`).
/// NUL bytes in `message` are left out.
pub fn error_response(sqlstate: &str, message: &str) -> Vec<u8> {
    let mut body = Vec::with_capacity(message.len() + 32);
    for (field, text) in [
        (b'S', "FATAL"),
        (b'V', "FATAL"),
        (b'C', sqlstate),
        (b'M', message),
    ] {
        body.push(field);
        body.extend(text.bytes().filter(|byte| *byte != 0));
        body.push(0);
    }
    body.push(0);
    super::postgres::message(b'E', &body)
}

/// One message: its type, its length (which counts itself), its body.
pub(super) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(body.len() + 5);
    bytes.push(kind);
    bytes.extend(length.to_be_bytes());
    bytes.extend(body);
    bytes
}

/// The text of a field of an ErrorResponse body: `C` is the SQLSTATE, `M` the message.
pub(super) fn error_field(body: &[u8], field: u8) -> Option<&[u8]> {
    let mut reader = super::reader::Reader::new(body);
    loop {
        let kind = reader.u8().filter(|kind| *kind != 0)?;
        let text = reader.c_string()?;
        if kind == field {
            return Some(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_written_as_the_manual_says() {
        let bytes = error_response("53300", "sorry, too many clients already (x\0)");
        let body = b"SFATAL\0VFATAL\0C53300\0Msorry, too many clients already (x)\0\0";
        assert_eq!(bytes[0], b'E');
        assert_eq!(bytes[1..5], (body.len() as u32 + 4).to_be_bytes());
        assert_eq!(&bytes[5..], body);
        assert_eq!(error_field(body, b'C'), Some(&b"53300"[..]));
        assert_eq!(error_field(body, b'D'), None);
        assert_eq!(error_field(b"Cabc", b'C'), None);
    }
}
