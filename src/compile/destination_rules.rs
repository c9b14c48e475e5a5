//! Which DestinationRule governs a service, and what it says for a port and a subset.

use std::collections::HashMap;
use std::sync::Arc;

use crate::resources::destination_rule::{
    ClientTls, ConnectionPool, DestinationRule, LoadBalancer, OutlierDetection, ProxyProtocol,
    RetryBudget, Subset, TrafficPolicy, Tunnel,
};
use crate::resources::{Resource, ResourceSet};

use super::names::{exported, qualified, selects};
use super::selection::unread;
use super::services::Service;
use super::settings::CompileSettings;

/// The rule of a host: of the gateway's namespace, else the service's, else the root namespace; an
/// exact host over the longest wildcard. Subsets of several rules for one host are united.
#[derive(Debug)]
pub struct Governing<'a> {
    /// The rule whose traffic policy counts.
    pub rule: &'a Arc<Resource<DestinationRule>>,
    others: Vec<&'a Arc<Resource<DestinationRule>>>,
}

/// What holds for one port of one subset.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy<'a> {
    /// `loadBalancer`.
    pub load_balancer: Option<&'a LoadBalancer>,
    /// `connectionPool`.
    pub connection_pool: Option<&'a ConnectionPool>,
    /// `outlierDetection`.
    pub outlier_detection: Option<&'a OutlierDetection>,
    /// `tls`.
    pub tls: Option<&'a ClientTls>,
    /// `proxyProtocol`; there is none for single ports.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// `tunnel`; there is none for single ports.
    pub tunnel: Option<&'a Tunnel>,
    /// `retryBudget`; there is none for single ports.
    pub retry_budget: Option<&'a RetryBudget>,
}

/// Every rule that applies to this gateway, by the host it is for.
#[derive(Debug)]
pub struct DestinationRules<'a> {
    exact: HashMap<(&'a str, String), Rules<'a>>,
    /// Longest first.
    wildcards: Vec<(&'a str, String, Rules<'a>)>,
    settings: &'a CompileSettings,
}

type Rules<'a> = Vec<&'a Arc<Resource<DestinationRule>>>;

impl<'a> DestinationRules<'a> {
    /// Sorts the rules by namespace and host.
    pub fn new(set: &'a ResourceSet, settings: &'a CompileSettings) -> Self {
        let own = settings.namespace.as_str();
        let mut exact: HashMap<(&str, String), Rules<'a>> = HashMap::new();
        let mut wildcards: Vec<(&str, String, Rules<'a>)> = Vec::new();
        for rule in &set.destination_rules {
            let from = &*rule.id.namespace;
            let selector = rule.spec.workload_selector.as_ref();
            let applies =
                selector.is_none_or(|s| from == own && selects(&s.match_labels, &settings.labels));
            if !applies || !exported(&rule.spec.export_to, from, own) {
                continue;
            }
            let host = qualified(&rule.spec.host, from, &settings.cluster_domain);
            let Some(suffix) = host.strip_prefix('*') else {
                exact.entry((from, host)).or_default().push(rule);
                continue;
            };
            match wildcards.iter_mut().find(|(space, known, _)| *space == from && known == suffix) {
                Some((_, _, rules)) => rules.push(rule),
                None => wildcards.push((from, suffix.to_owned(), vec![rule])),
            }
        }
        wildcards.sort_by_key(|(_, suffix, _)| std::cmp::Reverse(suffix.len()));
        Self { exact, wildcards, settings }
    }

    /// The rule of a service.
    pub fn governing(&self, service: &Service) -> Option<Governing<'a>> {
        let (own, root) = (self.settings.namespace.as_str(), self.settings.root_namespace.as_str());
        let rules = [own, service.namespace.as_str(), root].into_iter().find_map(|namespace| {
            self.exact.get(&(namespace, service.host.clone())).or_else(|| {
                let fits = |suffix: &str| {
                    suffix.is_empty()
                        || (service.host.len() > suffix.len() && service.host.ends_with(suffix))
                };
                self.wildcards
                    .iter()
                    .find(|(space, suffix, _)| *space == namespace && fits(suffix))
                    .map(|(_, _, rules)| rules)
            })
        })?;
        let main = rules.iter().position(|rule| rule.spec.traffic_policy.is_some());
        let rule = *rules.get(main.unwrap_or(0))?;
        Some(Governing { rule, others: rules.clone() })
    }
}

impl<'a> Governing<'a> {
    /// The names of every subset.
    pub fn subset_names(&self) -> impl Iterator<Item = &'a str> {
        let mut names: Vec<&str> = self
            .others
            .iter()
            .flat_map(|rule| rule.spec.subsets.iter().map(|subset| subset.name.as_str()))
            .collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter()
    }

    /// A subset by name; the oldest rule that has it counts.
    pub fn subset(&self, name: &str) -> Option<(&'a Arc<Resource<DestinationRule>>, &'a Subset)> {
        self.others
            .iter()
            .find_map(|rule| rule.spec.subsets.iter().find(|s| s.name == name).map(|s| (*rule, s)))
    }

    /// A field that a `tls` block of these rules does not have: without it, the block may demand less
    /// of a backend than it says.
    pub fn unread(&self, tls: &ClientTls) -> Option<(&'a Resource<DestinationRule>, &'a str)> {
        self.others.iter().copied().find_map(|rule| {
            let (block, _) = unread(rule)
                .next()
                .and_then(|_| blocks(&rule.spec).find(|(_, block)| std::ptr::eq(*block, tls)))?;
            let within =
                |field: &&str| field.strip_prefix(&*block).is_some_and(|f| f.starts_with('.'));
            unread(rule).find(within).map(|field| (&**rule, field))
        })
    }

    /// What holds for a port: an entry for the port replaces the blocks of its level as a group, a
    /// subset replaces them one by one.
    pub fn policy(&self, subset: Option<&'a Subset>, port: u16) -> Policy<'a> {
        let base = level(self.rule.spec.traffic_policy.as_ref(), port).unwrap_or_default();
        let own = subset.and_then(|subset| subset.traffic_policy.as_ref());
        let Some(own) = own else { return base };
        if let Some(replaced) = at_port(own, port) {
            return replaced;
        }
        Policy {
            load_balancer: own.load_balancer.as_ref().or(base.load_balancer),
            connection_pool: own.connection_pool.as_ref().or(base.connection_pool),
            outlier_detection: own.outlier_detection.as_ref().or(base.outlier_detection),
            tls: own.tls.as_ref().or(base.tls),
            proxy_protocol: own.proxy_protocol.or(base.proxy_protocol),
            tunnel: own.tunnel.as_ref().or(base.tunnel),
            retry_budget: own.retry_budget.as_ref().or(base.retry_budget),
        }
    }
}

/// Every `tls` block of a rule with its path.
fn blocks(rule: &DestinationRule) -> impl Iterator<Item = (String, &ClientTls)> {
    let whole = rule.traffic_policy.iter().map(|policy| ("spec.trafficPolicy".to_owned(), policy));
    let subsets = rule.subsets.iter().enumerate().filter_map(|(index, subset)| {
        let policy = subset.traffic_policy.as_ref()?;
        Some((format!("spec.subsets[{index}].trafficPolicy"), policy))
    });
    whole.chain(subsets).flat_map(|(path, policy)| {
        let own = policy.tls.as_ref().map(|tls| (format!("{path}.tls"), tls));
        let ports = policy.port_level_settings.iter().enumerate();
        own.into_iter().chain(ports.filter_map(move |(index, entry)| {
            Some((format!("{path}.portLevelSettings[{index}].tls"), entry.tls.as_ref()?))
        }))
    })
}

fn level(policy: Option<&TrafficPolicy>, port: u16) -> Option<Policy<'_>> {
    let policy = policy?;
    Some(at_port(policy, port).unwrap_or(Policy {
        load_balancer: policy.load_balancer.as_ref(),
        connection_pool: policy.connection_pool.as_ref(),
        outlier_detection: policy.outlier_detection.as_ref(),
        tls: policy.tls.as_ref(),
        proxy_protocol: policy.proxy_protocol,
        tunnel: policy.tunnel.as_ref(),
        retry_budget: policy.retry_budget.as_ref(),
    }))
}

fn at_port(policy: &TrafficPolicy, port: u16) -> Option<Policy<'_>> {
    let number = u32::from(port);
    let entry = policy
        .port_level_settings
        .iter()
        .find(|entry| entry.port.is_some_and(|port| port.number == number))?;
    Some(Policy {
        load_balancer: entry.load_balancer.as_ref(),
        connection_pool: entry.connection_pool.as_ref(),
        outlier_detection: entry.outlier_detection.as_ref(),
        tls: entry.tls.as_ref(),
        proxy_protocol: None,
        tunnel: None,
        retry_budget: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::findings::Findings;
    use crate::compile::services::Services;
    use crate::resources::{ConfigFile, parse};

    fn check(rules: &str, test: impl Fn(Option<Governing<'_>>)) {
        let yaml = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: a, namespace: \
             shop}}\nspec:\n  hosts: [a.shop.example]\n  ports: [{{number: 80, name: http, protocol: \
             HTTP}}]\n  resolution: DNS\n{rules}"
        );
        let file = ConfigFile { path: "a.yaml".into(), bytes: yaml.into_bytes().into() };
        let parsed = parse(&[file]);
        assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
        let settings = CompileSettings::default();
        let services = Services::new(&parsed.set, &settings, &mut Findings::default());
        let service = services.find("a.shop.example", "shop", "istio-system").unwrap();
        test(DestinationRules::new(&parsed.set, &settings).governing(service));
    }

    fn rule(name: &str, namespace: &str, spec: &str) -> String {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, \
             namespace: {namespace}}}\nspec: {spec}\n"
        )
    }

    #[test]
    fn the_first_namespace_with_a_match_counts() {
        let rules = rule("far", "shop", "{host: a.shop.example}")
            + &rule("near", "istio-system", "{host: '*.example'}");
        check(&rules, |found| assert_eq!(&*found.unwrap().rule.id.name, "near"));
        check(&rule("x", "other", "{host: a.shop.example}"), |found| assert!(found.is_none()));
    }

    #[test]
    fn a_field_that_does_not_exist_is_found_in_the_block_that_counts() {
        let misspelt = |place: &str| {
            let yaml = rule("r", "shop", &format!("{{host: a.shop.example, {place}}}"));
            let file = ConfigFile { path: "a.yaml".into(), bytes: yaml.into_bytes().into() };
            let set = parse(&[file]).set;
            let rule = set.destination_rules.first().unwrap();
            let governing = Governing { rule, others: vec![rule] };
            let subset = governing.subset("v1").map(|(_, subset)| subset);
            [(None, 81), (None, 80), (subset, 81), (subset, 80)].map(|(subset, port)| {
                governing
                    .policy(subset, port)
                    .tls
                    .is_some_and(|tls| governing.unread(tls).is_some())
            })
        };
        let bad = "tls: {mode: SIMPLE, subjectAltNamez: [a]}";
        let good = "tls: {mode: SIMPLE}";
        let at_port = format!("portLevelSettings: [{{port: {{number: 80}}, {bad}}}]");
        let of_subset = |own: &str| format!("subsets: [{{name: v1, trafficPolicy: {{{own}}}}}]");
        let whole = |own: &str| format!("trafficPolicy: {{{own}}}");
        assert_eq!(misspelt(&whole(bad)), [true; 4]);
        assert_eq!(misspelt(&whole(good)), [false; 4]);
        assert_eq!(
            misspelt(&format!("{}, {}", whole(bad), of_subset(good))),
            [true, true, false, false]
        );
        assert_eq!(misspelt(&whole(&at_port)), [false, true, false, true]);
        assert_eq!(misspelt(&of_subset(bad)), [false, false, true, true]);
        assert_eq!(misspelt(&of_subset(&at_port)), [false, false, false, true]);
    }

    #[test]
    fn a_port_replaces_the_blocks_of_its_level_as_a_group() {
        let rules = rule(
            "r",
            "shop",
            "{host: a.shop.example, trafficPolicy: {tls: {mode: SIMPLE}, loadBalancer: {simple: \
             RANDOM}, portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: \
             ROUND_ROBIN}}]}, subsets: [{name: v1, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}]}",
        );
        check(&rules, |found| {
            let found = found.unwrap();
            assert!(found.policy(None, 80).tls.is_none());
            assert!(found.policy(None, 81).tls.is_some());
            let (_, subset) = found.subset("v1").unwrap();
            let policy = found.policy(Some(subset), 80);
            assert!(policy.tls.is_some() && policy.load_balancer.is_some());
            assert!(found.subset("v2").is_none());
        });
    }
}
