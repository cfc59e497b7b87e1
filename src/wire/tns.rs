//! Oracle's TNS as far as a gateway needs it: first bytes, refusal, probe.
//!
//! The packet format is known from its use and not from a standard. Invariant: only the header of a
//! packet and the version of a CONNECT decide.

use super::printable;
use super::reader::Reader;
use super::signature::SignatureMatch;
use super::verdict::Verdict;

/// Whether a client begins like this: a CONNECT packet.
pub(super) fn fits(bytes: &[u8]) -> SignatureMatch {
    let ok = |at: usize, test: fn(u8) -> bool| bytes.get(at).is_none_or(|byte| test(*byte));
    if !(ok(0, |high| high <= 0x20)
        && ok(2, |checksum| checksum == 0)
        && ok(3, |checksum| checksum == 0)
        && ok(4, |kind| kind == CONNECT)
        && ok(6, |checksum| checksum == 0)
        && ok(7, |checksum| checksum == 0)
        // Versions 300 to 511: every one there ever was.
        && ok(8, |version| version == 1)
        && ok(9, |version| version >= 0x2c))
    {
        return SignatureMatch::No;
    }
    match Reader::new(bytes).u16() {
        Some(length) if !(CONNECT_BYTES..=0x2000).contains(&length) => SignatureMatch::No,
        Some(_) if bytes.len() >= 10 => SignatureMatch::Yes,
        _ => SignatureMatch::Maybe,
    }
}

/// A REFUSE packet; `code` is an ORA number such as 12520.
pub(super) fn refuse(code: u16, why: &str) -> Vec<u8> {
    // The text is nested in parentheses and quotes of its own.
    let why: String = why
        .chars()
        .filter(|char| !matches!(char, '(' | ')' | '=' | '\'' | '"' | '\\'))
        .collect();
    let text = format!(
        "(DESCRIPTION=(ERR={code})(VSNNUM=0)\
         (ERROR_STACK=(ERROR=(CODE={code})(EMFI=4)(ARGS='{why}'))))"
    );
    let mut body = vec![USER_REASON, SYSTEM_REASON];
    body.extend((text.len() as u16).to_be_bytes());
    body.extend(text.into_bytes());
    packet(REFUSE, &body)
}

/// What `tnsping` sends: a CONNECT that asks the listener for no service.
pub(super) fn probe() -> Vec<u8> {
    const TEXT: &[u8] = b"(DESCRIPTION=(CONNECT_DATA=(COMMAND=ping)))";
    let mut body = Vec::with_capacity(usize::from(CONNECT_BYTES) + TEXT.len());
    for field in [
        314_u16, // version
        300,     // lowest version that will do
        0,       // service options
        2048,    // session data unit
        32767,   // transport data unit
        0x7f08,  // protocol characteristics
        0,       // line turnaround
        1,       // one, in our byte order
        TEXT.len() as u16,
        CONNECT_BYTES, // where the text begins
    ] {
        body.extend(field.to_be_bytes());
    }
    body.extend([0; 4]); // longest answer to CONNECT: any
    body.extend([0, 0]); // flags
    body.resize(usize::from(CONNECT_BYTES) - HEADER_BYTES, 0);
    body.extend(TEXT);
    packet(CONNECT, &body)
}

/// Judges the answer to [`probe`]: a listener that refuses or sends elsewhere lives.
pub(super) fn judge(answer: &[u8]) -> Verdict {
    match answer.get(4) {
        None => Verdict::NeedMore,
        Some(&(ACCEPT | REFUSE | REDIRECT | RESEND)) if answer[2..4] == [0, 0] => Verdict::Alive,
        Some(_) => Verdict::Refused(format!("not Oracle: {}", printable(&answer[..5]))),
    }
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = ((body.len() + HEADER_BYTES) as u16).to_be_bytes().to_vec();
    bytes.extend([0, 0, kind, 0, 0, 0]);
    bytes.extend(body);
    bytes
}

const HEADER_BYTES: usize = 8;

/// A CONNECT before its text: header and fixed fields.
const CONNECT_BYTES: u16 = 58;

pub(super) const CONNECT: u8 = 1;
const ACCEPT: u8 = 2;
const REFUSE: u8 = 4;
const REDIRECT: u8 = 5;
const RESEND: u8 = 11;

/// As listeners say it: 0x22 refused by the user, 0 no reason of the system's.
const USER_REASON: u8 = 0x22;
const SYSTEM_REASON: u8 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_the_number_clients_look_for() {
        let bytes = refuse(12520, "queue (full)='x'");
        assert_eq!(
            usize::from(u16::from_be_bytes([bytes[0], bytes[1]])),
            bytes.len()
        );
        assert_eq!(bytes[2..10], [0, 0, 4, 0, 0, 0, 0x22, 0]);
        assert_eq!(
            usize::from(u16::from_be_bytes([bytes[10], bytes[11]])),
            bytes.len() - 12
        );
        assert_eq!(
            &bytes[12..],
            b"(DESCRIPTION=(ERR=12520)(VSNNUM=0)(ERROR_STACK=(ERROR=(CODE=12520)(EMFI=4)\
              (ARGS='queue fullx'))))"
        );
    }

    #[test]
    fn the_probe_is_a_connect_packet() {
        let probe = probe();
        assert_eq!(fits(&probe), SignatureMatch::Yes);
        assert_eq!(
            usize::from(u16::from_be_bytes([probe[0], probe[1]])),
            probe.len()
        );
        assert!(probe[58..].starts_with(b"(DESCRIPTION="));
        assert_eq!(probe[24..28], [0, 43, 0, 58]);
    }

    #[test]
    fn any_answer_of_a_listener_is_life() {
        let refusal = refuse(1153, "");
        for end in 0..5 {
            assert_eq!(judge(&refusal[..end]), Verdict::NeedMore);
        }
        assert_eq!(judge(&refusal), Verdict::Alive);
        assert_eq!(judge(b"\0\x08\0\0\x0b\0\0\0"), Verdict::Alive);
        assert!(matches!(judge(b"HTTP/1.1"), Verdict::Refused(_)));
    }
}
