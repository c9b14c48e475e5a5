//! Reads typed values from a node tree, with protobuf's leniencies and none of serde's.
//!
//! Numbers may be quoted, an absent value (`null`) is the type's zero value, text must be text.
//! Fields that a type does not have are collected and skipped.
//!
//! **Invariant**: an error says what was expected and what kind of value was found, never the value,
//! unless it is a name of Istio's API (an enum's value); so a Secret's data cannot leak through it.

use std::cell::RefCell;
use std::fmt::{self, Write as _};

use serde::de::value::StrDeserializer;
use serde::de::{Deserializer, Error as _, Expected, IntoDeserializer as _, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::node::{Entry, Node, Position, Scalar, Value};
use crate::base::limit;
use access::{Fields, Items, Shape};
use path::Path;

mod accepted;
mod access;
mod path;

/// A field that its type does not have.
#[derive(Clone, Debug)]
pub(super) struct UnknownField {
    pub(super) path: String,
    pub(super) name: String,
    pub(super) position: Position,
    pub(super) known: &'static [&'static str],
}

/// Why a value could not be read into its type.
#[derive(Debug)]
pub(super) struct Error {
    pub(super) message: String,
    pub(super) place: Option<(String, Position)>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl serde::de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), place: None }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match found {
            Unexpected::Bool(_) => "true or false",
            Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => "a number",
            Unexpected::Str(_) | Unexpected::Char(_) => "text",
            Unexpected::Seq => "a list",
            Unexpected::Map => "a mapping",
            _ => "nothing",
        };
        Self::custom(format_args!("expected {expected}, found {found}"))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("the value is out of range, expected {expected}"))
    }
}

impl Error {
    fn at(mut self, path: Path<'_>, position: Position) -> Self {
        self.place.get_or_insert_with(|| (path.to_string(), position));
        self
    }
}

/// Reads a value; fields that are not known are added to `unknown`. A value that cannot be read is told
/// with the others that cannot: it is left out, and the rest read again.
pub(super) fn read<'n, T: serde::Deserialize<'n>>(
    node: &'n Node<'_>,
    root: &'static str,
    unknown: &mut Vec<UnknownField>,
) -> Result<T, Vec<Error>> {
    let path = Path::Root(root);
    let (mut errors, mut left_out) = (Vec::new(), Vec::new());
    loop {
        let cell = RefCell::default();
        let context = Context { unknown: &cell, left_out: &left_out };
        let result = T::deserialize(NodeDeserializer { node, path, context });
        let error = match result {
            Ok(value) => {
                unknown.append(&mut cell.into_inner());
                return if errors.is_empty() { Ok(value) } else { Err(errors) };
            }
            Err(error) => error.at(path, node.position),
        };
        let at = error.place.as_ref().map_or(node.position, |(_, at)| *at);
        let again = left_out.contains(&at);
        if !again {
            errors.push(error);
        }
        if again || errors.len() >= limit::VALUE_ERRORS {
            unknown.append(&mut cell.into_inner());
            return Err(errors);
        }
        left_out.push(at);
    }
}

#[derive(Clone, Copy)]
struct NodeDeserializer<'n, 'i, 'p> {
    node: &'n Node<'i>,
    path: Path<'p>,
    context: Context<'p>,
}

/// What one reading of a whole value shares.
#[derive(Clone, Copy)]
struct Context<'p> {
    unknown: &'p RefCell<Vec<UnknownField>>,
    /// Values that could not be read.
    left_out: &'p [Position],
}

impl Context<'_> {
    fn leaves_out(&self, at: Position) -> bool {
        self.left_out.contains(&at)
    }
}

impl<'n, 'i> NodeDeserializer<'n, 'i, '_> {
    fn mismatch(&self, expected: &str) -> Error {
        let found = self.node.describe();
        Error::custom(format_args!("expected {expected}, found {found}"))
    }

    fn integer(&self) -> Result<i64, Error> {
        let number = match self.node.scalar() {
            Some(Scalar::Null) => Some(0),
            Some(Scalar::Int(number)) => Some(number),
            Some(Scalar::Float(number)) => whole(number),
            Some(Scalar::Text(text)) => text.parse().ok(),
            _ => None,
        };
        number.ok_or_else(|| self.mismatch("a whole number"))
    }

    fn sequence(&self) -> Result<&'n [Node<'i>], Error> {
        match &self.node.value {
            Value::Sequence(items) => Ok(items),
            Value::Scalar { .. } if self.node.is_null() => Ok(&[]),
            _ => Err(self.mismatch("a list")),
        }
    }

    fn mapping(&self) -> Result<&'n [Entry<'i>], Error> {
        match &self.node.value {
            Value::Mapping(entries) => Ok(entries),
            Value::Scalar { .. } if self.node.is_null() => Ok(&[]),
            _ => Err(self.mismatch("a mapping")),
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the range is checked first")]
fn whole(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && number.abs() <= 9e15).then_some(number as i64)
}

macro_rules! integers {
    ($($method:ident, $visit:ident, $type:ty;)+) => {
        $(fn $method<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
            let number = self.integer()?;
            let number = <$type>::try_from(number)
                .map_err(|_| Error::custom(format_args!("the number {number} is out of range")))?;
            visitor.$visit(number)
        })+
    };
}

impl<'n> Deserializer<'n> for NodeDeserializer<'n, '_, '_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        match (&self.node.value, self.node.scalar()) {
            (Value::Sequence(_), _) => self.deserialize_seq(visitor),
            (Value::Mapping(_), _) => self.deserialize_map(visitor),
            (_, Some(Scalar::Bool(value))) => visitor.visit_bool(value),
            (_, Some(Scalar::Int(value))) => visitor.visit_i64(value),
            (_, Some(Scalar::Float(value))) => visitor.visit_f64(value),
            (_, Some(Scalar::Text(value))) => visitor.visit_borrowed_str(value),
            (_, Some(Scalar::Null) | None) => visitor.visit_unit(),
        }
    }

    integers! {
        deserialize_i8, visit_i8, i8;
        deserialize_i16, visit_i16, i16;
        deserialize_i32, visit_i32, i32;
        deserialize_i64, visit_i64, i64;
        deserialize_u8, visit_u8, u8;
        deserialize_u16, visit_u16, u16;
        deserialize_u32, visit_u32, u32;
        deserialize_u64, visit_u64, u64;
    }

    fn deserialize_bool<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node.scalar() {
            Some(Scalar::Bool(value)) => visitor.visit_bool(value),
            Some(Scalar::Null) => visitor.visit_bool(false),
            _ => Err(self.mismatch("true or false")),
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "protobuf reads whole numbers into doubles too")]
    fn deserialize_f64<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        let number = match self.node.scalar() {
            Some(Scalar::Null) => Some(0.0),
            Some(Scalar::Int(number)) => Some(number as f64),
            Some(Scalar::Float(number)) => Some(number),
            Some(Scalar::Text(text)) => text.parse().ok(),
            _ => None,
        };
        let number = number.filter(|number| number.is_finite());
        visitor.visit_f64(number.ok_or_else(|| self.mismatch("a number"))?)
    }

    fn deserialize_str<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node.scalar() {
            Some(Scalar::Text(text)) => visitor.visit_borrowed_str(text),
            Some(Scalar::Null) => visitor.visit_borrowed_str(""),
            Some(Scalar::Bool(_)) => Err(Error::custom(
                "expected text, found true or false, as which YAML reads y, n, yes, no, on and off \
                 too: put it in quotes",
            )),
            Some(_) => {
                let found = self.node.describe();
                let message = format_args!("expected text, found {found}: put it in quotes");
                Err(Error::custom(message))
            }
            None => Err(self.mismatch("text")),
        }
    }

    fn deserialize_string<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'n>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        let items = self.sequence()?;
        visitor.visit_seq(Items { rest: items.iter(), index: 0, parent: self })
    }

    fn deserialize_map<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        let rest = self.mapping()?.iter();
        visitor.visit_map(Fields { rest, value: None, parent: self, shape: Shape::Map })
    }

    fn deserialize_struct<V: Visitor<'n>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let rest = self.mapping()?.iter();
        let shape = Shape::Struct { name, fields };
        visitor.visit_map(Fields { rest, value: None, parent: self, shape })
    }

    fn deserialize_enum<V: Visitor<'n>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Some(Scalar::Text(text)) = self.node.scalar() else {
            let mut expected = String::from("one of ");
            list(variants, &mut expected);
            return Err(self.mismatch(&expected));
        };
        if !variants.contains(&text) {
            let mut message = format!("\"{text}\" is not a value of this field: write one of ");
            list(variants, &mut message);
            return Err(Error::custom(message));
        }
        let value: StrDeserializer<'_, Error> = text.into_deserializer();
        visitor.visit_enum(value)
    }

    fn deserialize_ignored_any<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        <W: Visitor<'n>>
        i128 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

fn list(names: &[&str], out: &mut String) {
    for (index, name) in names.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        // Writing to a String cannot fail.
        let _ = write!(out, "{comma}{name}");
    }
}
