//! The identity of a workload as the CA issues it.

use std::fmt;
use std::sync::Arc;

use crate::tls::identity::SpiffeId;

/// `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadId(Arc<str>);

/// Parts that make no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "namespace \"{namespace}\" and service account \"{service_account}\" of trust domain \
     \"{trust_domain}\" make no SPIFFE id: use letters, digits, \".\", \"-\" and \"_\""
)]
pub struct InvalidWorkload {
    trust_domain: String,
    namespace: String,
    service_account: String,
}

impl WorkloadId {
    /// Puts an identity together; `@` in a trust domain becomes `.`, as in Istio.
    pub fn new(
        trust_domain: &str,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, InvalidWorkload> {
        let domain = trust_domain.replace('@', ".");
        let text = format!("spiffe://{domain}/ns/{namespace}/sa/{service_account}");
        let whole = SpiffeId::parse(&text).is_ok_and(|id| {
            id.trust_domain() == domain && id.workload() == Some((namespace, service_account))
        });
        if whole {
            Ok(Self(text.into()))
        } else {
            Err(InvalidWorkload {
                trust_domain: domain,
                namespace: namespace.to_owned(),
                service_account: service_account.to_owned(),
            })
        }
    }

    /// The SPIFFE id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(parts: [&str; 3], expected: Option<&str>) {
        let [domain, namespace, account] = parts;
        let id = WorkloadId::new(domain, namespace, account);
        assert_eq!(id.as_ref().map(WorkloadId::as_str).ok(), expected, "{parts:?}");
    }

    #[test]
    fn parts_cannot_reach_into_each_other() {
        check(["cluster.local", "shop", "cart"], Some("spiffe://cluster.local/ns/shop/sa/cart"));
        check(["a@b.c", "shop", "cart"], Some("spiffe://a.b.c/ns/shop/sa/cart"));
        for parts in [
            ["", "shop", "cart"],
            ["TD", "shop", "cart"],
            ["td/ns/x", "shop", "cart"],
            ["td", "", "cart"],
            ["td", "shop", ""],
            ["td", "shop/sa/admin", "cart"],
            ["td", "shop", "cart/sa/admin"],
            ["td", "shop", ".."],
            ["td", "shop", "ca rt"],
            ["td", "shop", "cart?x"],
            ["td", "sh\u{f6}p", "cart"],
        ] {
            check(parts, None);
        }
    }
}
