//! How long an OCSP response is fresh, and for which certificate (RFC 6960, section 4.2.1).

use std::time::{Duration, SystemTime};

use x509_parser::der_parser::asn1_rs::Tag;
use x509_parser::der_parser::asn1_rs::{Any, Class, Enumerated, FromDer, GeneralizedTime, Oid};

use crate::config::problem::Wrong;

/// What an OCSP response says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ocsp {
    /// Of the certificate that it is about, as in that certificate.
    pub(super) serial: Vec<u8>,
    /// From here on it must not be used; `None`: newer information is always available.
    pub(super) next_update: Option<SystemTime>,
}

/// Reads a response in DER, of which only what is asked of a server is looked at: its signature is
/// for clients to check.
pub(super) fn parse(der: &[u8]) -> Result<Ocsp, Wrong> {
    read(der).ok_or_else(|| match status(der) {
        Some(status @ 1..) => Wrong::new(
            format!("the OCSP responder answered with status {status}, not with a response"),
            "ask it again: `openssl ocsp -respout FILE -issuer … -cert … -url …`",
        ),
        _ => Wrong::new(
            "is not an OCSP response in DER",
            "`openssl ocsp -respout FILE -issuer … -cert … -url …` writes one",
        ),
    })
}

fn status(der: &[u8]) -> Option<u32> {
    let response = sequence(der)?;
    let (_, status) = Enumerated::from_der(response).ok()?;
    Some(status.0)
}

fn read(der: &[u8]) -> Option<Ocsp> {
    let response = sequence(der)?;
    let (rest, status) = Enumerated::from_der(response).ok()?;
    if status.0 != 0 {
        return None;
    }
    let bytes = sequence(tagged(rest, 0)?)?;
    let (rest, _type) = Oid::from_der(bytes).ok()?;
    let (_, basic) = Any::from_der(rest).ok()?;
    basic.tag().assert_eq(Tag::OctetString).ok()?;
    let data = sequence(sequence(basic.data)?)?;
    // Version, if it is not the first; then who answered, and when.
    let (mut rest, first) = Any::from_der(data).ok()?;
    if first.class() == Class::ContextSpecific && first.tag().0 == 0 {
        rest = Any::from_der(rest).ok()?.0;
    }
    let (rest, _produced_at) = GeneralizedTime::from_der(rest).ok()?;
    let single = sequence(sequence(rest)?)?;
    let (rest, certificate) = Any::from_der(single).ok()?;
    let serial = serial(certificate.data)?;
    let (rest, _status) = Any::from_der(rest).ok()?;
    let (rest, _this_update) = GeneralizedTime::from_der(rest).ok()?;
    let next_update = match tagged(rest, 0) {
        Some(time) => Some(time_of(&GeneralizedTime::from_der(time).ok()?.1)?),
        None => None,
    };
    Some(Ocsp {
        serial,
        next_update,
    })
}

/// The serial number of a `CertID`: behind the algorithm and two hashes.
fn serial(id: &[u8]) -> Option<Vec<u8>> {
    let mut rest = id;
    for _ in 0..3 {
        rest = Any::from_der(rest).ok()?.0;
    }
    let (_, number) = Any::from_der(rest).ok()?;
    number.tag().assert_eq(Tag::Integer).ok()?;
    Some(number.data.to_vec())
}

fn sequence(der: &[u8]) -> Option<&[u8]> {
    let (_, any) = Any::from_der(der).ok()?;
    any.tag().assert_eq(Tag::Sequence).ok()?;
    Some(any.data)
}

/// What stands under an explicit context tag.
fn tagged(der: &[u8], number: u32) -> Option<&[u8]> {
    let (_, any) = Any::from_der(der).ok()?;
    (any.class() == Class::ContextSpecific && any.tag().0 == number).then_some(any.data)
}

fn time_of(time: &GeneralizedTime) -> Option<SystemTime> {
    let seconds = time.utc_datetime().ok()?.unix_timestamp();
    let seconds = u64::try_from(seconds).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}
