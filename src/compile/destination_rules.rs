//! Which DestinationRule governs a service, and what it says for a port and a subset.

mod same_host;

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::id::Origin;
use crate::diag::{Diagnostic, catalog};
use crate::resources::destination_rule::{
    ClientTls, ConnectionPool, DestinationRule, LoadBalancer, OutlierDetection, ProxyProtocol,
    RetryBudget, Subset, TrafficPolicy, Tunnel,
};
use crate::resources::nearest::nearest;
use crate::resources::{Broken, Labels, Resource, ResourceSet, Restricted};

use super::findings::{Findings, at};
use super::names::{exported, private, qualified, selects};
use super::selection::unread;
use super::services::Service;
use super::settings::CompileSettings;
use same_host::Rules;

/// The rule of a host, from the first [namespace](DestinationRules) that has one; an exact host over the
/// longest wildcard. Of several rules for one host those that select this gateway count before the
/// others, and subsets of those that count together are united.
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
///
/// Namespaces are looked at in turn: the gateway's, the service's, the root namespace. A gateway in the
/// root namespace looks first at what that keeps to itself alone: what it says for everyone is a
/// default, which does not hide the rule of the service's owner.
#[derive(Debug)]
pub struct DestinationRules<'a> {
    namespaces: HashMap<&'a str, ByHost<'a>>,
    /// What the root namespace keeps to itself, when the gateway is in it.
    alone: ByHost<'a>,
    settings: &'a CompileSettings,
}

#[derive(Debug, Default)]
struct ByHost<'a> {
    exact: HashMap<String, Rules<'a>>,
    /// By suffix, longest first.
    wildcards: Vec<(String, Rules<'a>)>,
    /// Those that may be for any host.
    anywhere: Option<Rules<'a>>,
}

impl<'a> ByHost<'a> {
    fn all(&self) -> impl Iterator<Item = &Rules<'a>> {
        let wildcards = self.wildcards.iter().map(|(_, rules)| rules);
        self.exact.values().chain(wildcards).chain(&self.anywhere)
    }
}

impl<'a> DestinationRules<'a> {
    /// Sorts the rules by namespace and host; tells those that cannot be used.
    pub fn new(
        set: &'a ResourceSet,
        settings: &'a CompileSettings,
        findings: &mut Findings,
    ) -> Self {
        let mut rules = Self { namespaces: HashMap::new(), alone: ByHost::default(), settings };
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
            let alone = selector.is_some()
                || private(&spec.export_to, from)
                || unread(rule).any(may_keep_private);
            let Some(found) = rules.entry(from, alone, host) else { continue };
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
        for by_host in rules.namespaces.values_mut().chain([&mut rules.alone]) {
            by_host.wildcards.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
            for one in by_host.all() {
                one.tell_hidden(findings);
            }
        }
        rules
    }

    fn add_broken(&mut self, broken: &'a Broken, findings: &mut Findings) {
        // Of one that may be anybody's, as if it were ours: the first place that is looked at.
        let unreadable = broken.is_of_any_namespace();
        let from = if unreadable { &*self.settings.namespace } else { &*broken.id.namespace };
        if !self.applies(from, broken.selector.as_ref(), &broken.export_to) {
            return;
        }
        let hosts: &[Box<str>] = match &broken.restricted {
            Restricted::Nothing => return,
            // A short name is of a namespace.
            Restricted::Hosts(hosts)
                if !unreadable || hosts.iter().all(|host| host.contains('.')) =>
            {
                hosts
            }
            Restricted::Hosts(_) | Restricted::Anything => &[],
        };
        let alone = unreadable
            || broken.perhaps_private
            || broken.selector.is_some()
            || private(&broken.export_to, from);
        let all = hosts.is_empty().then_some(None);
        for host in all.into_iter().chain(hosts.iter().map(|host| Some(&**host))) {
            if let Some(rules) = self.entry(from, alone, host) {
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

    /// Whether a rule of a namespace counts for connections of this gateway: one that selects workloads is
    /// shown to nobody else, whatever its `exportTo`.
    fn applies(&self, from: &str, selector: Option<&Labels>, export_to: &[String]) -> bool {
        let own = self.settings.namespace.as_str();
        match selector {
            Some(labels) => from == own && selects(labels, &self.settings.labels),
            None => exported(export_to, from, own),
        }
    }

    /// Whether the gateway is in the root namespace.
    fn at_root(&self) -> bool {
        self.settings.namespace == self.settings.root_namespace
    }

    /// The rules of a namespace for a host as written, or for any; nothing for an empty one. `alone` are
    /// those that it keeps to itself.
    fn entry(&mut self, from: &'a str, alone: bool, host: Option<&str>) -> Option<&mut Rules<'a>> {
        let alone = alone && self.at_root() && from == self.settings.namespace;
        let by_host =
            if alone { &mut self.alone } else { self.namespaces.entry(from).or_default() };
        let Some(host) = host else {
            return Some(by_host.anywhere.get_or_insert_default());
        };
        if host.is_empty() {
            return None;
        }
        let host = qualified(host, from, &self.settings.cluster_domain);
        let Some(suffix) = host.strip_prefix('*') else {
            return Some(by_host.exact.entry(host).or_default());
        };
        let wildcards = &mut by_host.wildcards;
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
        let named = |namespace: &str| self.namespaces.get(namespace);
        let first = if self.at_root() { Some(&self.alone) } else { named(own) };
        [first, named(&service.namespace), named(root)].into_iter().flatten().find_map(|by_host| {
            let wildcard = || by_host.wildcards.iter().find(|(suffix, _)| fits(suffix));
            let anywhere = by_host.anywhere.as_ref();
            anywhere
                .or_else(|| by_host.exact.get(host))
                .or_else(|| wildcard().map(|(_, rules)| rules))
        })
    }

    /// The rule of a service.
    pub fn governing(&self, service: &Service) -> Option<Governing<'a>> {
        let rules = self.find(service)?.counting();
        let main = rules.iter().position(|rule| rule.spec.traffic_policy.is_some());
        let rule = *rules.get(main.unwrap_or(0))?;
        Some(Governing { rule, others: rules })
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

/// Whether a field that does not exist may have been one that keeps the rule from other workloads.
fn may_keep_private(field: &str) -> bool {
    const KNOWN: &[&str] = &["host", "trafficPolicy", "subsets", "exportTo", "workloadSelector"];
    let name = field.strip_prefix("spec.").filter(|name| !name.contains(['.', '[']));
    name.is_some_and(|name| {
        !matches!(nearest(name, KNOWN), Some("host" | "trafficPolicy" | "subsets"))
    })
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
mod tests;
