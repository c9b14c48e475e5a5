//! Labels of a cluster's metrics, as Istio's telemetry has them.
//!
//! **Invariant:** every value comes from configuration; what endpoints do not agree on is left out.

use crate::base::labels::{DestinationLabels, Reporter};
use crate::snapshot::cluster::UpstreamTls;

use super::services::{Member, Service};
use super::settings::CompileSettings;

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
    let encrypted = matches!(tls, UpstreamTls::Tls { .. });
    DestinationLabels {
        principal: match names {
            [only] if encrypted => only.as_str().into(),
            _ => Box::default(),
        },
        app: shared(&["app"]),
        version: shared(&["version"]),
        service: service.host.as_str().into(),
        canonical_service: shared(&CANONICAL_NAME),
        canonical_revision: shared(&CANONICAL_REVISION),
        service_name: short(service, cluster_domain).into(),
        service_namespace: service.namespace.as_str().into(),
        source_principal: own.filter(|_| encrypted).map_or_else(Box::default, Into::into),
        ..DestinationLabels::default()
    }
}

/// The labels of this workload's port, which a service may declare; what it is itself is known where
/// they are shown.
pub(super) fn own_labels(
    service: Option<&Service>,
    (name, settings): (Option<&str>, &CompileSettings),
) -> DestinationLabels {
    let of_service = |read: &dyn Fn(&Service) -> Box<str>| service.map_or_else(Box::default, read);
    DestinationLabels {
        reporter: Reporter::Destination,
        principal: name.map_or_else(Box::default, Into::into),
        service: of_service(&|service| service.host.as_str().into()),
        service_name: of_service(&|service| short(service, &settings.cluster_domain).into()),
        ..DestinationLabels::default()
    }
}

const CANONICAL_NAME: [&str; 3] =
    ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
const CANONICAL_REVISION: [&str; 3] =
    ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"];

/// The name of a service of the cluster, or a host as it is.
fn short<'a>(service: &'a Service, cluster_domain: &str) -> &'a str {
    match service.host.strip_suffix(&format!(".svc.{cluster_domain}")) {
        Some(inside) => inside.split('.').next().unwrap_or_default(),
        None => &service.host,
    }
}
