//! Certificate signing requests (PKCS#10, RFC 2986) from anyone.
//!
//! **Invariant:** nothing of a request but its public key reaches a certificate, and the key only
//! once the request proved to hold it.

use rcgen::SubjectPublicKeyInfo;
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::asn1_rs::Any;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

use super::workload::WorkloadId;
use crate::base::limit;

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedRequest {
    /// More bytes than any request needs.
    #[error("the signing request is larger than {} bytes", limit::CA_REQUEST_BYTES)]
    TooLarge,
    /// Not PEM with one PKCS#10 request in it.
    #[error("the signing request cannot be read; send one PKCS#10 request as PEM")]
    Unreadable,
    /// A key of another kind.
    #[error(
        "the key is of a kind that is not signed; use ECDSA P-256 or P-384, or RSA of 2048 to 4096 bits"
    )]
    Key,
    /// Signed by another key, or with SHA-1.
    #[error("the signing request is not signed by its own key with SHA-2")]
    Signature,
    /// It asks for a CA's certificate.
    #[error("certificates that may sign others are not issued")]
    Authority,
    /// It names somebody else.
    #[error("the signing request names another identity than the caller's, \"{0}\"")]
    Name(WorkloadId),
}

/// A request whose sender holds the key.
#[derive(Debug)]
pub struct SigningRequest {
    key: SubjectPublicKeyInfo,
    names: Vec<Name>,
}

/// A name that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Uri(String),
    Other,
}

impl SigningRequest {
    /// Reads a request from PEM and proves its signature.
    pub fn parse(pem: &str) -> Result<Self, RefusedRequest> {
        if pem.len() > limit::CA_REQUEST_BYTES {
            return Err(RefusedRequest::TooLarge);
        }
        let mut blocks = CertificateSigningRequestDer::pem_slice_iter(pem.as_bytes());
        let (Some(Ok(der)), None) = (blocks.next(), blocks.next()) else {
            return Err(RefusedRequest::Unreadable);
        };
        let Ok((rest, request)) = X509CertificationRequest::from_der(&der) else {
            return Err(RefusedRequest::Unreadable);
        };
        if !rest.is_empty() {
            return Err(RefusedRequest::Unreadable);
        }
        let info = &request.certification_request_info;
        let key = allowed_key(&info.subject_pki)?;
        let weak = [&OID_PKCS1_SHA1WITHRSA, &OID_SHA1_WITH_RSA];
        if weak.contains(&&request.signature_algorithm.algorithm) {
            return Err(RefusedRequest::Signature);
        }
        request.verify_signature().map_err(|_| RefusedRequest::Signature)?;
        let mut names = Vec::new();
        for attribute in info.iter_attributes() {
            if let ParsedCriAttribute::ExtensionRequest(asked) = attribute.parsed_attribute() {
                // A second value is not parsed; the set then ends before its length says.
                if Any::from_der(attribute.value).is_err() {
                    return Err(RefusedRequest::Unreadable);
                }
                for extension in &asked.extensions {
                    look_at(extension.parsed_extension(), &mut names)?;
                }
            }
        }
        Ok(Self { key, names })
    }

    /// The key to certify for `caller`: the request must ask for nobody else.
    pub fn key_of(&self, caller: &WorkloadId) -> Result<&SubjectPublicKeyInfo, RefusedRequest> {
        let own = |name: &Name| matches!(name, Name::Uri(uri) if uri == caller.as_str());
        match self.names.as_slice() {
            [] => Ok(&self.key),
            [name] if own(name) => Ok(&self.key),
            _ => Err(RefusedRequest::Name(caller.clone())),
        }
    }
}

fn look_at(extension: &ParsedExtension<'_>, names: &mut Vec<Name>) -> Result<(), RefusedRequest> {
    match extension {
        ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
            Err(RefusedRequest::Authority)
        }
        ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() || usage.crl_sign() => {
            Err(RefusedRequest::Authority)
        }
        ParsedExtension::SubjectAlternativeName(asked) => {
            names.extend(asked.general_names.iter().map(|name| match name {
                GeneralName::URI(uri) => Name::Uri((*uri).to_owned()),
                _ => Name::Other,
            }));
            Ok(())
        }
        ParsedExtension::ParseError { .. } => Err(RefusedRequest::Unreadable),
        _ => Ok(()),
    }
}

fn allowed_key(
    key: &x509_parser::x509::SubjectPublicKeyInfo<'_>,
) -> Result<SubjectPublicKeyInfo, RefusedRequest> {
    let allowed = match key.parsed() {
        Ok(PublicKey::EC(point)) => matches!(point.key_size(), 256 | 384),
        Ok(PublicKey::RSA(key)) => {
            (RSA_BITS_LEAST..=RSA_BITS_MOST).contains(&key.key_size())
                && key.try_exponent() == Ok(RSA_EXPONENT)
        }
        _ => false,
    };
    // The curve is looked at here: a key of a known size on another one is not known.
    let key = SubjectPublicKeyInfo::from_der(key.raw).ok().filter(|_| allowed);
    key.ok_or(RefusedRequest::Key)
}

const RSA_BITS_LEAST: usize = 2048;
const RSA_BITS_MOST: usize = 4096;
const RSA_EXPONENT: u64 = 65_537;

#[cfg(test)]
mod tests;
