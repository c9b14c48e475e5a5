//! Who a request went to, and from whom, in the words of Istio's standard metrics.

/// `reporter`: which end of a request counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reporter {
    /// The caller's, a gateway among them.
    #[default]
    Source,
    /// The called application's.
    Destination,
}

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
    /// `source_principal`: identity the caller shows, this gateway's where it reports; empty without mutual
    /// TLS.
    pub source_principal: Box<str>,
    /// `source_workload_namespace` as the caller's identity says, where the destination reports.
    pub source_namespace: Box<str>,
    /// `reporter`. Where it is the destination, its workload is this process's.
    pub reporter: Reporter,
}

impl DestinationLabels {
    /// Labels that stand for these beyond the bound on series.
    #[must_use]
    pub fn other(&self) -> Self {
        Self {
            service: "other".into(),
            service_name: "other".into(),
            service_namespace: "other".into(),
            reporter: self.reporter,
            ..Self::default()
        }
    }
}
