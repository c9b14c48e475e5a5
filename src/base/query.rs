//! Queries as HTML forms write them (`application/x-www-form-urlencoded`, WHATWG URL section 5.1).

use percent_encoding::percent_decode_str;

/// Names and values, decoded: `+` is a space, and what has no `=` has no value.
pub fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    })
}

fn decoded(text: &str) -> String {
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str, expected: &[(&str, &str)]) {
        let found: Vec<_> = pairs(query).collect();
        let found: Vec<_> = found.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(found, expected, "{query}");
    }

    #[test]
    fn queries_are_decoded_as_forms_write_them() {
        check("", &[]);
        check("a=b+c%2Bd&e%20f=%3D=", &[("a", "b c+d"), ("e f", "==")]);
        check("&a&=b&", &[("a", ""), ("", "b")]);
        check("a=%ff%zz%", &[("a", "\u{fffd}%zz%")]);
    }
}
