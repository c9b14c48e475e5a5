//! How resources name each other: short hosts, namespaces, `exportTo`, selectors.

use crate::resources::Labels;

/// A destination host in full: a short name gets the namespace of the resource that uses it.
pub fn qualified(host: &str, namespace: &str, domain: &str) -> String {
    if host.contains('.') || host == "*" {
        host.trim_end_matches('.').to_ascii_lowercase()
    } else {
        format!("{host}.{namespace}.svc.{domain}").to_ascii_lowercase()
    }
}

/// Whether `exportTo` of a resource in namespace `own` lets namespace `to` see it.
pub fn exported(export_to: &[String], own: &str, to: &str) -> bool {
    export_to.is_empty()
        || export_to.iter().any(|target| match target.as_str() {
            "*" => true,
            "." => own == to,
            "~" => false,
            name => name == to,
        })
}

/// Whether `exportTo` keeps a resource within its own namespace.
pub fn private(export_to: &[String], own: &str) -> bool {
    !export_to.is_empty() && export_to.iter().all(|target| target == "." || target == own)
}

/// Whether `exportTo` lets everyone see a resource.
pub fn public(export_to: &[String]) -> bool {
    export_to.is_empty() || export_to.iter().any(|target| target == "*")
}

/// Whether labels hold everything a selector asks for; an empty selector asks for nothing.
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

/// Namespace and name of `name` or `namespace/name`, seen from a namespace; of a Gateway also in the
/// older form `name.namespace.svc.cluster.local`.
pub fn reference<'a>(text: &'a str, own: &'a str) -> (&'a str, &'a str) {
    match text.split_once('/') {
        Some((".", name)) => (own, name),
        Some((namespace, name)) => (namespace, name),
        None => text.split_once('.').map_or((own, text), |(name, rest)| {
            (rest.split_once('.').map_or(rest, |(namespace, _)| namespace), name)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_hosts_get_a_namespace_and_others_stay() {
        let check = |host: &str, full: &str| {
            assert_eq!(qualified(host, "shop", "cluster.local"), full);
        };
        check("cart", "cart.shop.svc.cluster.local");
        check("cart.shop", "cart.shop");
        check("API.example.com.", "api.example.com");
    }

    #[test]
    fn export_to_opens_and_closes() {
        let check = |list: &[&str], to: &str, expected: bool| {
            let list: Vec<String> = list.iter().map(|s| (*s).to_owned()).collect();
            assert_eq!(exported(&list, "own", to), expected, "{list:?} {to}");
        };
        check(&[], "other", true);
        check(&["."], "other", false);
        check(&["."], "own", true);
        check(&["~"], "own", false);
        check(&["a", "other"], "other", true);
        check(&["a"], "other", false);
    }

    #[test]
    fn references_default_to_their_own_namespace() {
        assert_eq!(reference("gw", "shop"), ("shop", "gw"));
        assert_eq!(reference("edge/gw", "shop"), ("edge", "gw"));
        assert_eq!(reference("./gw", "shop"), ("shop", "gw"));
        assert_eq!(reference("edge/gw.a", "shop"), ("edge", "gw.a"));
        assert_eq!(reference("gw.edge.svc.cluster.local", "shop"), ("edge", "gw"));
        assert_eq!(reference("gw.edge", "shop"), ("edge", "gw"));
        assert_eq!(reference("gw.", "shop"), ("", "gw"));
    }
}
