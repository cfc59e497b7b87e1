//! serde over a tree with positions: every error knows the line, column and key it is about.
//!
//! Only serde's side of a filter's settings; `settings` decides what becomes of an error.
//! Invariants: a key that a struct does not have is an error even where the struct does not ask for
//! that (one with `flatten` hides its keys, and is not checked); what was put aside is passed over.
//! Its errors are `SettingsError`s. It is over 400 lines because it is one codec: serde's
//! deserializer and its access traits.

use std::cell::RefCell;

use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};

use super::problem::{Mark, did_you_mean, shown};
use super::settings_error::{Location, SettingsError};
use super::trail::Trail;
use super::tree::{Entry, Node, Value};

/// What one filter's settings have in common while they are read, maybe several times.
pub(super) struct Walk<'de> {
    /// The filter's type, for messages.
    kind: &'de str,
    /// Known to be wrong, and passed over.
    aside: Vec<&'de Node>,
    unknown: RefCell<Vec<SettingsError<'de>>>,
}

impl<'de> Walk<'de> {
    pub(super) fn new(kind: &'de str) -> Walk<'de> {
        Walk {
            kind,
            aside: Vec::new(),
            unknown: RefCell::default(),
        }
    }

    /// The keys that no struct asked for, in the last reading.
    pub(super) fn take_unknown(&self) -> Vec<SettingsError<'de>> {
        self.unknown.take()
    }

    /// Passes over these values from now on.
    pub(super) fn put_aside(&mut self, nodes: Vec<&'de Node>) {
        self.aside.extend(nodes);
    }

    /// Whether a value right in this one is passed over.
    fn put_aside_in(&self, node: &Node) -> bool {
        match &node.value {
            Value::List(items) => items.iter().any(|item| self.is_aside(item)),
            Value::Map(entries) => entries.iter().any(|entry| self.is_aside(&entry.value)),
            _ => false,
        }
    }

    /// Whether `error` is only so because of what was put aside.
    pub(super) fn follows(&self, error: &SettingsError<'_>) -> bool {
        let Some(node) = error.node() else {
            return false;
        };
        match (error.missing(), &node.value) {
            (Some(field), Value::Map(entries)) => entries
                .iter()
                .any(|entry| entry.key == field && self.is_aside(&entry.value)),
            _ => self.put_aside_in(node),
        }
    }

    fn is_aside(&self, node: &Node) -> bool {
        self.aside.iter().any(|aside| std::ptr::eq(*aside, node))
    }
}

/// One value on its way into a type.
#[derive(Clone, Copy)]
pub(super) struct Reader<'de, 'p> {
    node: &'de Node,
    /// Where its key stands, or the value itself in a list.
    at: Mark,
    trail: Trail<'p>,
    walk: &'p Walk<'de>,
    /// Its key, where it has one.
    key: &'p str,
}

impl<'de, 'p> Reader<'de, 'p> {
    pub(super) fn new(node: &'de Node, path: &'p str, walk: &'p Walk<'de>) -> Reader<'de, 'p> {
        Reader {
            node,
            at: node.at,
            trail: Trail::from_path(path),
            walk,
            key: "",
        }
    }

    fn entry<'s>(&'s self, entry: &'de Entry) -> Reader<'de, 's> {
        Reader {
            node: &entry.value,
            at: entry.key_at,
            trail: self.trail.key(&entry.key),
            walk: self.walk,
            key: &entry.key,
        }
    }

    fn item<'s>(&'s self, index: usize, node: &'de Node) -> Reader<'de, 's> {
        Reader {
            node,
            at: node.at,
            trail: self.trail.item(index),
            walk: self.walk,
            key: self.key,
        }
    }

    fn place(&self) -> Location<'de, '_> {
        Location {
            at: self.at,
            trail: self.trail,
            key: self.key,
            node: self.node,
        }
    }

    /// The entries of a map that are not passed over.
    fn entries(&self, entries: &'de [Entry]) -> Vec<&'de Entry> {
        let kept = entries.iter();
        kept.filter(|e| !self.walk.is_aside(&e.value)).collect()
    }

    /// The same, but for those that a struct with these fields does not know: they are noted.
    fn known(&self, entries: &'de [Entry], fields: &'static [&'static str]) -> Vec<&'de Entry> {
        let (known, unknown): (Vec<_>, Vec<_>) = self
            .entries(entries)
            .into_iter()
            .partition(|entry| fields.contains(&entry.key.as_str()));
        for entry in unknown {
            let message = format!("is not a setting of `{}`", shown(self.walk.kind));
            let hint = match fields {
                [] => "it takes none here".to_owned(),
                fields => did_you_mean(&entry.key, fields.iter().copied())
                    .unwrap_or_else(|| format!("the settings here: {}", fields.join(", "))),
            };
            let error = SettingsError::new(message, Some(hint)).at(self.entry(entry).place());
            self.walk.unknown.borrow_mut().push(error);
        }
        known
    }

    fn visit_map<V: Visitor<'de>>(
        self,
        entries: Vec<&'de Entry>,
        visitor: V,
    ) -> Result<V::Value, SettingsError<'de>> {
        let access = Entries {
            map: &self,
            left: entries.into_iter(),
            current: None,
        };
        visitor.visit_map(access).map_err(|e| e.at(self.place()))
    }

    fn wrong_type<V: Visitor<'de>>(self, visitor: &V) -> SettingsError<'de> {
        let unexpected = match &self.node.value {
            Value::Null => Unexpected::Unit,
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Int(_) => Unexpected::Other("a number"),
            Value::Float(value) => Unexpected::Float(*value),
            Value::Text(value) => Unexpected::Str(value),
            Value::List(_) => Unexpected::Seq,
            Value::Map(_) => Unexpected::Map,
        };
        <SettingsError as de::Error>::invalid_type(unexpected, visitor).at(self.place())
    }
}

impl<'de> Deserializer<'de> for Reader<'de, '_> {
    type Error = SettingsError<'de>;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SettingsError<'de>> {
        let result = match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => match (u64::try_from(*value), i64::try_from(*value)) {
                (Ok(value), _) => visitor.visit_u64(value),
                (_, Ok(value)) => visitor.visit_i64(value),
                _ => visitor.visit_i128(*value),
            },
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(value) => visitor.visit_borrowed_str(value),
            Value::List(items) => visitor.visit_seq(Items {
                list: &self,
                left: items.iter().enumerate(),
            }),
            Value::Map(entries) => {
                let entries = self.entries(entries);
                return self.visit_map(entries, visitor);
            }
        };
        result.map_err(|e| e.at(self.place()))
    }

    fn deserialize_option<V: Visitor<'de>>(
        self,
        visitor: V,
    ) -> Result<V::Value, SettingsError<'de>> {
        match &self.node.value {
            Value::Null => visitor
                .visit_none()
                .map_err(|e: SettingsError| e.at(self.place())),
            _ => visitor.visit_some(self).map_err(|e| e.at(self.place())),
        }
    }

    /// Nothing, or a map in which there is nothing.
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SettingsError<'de>> {
        match &self.node.value {
            Value::Map(entries) => {
                self.known(entries, &[]);
                visitor
                    .visit_unit()
                    .map_err(|e: SettingsError| e.at(self.place()))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, SettingsError<'de>> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, SettingsError<'de>> {
        visitor
            .visit_newtype_struct(self)
            .map_err(|e| e.at(self.place()))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, SettingsError<'de>> {
        match &self.node.value {
            Value::Map(entries) => {
                let entries = self.known(entries, fields);
                self.visit_map(entries, visitor)
            }
            _ => Err(self.wrong_type(&visitor)),
        }
    }

    /// A list whose items have their places: without one of them it says nothing any more.
    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, SettingsError<'de>> {
        match self.walk.put_aside_in(self.node) {
            true => Err(self.wrong_type(&visitor)),
            false => self.deserialize_any(visitor),
        }
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, SettingsError<'de>> {
        self.deserialize_tuple(len, visitor)
    }

    /// A word, or a map with the word as its one key.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, SettingsError<'de>> {
        let variant = match &self.node.value {
            Value::Text(word) => Variant {
                around: self,
                word,
                entry: None,
            },
            Value::Map(entries) => match self.entries(entries)[..] {
                [entry] => Variant {
                    around: self,
                    word: &entry.key,
                    entry: Some(entry),
                },
                _ => {
                    let message = match variants {
                        [only] => format!("must have the key `{only}`"),
                        some => format!("must have one of the keys {}", some.join(", ")),
                    };
                    let hint = "exactly one".to_owned();
                    return Err(SettingsError::new(message, Some(hint)).at(self.place()));
                }
            },
            _ => return Err(self.wrong_type(&visitor)),
        };
        visitor.visit_enum(variant).map_err(|e| e.at(self.place()))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        seq map identifier ignored_any
    }
}

struct Items<'de, 'p> {
    list: &'p Reader<'de, 'p>,
    left: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
}

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = SettingsError<'de>;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, SettingsError<'de>> {
        let walk = self.list.walk;
        match self.left.find(|(_, item)| !walk.is_aside(item)) {
            Some((index, item)) => seed.deserialize(self.list.item(index, item)).map(Some),
            None => Ok(None),
        }
    }
}

struct Entries<'de, 'p> {
    map: &'p Reader<'de, 'p>,
    left: std::vec::IntoIter<&'de Entry>,
    current: Option<&'de Entry>,
}

impl<'de> MapAccess<'de> for Entries<'de, '_> {
    type Error = SettingsError<'de>;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, SettingsError<'de>> {
        self.current = self.left.next();
        let Some(entry) = self.current else {
            return Ok(None);
        };
        let key = seed.deserialize(Key(&entry.key));
        key.map(Some)
            .map_err(|e| e.at(self.map.entry(entry).place()))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, SettingsError<'de>> {
        match self.current.take() {
            Some(entry) => seed.deserialize(self.map.entry(entry)),
            None => Err(de::Error::custom("a value was asked for before its key")),
        }
    }
}

/// A key of a map: a text, or what its text says where the type has numbers for keys.
struct Key<'de>(&'de str);

macro_rules! number_keys {
    ($($method:ident $visit:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SettingsError<'de>> {
            match self.0.parse() {
                Ok(number) => visitor.$visit(number),
                Err(_) => visitor.visit_borrowed_str(self.0),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Key<'de> {
    type Error = SettingsError<'de>;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SettingsError<'de>> {
        visitor.visit_borrowed_str(self.0)
    }

    fn deserialize_option<V: Visitor<'de>>(
        self,
        visitor: V,
    ) -> Result<V::Value, SettingsError<'de>> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, SettingsError<'de>> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, SettingsError<'de>> {
        visitor.visit_enum(de::value::BorrowedStrDeserializer::new(self.0))
    }

    number_keys! {
        deserialize_i8 visit_i8 deserialize_i16 visit_i16 deserialize_i32 visit_i32
        deserialize_i64 visit_i64 deserialize_u8 visit_u8 deserialize_u16 visit_u16
        deserialize_u32 visit_u32 deserialize_u64 visit_u64 deserialize_bool visit_bool
    }

    serde::forward_to_deserialize_any! {
        i128 u128 f32 f64 char str string bytes byte_buf seq tuple tuple_struct map struct
        identifier ignored_any unit unit_struct
    }
}

struct Variant<'de, 'p> {
    around: Reader<'de, 'p>,
    word: &'de str,
    entry: Option<&'de Entry>,
}

impl<'de, 'p> EnumAccess<'de> for Variant<'de, 'p> {
    type Error = SettingsError<'de>;
    type Variant = Variant<'de, 'p>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self::Variant), SettingsError<'de>> {
        match seed.deserialize(Key(self.word)) {
            Ok(value) => Ok((value, self)),
            Err(e) => Err(match self.entry {
                Some(entry) => e.at(self.around.entry(entry).place()),
                None => e.at(self.around.place()),
            }),
        }
    }
}

impl<'de> Variant<'de, '_> {
    fn needs_value(&self) -> SettingsError<'de> {
        let message = format!("`{}` needs settings of its own", shown(self.word));
        let hint = format!("write `{}: …`", shown(self.word));
        SettingsError::new(message, Some(hint)).at(self.around.place())
    }
}

impl<'de> VariantAccess<'de> for Variant<'de, '_> {
    type Error = SettingsError<'de>;

    fn unit_variant(self) -> Result<(), SettingsError<'de>> {
        match self.entry {
            Some(entry) => de::Deserialize::deserialize(self.around.entry(entry)),
            None => Ok(()),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<T::Value, SettingsError<'de>> {
        match self.entry {
            Some(entry) => seed.deserialize(self.around.entry(entry)),
            None => Err(self.needs_value()),
        }
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, SettingsError<'de>> {
        match self.entry {
            Some(entry) => self.around.entry(entry).deserialize_tuple(len, visitor),
            None => Err(self.needs_value()),
        }
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, SettingsError<'de>> {
        match self.entry {
            Some(entry) => {
                let reader = self.around.entry(entry);
                reader.deserialize_struct("", fields, visitor)
            }
            None => Err(self.needs_value()),
        }
    }
}
