//! SHA-256 fingerprints of configuration and key material.

use std::fmt;
use std::hash::Hash;

use aws_lc_rs::digest;

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from(digest::digest(&digest::SHA256, bytes))
    }

    /// The raw digest.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<digest::Digest> for Fingerprint {
    fn from(digest: digest::Digest) -> Self {
        let mut out = [0; 32];
        out.copy_from_slice(digest.as_ref());
        Self(out)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Collects parts into one fingerprint; every part is length-prefixed, so parts never run together.
pub struct Hasher(digest::Context);

impl Default for Hasher {
    fn default() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }
}

impl Hasher {
    /// Adds one part.
    pub fn part(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(&(bytes.len() as u64).to_be_bytes());
        self.update(bytes)
    }

    /// Adds a value as one process sees it: not to be compared with another process's.
    pub fn value(&mut self, value: &impl Hash) -> &mut Self {
        value.hash(&mut Parts(&mut self.0));
        self
    }

    /// The fingerprint of everything added.
    pub fn finish(self) -> Fingerprint {
        Fingerprint::from(self.0.finish())
    }

    fn update(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(bytes);
        self
    }
}

/// Takes the parts of a value; types see to it that they do not run together.
struct Parts<'a>(&'a mut digest::Context);

impl std::hash::Hasher for Parts<'_> {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Nobody asks: the digest is the whole [`Hasher`]'s.
    fn finish(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_together() {
        let of = |parts: &[&[u8]]| {
            let mut hasher = Hasher::default();
            for part in parts {
                hasher.part(part);
            }
            hasher.finish()
        };
        assert_ne!(of(&[b"ab", b"c"]), of(&[b"a", b"bc"]));
    }

    #[test]
    fn values_differ_in_every_part() {
        let of = |value: (&[&str], Option<bool>)| {
            let mut hasher = Hasher::default();
            hasher.value(&value);
            hasher.finish()
        };
        assert_eq!(of((&["ab"], None)), of((&["ab"], None)));
        assert_ne!(of((&["ab", "c"], None)), of((&["a", "bc"], None)));
        assert_ne!(of((&["ab"], None)), of((&["ab"], Some(false))));
    }

    #[test]
    fn digest_is_sha_256() {
        assert_eq!(
            Fingerprint::of(b"").to_string(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
