//! Servers that cannot shake hands, each with the reason.

use crate::base::hash::Fingerprint;
use crate::compile::findings::{Findings, at};
use crate::compile::gateways::{DOUBTFUL, ServerDraft};
use crate::diag::catalog;
use crate::snapshot::listener::{Termination, Unusable};

/// What a server had before may have let in more than it says, too.
pub(super) fn refused(
    draft: &ServerDraft<'_>,
    field: &str,
    findings: &mut Findings,
) -> Termination {
    let finding = at(draft.gateway, field, &catalog::POLICY_FAILS_CLOSED, DOUBTFUL);
    findings
        .add(finding.help("until it is mended, handshakes with this server fail; others go on"));
    unusable(DOUBTFUL)
}

/// What cannot shake hands; `rule` is that of connections which live on.
pub(super) fn without_identity(reason: &str, rule: Option<Fingerprint>) -> Termination {
    let unusable = unusable(reason);
    Termination { client_rule: rule.unwrap_or(unusable.client_rule), ..unusable }
}

/// Of a server whose handshakes fail.
pub(in crate::compile) fn unusable(reason: &str) -> Termination {
    Termination {
        tls: Err(Unusable { reason: reason.into() }),
        client_rule: Fingerprint::of(b"unusable"),
        revocations: None,
        certificate_names: Vec::new(),
        certificate_uris: Vec::new(),
        client_cert_headers: false,
    }
}
