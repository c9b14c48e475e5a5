//! What lists and mappings hold, item by item; fields that a type does not have are noted and skipped.

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::accepted::accepted_and_unread;
use super::path::Path;
use super::{Error, NodeDeserializer, UnknownField};
use crate::resources::node::{Entry, Node};

pub(super) struct Items<'n, 'i, 'p> {
    pub(super) rest: std::slice::Iter<'n, Node<'i>>,
    pub(super) index: usize,
    pub(super) parent: NodeDeserializer<'n, 'i, 'p>,
}

impl<'n> SeqAccess<'n> for Items<'n, '_, '_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'n>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let context = self.parent.context;
        let (node, path) = loop {
            let Some(node) = self.rest.next() else { return Ok(None) };
            let path = Path::Index(&self.parent.path, self.index);
            self.index += 1;
            if !context.leaves_out(node.position) {
                break (node, path);
            }
        };
        if node.is_null() {
            let error = Error::custom("expected a value, found nothing");
            return Err(error.at(path, node.position));
        }
        seed.deserialize(NodeDeserializer { node, path, context })
            .map(Some)
            .map_err(|error| error.at(path, node.position))
    }

    /// Exact, so that lists take no more room than they need.
    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

pub(super) struct Fields<'n, 'i, 'p> {
    pub(super) rest: std::slice::Iter<'n, Entry<'i>>,
    pub(super) value: Option<&'n Entry<'i>>,
    pub(super) parent: NodeDeserializer<'n, 'i, 'p>,
    pub(super) shape: Shape,
}

#[derive(Clone, Copy)]
pub(super) enum Shape {
    Map,
    Struct { name: &'static str, fields: &'static [&'static str] },
}

impl<'n, 'i> Fields<'n, 'i, '_> {
    fn next_known(&mut self) -> Option<&'n Entry<'i>> {
        let parent = self.parent;
        let left_out = |entry: &Entry<'_>| {
            let context = parent.context;
            context.leaves_out(entry.value.position) || context.leaves_out(entry.position)
        };
        let Shape::Struct { name, fields } = self.shape else {
            return self.rest.find(|entry| !left_out(entry));
        };
        self.rest.find(|entry| {
            if left_out(entry) {
                return false;
            }
            let key: &str = &entry.key;
            if fields.contains(&key) {
                return true;
            }
            if !accepted_and_unread(name).contains(&key) {
                parent.context.unknown.borrow_mut().push(UnknownField {
                    path: Path::Key(&parent.path, key).to_string(),
                    name: key.to_owned(),
                    position: entry.position,
                    known: fields,
                });
            }
            false
        })
    }
}

impl<'n> MapAccess<'n> for Fields<'n, '_, '_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'n>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        self.value = self.next_known();
        let Some(entry) = self.value else { return Ok(None) };
        let path = Path::Key(&self.parent.path, &entry.key);
        seed.deserialize(KeyDeserializer(&entry.key))
            .map(Some)
            .map_err(|error| error.at(path, entry.position))
    }

    fn next_value_seed<T: DeserializeSeed<'n>>(&mut self, seed: T) -> Result<T::Value, Error> {
        let entry = self.value.take().ok_or_else(|| Error::custom("a value without its key"))?;
        let path = Path::Key(&self.parent.path, &entry.key);
        let node = &entry.value;
        if matches!(self.shape, Shape::Map) && node.is_null() {
            let error = Error::custom("expected a value, found nothing");
            return Err(error.at(path, entry.position));
        }
        let at = if node.is_null() { entry.position } else { node.position };
        seed.deserialize(NodeDeserializer { node, path, context: self.parent.context })
            .map_err(|error| error.at(path, at))
    }
}

/// Reads a mapping's key, which protobuf also lets be a number written as text.
struct KeyDeserializer<'n>(&'n str);

impl<'n> Deserializer<'n> for KeyDeserializer<'n> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(self.0)
    }

    fn deserialize_u32<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        let number = self.0.parse().map_err(|_| Error::custom("the key must be a whole number"))?;
        visitor.visit_u32(number)
    }

    forward_to_deserialize_any! {
        <W: Visitor<'n>>
        bool i8 i16 i32 i64 i128 u8 u16 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
