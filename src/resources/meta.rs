//! Words several kinds share: metadata, labels, selectors, string matches, durations.
//!
//! **Invariant**: a value that was read has one meaning: a `StringMatch` holds exactly one form, a
//! `ProtoDuration` follows Istio's grammar.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, Deserializer, IgnoredAny, Visitor};
use time::OffsetDateTime;

use crate::base::duration;

/// Label names and values.
pub type Labels = BTreeMap<String, String>;

/// What `metadata` says, as far as this gateway uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// `metadata.namespace`, `default` when absent.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `metadata.annotations`.
    pub annotations: Labels,
    /// `metadata.creationTimestamp`; orders resources where present.
    pub creation_timestamp: Option<OffsetDateTime>,
}

/// `metadata` as written, before names are checked.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ObjectMeta {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) labels: Labels,
    pub(super) annotations: Labels,
    pub(super) creation_timestamp: Option<Timestamp>,
}

/// An RFC 3339 time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timestamp(pub(super) OffsetDateTime);

/// `selector` of the security kinds and of DestinationRule.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadSelector {
    /// Labels a workload must all have; empty selects every workload.
    pub match_labels: Labels,
}

/// `targetRef` and `targetRefs[]` of the security kinds; they attach to Gateway API objects only.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TargetRef {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Namespace, the policy's own when empty.
    pub namespace: String,
}

/// `StringMatch`: one of `exact`, `prefix`, `regex`, or none of them.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "StringMatchForms")]
pub enum StringMatch {
    /// Equal to the text.
    Exact(String),
    /// Begins with the text.
    Prefix(String),
    /// RE2 expression that matches the whole value.
    Regex(String),
    /// `{}`: the value is there.
    Present,
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct StringMatchForms {
    exact: Option<String>,
    prefix: Option<String>,
    regex: Option<String>,
}

/// More than one form in a `StringMatch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than one of exact, prefix and regex is set: keep one")]
struct AmbiguousMatch;

impl TryFrom<StringMatchForms> for StringMatch {
    type Error = AmbiguousMatch;

    fn try_from(forms: StringMatchForms) -> Result<Self, AmbiguousMatch> {
        match (forms.exact, forms.prefix, forms.regex) {
            (Some(text), None, None) => Ok(Self::Exact(text)),
            (None, Some(text), None) => Ok(Self::Prefix(text)),
            (None, None, Some(text)) => Ok(Self::Regex(text)),
            (None, None, None) => Ok(Self::Present),
            _ => Err(AmbiguousMatch),
        }
    }
}

/// `Percent`: 0 to 100, checked later.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Percent {
    /// The percentage.
    pub value: f64,
}

/// A `google.protobuf.Duration`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProtoDuration(pub Duration);

/// A protobuf `bytes` value, written in base64.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

/// A value that is accepted whatever it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opaque;

/// Reads a type from text through a function; the text is never part of the error.
pub(super) struct TextVisitor<T, E> {
    pub(super) expecting: &'static str,
    pub(super) read: fn(&str) -> Result<T, E>,
}

impl<T, E: fmt::Display> Visitor<'_> for TextVisitor<T, E> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<D: serde::de::Error>(self, text: &str) -> Result<T, D> {
        (self.read)(text).map_err(D::custom)
    }
}

/// Text that is not standard base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value is not base64: encode it, or use a text field instead")]
pub(super) struct InvalidBase64;

/// Standard base64, with or without line breaks.
pub(super) fn decode_base64(text: &str) -> Result<Vec<u8>, InvalidBase64> {
    if text.contains(['\n', '\r']) {
        let joined: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
        return STANDARD.decode(joined).map_err(|_| InvalidBase64);
    }
    STANDARD.decode(text).map_err(|_| InvalidBase64)
}

#[derive(Debug, thiserror::Error)]
#[error("\"{0}\" is not a time: write it as in \"2026-01-31T12:00:00Z\"")]
struct InvalidTime(String);

fn read_time(text: &str) -> Result<Timestamp, InvalidTime> {
    OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
        .map(Timestamp)
        .map_err(|_| InvalidTime(text.to_owned()))
}

impl<'de> Deserialize<'de> for ProtoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor {
            expecting: "a duration such as \"1.5s\"",
            read: |text| duration::parse(text).map(Self),
        })
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor {
            expecting: "base64 text",
            read: |text| decode_base64(text).map(Self),
        })
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor { expecting: "a time", read: read_time })
    }
}

impl<'de> Deserialize<'de> for Opaque {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_ignored_any(IgnoredAny).map(|_| Self)
    }
}
