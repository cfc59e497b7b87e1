//! Names of header fields: which may be changed, which the gateway writes itself, and which an
//! endpoint reads as the same.

use http::HeaderName;
use http::header::{FORWARDED, HOST, VIA};

use crate::filter::{FRAMING, RequestHead, Result};

/// The name of a header that a filter may change.
pub(super) fn header_name(text: &str) -> Result<HeaderName> {
    let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
        let shown = text.escape_debug();
        return Err(format!("`{shown}` is not the name of a header").into());
    };
    match FRAMING.contains(&name) {
        true => Err(format!("`{name}` belongs to the gateway and cannot be changed").into()),
        false => Ok(name),
    }
}

/// Removes fields of a client that an endpoint may take for `name`: one that hands fields on as
/// variables (RFC 3875, section 4.1.18) reads `X_User` as `X-User`. Not those that `keeps`.
pub(super) fn remove_twins(
    head: &mut RequestHead<'_>,
    name: &HeaderName,
    keeps: impl Fn(&HeaderName) -> bool,
) -> Result<()> {
    let plain = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => byte,
        false => b'_',
    };
    let is_twin = |other: &HeaderName| {
        let (one, other) = (name.as_str(), other.as_str());
        let same = |(one, other): (u8, u8)| plain(one) == plain(other);
        one.len() == other.len() && one != other && one.bytes().zip(other.bytes()).all(same)
    };
    let names = head.headers().keys();
    let twins = names.filter(|other| is_twin(other) && !keeps(other));
    for twin in twins.cloned().collect::<Vec<_>>() {
        head.remove(twin)?;
    }
    Ok(())
}

/// What the gateway puts into the head of each try after the request phase.
pub(super) const WRITTEN_FOR_EACH_TRY: [HeaderName; 7] = [
    HOST,
    VIA,
    FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-proto"),
];
