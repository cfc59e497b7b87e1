//! Which bytes after a head are that request's body.
//!
//! A state machine for RFC 9112 6.2 (Content-Length) and 7.1 (chunked). Invariant: every byte given
//! is looked at once; a body that breaks the grammar ends in an error and never in a guess where
//! the next request starts.

use super::{BodyFraming, MAX_FIELD_NAME_BYTES, MAX_FIELDS, is_field_text, is_tchar};

/// Follows one request body through the bytes it arrives in.
#[derive(Debug)]
pub struct BodyTracker {
    state: State,
    /// Bytes of chunk extensions seen in the whole body.
    extension_bytes: usize,
    /// Bytes and lines of the trailer section seen.
    trailer_bytes: usize,
    trailer_fields: usize,
    max_trailer_bytes: usize,
}

/// A chunked body that breaks RFC 9112 7.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(
    /// What was wrong, for the log.
    pub &'static str,
);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Done,
    Broken(Malformed),
    /// Bytes left of a body with a length.
    Length(u64),
    /// In a chunk size of so many digits.
    Size {
        digits: u8,
        size: u64,
    },
    /// Whitespace between size and `;`.
    SizeSpace(u64),
    Extension(u64),
    SizeLf(u64),
    /// Bytes left of a chunk.
    Data(u64),
    DataCr,
    DataLf,
    TrailerStart,
    /// In a trailer field's name of so many bytes.
    TrailerName(usize),
    TrailerValue,
    TrailerLf,
    EndLf,
}

impl BodyTracker {
    /// `max_trailer_bytes` bounds the trailer section of a chunked body.
    pub fn new(framing: BodyFraming, max_trailer_bytes: usize) -> Self {
        BodyTracker {
            state: match framing {
                BodyFraming::None | BodyFraming::Length(0) => State::Done,
                BodyFraming::Length(length) => State::Length(length),
                BodyFraming::Chunked => State::Size { digits: 0, size: 0 },
            },
            extension_bytes: 0,
            trailer_bytes: 0,
            trailer_fields: 0,
            max_trailer_bytes,
        }
    }

    /// Whether the body's last byte was seen.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// How many of `bytes`, from the front, belong to this body. Fewer than all of them means that
    /// the body is done and the rest is another request's.
    ///
    /// # Errors
    /// The body breaks the grammar. It stays broken, for no bytes too.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        if let State::Broken(malformed) = self.state {
            return Err(malformed);
        }
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            match self.state {
                State::Length(left) => {
                    let step = left.min((bytes.len() - at) as u64);
                    at += step as usize;
                    self.state = match left - step {
                        0 => State::Done,
                        left => State::Length(left),
                    };
                }
                State::Data(left) => {
                    let step = left.min((bytes.len() - at) as u64);
                    at += step as usize;
                    self.state = match left - step {
                        0 => State::DataCr,
                        left => State::Data(left),
                    };
                }
                _ => {
                    match self.step(bytes[at]) {
                        Ok(next) => self.state = next,
                        Err(malformed) => {
                            self.state = State::Broken(malformed);
                            return Err(malformed);
                        }
                    }
                    at += 1;
                }
            }
        }
        Ok(at)
    }

    /// One byte of the framing around the data.
    fn step(&mut self, byte: u8) -> Result<State, Malformed> {
        Ok(match (self.state, byte) {
            (State::Size { digits: 1.., size }, b'\r') => State::SizeLf(size),
            (State::Size { digits: 1.., size }, b';') => self.extension(size)?,
            (State::Size { digits: 1.., size }, b' ' | b'\t') => {
                self.extension(size)?;
                State::SizeSpace(size)
            }
            (State::Size { digits, size }, _) => {
                let Some(value) = char::from(byte).to_digit(16) else {
                    return Err(Malformed("invalid chunk size"));
                };
                // 16 digits fit into a u64; what a signed one cannot hold is nonsense all the same.
                let size = (size << 4) | u64::from(value);
                if digits == 16 || size > i64::MAX as u64 {
                    return Err(Malformed("chunk size too large"));
                }
                State::Size {
                    digits: digits + 1,
                    size,
                }
            }
            // RFC 9112 7.1.1: whitespace may stand before an extension, and nowhere else.
            (State::SizeSpace(size), b' ' | b'\t') => {
                self.extension(size)?;
                State::SizeSpace(size)
            }
            (State::SizeSpace(size), b';') => self.extension(size)?,
            (State::SizeSpace(_), _) => return Err(Malformed("space after a chunk size")),
            (State::Extension(size), b'\r') => State::SizeLf(size),
            (State::Extension(size), _) if is_field_text(byte) => self.extension(size)?,
            (State::Extension(_), _) => return Err(Malformed("invalid chunk extension")),
            (State::SizeLf(0), b'\n') => State::TrailerStart,
            (State::SizeLf(size), b'\n') => State::Data(size),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { digits: 0, size: 0 },
            (State::DataCr | State::DataLf, _) => {
                return Err(Malformed("chunk longer than its size"));
            }
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::EndLf, b'\n') => State::Done,
            (State::TrailerStart, _) if is_tchar(byte) => {
                self.trailer_fields += 1;
                if self.trailer_fields > MAX_FIELDS {
                    return Err(Malformed("too many trailer fields"));
                }
                self.trailer(State::TrailerName(1))?
            }
            (State::TrailerName(_), b':') => self.trailer(State::TrailerValue)?,
            (State::TrailerName(length), _) if is_tchar(byte) && length < MAX_FIELD_NAME_BYTES => {
                self.trailer(State::TrailerName(length + 1))?
            }
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, _) if is_field_text(byte) => self.trailer(State::TrailerValue)?,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::TrailerStart | State::TrailerName(_) | State::TrailerValue, _) => {
                return Err(Malformed("invalid trailer field"));
            }
            (State::SizeLf(_) | State::TrailerLf | State::EndLf, _) => {
                return Err(Malformed("bare CR"));
            }
            (State::Done | State::Broken(_) | State::Length(_) | State::Data(_), _) => self.state,
        })
    }

    /// Counts a byte of a chunk extension. RFC 9112 7.1.1 asks for a limit on their total.
    fn extension(&mut self, size: u64) -> Result<State, Malformed> {
        self.extension_bytes += 1;
        if self.extension_bytes > MAX_EXTENSION_BYTES {
            return Err(Malformed("chunk extensions too long"));
        }
        Ok(State::Extension(size))
    }

    fn trailer(&mut self, next: State) -> Result<State, Malformed> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > self.max_trailer_bytes {
            return Err(Malformed("trailer section too long"));
        }
        Ok(next)
    }
}

impl Malformed {
    /// What a failed read was about, if it was about this: streams report a malformed body as an
    /// I/O error of kind `InvalidData`. It deserves a 400, unlike a connection that broke.
    pub fn behind(error: &(dyn std::error::Error + 'static)) -> Option<Malformed> {
        let error = error.downcast_ref::<std::io::Error>()?;
        error.get_ref()?.downcast_ref().copied()
    }
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "malformed chunked body: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// Bytes of chunk extensions in one body, all chunks together.
const MAX_EXTENSION_BYTES: usize = 4096;
