//! PEM text from DER (RFC 7468).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Label of a certificate.
pub const CERTIFICATE: &str = "CERTIFICATE";
/// Label of a PKCS#8 key.
pub const PRIVATE_KEY: &str = "PRIVATE KEY";

/// Label of a revocation list.
pub const REVOCATION_LIST: &str = "X509 CRL";

/// Appends one block.
pub fn push(out: &mut String, label: &str, der: &[u8]) {
    let text = STANDARD.encode(der);
    out.extend(["-----BEGIN ", label, "-----\n"]);
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, next) = rest.split_at(rest.len().min(LINE_CHARS));
        out.extend([line, "\n"]);
        rest = next;
    }
    out.extend(["-----END ", label, "-----\n"]);
}

/// One block.
pub fn encode(label: &str, der: &[u8]) -> String {
    let mut out = String::new();
    push(&mut out, label, der);
    out
}

const LINE_CHARS: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(der in proptest::collection::vec(any::<u8>(), 1..300)) {
            let pem = encode(CERTIFICATE, &der);
            prop_assert!(pem.lines().all(|line| line.len() <= LINE_CHARS));
            let read = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            prop_assert_eq!(read.as_ref(), &der[..]);
        }
    }
}
