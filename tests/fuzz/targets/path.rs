//! Normal forms and readings of paths.

use portcullis::route::path::{Normalization, normalize, readings};

pub fn seeds() -> Vec<Vec<u8>> {
    [
        "/a/b",
        "/a/../b",
        "/a%2fb",
        "/a/%2e%2E/b",
        "/%%32e",
        "/a\\..\\b",
        "//a//b/.",
        "/..%5cadmin",
        "/a;b/..;/c",
    ]
    .map(|path| path.as_bytes().to_vec())
    .into()
}

pub fn run(data: &[u8]) {
    let Ok(path) = std::str::from_utf8(data) else { return };
    for how in [
        Normalization::None,
        Normalization::Base,
        Normalization::MergeSlashes,
        Normalization::DecodeAndMergeSlashes,
    ] {
        let Some(normal) = normalize(path, how) else { continue };
        assert!(normal.starts_with('/') && !normal.contains('#'), "{path:?} {how:?} {normal:?}");
        assert_eq!(normalize(&normal, how).as_deref(), Some(&*normal), "{path:?} {how:?}");
        if how != Normalization::None {
            assert!(is_final(&normal), "{path:?} {how:?} {normal:?}");
        }
        let lower = normal.to_ascii_lowercase();
        if how == Normalization::MergeSlashes {
            assert!(!lower.contains("//"), "{path:?} {normal:?}");
        }
        if how == Normalization::DecodeAndMergeSlashes {
            let slash = ["//", "%2f", "%5c"].iter().any(|slash| lower.contains(slash));
            assert!(!slash, "{path:?} {normal:?}");
        }
        if normal.is_ascii() && !has_stray_percent(&normal) {
            let all = readings(&normal);
            assert_eq!(all.first().map(|first| &**first), Some(&*normal));
            assert!(all.iter().skip(1).all(|reading| is_final(reading)), "{normal:?} {all:?}");
            let lenient = lenient(&normal);
            assert!(all.iter().any(|reading| **reading == lenient), "{normal:?} {lenient} {all:?}");
        }
    }
}

/// Whether it begins with a slash, and neither dots, backslashes nor needless escapes are left.
fn is_final(path: &str) -> bool {
    let dots = path.split('/').any(|segment| matches!(segment, "." | ".."));
    let escapes = path.split('%').skip(1).filter_map(|rest| {
        let hex = rest.get(..2).filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        u8::from_str_radix(hex, 16).ok()
    });
    let needless = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    path.starts_with('/') && !dots && !path.contains('\\') && !escapes.into_iter().any(needless)
}

/// Whether a `%` begins no escape; what is read behind it has to be written in another way.
fn has_stray_percent(path: &str) -> bool {
    let is_escape =
        |rest: &[u8]| matches!(rest, [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    path.split('%').skip(1).any(|rest| !is_escape(rest.as_bytes()))
}

/// What a backend reads that decodes all it can at once, merges slashes, and goes up no further than the
/// root.
fn lenient(path: &str) -> String {
    let mut text = String::new();
    let mut rest = path;
    while let Some(first) = rest.chars().next() {
        let escape = rest.strip_prefix('%').and_then(|tail| tail.get(..2));
        let escape = escape.filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let plain = escape.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let plain = plain.filter(|byte| byte.is_ascii_alphanumeric() || b"-._~/\\".contains(byte));
        text.push(plain.map_or(first, char::from));
        rest = &rest[if plain.is_some() { 3 } else { first.len_utf8() }..];
    }
    let text = text.replace('\\', "/");
    let (mut kept, mut last) = (Vec::new(), "");
    for segment in text.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
        last = segment;
    }
    let folder = matches!(last, "" | "." | "..") && !kept.is_empty();
    format!("/{}{}", kept.join("/"), if folder { "/" } else { "" })
}
