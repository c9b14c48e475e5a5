//! Path normalisation (`MeshConfig.pathNormalization.normalization`, RFC 3986 section 6.2.2).

use std::borrow::Cow;

use smallvec::SmallVec;

/// How far a path is normalised before routing, authorization and forwarding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Normalization {
    /// As sent.
    None,
    /// Dot segments, backslashes and needless escapes.
    #[default]
    Base,
    /// Then also `//` to `/`.
    MergeSlashes,
    /// Also `%2F` and `%5C`, decoded first.
    DecodeAndMergeSlashes,
}

impl Normalization {
    /// Every way.
    const ALL: [Self; 4] =
        [Self::None, Self::Base, Self::MergeSlashes, Self::DecodeAndMergeSlashes];

    /// As Istio writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Base => "BASE",
            Self::MergeSlashes => "MERGE_SLASHES",
            Self::DecodeAndMergeSlashes => "DECODE_AND_MERGE_SLASHES",
        }
    }

    /// The way that is written so; nothing where there is none.
    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == text)
    }
}

/// The normal form of a path without query; nothing when it has none (it climbs above the root or
/// does not start with `/`). Fragments are cut off.
pub fn normalize(path: &str, how: Normalization) -> Option<Cow<'_, str>> {
    if !path.starts_with('/') {
        return None;
    }
    let path = path.split('#').next().unwrap_or_default();
    if how == Normalization::None || is_normal(path.as_bytes()) {
        return Some(Cow::Borrowed(path));
    }
    let text = decode(path, how == Normalization::DecodeAndMergeSlashes);
    let mut resolved = resolve_dots(&text, AboveRoot::Refused)?;
    if matches!(how, Normalization::MergeSlashes | Normalization::DecodeAndMergeSlashes) {
        resolved = merge_slashes(resolved);
    }
    String::from_utf8(resolved).ok().map(Cow::Owned)
}

/// Every way in which a backend may read a path: `%2F`, `%5C` and doubled slashes as they are or as one
/// slash, dots resolved before or after. The path itself comes first; what climbs above the root stays
/// there.
pub fn readings(path: &str) -> SmallVec<[Cow<'_, str>; 1]> {
    let mut all: SmallVec<[Cow<'_, str>; 1]> = SmallVec::new();
    all.push(Cow::Borrowed(path));
    if is_normal(path.as_bytes()) {
        return all;
    }
    for slashes in [false, true] {
        let decoded = decode(path, slashes);
        let kept = resolve_dots(&decoded, AboveRoot::Stays);
        let merged = resolve_dots(&merge_slashes(decoded), AboveRoot::Stays);
        let late = kept.clone().map(merge_slashes);
        for reading in [kept, merged, late].into_iter().flatten() {
            let Ok(reading) = String::from_utf8(reading) else { continue };
            if !all.iter().any(|known| **known == *reading) {
                all.push(reading.into());
            }
        }
    }
    all
}

/// Whether no rule could change the path: no escape, backslash, `//` or segment that begins with a
/// dot.
fn is_normal(path: &[u8]) -> bool {
    let mut previous = 0;
    path.iter().all(|&byte| {
        let plain = match byte {
            b'%' | b'\\' => false,
            b'/' | b'.' => previous != b'/',
            _ => true,
        };
        previous = byte;
        plain
    })
}

/// Decodes escapes of unreserved characters, turns `\` into `/`, and with `slashes` also decodes
/// `%2F` and `%5C`. A `%` that is no escape, and would become one by what is decoded behind it, is
/// escaped itself.
fn decode(path: &str, slashes: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut stray = None;
    let mut rest = path.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = tail.split_at_checked(2).filter(|_| byte == b'%');
        let escaped = escaped.and_then(|(hex, after)| Some((hex_byte(hex)?, after)));
        rest = tail;
        out.push(match escaped {
            Some((plain, after)) if plain.is_ascii_alphanumeric() || b"-._~".contains(&plain) => {
                rest = after;
                plain
            }
            Some((b'/' | b'\\', after)) if slashes => {
                rest = after;
                b'/'
            }
            Some(_) => byte,
            None if byte == b'\\' => b'/',
            None => {
                stray = (byte == b'%').then_some(out.len()).or(stray);
                byte
            }
        });
        if let Some(at) = stray
            && out.get(at + 1..).is_some_and(|tail| hex_byte(tail).is_some())
        {
            out.splice(at..=at, *b"%25");
            stray = None;
        }
    }
    out
}

fn hex_byte(hex: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    match hex {
        [high, low] => Some(digit(*high)? * 16 + digit(*low)?),
        _ => None,
    }
}

fn merge_slashes(mut path: Vec<u8>) -> Vec<u8> {
    path.dedup_by(|a, b| *a == b'/' && *b == b'/');
    path
}

/// What becomes of `..` at the root.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AboveRoot {
    /// The path has no normal form.
    Refused,
    /// It means the root.
    Stays,
}

fn resolve_dots(path: &[u8], above_root: AboveRoot) -> Option<Vec<u8>> {
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut parts = path.get(1..)?.split(|&b| b == b'/').peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            b"." => {}
            b".." => {
                let climbed = segments.pop().is_none();
                if climbed && above_root == AboveRoot::Refused {
                    return None;
                }
            }
            segment => {
                segments.push(segment);
                continue;
            }
        }
        if last {
            segments.push(b"");
        }
    }
    let mut out = Vec::with_capacity(path.len());
    for segment in segments {
        out.push(b'/');
        out.extend_from_slice(segment);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(how: Normalization, path: &str, expected: Option<&str>) {
        assert_eq!(normalize(path, how).as_deref(), expected, "{path}");
    }

    #[test]
    fn base_resolves_dots_backslashes_and_unreserved_escapes() {
        let base = Normalization::Base;
        check(base, "/a/b", Some("/a/b"));
        check(base, "/a/./b/../c", Some("/a/c"));
        check(base, "/a/b/..", Some("/a/"));
        check(base, "/a/.", Some("/a/"));
        check(base, "/a\\b", Some("/a/b"));
        check(base, "/%61dmin", Some("/admin"));
        check(base, "/a/%2e%2E/b", Some("/b"));
        check(base, "/a%2fb//c", Some("/a%2fb//c"));
        check(base, "/a#b", Some("/a"));
        check(base, "/%zz%", Some("/%zz%"));
        // What is decoded makes no new escape.
        check(base, "/a/%%32e%%32e/b", Some("/a/%252e%252e/b"));
        check(base, "/%2%65./%%%361", Some("/%252e./%%2561"));
        check(base, "/...", Some("/..."));
    }

    #[test]
    fn paths_above_the_root_have_no_normal_form() {
        for path in ["/..", "/a/../../b", "a", "*"] {
            check(Normalization::Base, path, None);
        }
    }

    #[test]
    fn stronger_settings_merge_and_decode_slashes() {
        check(Normalization::MergeSlashes, "/a//b///c", Some("/a/b/c"));
        check(Normalization::MergeSlashes, "/a%2Fb", Some("/a%2Fb"));
        check(Normalization::DecodeAndMergeSlashes, "/a%2F%5c/b", Some("/a/b"));
        // Dots are resolved first, as in Envoy: an empty segment is one that `..` leaves.
        check(Normalization::MergeSlashes, "/a//../b", Some("/a/b"));
        check(Normalization::MergeSlashes, "//..//b", Some("/b"));
        check(Normalization::DecodeAndMergeSlashes, "/a%2F%2F..%2fb", Some("/a/b"));
        check(Normalization::MergeSlashes, "/..//a", None);
        check(Normalization::None, "/a/../b", Some("/a/../b"));
    }

    #[test]
    fn ambiguous_paths_have_every_reading() {
        let check = |path: &str, others: &[&str]| {
            let found = readings(path);
            let found: Vec<&str> = found.iter().map(|reading| &**reading).collect();
            assert_eq!(found.first(), Some(&path));
            for reading in others {
                assert!(found.contains(reading), "{path} {reading} {found:?}");
            }
        };
        assert_eq!(readings("/a/b").len(), 1);
        check("/a//b", &["/a/b"]);
        check("/a%2fb", &["/a/b"]);
        check("/a%5Cb", &["/a/b"]);
        check("/a/%2e%2e/b", &["/b"]);
        check("/a%2f/b", &["/a//b", "/a/b"]);
        check("/a//../b", &["/a/b", "/b"]);
        check("/x/..%2fadmin", &["/admin"]);
        check("/x/..%2f..%2fadmin", &["/admin"]);
        check("/..%5cadmin", &["/admin"]);
        check("/../admin", &["/admin"]);
    }

    proptest! {
        #[test]
        fn normal_forms_hold_no_dot_segment(path in "/[a-z%2eEfF5cC./\\\\]{0,24}") {
            for how in [Normalization::Base, Normalization::MergeSlashes] {
                if let Some(once) = normalize(&path, how) {
                    prop_assert!(once.starts_with('/'));
                    prop_assert!(!once.contains('\\'));
                    prop_assert!(!once.split('/').any(|segment| segment == ".." || segment == "."));
                }
            }
        }

        #[test]
        fn normal_forms_are_their_own(path in "/([a-fA-F0-9%./\\\\]|[ -~]){0,32}") {
            use Normalization::{Base, DecodeAndMergeSlashes, MergeSlashes, None};
            for how in [None, Base, MergeSlashes, DecodeAndMergeSlashes] {
                if let Some(once) = normalize(&path, how) {
                    prop_assert_eq!(normalize(&once, how), Some(once.clone()), "{:?}", how);
                    for reading in readings(&once) {
                        prop_assert!(reading.starts_with('/'));
                    }
                }
            }
        }
    }
}
