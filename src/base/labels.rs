//! Who a request went to, in the words of Istio's standard metrics.

/// Destination labels of Istio's standard metrics, resolved once per cluster. An empty text is shown
/// as `unknown` (an empty revision as `latest`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DestinationLabels {
    /// `destination_workload`.
    pub workload: Box<str>,
    /// `destination_workload_namespace`.
    pub workload_namespace: Box<str>,
    /// `destination_principal`: identity expected of the upstream server, with its `spiffe://`.
    pub principal: Box<str>,
    /// `destination_app`.
    pub app: Box<str>,
    /// `destination_version`.
    pub version: Box<str>,
    /// `destination_service`: the host routed to, `cart.shop.svc.cluster.local`.
    pub service: Box<str>,
    /// `destination_canonical_service`.
    pub canonical_service: Box<str>,
    /// `destination_canonical_revision`.
    pub canonical_revision: Box<str>,
    /// `destination_service_name`: `cart`.
    pub service_name: Box<str>,
    /// `destination_service_namespace`: `shop`.
    pub service_namespace: Box<str>,
    /// `destination_cluster`: the Kubernetes cluster.
    pub cluster: Box<str>,
    /// `source_principal`: identity this gateway presents to the destination; empty without mutual TLS.
    pub source_principal: Box<str>,
}

impl DestinationLabels {
    /// Labels that stand for destinations beyond the bound on series.
    pub fn other() -> Self {
        Self {
            service: "other".into(),
            service_name: "other".into(),
            service_namespace: "other".into(),
            ..Self::default()
        }
    }
}
