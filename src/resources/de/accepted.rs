//! Fields that exist in Kubernetes' API and that this gateway has no use for.
//!
//! **Invariant**: only Kubernetes' own types are listed; every field of Istio's is read.

/// Fields of Kubernetes' own types that exist and that nothing here reads.
pub(super) fn accepted_and_unread(name: &str) -> &'static [&'static str] {
    match name {
        "ObjectMeta" => &[
            "uid",
            "resourceVersion",
            "generation",
            "generateName",
            "managedFields",
            "selfLink",
            "ownerReferences",
            "finalizers",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "clusterName",
        ],
        "Secret" | "EndpointSlice" => &["apiVersion", "kind", "metadata"],
        "Service" => &[
            "allocateLoadBalancerNodePorts",
            "clusterIPs",
            "externalIPs",
            "externalTrafficPolicy",
            "healthCheckNodePort",
            "internalTrafficPolicy",
            "ipFamilies",
            "ipFamilyPolicy",
            "loadBalancerClass",
            "loadBalancerIP",
            "loadBalancerSourceRanges",
            "sessionAffinity",
            "sessionAffinityConfig",
            "trafficDistribution",
        ],
        "ServicePort" => &["nodePort"],
        "SliceEndpoint" => &["deprecatedTopology", "hints"],
        "ObjectReference" => &["apiVersion", "fieldPath", "resourceVersion", "uid"],
        _ => &[],
    }
}
