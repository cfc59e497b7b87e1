//! HTTP/1 framing, read strictly: where a request head ends, whether it may pass, and which bytes
//! after it are its body.
//!
//! Request smuggling lives in the difference between two readers of one message: this one stands in
//! front of Pingora's and refuses whatever could be read in two ways, so behind it only one reading
//! is left. Invariant: what is accepted here, Pingora frames identically (a test feeds both).
//!
//! Sources: RFC 9112 (HTTP/1.1), RFC 9110 (HTTP semantics), RFC 3986 (URIs).

mod authority;
mod body;
#[cfg(test)]
pub(crate) mod cases;
mod fields;
mod framing;
mod head;
mod refusal;
mod request_line;
mod target;
#[cfg(test)]
mod tests;

pub use authority::is_authority;
pub use body::{BodyTracker, Malformed};
pub use framing::{BodyFraming, Version};
pub use head::{HeadScanner, HeadSummary, Scan};
pub use refusal::Refusal;
pub use target::escaped;

/// Most header fields in one head, and most trailer fields in one body.
pub const MAX_FIELDS: usize = 100;

/// Longest request target in bytes: what the `http` crate can hold.
pub const MAX_TARGET_BYTES: usize = 65_534;

/// Longest field name in bytes.
pub const MAX_FIELD_NAME_BYTES: usize = 256;

/// Longest method in bytes.
pub const MAX_METHOD_BYTES: usize = 32;

/// `tchar` of RFC 9110 5.6.2: what methods and field names are made of.
fn is_tchar(byte: u8) -> bool {
    TCHARS[usize::from(byte)]
}

/// A byte that may stand in a field value (RFC 9110 5.5): HTAB, space, visible ASCII, obs-text.
fn is_field_text(byte: u8) -> bool {
    FIELD_TEXT[usize::from(byte)]
}

/// How many bytes at the front may stand in a field value, looked at eight at a time; may stop
/// early at a HTAB, and looks at none of the last seven.
fn plain_run(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    let (words, _) = bytes.as_chunks();
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // The high bit of each byte below 0x20, and of each that is 0x7f; by a borrow perhaps of
        // one above such a byte, too, never of one below it.
        let control = word.wrapping_sub(ONES << 5) & !word;
        let apart = word ^ (ONES * 0x7f);
        let delete = apart.wrapping_sub(ONES) & !apart;
        let hits = (control | delete) & HIGH;
        if hits != 0 {
            return 8 * at + hits.trailing_zeros() as usize / 8;
        }
    }
    8 * words.len()
}

/// A set of bytes as a table: each byte of a head is looked up in one or another.
const fn set_of(alphanumeric_and: &[u8]) -> [bool; 256] {
    let mut set = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        set[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < alphanumeric_and.len() {
        set[alphanumeric_and[at] as usize] = true;
        at += 1;
    }
    set
}

const TCHARS: [bool; 256] = set_of(b"!#$%&'*+-.^_`|~");

const FIELD_TEXT: [bool; 256] = {
    let mut set = [true; 256];
    let mut control = 0;
    while control < b' ' as usize {
        set[control] = control == b'\t' as usize;
        control += 1;
    }
    set[0x7f] = false;
    set
};
