//! What policies come to at a gateway, word for word and slowly: which are about it, in which order they
//! count, and what is only told. It shares nothing with the engine.

use std::collections::BTreeMap;

use super::model::{Action, Policy, Request, Target, View, rule_matches};

/// The gateway's namespace, the mesh's root namespace, and the gateway's labels.
pub const NAMESPACE: &str = "edge";
pub const ROOT: &str = "root";
pub const LABELS: [(&str, &str); 2] = [("istio", "edge"), ("tier", "front")];

/// How a provider is asked; one that the mesh does not have is not here.
pub const PROVIDERS: [(&str, Way); 3] =
    [("second", Way::Grpc), ("first", Way::Grpc), ("web", Way::Http)];

/// How a provider is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Grpc,
    /// It can be asked about requests alone.
    Http,
}

/// What becomes of a request or connection.
#[derive(Debug, PartialEq, Eq)]
pub struct Judgement {
    pub passes: bool,
    /// Providers that are asked, in order.
    pub asked: Vec<String>,
    /// What is told and not done: action and result.
    pub remarks: Vec<(&'static str, &'static str)>,
}

/// The policies that are about a gateway, by what they do.
#[derive(Default)]
pub struct Gateway<'a> {
    /// Some policy says of its reach what cannot be: everything is refused.
    refuses: bool,
    deny: Vec<&'a Policy>,
    allow: Vec<&'a Policy>,
    /// What is told alone: AUDIT, and dry runs.
    audit: Vec<&'a Policy>,
    dry_deny: Vec<&'a Policy>,
    dry_allow: Vec<&'a Policy>,
    /// By provider, in the order of their names.
    custom: BTreeMap<&'a str, Vec<&'a Policy>>,
}

impl<'a> Gateway<'a> {
    pub fn new(policies: &'a [Policy]) -> Self {
        let mut out = Self::default();
        for policy in policies {
            let dry = policy.dry_run == Some(true);
            let told_only = match policy.action {
                Action::Audit => true,
                Action::Custom(_) => false,
                Action::Allow | Action::Deny => dry,
            };
            match reach(policy) {
                Reach::Elsewhere => continue,
                Reach::Unclear => {
                    out.refuses |= !told_only;
                    continue;
                }
                Reach::Here => {}
            }
            match policy.action {
                Action::Audit => out.audit.push(policy),
                Action::Deny if dry => out.dry_deny.push(policy),
                Action::Allow if dry => out.dry_allow.push(policy),
                Action::Deny => out.deny.push(policy),
                Action::Allow => out.allow.push(policy),
                Action::Custom(name) => out.custom.entry(name).or_default().push(policy),
            }
        }
        out
    }

    /// What becomes of a request; each provider's word is the request's to say.
    pub fn judge(&self, request: &Request) -> Judgement {
        let mut judgement = Judgement { passes: false, asked: Vec::new(), remarks: Vec::new() };
        if self.refuses {
            return judgement;
        }
        judgement.remarks = self.remarks(request);
        let is_stream = request.http.is_none();
        let selecting: Vec<&str> = self
            .custom
            .iter()
            .filter(|(_, policies)| holds_back(policies, request))
            .map(|(name, _)| *name)
            .collect();
        let answers = |name: &str| {
            let way = PROVIDERS.iter().find(|known| known.0 == name).map(|known| known.1);
            way == Some(Way::Grpc) || (way == Some(Way::Http) && !is_stream)
        };
        // Nobody is bothered with a connection that is refused anyway; of a request they are asked first.
        let all_answer = || selecting.iter().all(|name| answers(name));
        if is_stream && !(all_answer() && self.lets_pass(request)) {
            return judgement;
        }
        for name in &selecting {
            if !answers(name) {
                return judgement;
            }
            judgement.asked.push((*name).to_owned());
            if request.denied_by.contains(name) {
                return judgement;
            }
        }
        judgement.passes = is_stream || self.lets_pass(request);
        judgement
    }

    fn lets_pass(&self, request: &Request) -> bool {
        !holds_back(&self.deny, request) && (self.allow.is_empty() || permits(&self.allow, request))
    }

    /// What is told and not done, in the order in which it is looked at.
    fn remarks(&self, request: &Request) -> Vec<(&'static str, &'static str)> {
        let mut out = Vec::new();
        if holds_back(&self.audit, request) {
            out.push(("audit", "matched"));
        }
        if !self.dry_deny.is_empty() {
            let denies = holds_back(&self.dry_deny, request);
            out.push(("deny", if denies { "denied" } else { "allowed" }));
        }
        if !self.dry_allow.is_empty() {
            let allows = permits(&self.dry_allow, request);
            out.push(("allow", if allows { "allowed" } else { "denied" }));
        }
        out
    }
}

/// Whether a policy is about this gateway.
enum Reach {
    Here,
    Elsewhere,
    /// It says of its reach what cannot be.
    Unclear,
}

fn reach(policy: &Policy) -> Reach {
    let heard = policy.namespace == NAMESPACE || policy.namespace == ROOT;
    let selected =
        policy.selector.is_none_or(|labels| labels.iter().all(|one| LABELS.contains(one)));
    match policy.target {
        _ if !heard || !selected => Reach::Elsewhere,
        Target::Nothing => Reach::Here,
        Target::GatewayApi if policy.selector.is_none() => Reach::Elsewhere,
        Target::GatewayApi => Reach::Unclear,
    }
}

fn readings(request: &Request) -> std::ops::Range<usize> {
    0..request.http.as_ref().map_or(1, |http| http.paths.len())
}

fn matched(policies: &[&Policy], request: &Request, reading: usize, holds_back: bool) -> bool {
    policies.iter().any(|policy| {
        let view = View { request, reading, namespace: policy.namespace };
        policy.rules.iter().any(|rule| rule_matches(rule, view, holds_back))
    })
}

/// Whether policies hold a request back: by any reading of it.
fn holds_back(policies: &[&Policy], request: &Request) -> bool {
    readings(request).any(|reading| matched(policies, request, reading, true))
}

/// Whether policies let a request pass: by each reading of it.
fn permits(policies: &[&Policy], request: &Request) -> bool {
    readings(request).all(|reading| matched(policies, request, reading, false))
}
