//! Labels of a cluster's metrics, as Istio's telemetry has them.
//!
//! **Invariant:** every value comes from configuration; what endpoints do not agree on is left out.

use crate::base::labels::DestinationLabels;
use crate::snapshot::cluster::UpstreamTls;

use super::services::{Member, Service};

/// The labels. `names` are the identities accepted of the servers, `own` is the gateway's.
pub(super) fn labels(
    service: &Service,
    members: &[Member],
    (tls, names): (&UpstreamTls, &[String]),
    (own, cluster_domain): (Option<&str>, &str),
) -> DestinationLabels {
    let label = |keys: &[&str]| {
        let of = |member: &Member| keys.iter().find_map(|key| member.labels.get(*key)).cloned();
        let first = members.first().and_then(of);
        first.filter(|value| members.iter().all(|m| of(m).as_ref() == Some(value)))
    };
    let shared = |keys: &[&str]| label(keys).unwrap_or_default().into_boxed_str();
    let domain = format!(".svc.{cluster_domain}");
    let short = match service.host.strip_suffix(&domain) {
        Some(inside) => inside.split('.').next().unwrap_or_default(),
        None => &service.host,
    };
    let encrypted = matches!(tls, UpstreamTls::Tls { .. });
    DestinationLabels {
        principal: match names {
            [only] if encrypted => only.as_str().into(),
            _ => Box::default(),
        },
        app: shared(&["app"]),
        version: shared(&["version"]),
        service: service.host.as_str().into(),
        canonical_service: shared(&[
            "service.istio.io/canonical-name",
            "app.kubernetes.io/name",
            "app",
        ]),
        canonical_revision: shared(&[
            "service.istio.io/canonical-revision",
            "app.kubernetes.io/version",
            "version",
        ]),
        service_name: short.into(),
        service_namespace: service.namespace.as_str().into(),
        source_principal: own.filter(|_| encrypted).map_or_else(Box::default, Into::into),
        ..DestinationLabels::default()
    }
}
