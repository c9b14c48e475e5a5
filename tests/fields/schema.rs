//! The fields that a type reads, asked of its own `Deserialize`.

use std::cell::RefCell;
use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor,
    value::StrDeserializer,
};
use serde::{Deserialize, forward_to_deserialize_any};

/// A step from a value to one below it.
#[derive(Clone, Copy, Debug)]
enum Step {
    Field(&'static str),
    Item,
    Entry,
}

/// What a type reads at a place.
#[derive(Clone, Copy)]
enum Shape {
    Struct(&'static [&'static str]),
    List,
    Map,
    Plain,
}

/// Paths of every plain field below a type, `servers[].port.number`; `*` is a map's key.
pub(crate) fn fields<'de, T: Deserialize<'de>>() -> Vec<String> {
    let mut out = Vec::new();
    walk::<T>(&mut Vec::new(), &mut out);
    out
}

fn walk<'de, T: Deserialize<'de>>(path: &mut Vec<Step>, out: &mut Vec<String>) {
    let found = RefCell::new(Shape::Plain);
    // Only the shape is asked for: a value that its type refuses is no matter.
    let _ = T::deserialize(Probe { path, found: &found });
    let steps = match found.into_inner() {
        Shape::Struct(fields) => fields.iter().copied().map(Step::Field).collect(),
        Shape::List => vec![Step::Item],
        Shape::Map => vec![Step::Entry],
        Shape::Plain => {
            out.push(text(path));
            return;
        }
    };
    for step in steps {
        path.push(step);
        walk::<T>(path, out);
        path.pop();
    }
}

fn text(path: &[Step]) -> String {
    let mut out = String::from("spec");
    for step in path {
        match step {
            Step::Field(name) => out = format!("{out}.{name}"),
            Step::Item => out.push_str("[]"),
            Step::Entry => out.push_str(".*"),
        }
    }
    out
}

/// Goes along a path and says what is read at its end.
#[derive(Clone, Copy)]
struct Probe<'a> {
    path: &'a [Step],
    found: &'a RefCell<Shape>,
}

#[derive(Debug)]
struct Seen;

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("seen")
    }
}

impl std::error::Error for Seen {}

impl serde::de::Error for Seen {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

impl Probe<'_> {
    /// The probe of the next value; nothing at the path's end, where the shape is noted.
    fn next(self, here: Shape) -> Option<(Step, Self)> {
        let Some((step, rest)) = self.path.split_first() else {
            *self.found.borrow_mut() = here;
            return None;
        };
        Some((*step, Self { path: rest, ..self }))
    }
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Seen;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Seen> {
        Err(Seen)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Seen> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Seen> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Seen> {
        visitor.visit_map(Below(self.next(Shape::Struct(fields))))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Seen> {
        visitor.visit_map(Below(self.next(Shape::Map)))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Seen> {
        visitor.visit_seq(Below(self.next(Shape::List)))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct tuple tuple_struct enum identifier ignored_any
    }
}

/// The one value below.
struct Below<'a>(Option<(Step, Probe<'a>)>);

impl<'de> SeqAccess<'de> for Below<'_> {
    type Error = Seen;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Seen> {
        self.0.take().map(|(_, probe)| seed.deserialize(probe)).transpose()
    }
}

impl<'de> MapAccess<'de> for Below<'_> {
    type Error = Seen;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Seen> {
        let key = match self.0 {
            Some((Step::Field(name), _)) => name,
            Some(_) => "1",
            None => return Ok(None),
        };
        seed.deserialize(Key(key)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Seen> {
        let (_, probe) = self.0.take().ok_or_else(|| Seen::custom("no value"))?;
        seed.deserialize(probe)
    }
}

/// A field's name, or a map's key that is text and number.
struct Key(&'static str);

impl<'de> Deserializer<'de> for Key {
    type Error = Seen;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Seen> {
        StrDeserializer::new(self.0).deserialize_any(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Seen> {
        visitor.visit_u32(self.0.parse().map_err(Seen::custom)?)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
