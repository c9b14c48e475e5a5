//! PeerAuthentication: whether callers of a workload's port need mutual TLS, may use it, or must not.
//!
//! **Invariant:** a policy that cannot be used as written asks for mutual TLS (`STRICT`); it never opens
//! a port.

use std::collections::{BTreeMap, HashMap};

use crate::base::id::Origin;
use crate::diag::{Diagnostic, catalog};
use crate::resources::peer_authentication::{MutualTls, MutualTlsMode, PeerAuthentication};
use crate::resources::{Broken, Labels, Resource, ResourceSet};

use super::findings::{Findings, at};
use super::names::selects;
use super::selection::unread;

/// How callers connect to a workload's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerMode {
    /// With mutual TLS alone.
    Strict,
    /// With mutual TLS or without TLS.
    Permissive,
    /// Without TLS alone.
    Disable,
}

impl PeerMode {
    /// Nothing for `UNSET`, which inherits.
    fn of(mode: MutualTlsMode) -> Option<Self> {
        match mode {
            MutualTlsMode::Unset => None,
            MutualTlsMode::Disable => Some(Self::Disable),
            MutualTlsMode::Permissive => Some(Self::Permissive),
            MutualTlsMode::Strict => Some(Self::Strict),
        }
    }
}

/// The policies by level; of one level the oldest counts, after those that cannot be used.
#[derive(Debug, Default)]
pub struct PeerPolicies<'a> {
    mesh: Option<Policy<'a>>,
    namespaces: HashMap<&'a str, Policy<'a>>,
    workloads: HashMap<&'a str, Vec<(&'a Labels, Policy<'a>)>>,
    /// Those whose namespace cannot be read.
    anywhere: Vec<(Option<&'a Labels>, Policy<'a>)>,
}

#[derive(Clone, Debug)]
struct Policy<'a> {
    written: Written<'a>,
    mode: Option<PeerMode>,
    ports: Option<&'a BTreeMap<u32, MutualTls>>,
}

#[derive(Clone, Copy, Debug)]
enum Written<'a> {
    Whole(&'a Resource<PeerAuthentication>),
    Broken(&'a Broken),
}

impl<'a> PeerPolicies<'a> {
    /// Sorts the policies of a set into levels. A selector has no place in the root namespace.
    pub fn new(set: &'a ResourceSet, root_namespace: &str) -> Self {
        let mut policies = Self::default();
        for broken in set.broken.iter().filter(|broken| broken.id.kind == "PeerAuthentication") {
            let mode = Some(PeerMode::Strict);
            let policy = Policy { written: Written::Broken(broken), mode, ports: None };
            let selector = broken.selector.as_ref();
            if broken.is_of_any_namespace() {
                policies.anywhere.push((selector, policy));
            } else {
                policies.add(&broken.id.namespace, selector, policy, root_namespace);
            }
        }
        let (misspelt, whole): (Vec<_>, Vec<_>) =
            set.peer_authentications.iter().partition(|policy| unread(policy).next().is_some());
        for resource in misspelt.iter().chain(&whole) {
            let usable = unread(resource).next().is_none();
            let written = resource.spec.mtls.unwrap_or_default().mode;
            let policy = Policy {
                written: Written::Whole(resource),
                mode: if usable { PeerMode::of(written) } else { Some(PeerMode::Strict) },
                ports: resource.spec.port_level_mtls.as_ref().filter(|_| usable),
            };
            let selector = resource.spec.selector.as_ref().map(|selector| &selector.match_labels);
            policies.add(&resource.meta.namespace, selector, policy, root_namespace);
        }
        policies
    }

    fn add(
        &mut self,
        namespace: &'a str,
        selector: Option<&'a Labels>,
        policy: Policy<'a>,
        root_namespace: &str,
    ) {
        match selector.filter(|labels| !labels.is_empty()) {
            None if namespace == root_namespace => _ = self.mesh.get_or_insert(policy),
            None => _ = self.namespaces.entry(namespace).or_insert(policy),
            Some(_) if namespace == root_namespace => {}
            Some(labels) => {
                self.workloads.entry(namespace).or_default().push((labels, policy));
            }
        }
    }

    /// How callers connect to a workload's port, and the policy that says so.
    pub fn effective(
        &self,
        namespace: &str,
        labels: &Labels,
        port: u16,
    ) -> (PeerMode, Option<Origin>) {
        let levels = self.levels(namespace, labels);
        let of_the_port = self.workload(namespace, labels).and_then(|policy| {
            let mode = policy.ports?.get(&u32::from(port))?.mode;
            Some((PeerMode::of(mode)?, policy.origin(&format!("spec.portLevelMtls.{port}"))))
        });
        let of_a_level =
            || levels.iter().find_map(|policy| Some((policy.mode?, policy.origin("spec.mtls"))));
        match of_the_port.or_else(of_a_level) {
            Some((mode, origin)) => (mode, Some(origin)),
            None => (PeerMode::Permissive, None),
        }
    }

    /// The policies of a workload, its own first.
    fn levels(&self, namespace: &str, labels: &Labels) -> Vec<&Policy<'a>> {
        let own = self.workload(namespace, labels);
        own.into_iter().chain(self.namespaces.get(namespace)).chain(&self.mesh).collect()
    }

    fn workload(&self, namespace: &str, labels: &Labels) -> Option<&Policy<'a>> {
        let selects = |selector: &Labels| selects(selector, labels);
        let mut anywhere = self.anywhere.iter();
        if let Some((_, policy)) = anywhere.find(|(selector, _)| selector.is_none_or(selects)) {
            return Some(policy);
        }
        let mut all = self.workloads.get(namespace)?.iter();
        all.find(|(selector, _)| selects(selector)).map(|(_, policy)| policy)
    }

    /// Tells what of a workload's policies cannot be used.
    pub fn tell(&self, namespace: &str, labels: &Labels, findings: &mut Findings) {
        for policy in self.levels(namespace, labels) {
            let finding = match policy.written {
                Written::Broken(broken) => {
                    let message = format!("{} cannot be used and selects this workload", broken.id);
                    Diagnostic::new(&catalog::POLICY_FAILS_CLOSED, message)
                        .at(broken.location.clone())
                        .resource(broken.id.clone())
                }
                Written::Whole(resource) => {
                    let Some(field) = unread(resource).next() else { continue };
                    let message =
                        "a policy with a field that does not exist may ask for less than it says";
                    at(resource, field, &catalog::POLICY_FAILS_CLOSED, message)
                }
            };
            findings.add(finding.help(
                "it counts as STRICT until it is corrected: callers without mutual TLS are refused",
            ));
        }
    }
}

/// Tells of policies that have no effect, because a selector has no place in the root namespace.
pub fn tell_ineffective(set: &ResourceSet, root_namespace: &str, findings: &mut Findings) {
    for policy in &set.peer_authentications {
        let selector = policy.spec.selector.as_ref();
        let selects = selector.is_some_and(|selector| !selector.match_labels.is_empty());
        if selects && &*policy.id.namespace == root_namespace {
            let message = format!(
                "a PeerAuthentication of the root namespace ({root_namespace}) with a selector counts \
                 nowhere"
            );
            let finding = at(policy, "spec.selector", &catalog::INEFFECTIVE_POLICY, message);
            findings.add(finding.help(
                "move it to the workload's namespace, or take the selector out to have it hold for \
                 the mesh",
            ));
        }
    }
}

impl Policy<'_> {
    fn origin(&self, field: &str) -> Origin {
        match self.written {
            Written::Whole(resource) => resource.origin(field),
            Written::Broken(broken) => broken.origin(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::fixture;

    /// Policies as pairs of metadata and the rest; the mode of `app: cart` in namespace `shop` at
    /// 8080, and the name of the policy that says so.
    fn check(policies: &[&str], expected: (PeerMode, &str)) {
        let set = fixture::set("PeerAuthentication", policies);
        let labels = [("app".to_owned(), "cart".to_owned())].into();
        let (mode, origin) = PeerPolicies::new(&set, "root").effective("shop", &labels, 8080);
        let name = origin.as_ref().map_or("", |origin| &*origin.resource.name);
        assert_eq!((mode, name), expected, "{policies:?}");
    }

    const MESH: &str = "{name: mesh, namespace: root}";
    const SPACE: &str = "{name: space, namespace: shop}";
    const OWN: &str = "{name: own, namespace: shop}";

    fn mode(mode: &str) -> String {
        format!("spec: {{mtls: {{mode: {mode}}}}}")
    }

    fn own(mtls: &str, ports: &str) -> String {
        let ports = match ports {
            "" => String::new(),
            ports => format!(", portLevelMtls: {{{ports}}}"),
        };
        format!("spec: {{selector: {{matchLabels: {{app: cart}}}}, mtls: {{mode: {mtls}}}{ports}}}")
    }

    #[test]
    fn each_level_stands_before_the_wider_one() {
        use PeerMode::{Disable, Permissive, Strict};
        check(&[], (Permissive, ""));
        for (word, expected) in
            [("STRICT", Strict), ("PERMISSIVE", Permissive), ("DISABLE", Disable)]
        {
            let wider = if word == "STRICT" { mode("DISABLE") } else { mode("STRICT") };
            let this = mode(word);
            check(&[MESH, &this], (expected, "mesh"));
            check(&[MESH, &wider, SPACE, &this], (expected, "space"));
            let workload = own(word, "");
            check(&[MESH, &wider, SPACE, &wider, OWN, &workload], (expected, "own"));
            let port = own("UNSET", &format!("8080: {{mode: {word}}}"));
            check(&[MESH, &wider, SPACE, &wider, OWN, &port], (expected, "own"));
        }
    }

    #[test]
    fn one_of_a_namespace_that_cannot_be_read_is_strict_for_whom_it_may_select() {
        use PeerMode::{Disable, Strict};
        let disable = own("DISABLE", "");
        let nowhere = "{name: nowhere, namespace: [x]}";
        check(&[OWN, &disable, nowhere, &mode("DISABLE")], (Strict, "nowhere"));
        check(&[OWN, &disable, nowhere, &disable], (Strict, "nowhere"));
        let other = disable.replace("cart", "other");
        check(&[OWN, &disable, nowhere, &other], (Disable, "own"));
    }

    #[test]
    fn unset_inherits() {
        use PeerMode::{Disable, Permissive, Strict};
        let (unset, strict) = (mode("UNSET"), mode("STRICT"));
        check(&[MESH, &unset], (Permissive, ""));
        check(&[MESH, "spec: {}", SPACE, "spec: {}"], (Permissive, ""));
        check(&[MESH, &strict, SPACE, &unset], (Strict, "mesh"));
        check(&[MESH, &strict, SPACE, &unset, OWN, &own("UNSET", "")], (Strict, "mesh"));
        let port = own("DISABLE", "8080: {mode: UNSET}");
        check(&[MESH, &strict, OWN, &port], (Disable, "own"));
        let port = own("UNSET", "8080: {mode: UNSET}");
        check(&[MESH, &strict, SPACE, &mode("DISABLE"), OWN, &port], (Disable, "space"));
    }

    /// Every combination of no policy, no mode, `UNSET` and the modes at every level.
    #[test]
    fn the_first_that_says_something_counts_port_workload_namespace_mesh() {
        const WORDS: [&str; 5] = ["", "UNSET", "DISABLE", "PERMISSIVE", "STRICT"];
        let known = |word: &str| match word {
            "DISABLE" => Some(PeerMode::Disable),
            "PERMISSIVE" => Some(PeerMode::Permissive),
            "STRICT" => Some(PeerMode::Strict),
            _ => None,
        };
        for number in 0..5_usize.pow(4) {
            let word = |level: u32| WORDS[number / 5_usize.pow(level) % 5];
            let [port, workload, space, mesh] = [word(0), word(1), word(2), word(3)];
            let ports =
                if port.is_empty() { String::new() } else { format!("8080: {{mode: {port}}}") };
            let mine = if workload.is_empty() { "UNSET" } else { workload };
            let mine = own(mine, &ports);
            let (wide, wider) = (mode(space), mode(mesh));
            let mut policies = Vec::new();
            for (said, pair) in [
                (mesh, [MESH, &wider]),
                (space, [SPACE, &wide]),
                // A port has no policy of its own.
                (if port.is_empty() { workload } else { port }, [OWN, &mine]),
            ] {
                if !said.is_empty() {
                    policies.extend(pair);
                }
            }
            let levels = [(port, "own"), (workload, "own"), (space, "space"), (mesh, "mesh")];
            let said = levels.iter().find_map(|(word, name)| Some((known(word)?, *name)));
            check(&policies, said.unwrap_or((PeerMode::Permissive, "")));
        }
    }

    #[test]
    fn a_port_is_the_workloads_and_other_ports_stay() {
        use PeerMode::{Permissive, Strict};
        check(&[OWN, &own("STRICT", "80: {mode: DISABLE}")], (Strict, "own"));
        check(&[OWN, &own("STRICT", "8080: {mode: PERMISSIVE}")], (Permissive, "own"));
        let wide = "spec: {mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: DISABLE}}}";
        check(&[SPACE, wide], (Strict, "space"));
    }

    #[test]
    fn others_policies_do_not_count() {
        use PeerMode::Permissive;
        let strict = mode("STRICT");
        check(&["{name: a, namespace: other}", &strict], (Permissive, ""));
        let selector = "spec: {selector: {matchLabels: {app: other}}, mtls: {mode: STRICT}}";
        check(&[OWN, selector], (Permissive, ""));
        check(&[MESH, &own("STRICT", "")], (Permissive, ""));
    }

    #[test]
    fn the_oldest_of_a_level_counts() {
        let (strict, disable) = (mode("STRICT"), mode("DISABLE"));
        let at = |name: &str, time: &str| {
            format!("{{name: {name}, namespace: shop, creationTimestamp: \"{time}T00:00:00Z\"}}")
        };
        let (young, old) = (at("young", "2026-01-02"), at("old", "2026-01-01"));
        check(&[&young, &disable, &old, &strict], (PeerMode::Strict, "old"));
    }

    #[test]
    fn what_cannot_be_used_is_strict() {
        let strict = (PeerMode::Strict, "own");
        check(&[OWN, "spec: {mtls: {mode: NEVER}}", SPACE, &mode("DISABLE")], strict);
        check(&[OWN, "spec: {mtsl: {mode: DISABLE}}"], strict);
        check(&[OWN, "spec: {mtls: {mode: DISABLE}, portLevelMtlss: {}}"], strict);
        let other = "spec: {selector: {matchLabels: {app: other}}, mtls: 1}";
        check(&[OWN, other], (PeerMode::Permissive, ""));
        let set = fixture::set("PeerAuthentication", &[OWN, "spec: {mtsl: {}}", MESH, "spec: 1"]);
        let mut findings = Findings::default();
        PeerPolicies::new(&set, "root").tell("shop", &Labels::new(), &mut findings);
        assert_eq!(fixture::codes(findings), ["PC052", "PC052"]);
    }

    #[test]
    fn a_selector_in_the_root_namespace_is_told() {
        let check = |meta: &str, spec: &str, expected: &[&str]| {
            let set = fixture::set("PeerAuthentication", &[meta, spec]);
            let mut findings = Findings::default();
            tell_ineffective(&set, "root", &mut findings);
            assert_eq!(fixture::codes(findings), expected, "{meta} {spec}");
        };
        check(MESH, &own("STRICT", ""), &["IST0167"]);
        check(OWN, &own("STRICT", ""), &[]);
        check(MESH, &mode("STRICT"), &[]);
        check(MESH, "spec: {selector: {}, mtls: {mode: STRICT}}", &[]);
    }
}
