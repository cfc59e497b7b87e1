//! MySQL's and MariaDB's packets as far as a gateway needs them: the refusal before a handshake,
//! what a server says first, and how to leave it without a login.
//!
//! The server speaks first. Invariant: a packet's length is believed up to a bound only.
//!
//! Source: MySQL Internals, "Client/Server Protocol": packets, ERR_Packet, Handshake v10.

mod hello;
mod kill;

pub use self::hello::{Answer, Greeting, Login, NATIVE, switch_to_native};
pub use self::kill::Command;

use super::printable;
use super::reader::Reader;
use super::verdict::Verdict;

/// An ERR packet in place of the greeting: number 0, and no SQLSTATE, because no capabilities are
/// agreed on yet.
pub(super) fn error_before_handshake(code: u16, text: &str) -> Vec<u8> {
    let mut payload = vec![ERR];
    payload.extend(code.to_le_bytes());
    payload.extend(text.as_bytes());
    packet(0, &payload)
}

/// What to send to a server whose client left before it said a byte, whether the greeting has come
/// or not; then end our side, read until the server ends its own, and close.
///
/// A server counts a connection that ends inside the handshake against our address, by FIN or by
/// RST, and blocks it after `max_connect_errors` of them. This is the packet that it waits for
/// (HandshakeResponse41, number 1), in the name of a user that says what happened: its login is
/// refused, which is not counted.
pub fn leave() -> Vec<u8> {
    // LONG_PASSWORD, PROTOCOL_41, TRANSACTIONS, SECURE_CONNECTION, PLUGIN_AUTH
    const CAPABILITIES: u32 = 1 | 1 << 9 | 1 << 13 | 1 << 15 | 1 << 19;
    const LONGEST_PACKET: u32 = 1 << 24;
    const UTF8MB4: u8 = 45;
    let mut payload = CAPABILITIES.to_le_bytes().to_vec();
    payload.extend(LONGEST_PACKET.to_le_bytes());
    payload.push(UTF8MB4);
    payload.extend([0; 23]);
    payload.extend(b"(client left)\0");
    payload.push(0); // no password
    payload.extend(b"mysql_native_password\0");
    packet(1, &payload)
}

/// Judges a server's first packet, for callers that do read one.
pub(super) fn judge(answer: &[u8]) -> Verdict {
    match read_packet(answer) {
        Packet::NeedMore => Verdict::NeedMore,
        Packet::Malformed => Verdict::Refused("not MySQL: no greeting".into()),
        Packet::Whole { payload, .. } => match payload.first() {
            Some(&GREETING) => Verdict::Alive,
            Some(&ERR) => Verdict::Refused(error_text(payload)),
            _ => Verdict::Refused("not MySQL: no greeting".into()),
        },
    }
}

/// One packet at the start of what a server sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Not all of it is there yet.
    NeedMore,
    /// All of it is there.
    Whole {
        /// Its sequence number, which each packet of an exchange counts up from 0.
        number: u8,
        /// Its content: 1 to `MAX_PACKET_BYTES` bytes.
        payload: &'a [u8],
        /// What follows it.
        rest: &'a [u8],
    },
    /// Empty, or longer than `MAX_PACKET_BYTES`.
    Malformed,
}

/// Reads the packet that `bytes` begin with: 3 bytes of length, 1 of number, the payload.
pub fn read_packet(bytes: &[u8]) -> Packet<'_> {
    let mut reader = Reader::new(bytes);
    let Some([low, middle, high]) = reader.array() else {
        return Packet::NeedMore;
    };
    let length = u32::from_le_bytes([low, middle, high, 0]) as usize;
    if !(1..=MAX_PACKET_BYTES).contains(&length) {
        return Packet::Malformed;
    }
    match (reader.u8(), reader.take(length)) {
        (Some(number), Some(payload)) => Packet::Whole {
            number,
            payload,
            rest: reader.rest(),
        },
        _ => Packet::NeedMore,
    }
}

/// Code and text of an ERR packet, with or without SQLSTATE.
pub(super) fn error_text(payload: &[u8]) -> String {
    let mut reader = Reader::new(payload);
    reader.u8();
    let code = reader.u16_le().unwrap_or(0);
    let text = match reader.rest() {
        [b'#', _, _, _, _, _, text @ ..] => text,
        text => text,
    };
    format!("{code} {}", printable(text))
}

/// A packet with this sequence number; `payload` is shorter than 16 MiB.
pub fn packet(number: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_le_bytes();
    let mut bytes = Vec::with_capacity(payload.len() + 4);
    bytes.extend(&length[..3]);
    bytes.push(number);
    bytes.extend(payload);
    bytes
}

/// An ERR packet in answer to a command.
pub fn error(number: u8, code: u16, state: &[u8; 5], text: &str) -> Vec<u8> {
    let code = code.to_le_bytes();
    packet(
        number,
        &[&[ERR], &code[..], b"#", state, text.as_bytes()].concat(),
    )
}

/// COM_QUIT: ends a session that is not needed any more.
pub fn quit() -> Vec<u8> {
    packet(0, &[COM_QUIT])
}

const COM_QUIT: u8 = 1;
/// First byte of an OK_Packet.
pub const OK: u8 = 0;
/// First byte of an ERR_Packet.
pub const ERR: u8 = 0xff;
/// First byte of a server's greeting: the protocol version, 10.
pub const GREETING: u8 = 0x0a;

/// Longest packet believed: greetings, authentication and errors have some hundred bytes.
const MAX_PACKET_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_before_the_handshake_is_as_mariadb_sends_it() {
        assert_eq!(
            error_before_handshake(1040, "Too many connections"),
            b"\x17\0\0\0\xff\x10\x04Too many connections"
        );
    }

    #[test]
    fn the_first_packet_tells_who_lives() {
        let error = error_before_handshake(1040, "Too many connections");
        for end in 0..error.len() {
            assert_eq!(judge(&error[..end]), Verdict::NeedMore);
        }
        assert_eq!(
            judge(&error),
            Verdict::Refused("1040 Too many connections".into())
        );
        assert_eq!(judge(b"\x02\0\0\0\x0a5"), Verdict::Alive);
        assert!(matches!(judge(b"HTTP/1.1"), Verdict::Refused(_)));
        assert_eq!(
            error_text(b"\xff\x15\x04#28000Access denied"),
            "1045 Access denied"
        );
        assert_eq!(error_text(b"\xff"), "0 ");
    }
}
