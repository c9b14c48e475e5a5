//! One rule: any `from`, any `to`, every `when`.

use http::HeaderMap;
use http::header::HeaderName;
use ipnet::IpNet;

use super::{Facts, HttpFacts, PathMatch, TextMatch, WithoutHttp};
use crate::base::claim::ClaimPath;

/// One rule (`AuthorizationPolicy.spec.rules[]`).
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// Sources, of which one must hold; none stands for any.
    pub from: Vec<Vec<Field>>,
    /// Operations, of which one must hold; none stands for any.
    pub to: Vec<Vec<Field>>,
    /// Conditions that must all hold.
    pub when: Vec<Field>,
}

/// A field with its values, of which one must match; with `negated`, none may.
#[derive(Clone, Debug)]
pub struct Field {
    /// What is looked at, and for what.
    pub subject: Subject,
    /// A `not…` field: holds for an attribute that is not there, too.
    pub negated: bool,
}

/// What a field looks at, with the values that it looks for.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A text.
    Text(TextSubject, Vec<TextMatch>),
    /// `paths`.
    Path(Vec<PathMatch>),
    /// `requestPrincipals`: issuer and subject.
    RequestPrincipal(Vec<(TextMatch, TextMatch)>),
    /// `serviceAccounts`: namespace and account.
    ServiceAccount(Vec<(TextMatch, TextMatch)>),
    /// `ipBlocks`, `source.ip`.
    SourceIp(Vec<IpNet>),
    /// `remoteIpBlocks`, `remote.ip`.
    RemoteIp(Vec<IpNet>),
    /// `destination.ip`.
    LocalIp(Vec<IpNet>),
    /// `ports`, `destination.port`.
    LocalPort(Vec<u16>),
    /// `request.headers[…]`.
    Header(HeaderName, Vec<TextMatch>),
    /// `request.auth.claims[…]`.
    Claim(ClaimPath, Vec<TextMatch>),
}

/// Attributes that are texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextSubject {
    /// `principals`, `source.principal`.
    Principal,
    /// `namespaces`, `source.namespace`.
    Namespace,
    /// `trustDomains`, `source.trustDomain`.
    TrustDomain,
    /// `connection.sni`.
    ServerName,
    /// `hosts`, in any case.
    Host,
    /// `methods`.
    Method,
    /// `request.auth.audiences`.
    Audiences,
    /// `request.auth.presenter`.
    Presenter,
}

impl Rule {
    pub(super) fn matches(&self, facts: &Facts<'_>, without_http: WithoutHttp) -> bool {
        let tcp = facts.http.is_none();
        if tcp && without_http == WithoutHttp::Fails && self.fields().any(|f| f.subject.is_http()) {
            return false;
        }
        let all = |fields: &Vec<Field>| {
            fields.iter().all(|field| tcp && field.subject.is_http() || field.holds(facts))
        };
        (self.from.is_empty() || self.from.iter().any(all))
            && (self.to.is_empty() || self.to.iter().any(all))
            && all(&self.when)
    }

    pub(super) fn looks_at_paths(&self) -> bool {
        self.fields().any(|field| matches!(field.subject, Subject::Path(_)))
    }

    fn fields(&self) -> impl Iterator<Item = &Field> {
        self.from.iter().chain(&self.to).flatten().chain(&self.when)
    }
}

impl Field {
    fn holds(&self, facts: &Facts<'_>) -> bool {
        self.subject.matches(facts) != self.negated
    }
}

impl Subject {
    /// Whether the attribute is HTTP's alone. An address by the trusted hops is not: without HTTP it is
    /// the peer's.
    fn is_http(&self) -> bool {
        match self {
            Self::Path(_) | Self::RequestPrincipal(_) | Self::Header(..) | Self::Claim(..) => true,
            Self::Text(text, _) => matches!(
                text,
                TextSubject::Host
                    | TextSubject::Method
                    | TextSubject::Audiences
                    | TextSubject::Presenter
            ),
            _ => false,
        }
    }

    fn matches(&self, facts: &Facts<'_>) -> bool {
        let http = facts.http.as_ref();
        match self {
            Self::Text(text, values) => text.matches(facts, values),
            Self::SourceIp(blocks) => blocks.iter().any(|block| block.contains(&facts.source)),
            Self::RemoteIp(blocks) => blocks.iter().any(|block| block.contains(&facts.remote)),
            Self::LocalIp(blocks) => blocks.iter().any(|block| block.contains(&facts.local.ip())),
            Self::LocalPort(ports) => ports.contains(&facts.local.port()),
            Self::ServiceAccount(values) => facts
                .peer
                .and_then(|peer| peer.workload.as_ref())
                .is_some_and(|(namespace, account)| pair(values, namespace, account)),
            Self::Path(values) => {
                http.is_some_and(|http| values.iter().any(|value| value.matches(http.path())))
            }
            Self::Header(name, values) => http.is_some_and(|http| {
                http.headers.contains_key(name) && header(http.headers, name, values)
            }),
            Self::RequestPrincipal(values) => {
                let token = http.and_then(HttpFacts::token);
                token.is_some_and(|token| {
                    token.principal.is_some() && pair(values, token.issuer(), token.subject())
                })
            }
            Self::Claim(path, values) => {
                let token = http.and_then(HttpFacts::token);
                token.is_some_and(|token| {
                    let found = path.strings(&token.claims, &token.space_delimited);
                    found.iter().any(|found| values.iter().any(|value| value.matches(found)))
                })
            }
        }
    }
}

impl TextSubject {
    fn matches(self, facts: &Facts<'_>, values: &[TextMatch]) -> bool {
        let any = |text: &str| values.iter().any(|value| value.matches(text));
        let (peer, http) = (facts.peer, facts.http.as_ref());
        match self {
            Self::Principal => {
                peer.is_some_and(|peer| peer.principals.iter().any(|principal| any(principal)))
            }
            Self::Namespace => peer
                .and_then(|peer| peer.workload.as_ref())
                .is_some_and(|(namespace, _)| any(namespace)),
            Self::TrustDomain => {
                peer.and_then(|peer| peer.trust_domain.as_deref()).is_some_and(any)
            }
            Self::ServerName => facts.server_name.is_some_and(any),
            Self::Host => http.is_some_and(|http| {
                values.iter().any(|value| value.matches_ignoring_case(http.authority))
            }),
            Self::Method => http.is_some_and(|http| any(http.method)),
            Self::Audiences | Self::Presenter => {
                let token = http.and_then(HttpFacts::token);
                token.is_some_and(|token| match (self, token.claims.get("aud")) {
                    (Self::Presenter, _) => {
                        token.claims.get("azp").and_then(|azp| azp.as_str()).is_some_and(any)
                    }
                    (_, Some(serde_json::Value::String(audience))) => any(audience),
                    (_, Some(serde_json::Value::Array(list))) => {
                        list.iter().filter_map(|audience| audience.as_str()).any(any)
                    }
                    _ => false,
                })
            }
        }
    }
}

fn pair(values: &[(TextMatch, TextMatch)], first: &str, second: &str) -> bool {
    values.iter().any(|(left, right)| left.matches(first) && right.matches(second))
}

/// Several lines of a header count as one, joined by commas (RFC 9110 section 5.3).
fn header(headers: &HeaderMap, name: &HeaderName, values: &[TextMatch]) -> bool {
    let mut lines =
        headers.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes()));
    let first = lines.next().unwrap_or_default();
    let rest: Vec<_> = lines.collect();
    let whole = if rest.is_empty() {
        first
    } else {
        std::iter::once(first).chain(rest).collect::<Vec<_>>().join(",").into()
    };
    values.iter().any(|value| *value == TextMatch::Present || value.matches(&whole))
}
