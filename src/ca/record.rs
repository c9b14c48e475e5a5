//! What is written down of each certificate issued.

use std::fmt;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::authority::Issued;
use super::signer::Signer;
use super::workload::WorkloadId;
use crate::base::hash::Fingerprint;

/// How a caller proved who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A Kubernetes service-account token.
    ServiceAccount,
    /// A join token.
    JoinToken,
    /// The user of the process at the other end of a socket.
    User(u32),
    /// The CA's own server.
    Own,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServiceAccount => f.write_str("service-account token"),
            Self::JoinToken => f.write_str("join token"),
            Self::User(uid) => write!(f, "uid {uid}"),
            Self::Own => f.write_str("own server"),
        }
    }
}

/// One line of the issuance log.
#[derive(Clone, Debug, Serialize)]
pub struct IssuanceRecord {
    time: String,
    serial: String,
    identity: String,
    not_before: String,
    not_after: String,
    caller: String,
    signer: String,
    sha256: String,
    #[serde(skip)]
    end: i64,
}

impl IssuanceRecord {
    /// Describes a certificate issued at `now`.
    pub fn new(
        (issued, signer): (&Issued, &Signer),
        id: &WorkloadId,
        caller: Caller,
        now: OffsetDateTime,
    ) -> Self {
        let time = |at: OffsetDateTime| at.format(&Rfc3339).unwrap_or_default();
        let seconds =
            |at: i64| OffsetDateTime::from_unix_timestamp(at).map(time).unwrap_or_default();
        Self {
            time: time(now),
            serial: issued.serial.clone(),
            identity: id.to_string(),
            not_before: seconds(issued.not_before),
            not_after: seconds(issued.not_after),
            caller: caller.to_string(),
            signer: signer.name(),
            end: issued.not_after,
            sha256: Fingerprint::of(&issued.certificate).to_string(),
        }
    }

    /// Name of the signing certificate.
    pub fn signer(&self) -> &str {
        &self.signer
    }

    /// Last valid second of the certificate, Unix time.
    pub fn end(&self) -> i64 {
        self.end
    }

    /// As one line of JSON with its line end.
    pub fn to_line(&self) -> String {
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }
}
