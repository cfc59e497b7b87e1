//! What a client says in `Authorization: Basic …`.
//!
//! Invariant: what comes out is text without control characters and has the name of a user. The
//! tests of `basic_auth` send it what is hostile.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};

/// What a client says it is.
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: String,
}

impl Credentials {
    /// `None` for anything but one sane `Authorization: Basic …` (RFC 7617, section 2: no control
    /// characters, UTF-8).
    pub(super) fn of(headers: &HeaderMap) -> Option<Credentials> {
        let mut lines = headers.get_all(header::AUTHORIZATION).iter();
        let (line, None) = (lines.next()?, lines.next()) else {
            return None;
        };
        let line = line.as_bytes();
        if line.len() > MAX_CREDENTIALS {
            return None;
        }
        let (scheme, token) = line.split_at_checked(6)?;
        if !scheme.eq_ignore_ascii_case(b"basic ") {
            return None;
        }
        let decoded = STANDARD.decode(token.trim_ascii()).ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        let (user, password) = decoded.split_once(':')?;
        let sane = !user.is_empty() && !decoded.chars().any(char::is_control);
        sane.then(|| Credentials {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }
}

/// Of the whole header.
const MAX_CREDENTIALS: usize = 4096;
