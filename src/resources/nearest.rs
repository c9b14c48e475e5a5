//! The known name a misspelt one was probably meant to be.
//!
//! **Invariant**: work is bounded: names longer than 64 bytes have no neighbour.

/// The nearest of the known names, when it is near enough to be worth saying.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    if name.len() > 64 {
        return None;
    }
    let plain = plain(name);
    let limit = (plain.len() / 3).max(1);
    known
        .iter()
        .map(|candidate| (distance(&plain, &self::plain(candidate)), *candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Case and separators do not count: `credential_name` is `credentialName`.
fn plain(name: &str) -> Vec<u8> {
    let kept = name.bytes().filter(|byte| !matches!(byte, b'_' | b'-'));
    kept.map(|byte| byte.to_ascii_lowercase()).collect()
}

/// Levenshtein distance.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (y, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let substituted = diagonal + usize::from(x != y);
            diagonal = *cell;
            left = substituted.min(left + 1).min(diagonal + 1);
            *cell = left;
        }
    }
    if b.is_empty() { a.len() } else { row.last().copied().unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expected: Option<&str>) {
        let known = ["credentialName", "credentialNames", "hosts", "mode", "port"];
        assert_eq!(nearest(name, &known), expected, "{name}");
    }

    #[test]
    fn a_slip_of_the_pen_finds_its_field() {
        check("credential_name", Some("credentialName"));
        check("credentialsName", Some("credentialName"));
        check("host", Some("hosts"));
        check("Mode", Some("mode"));
    }

    #[test]
    fn a_stranger_finds_none() {
        check("gateways", None);
        check("", None);
        check(&"x".repeat(10_000), None);
    }
}
