//! How what is wrong with a certificate or a credential is told.

use crate::compile::credentials::CredentialError;
use crate::diag::{Code, catalog};
use crate::tls::material::{Finding, MaterialError};

/// The code of what is wrong with a certificate.
pub(in crate::compile) fn finding_code(finding: &Finding) -> &'static Code {
    match finding {
        Finding::Expired { .. } => &catalog::CERTIFICATE_EXPIRED,
        Finding::NotYetValid { .. } => &catalog::CERTIFICATE_NOT_YET_VALID,
        Finding::ExpiresSoon { .. } => &catalog::CERTIFICATE_EXPIRES_SOON,
        Finding::ChainBroken { .. }
        | Finding::ChainIncomplete { .. }
        | Finding::ChainEndsBefore { .. } => &catalog::CHAIN_INCOMPLETE,
        Finding::HostNotCovered { .. } => &catalog::SAN_MISSING,
    }
}

/// The code of a credential that cannot be used.
pub fn code(error: &CredentialError) -> &'static Code {
    match error {
        CredentialError::Missing { .. } => &catalog::REFERENCE_NOT_FOUND,
        CredentialError::Material { why: MaterialError::Mismatch { .. }, .. } => {
            &catalog::KEY_MISMATCH
        }
        CredentialError::Material { why, .. } if why.is_of_key() => &catalog::KEY_UNREADABLE,
        CredentialError::Material { .. } => &catalog::CERTIFICATE_UNREADABLE,
        CredentialError::Roots { .. } | CredentialError::Crl { .. } => &catalog::CA_UNREADABLE,
        CredentialError::IdentityAwaited(_) => &catalog::IDENTITY_AWAITED,
        CredentialError::IdentityExpired(_) => &catalog::CERTIFICATE_EXPIRED,
        CredentialError::Pins(_)
        | CredentialError::Versions(_)
        | CredentialError::Server(_)
        | CredentialError::Client(_) => &catalog::UNWORKABLE,
        CredentialError::Foreign(_)
        | CredentialError::NoSystemRoots
        | CredentialError::NoClientCa
        | CredentialError::Incomplete { .. }
        | CredentialError::File { .. } => &catalog::INVALID_CREDENTIAL,
    }
}
