//! SQL Server's TDS as far as a gateway needs it: first bytes, PRELOGIN, refusal, probe.
//!
//! Invariant: packets are walked by their headers, a login is skipped and never kept.
//!
//! Source: MS-TDS 2.2.3 (packets), 2.2.6.4 (LOGIN7), 2.2.6.5 (PRELOGIN), 2.2.7.10 (ERROR).

use super::printable;
use super::reader::Reader;
use super::signature::SignatureMatch;
use super::verdict::Verdict;

/// Whether a client begins like this: one PRELOGIN packet whose first option is VERSION.
pub(super) fn fits(bytes: &[u8]) -> SignatureMatch {
    let ok = |at: usize, test: fn(u8) -> bool| bytes.get(at).is_none_or(|byte| test(*byte));
    if !(ok(0, |kind| kind == PRELOGIN)
        && ok(1, |status| status == END_OF_MESSAGE)
        && ok(2, |high| high <= 0x10)
        && ok(7, |window| window == 0)
        && ok(8, |option| option == 0))
    {
        return SignatureMatch::No;
    }
    match Reader::new(bytes.get(2..).unwrap_or_default()).u16() {
        Some(length) if !(20..=0x1000).contains(&length) => SignatureMatch::No,
        Some(_) if bytes.len() >= 9 => SignatureMatch::Yes,
        _ => SignatureMatch::Maybe,
    }
}

/// A PRELOGIN that says no encryption at all, to ask a server with.
pub(super) fn probe() -> Vec<u8> {
    packet(PRELOGIN, &prelogin([0; 6]))
}

/// Judges the answer to [`probe`].
pub(super) fn judge(answer: &[u8]) -> Verdict {
    match answer.first() {
        None => Verdict::NeedMore,
        Some(&TABULAR) if answer.len() < HEADER_BYTES => Verdict::NeedMore,
        Some(&TABULAR) => Verdict::Alive,
        Some(_) => Verdict::Refused(format!(
            "not SQL Server: {}",
            printable(&answer[..answer.len().min(8)])
        )),
    }
}

/// The answer to a client's PRELOGIN, as of SQL Server 2019, that has it log in without TLS.
pub(super) fn prelogin_answer() -> Vec<u8> {
    packet(TABULAR, &prelogin([15, 0, 0x07, 0xd0, 0, 0]))
}

/// ERROR of class 20 (the connection ends) and DONE, in the form of the client's TDS version.
pub(super) fn fatal_error(number: i32, text: &str, version: u32) -> Vec<u8> {
    let text: Vec<u16> = text.encode_utf16().take(1000).collect();
    let mut error = number.to_le_bytes().to_vec();
    error.extend([1, 20]); // state, class
    error.extend((text.len() as u16).to_le_bytes());
    error.extend(text.iter().flat_map(|unit| unit.to_le_bytes()));
    error.extend([0, 0]); // names of server and procedure
    let is_long = version >= TDS_7_2;
    error.extend(&1_u32.to_le_bytes()[..if is_long { 4 } else { 2 }]); // line

    let mut tokens = vec![ERROR];
    tokens.extend((error.len() as u16).to_le_bytes());
    tokens.extend(error);
    tokens.push(DONE);
    tokens.extend([2, 0, 0, 0]); // status: error; no command
    tokens.extend(&[0; 8][..if is_long { 8 } else { 4 }]); // rows
    packet(TABULAR, &tokens)
}

/// The messages a client sends until it has said everything about its login.
#[derive(Debug)]
pub(super) struct LoginReader {
    header: [u8; HEADER_BYTES],
    header_length: usize,
    /// Bytes of the packet still to come.
    left: usize,
    /// The first bytes of the message: length and version of a LOGIN7.
    start: [u8; 8],
    start_length: usize,
    taken: usize,
}

/// What a client has sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    NeedMore,
    Prelogin,
    /// With the TDS version it asks for; 0 when it is too short to have one.
    Login {
        version: u32,
    },
    /// TLS, an older login, or nothing of TDS.
    Other,
}

impl LoginReader {
    pub(super) fn new() -> LoginReader {
        LoginReader {
            header: [0; HEADER_BYTES],
            header_length: 0,
            left: 0,
            start: [0; 8],
            start_length: 0,
            taken: 0,
        }
    }

    /// Reads on to the end of the next message; `bytes` moves past it.
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Sent {
        loop {
            if self.header_length < HEADER_BYTES {
                let wanted = HEADER_BYTES - self.header_length;
                let (piece, rest) = bytes.split_at(wanted.min(bytes.len()));
                self.header[self.header_length..][..piece.len()].copy_from_slice(piece);
                self.header_length += piece.len();
                *bytes = rest;
                if self.header_length >= 1 && !matches!(self.header[0], PRELOGIN | LOGIN7) {
                    return Sent::Other;
                }
                if self.header_length < HEADER_BYTES {
                    return Sent::NeedMore;
                }
                let length = usize::from(u16::from_be_bytes([self.header[2], self.header[3]]));
                self.taken += length;
                let Some(left) = length.checked_sub(HEADER_BYTES) else {
                    return Sent::Other;
                };
                if self.taken > MAX_LOGIN_BYTES {
                    return Sent::Other;
                }
                self.left = left;
            }
            let (piece, rest) = bytes.split_at(self.left.min(bytes.len()));
            let room = piece.len().min(8 - self.start_length);
            self.start[self.start_length..][..room].copy_from_slice(&piece[..room]);
            self.start_length += room;
            self.left -= piece.len();
            *bytes = rest;
            if self.left > 0 {
                return Sent::NeedMore;
            }
            self.header_length = 0;
            if self.header[1] & END_OF_MESSAGE != 0 {
                let is_whole = self.start_length == 8;
                self.start_length = 0;
                return match self.header[0] {
                    PRELOGIN => Sent::Prelogin,
                    _ => Sent::Login {
                        version: match is_whole {
                            true => Reader::new(&self.start[4..]).u32_le().unwrap_or(0),
                            false => 0,
                        },
                    },
                };
            }
        }
    }
}

/// The options VERSION, ENCRYPTION (not supported), INSTOPT, THREADID, MARS (off).
fn prelogin(version: [u8; 6]) -> Vec<u8> {
    let values: [&[u8]; 5] = [&version, &[ENCRYPT_NOT_SUP], &[0], &[0; 4], &[0]];
    let mut offset = values.len() * 5 + 1;
    let mut bytes = Vec::new();
    for (option, value) in values.iter().enumerate() {
        bytes.push(option as u8);
        bytes.extend((offset as u16).to_be_bytes());
        bytes.extend((value.len() as u16).to_be_bytes());
        offset += value.len();
    }
    bytes.push(0xff);
    bytes.extend(values.concat());
    bytes
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, END_OF_MESSAGE];
    bytes.extend(((body.len() + HEADER_BYTES) as u16).to_be_bytes());
    bytes.extend([0, 0, 1, 0]); // process, packet number, window
    bytes.extend(body);
    bytes
}

const HEADER_BYTES: usize = 8;
const TABULAR: u8 = 0x04;
const LOGIN7: u8 = 0x10;
const PRELOGIN: u8 = 0x12;
const END_OF_MESSAGE: u8 = 0x01;
const ENCRYPT_NOT_SUP: u8 = 0x02;
const ERROR: u8 = 0xaa;
const DONE: u8 = 0xfd;
const TDS_7_2: u32 = 0x7209_0002;

/// Longest PRELOGIN and LOGIN7 together: MS-TDS allows 128 KiB for a login.
const MAX_LOGIN_BYTES: usize = 132 * 1024;

#[cfg(test)]
pub(super) fn login_packet(version: u32) -> Vec<u8> {
    let mut body = 94_u32.to_le_bytes().to_vec();
    body.extend(version.to_le_bytes());
    body.resize(94, 0);
    packet(LOGIN7, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prelogin_is_written_as_the_document_says() {
        let expected: &[u8] = b"\x12\x01\0\x2f\0\0\x01\0\
            \0\0\x1a\0\x06\x01\0\x20\0\x01\x02\0\x21\0\x01\x03\0\x22\0\x04\x04\0\x26\0\x01\xff\
            \0\0\0\0\0\0\x02\0\0\0\0\0\0";
        assert_eq!(probe(), expected);
        assert_eq!(fits(&probe()), SignatureMatch::Yes);
        let answer = prelogin_answer();
        assert_eq!(answer[..8], *b"\x04\x01\0\x2f\0\0\x01\0");
        assert_eq!(answer[8 + 0x20], ENCRYPT_NOT_SUP);
        assert_eq!(judge(&answer), Verdict::Alive);
        assert_eq!(judge(&answer[..7]), Verdict::NeedMore);
        assert!(matches!(judge(b"HTTP"), Verdict::Refused(_)));
    }

    #[test]
    fn an_error_has_the_form_of_the_clients_version() {
        assert_eq!(
            fatal_error(17809, "no", 0x7400_0004),
            b"\x04\x01\0\x2a\0\0\x01\0\
              \xaa\x12\0\x91\x45\0\0\x01\x14\x02\0n\0o\0\0\0\x01\0\0\0\
              \xfd\x02\0\0\0\0\0\0\0\0\0\0\0"
        );
        assert_eq!(
            fatal_error(17809, "no", 0x7100_0001),
            b"\x04\x01\0\x24\0\0\x01\0\
              \xaa\x10\0\x91\x45\0\0\x01\x14\x02\0n\0o\0\0\0\x01\0\
              \xfd\x02\0\0\0\0\0\0\0"
        );
    }

    #[test]
    fn a_login_is_found_at_any_cut_and_over_packets() {
        let mut login = login_packet(0x7400_0004);
        let mut second = login.clone();
        login[1] = 0;
        second[1] = END_OF_MESSAGE;
        let stream = [probe(), login, second].concat();
        for step in 1..=stream.len() {
            let mut reader = LoginReader::new();
            let mut seen = Vec::new();
            for mut piece in stream.chunks(step) {
                while !piece.is_empty() {
                    match reader.next(&mut piece) {
                        Sent::NeedMore => (),
                        sent => seen.push(sent),
                    }
                }
            }
            assert_eq!(
                seen,
                [
                    Sent::Prelogin,
                    Sent::Login {
                        version: 0x7400_0004
                    }
                ],
                "{step}"
            );
        }
    }

    #[test]
    fn what_is_no_login_ends_it() {
        for mut bytes in [&b"\x16\x03\x01"[..], b"\x12\x01\0\x07\0\0\0\0", b"GET /"] {
            assert_eq!(LoginReader::new().next(&mut bytes), Sent::Other);
        }
        let mut reader = LoginReader::new();
        let packet = [&b"\x10\x00\xff\xff\0\0\0\0"[..], &[0; 65527]].concat();
        let sent: Vec<Sent> = (0..3).map(|_| reader.next(&mut &packet[..])).collect();
        assert_eq!(sent, [Sent::NeedMore, Sent::NeedMore, Sent::Other]);
    }
}
