//! Whom a key set is had from, and who asks: a Kubernetes API server has a CA of its own, and wants a token.
//!
//! **Invariant:** a token goes to the server that was named, over TLS, and nowhere else.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use http::HeaderValue;
use rustls::RootCertStore;

use super::fetch::FetchError;
use super::location::Target;
use crate::base::limit;
use crate::tls::roots::Roots;

/// Files that are read again for each fetch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyAccess {
    /// Roots of the server, PEM; the system's without.
    pub roots: Option<PathBuf>,
    /// Bearer token of who asks; none is sent without.
    pub token: Option<PathBuf>,
}

impl KeyAccess {
    /// The roots of the server; nothing when they are the system's.
    pub(super) fn roots(&self) -> Result<Option<RootCertStore>, FetchError> {
        let Some(path) = &self.roots else { return Ok(None) };
        let roots = Roots::parse(&read(path)?).map_err(|error| unusable(path, error))?;
        Ok(Some(roots.store().as_ref().clone()))
    }

    /// What is sent to a server when the one that was named is `named`.
    pub(super) fn authorization(
        &self,
        target: &Target,
        named: &str,
    ) -> Result<Option<HeaderValue>, FetchError> {
        let Some(path) = &self.token else { return Ok(None) };
        if !target.is_https() || target.authority() != named {
            return Ok(None);
        }
        let mut value = b"Bearer ".to_vec();
        value.extend(read(path)?.trim_ascii());
        let mut value = HeaderValue::try_from(value).map_err(|error| unusable(path, error))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

fn unusable(path: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> FetchError {
    FetchError::File { path: path.to_owned(), source: io::Error::other(error) }
}

fn read(path: &Path) -> Result<Vec<u8>, FetchError> {
    let mut content = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(limit::CREDENTIAL_FILE_BYTES).read_to_end(&mut content))
        .map_err(|source| FetchError::File { path: path.to_owned(), source })?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_goes_to_the_server_that_was_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let access = KeyAccess { token: Some(path.clone()), ..KeyAccess::default() };
        let check = |address: &str, expected: bool| {
            let target = Target::parse(address).unwrap();
            let sent = access.authorization(&target, "api.example").unwrap();
            assert_eq!(sent.is_some_and(|value| value == "Bearer t"), expected, "{address}");
        };
        std::fs::write(&path, "t\n").unwrap();
        check("https://api.example/keys", true);
        check("http://api.example/keys", false);
        check("https://api.example:8443/keys", false);
        check("https://other.example/keys", false);
        let target = Target::parse("https://api.example/keys").unwrap();
        let failed = || access.authorization(&target, "api.example").unwrap_err();
        std::fs::write(&path, "a\nb").unwrap();
        assert_eq!(failed().class(), "file");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(failed().class(), "file");
        assert!(KeyAccess::default().authorization(&target, "api.example").unwrap().is_none());
    }
}
