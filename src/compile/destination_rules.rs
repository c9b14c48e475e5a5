//! Which DestinationRule governs a service, and what it says for a port and a subset.

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::id::Origin;
use crate::diag::{Diagnostic, catalog};
use crate::resources::destination_rule::{
    ClientTls, ConnectionPool, DestinationRule, LoadBalancer, OutlierDetection, ProxyProtocol,
    RetryBudget, Subset, TrafficPolicy, Tunnel,
};
use crate::resources::{Broken, Labels, Resource, ResourceSet, Restricted};

use super::findings::{Findings, at};
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

/// Every rule that applies to this gateway, by namespace and host.
#[derive(Debug)]
pub struct DestinationRules<'a> {
    namespaces: HashMap<&'a str, Namespace<'a>>,
    settings: &'a CompileSettings,
}

#[derive(Debug, Default)]
struct Namespace<'a> {
    exact: HashMap<String, Rules<'a>>,
    /// By suffix, longest first.
    wildcards: Vec<(String, Rules<'a>)>,
    /// Those that may be for any host.
    anywhere: Option<Rules<'a>>,
}

#[derive(Debug, Default)]
struct Rules<'a> {
    usable: Vec<&'a Arc<Resource<DestinationRule>>>,
    /// One that cannot be used: nothing is sent, because it may have asked for TLS.
    unusable: Option<Origin>,
}

impl<'a> DestinationRules<'a> {
    /// Sorts the rules by namespace and host; tells those that cannot be used.
    pub fn new(
        set: &'a ResourceSet,
        settings: &'a CompileSettings,
        findings: &mut Findings,
    ) -> Self {
        let mut rules = Self { namespaces: HashMap::new(), settings };
        for rule in &set.destination_rules {
            let spec = &rule.spec;
            let from = &*rule.id.namespace;
            let selector = spec.workload_selector.as_ref().map(|selector| &selector.match_labels);
            if !rules.applies(from, selector, &spec.export_to) {
                continue;
            }
            let misspelt = unread(rule).find(|field| may_secure(field));
            let host = (!spec.host.is_empty()).then_some(spec.host.as_str());
            // A rule that names no host is for none, unless it was meant to.
            if host.is_none() && misspelt.is_none() {
                continue;
            }
            let Some(found) = rules.entry(from, host) else { continue };
            match misspelt {
                Some(field) => {
                    found.unusable.get_or_insert_with(|| rule.origin(field));
                    let message =
                        "a rule with a field that does not exist may demand less than it says";
                    let finding = at(rule, field, &catalog::POLICY_FAILS_CLOSED, message);
                    findings.add(finding.help(UNTIL_MENDED));
                }
                None => found.usable.push(rule),
            }
        }
        for broken in set.broken.iter().filter(|broken| broken.id.kind == "DestinationRule") {
            rules.add_broken(broken, findings);
        }
        for namespace in rules.namespaces.values_mut() {
            namespace.wildcards.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        }
        rules
    }

    fn add_broken(&mut self, broken: &'a Broken, findings: &mut Findings) {
        let from = &*broken.id.namespace;
        if !self.applies(from, broken.selector.as_ref(), &broken.export_to) {
            return;
        }
        let hosts: &[Box<str>] = match &broken.restricted {
            Restricted::Nothing => return,
            Restricted::Hosts(hosts) => hosts,
            Restricted::Anything => &[],
        };
        let all = hosts.is_empty().then_some(None);
        for host in all.into_iter().chain(hosts.iter().map(|host| Some(&**host))) {
            if let Some(rules) = self.entry(from, host) {
                rules.unusable.get_or_insert_with(|| broken.origin());
            }
        }
        let message = format!("{} cannot be used and may ask for TLS", broken.id);
        findings.add(
            Diagnostic::new(&catalog::POLICY_FAILS_CLOSED, message)
                .at(broken.location.clone())
                .resource(broken.id.clone())
                .help(UNTIL_MENDED),
        );
    }

    /// Whether a rule of a namespace counts for connections of this gateway.
    fn applies(&self, from: &str, selector: Option<&Labels>, export_to: &[String]) -> bool {
        let own = self.settings.namespace.as_str();
        selector.is_none_or(|labels| from == own && selects(labels, &self.settings.labels))
            && exported(export_to, from, own)
    }

    /// The rules of a namespace for a host as written, or for any; nothing for an empty one.
    fn entry(&mut self, from: &'a str, host: Option<&str>) -> Option<&mut Rules<'a>> {
        let namespace = self.namespaces.entry(from).or_default();
        let Some(host) = host else {
            return Some(namespace.anywhere.get_or_insert_default());
        };
        if host.is_empty() {
            return None;
        }
        let host = qualified(host, from, &self.settings.cluster_domain);
        let Some(suffix) = host.strip_prefix('*') else {
            return Some(namespace.exact.entry(host).or_default());
        };
        let wildcards = &mut namespace.wildcards;
        let known = wildcards.iter().position(|(known, _)| known == suffix);
        let index = known.unwrap_or_else(|| {
            wildcards.push((suffix.to_owned(), Rules::default()));
            wildcards.len() - 1
        });
        wildcards.get_mut(index).map(|(_, rules)| rules)
    }

    fn find(&self, service: &Service) -> Option<&Rules<'a>> {
        let (own, root) = (self.settings.namespace.as_str(), self.settings.root_namespace.as_str());
        let host = service.host.as_str();
        let fits = |suffix: &str| {
            suffix.is_empty() || (host.len() > suffix.len() && host.ends_with(suffix))
        };
        [own, service.namespace.as_str(), root].into_iter().find_map(|name| {
            let namespace = self.namespaces.get(name)?;
            let wildcard = || namespace.wildcards.iter().find(|(suffix, _)| fits(suffix));
            let anywhere = namespace.anywhere.as_ref();
            anywhere
                .or_else(|| namespace.exact.get(host))
                .or_else(|| wildcard().map(|(_, rules)| rules))
        })
    }

    /// The rule of a service.
    pub fn governing(&self, service: &Service) -> Option<Governing<'a>> {
        let rules = &self.find(service)?.usable;
        let main = rules.iter().position(|rule| rule.spec.traffic_policy.is_some());
        let rule = *rules.get(main.unwrap_or(0))?;
        Some(Governing { rule, others: rules.clone() })
    }

    /// The rule because of which nothing is sent to a service.
    pub fn refusing(&self, service: &Service) -> Option<&Origin> {
        self.find(service)?.unusable.as_ref()
    }
}

/// What becomes of a destination whose rule cannot be used as written.
pub const UNTIL_MENDED: &str =
    "until it is mended, connections to this destination fail; nothing is sent in clear";

/// Whether a field that does not exist may have been one that decides where or how connections are
/// secured. Those within a `tls` block are found by [`Governing::unread`].
fn may_secure(field: &str) -> bool {
    const OTHERS: &[&str] =
        &[".tls.", ".loadBalancer.", ".connectionPool.", ".outlierDetection.", ".retryBudget."];
    !OTHERS.iter().any(|part| field.contains(part))
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
        let rules = DestinationRules::new(&parsed.set, &settings, &mut Findings::default());
        test(rules.governing(service));
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

    /// Whether a rule keeps everything from being sent to `a.shop.example` of namespace `shop`.
    fn refuses(rules: &str) -> bool {
        let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a, \
                     namespace: shop}\nspec:\n  hosts: [a.shop.example]\n";
        let bytes = format!("{entry}{rules}").into_bytes().into();
        let set = parse(&[ConfigFile { path: "a.yaml".into(), bytes }]).set;
        let settings = CompileSettings::default();
        let mut findings = Findings::default();
        let services = Services::new(&set, &settings, &mut findings);
        let service = services.find("a.shop.example", "shop", "istio-system").unwrap();
        let rules = DestinationRules::new(&set, &settings, &mut findings);
        assert!(rules.refusing(service).is_none() || !findings.finish().is_empty());
        rules.refusing(service).is_some()
    }

    #[test]
    fn a_rule_that_cannot_be_used_refuses_what_it_would_govern() {
        let tls = "trafficPolicy: {tls: {mode: SIMPEL}}";
        let broken =
            |namespace: &str, rest: &str| rule("r", namespace, &format!("{{{rest}, {tls}}}"));
        for host in ["a.shop.example", "'*.example'", "'*'", "5", "[a.shop.example]"] {
            assert!(refuses(&broken("shop", &format!("host: {host}"))), "{host}");
        }
        assert!(refuses(&broken("shop", "subsets: []")), "a host that is missing may be any");
        assert!(!refuses(&broken("shop", "host: b.shop.example")));
        assert!(!refuses(&broken("other", "host: a.shop.example")));
        assert!(!refuses(&broken("shop", "host: a.shop.example, exportTo: [.]")));
        let elsewhere = "host: a.shop.example, workloadSelector: {matchLabels: {app: x}}";
        assert!(!refuses(&broken("istio-system", elsewhere)));

        let good = |namespace: &str, host: &str| {
            rule(
                "good",
                namespace,
                &format!("{{host: {host}, trafficPolicy: {{tls: {{mode: SIMPLE}}}}}}"),
            )
        };
        let own = good("istio-system", "a.shop.example");
        assert!(!refuses(&(own.clone() + &broken("shop", "host: a.shop.example"))), "not reached");
        assert!(!refuses(&(own.clone() + &broken("istio-system", "host: '*.example'"))), "wider");
        assert!(refuses(&(own.clone() + &broken("istio-system", "host: a.shop.example"))));
        assert!(refuses(&(own + &broken("istio-system", "host: 5"))));
    }

    #[test]
    fn a_rule_with_a_slip_in_its_text_refuses_every_host_that_it_names() {
        let check =
            |spec: &str, expected: bool| assert_eq!(refuses(&rule("r", "shop", spec)), expected);
        check("{host: a.shop.example, trafficPolicy: [}", true);
        check("{host: \"*.example\", trafficPolicy: [}", true);
        check("{host: b.shop.example, trafficPolicy: [}", false);
    }

    #[test]
    fn a_misspelt_field_refuses_when_it_may_have_been_one_that_secures() {
        let check =
            |spec: &str, expected: bool| assert_eq!(refuses(&rule("r", "shop", spec)), expected);
        check("{host: a.shop.example, trafficPolicyy: {tls: {mode: SIMPLE}}}", true);
        check("{host: a.shop.example, trafficPolicy: {tsl: {mode: SIMPLE}}}", true);
        check("{hots: a.shop.example, trafficPolicy: {tls: {mode: SIMPLE}}}", true);
        check("{host: b.shop.example, trafficPolicy: {tsl: {mode: SIMPLE}}}", false);
        check("{trafficPolicy: {tls: {mode: SIMPLE}}}", false);
        let port = "{host: a.shop.example, trafficPolicy: {portLevelSettings: [{port: {nr: 80}}]}}";
        check(port, true);
        let balancer = "{host: a.shop.example, trafficPolicy: {loadBalancer: {simpel: RANDOM}}}";
        check(balancer, false);
    }

    #[test]
    fn two_rules_of_one_name_that_differ_refuse() {
        let one = |mode: &str| {
            rule(
                "r",
                "shop",
                &format!("{{host: a.shop.example, trafficPolicy: {{tls: {{mode: {mode}}}}}}}"),
            )
        };
        assert!(refuses(&(one("DISABLE") + &one("SIMPLE"))));
        assert!(!refuses(&(one("SIMPLE") + &one("SIMPLE"))));
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
