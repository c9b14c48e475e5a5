//! One rule: any `from`, any `to`, every `when`.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::HeaderName;
use ipnet::IpNet;
use smallvec::SmallVec;

use super::{Facts, HttpFacts, PathMatch, PeerId, Purpose, TextMatch};
use crate::base::claim::ClaimPath;
use crate::base::header;
use crate::base::host::without_port;

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
    /// `request.auth.claims[…]`, and the claims with keys of their own.
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
    /// `request.headers[:authority]`.
    Authority,
    /// `request.headers[:scheme]`.
    Scheme,
    /// `request.headers[:path]`: path and query.
    Target,
    /// `methods`, `request.headers[:method]`.
    Method,
}

impl Rule {
    pub(super) fn matches(&self, facts: &Facts<'_>, purpose: Purpose) -> bool {
        let tcp = facts.http.is_none();
        if tcp && purpose == Purpose::Pass && self.fields().any(|f| f.subject.is_http()) {
            return false;
        }
        let all = |fields: &Vec<Field>| {
            fields.iter().all(|field| tcp && field.subject.is_http() || field.holds(facts, purpose))
        };
        // Operations cost the least to look at.
        (self.to.is_empty() || self.to.iter().any(all))
            && (self.from.is_empty() || self.from.iter().any(all))
            && all(&self.when)
    }

    pub(super) fn looks_at_paths(&self) -> bool {
        let of_path = |subject: &Subject| {
            matches!(subject, Subject::Path(_) | Subject::Text(TextSubject::Target, _))
        };
        self.fields().any(|field| of_path(&field.subject))
    }

    /// Whether the rule looks at what tokens say.
    pub fn looks_at_tokens(&self) -> bool {
        let of_token = |subject: &Subject| {
            matches!(subject, Subject::RequestPrincipal(_) | Subject::Claim(..))
        };
        self.fields().any(|field| of_token(&field.subject))
    }

    fn fields(&self) -> impl Iterator<Item = &Field> {
        self.from.iter().chain(&self.to).flatten().chain(&self.when)
    }
}

impl Field {
    /// A match of a negated field does the opposite of what its rule is for.
    fn holds(&self, facts: &Facts<'_>, purpose: Purpose) -> bool {
        let one_is_enough = (purpose == Purpose::HoldBack) != self.negated;
        self.subject.matches(facts, one_is_enough) != self.negated
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
                    | TextSubject::Authority
                    | TextSubject::Scheme
                    | TextSubject::Target
                    | TextSubject::Method
            ),
            _ => false,
        }
    }

    /// Whether a value matches; of an attribute that can be read in several ways, one reading is enough,
    /// or the attribute as a whole must match.
    fn matches(&self, facts: &Facts<'_>, one_is_enough: bool) -> bool {
        let http = facts.http.as_ref();
        match self {
            Self::Text(text, values) => text.matches(facts, values, one_is_enough),
            Self::SourceIp(blocks) => blocks.iter().any(|block| block.contains(&facts.source)),
            Self::RemoteIp(blocks) => blocks.iter().any(|block| block.contains(&facts.remote)),
            Self::LocalIp(blocks) => blocks.iter().any(|block| block.contains(&facts.local.ip())),
            Self::LocalPort(ports) => ports.contains(&facts.local.port()),
            Self::ServiceAccount(values) => ids(facts)
                .filter_map(|id| id.workload.as_ref())
                .any(|(namespace, account)| pair(values, namespace, account)),
            Self::Path(values) => {
                http.is_some_and(|http| values.iter().any(|value| value.matches(http.path())))
            }
            Self::Header(name, values) => {
                http.is_some_and(|http| header(http.headers, name, values, one_is_enough))
            }
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
    fn matches(self, facts: &Facts<'_>, values: &[TextMatch], one_is_enough: bool) -> bool {
        let any = |text: &str| values.iter().any(|value| value.matches(text));
        let http = facts.http.as_ref();
        match self {
            Self::Principal => {
                let named = facts.peer.is_some_and(|peer| peer.named);
                (named && values.contains(&TextMatch::Present))
                    || ids(facts).any(|id| any(&id.principal))
            }
            Self::Namespace => ids(facts)
                .filter_map(|id| id.workload.as_ref())
                .any(|(namespace, _)| any(namespace)),
            Self::TrustDomain => ids(facts).filter_map(|id| id.trust_domain.as_deref()).any(any),
            Self::ServerName => facts.server_name.is_some_and(any),
            Self::Host => http.is_some_and(|http| {
                let any = |text: &str| values.iter().any(|v| v.matches_ignoring_case(text));
                any(http.authority) || one_is_enough && any(bare(http.authority))
            }),
            Self::Authority => http.is_some_and(|http| {
                any(http.authority) || one_is_enough && any(bare(http.authority))
            }),
            Self::Scheme => http.is_some_and(|http| any(http.scheme)),
            Self::Target => http.is_some_and(|http| match http.query {
                None => any(http.path()),
                Some(query) => any(&format!("{}?{query}", http.path())),
            }),
            Self::Method => http.is_some_and(|http| any(http.method)),
        }
    }
}

pub(super) fn ids<'a>(facts: &Facts<'a>) -> impl Iterator<Item = &'a PeerId> {
    facts.peer.into_iter().flat_map(|peer| &peer.ids)
}

/// The host that a rule is about, however it is asked for: without port, and without the root's dot, which
/// names the same host to a backend.
pub(super) fn bare(authority: &str) -> &str {
    without_port(authority).trim_end_matches('.')
}

fn pair(values: &[(TextMatch, TextMatch)], first: &str, second: &str) -> bool {
    values.iter().any(|(left, right)| left.matches(first) && right.matches(second))
}

/// Several lines of a header count as one, joined by commas (RFC 9110 section 5.3). What looks for a
/// reason to hold back looks at each line, too; what looks for one to let pass takes a beginning or an
/// end only if every line has it.
fn header(
    headers: &HeaderMap,
    name: &HeaderName,
    values: &[TextMatch],
    one_is_enough: bool,
) -> bool {
    let mut lines = headers.get_all(name).iter().map(|line| header::text(line.as_bytes()));
    let Some(first) = lines.next() else { return false };
    let rest: SmallVec<[Cow<'_, str>; 4]> = lines.collect();
    if rest.is_empty() {
        return values.iter().any(|v| *v == TextMatch::Present || v.matches(&first));
    }
    let lines = || std::iter::once(&first).chain(&rest);
    let whole = lines().map(|line| &**line).collect::<Vec<_>>().join(",");
    values.iter().any(|value| match value {
        TextMatch::Present => true,
        TextMatch::Exact(_) if !one_is_enough => value.matches(&whole),
        _ if one_is_enough => value.matches(&whole) || lines().any(|line| value.matches(line)),
        _ => lines().all(|line| value.matches(line)),
    })
}
