//! BSON: a small writer, and a reader of the top level of a document.
//!
//! Invariant: the reader visits each byte at most once and does not recurse; lengths that lie end
//! it.
//!
//! Source: bsonspec.org, version 1.1.

use crate::wire::reader::Reader;

/// The values that matter here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Double(f64),
    /// Without its closing NUL.
    String(&'a [u8]),
    Bool(bool),
    Int32(i32),
    Int64(i64),
    ObjectId([u8; 12]),
    /// Skipped when read, null when written.
    Other,
}

impl Value<'_> {
    /// True or a number other than 0, as MongoDB reads `ok`.
    pub(super) fn is_true(self) -> bool {
        match self {
            Value::Double(number) => number != 0.0,
            Value::Bool(value) => value,
            Value::Int32(number) => number != 0,
            Value::Int64(number) => number != 0,
            Value::String(_) | Value::ObjectId(_) | Value::Other => false,
        }
    }
}

/// Writes a document of these fields.
pub(super) fn write(fields: &[(&str, Value)]) -> Vec<u8> {
    let mut document = vec![0; 4];
    for (name, value) in fields {
        let kind = document.len();
        document.push(0);
        document.extend(name.bytes());
        document.push(0);
        document[kind] = match value {
            Value::Double(number) => {
                document.extend(number.to_le_bytes());
                DOUBLE
            }
            Value::String(text) => {
                document.extend((text.len() as u32 + 1).to_le_bytes());
                document.extend(*text);
                document.push(0);
                STRING
            }
            Value::Bool(value) => {
                document.push(u8::from(*value));
                BOOL
            }
            Value::Int32(number) => {
                document.extend(number.to_le_bytes());
                INT32
            }
            Value::Int64(number) => {
                document.extend(number.to_le_bytes());
                INT64
            }
            Value::ObjectId(id) => {
                document.extend(id);
                OBJECT_ID
            }
            Value::Other => NULL,
        };
    }
    document.push(0);
    let length = document.len() as u32;
    document[..4].copy_from_slice(&length.to_le_bytes());
    document
}

/// The elements of a document in order: name and value, or `None` once where it is malformed.
pub(super) struct Document<'a> {
    elements: Reader<'a>,
    has_ended: bool,
}

impl<'a> Document<'a> {
    /// The document at the start of `bytes`; `None` when its length lies.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Document<'a>> {
        let length = Reader::new(bytes).u32_le()? as usize;
        let elements = bytes.get(..length)?.get(4..)?;
        Some(Document {
            elements: Reader::new(elements),
            has_ended: false,
        })
    }

    fn element(&mut self, kind: u8) -> Option<(&'a [u8], Value<'a>)> {
        let name = self.elements.c_string()?;
        let elements = &mut self.elements;
        let value = match kind {
            DOUBLE => Value::Double(f64::from_le_bytes(elements.array()?)),
            STRING | 0x0d | 0x0e => {
                let length = elements.u32_le()? as usize;
                let text = elements.take(length)?;
                Value::String(text.strip_suffix(&[0])?)
            }
            BOOL => Value::Bool(elements.u8()? != 0),
            INT32 => Value::Int32(i32::from_le_bytes(elements.array()?)),
            INT64 => Value::Int64(i64::from_le_bytes(elements.array()?)),
            OBJECT_ID => Value::ObjectId(elements.array()?),
            // Documents, arrays and code with scope count their own four bytes of length.
            0x03 | 0x04 | 0x0f => {
                let rest = (elements.u32_le()? as usize).checked_sub(4)?;
                elements.take(rest)?;
                Value::Other
            }
            0x05 => {
                let length = elements.u32_le()? as usize;
                elements.take(length.checked_add(1)?)?;
                Value::Other
            }
            0x0b => {
                elements.c_string()?;
                elements.c_string()?;
                Value::Other
            }
            0x0c => {
                let length = elements.u32_le()? as usize;
                elements.take(length.checked_add(12)?)?;
                Value::Other
            }
            kind => {
                elements.take(match kind {
                    0x06 | NULL | 0xff | 0x7f => 0,
                    0x09 | 0x11 => 8,
                    0x13 => 16,
                    _ => return None,
                })?;
                Value::Other
            }
        };
        Some((name, value))
    }
}

impl<'a> Iterator for Document<'a> {
    type Item = Option<(&'a [u8], Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_ended {
            return None;
        }
        let element = match self.elements.u8() {
            Some(0) => {
                self.has_ended = true;
                return if self.elements.is_empty() {
                    None
                } else {
                    Some(None)
                };
            }
            Some(kind) => self.element(kind),
            None => None,
        };
        self.has_ended = element.is_none();
        Some(element)
    }
}

const DOUBLE: u8 = 0x01;
const STRING: u8 = 0x02;
const BOOL: u8 = 0x08;
const NULL: u8 = 0x0a;
const INT32: u8 = 0x10;
const INT64: u8 = 0x12;
const OBJECT_ID: u8 = 0x07;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let fields = [
            ("a", Value::Double(1.5)),
            ("b", Value::String(b"text")),
            ("c", Value::Bool(true)),
            ("d", Value::Int32(-1)),
            ("e", Value::Int64(1 << 40)),
            ("f", Value::Other),
        ];
        let bytes = write(&fields);
        let read: Vec<_> = Document::read(&bytes)
            .unwrap()
            .map(Option::unwrap)
            .collect();
        let expected: Vec<_> = fields
            .map(|(name, value)| (name.as_bytes(), value))
            .to_vec();
        assert_eq!(read, expected);
        assert_eq!(write(&[]), b"\x05\0\0\0\0");
    }

    #[test]
    fn every_type_is_skipped() {
        let mut bytes = vec![0; 4];
        for (kind, content) in [
            (0x03_u8, &b"\x05\0\0\0\0"[..]),
            (0x04, b"\x05\0\0\0\0"),
            (0x05, b"\x02\0\0\0\0xy"),
            (0x06, b""),
            (0x07, &[1; 12]),
            (0x09, &[1; 8]),
            (0x0b, b"a\0i\0"),
            (0x0c, b"\x02\0\0\0a\0............"),
            (0x0f, b"\x06\0\0\0xx"),
            (0x11, &[1; 8]),
            (0x13, &[1; 16]),
            (0xff, b""),
            (0x10, b"\x07\0\0\0"),
        ] {
            bytes.extend([kind, b'n', 0]);
            bytes.extend(content);
        }
        bytes.push(0);
        bytes[0] = bytes.len() as u8;
        let last = Document::read(&bytes).unwrap().last();
        assert_eq!(last, Some(Some((&b"n"[..], Value::Int32(7)))));
    }

    proptest! {
        #[test]
        fn any_document_ends(bytes in prop::collection::vec(any::<u8>(), 4..200)) {
            let mut bytes = bytes;
            let length = bytes.len() as u32;
            bytes[..4].copy_from_slice(&length.to_le_bytes());
            let count = Document::read(&bytes).unwrap().count();
            prop_assert!(count <= bytes.len());
        }
    }
}
