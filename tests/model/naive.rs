//! What Istio's documentation says of a request, read as plainly as it can be.

use std::net::Ipv4Addr;

use crate::world::{Action, Asked, Match, Rewrite, Rule, Text, World};
use crate::written::host;

/// What becomes of a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) action: &'static str,
    pub(crate) status: Option<u16>,
    pub(crate) host: Option<String>,
    pub(crate) rule: Option<String>,
    pub(crate) location: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) authority: Option<String>,
    pub(crate) clusters: Vec<(String, u32)>,
    /// The client that trusted proxies tell of.
    pub(crate) client: Option<String>,
}

/// A rule with one of its matches; nothing where it has none.
type Candidate<'a> = (&'a Rule, Option<&'a Match>);

pub(crate) fn answer(world: &World, asked: &Asked) -> Answer {
    let client = client(world, asked).map(|address| address.to_string());
    let reject = Answer { action: "reject", status: Some(404), client, ..Answer::default() };
    let Some(pattern) = host_of(world, asked) else { return reject };
    let host = Some(pattern.to_owned());
    let found = candidates(world, pattern)
        .into_iter()
        .find(|(_, one)| one.is_none_or(|one| holds(one, asked, scheme(world, asked))));
    let Some((rule, matched)) = found else { return Answer { host, ..reject } };
    let client = reject.client;
    let base = Answer { host, rule: Some(rule.name.clone()), client, ..Answer::default() };
    match &rule.action {
        Action::Respond(status) => Answer { action: "respond", status: Some(*status), ..base },
        Action::Redirect { code, .. } => Answer {
            action: "redirect",
            status: Some(code.unwrap_or(301)),
            location: Some(location(&rule.action, asked, scheme(world, asked))),
            ..base
        },
        Action::Forward { rewrite, authority, to } => {
            let path = rewritten(rewrite, matched.and_then(|one| one.uri), path(asked));
            let query = asked.query.map(|query| format!("?{query}")).unwrap_or_default();
            let target = path + &query;
            // A query holds no quotation mark (RFC 3986).
            if target.split_once('?').is_some_and(|(_, query)| query.contains('"')) {
                return Answer { action: "reject", status: Some(400), ..base };
            }
            let cluster = |name: &str| format!("outbound|80||{}", host_name(name));
            let shares = match &to[..] {
                [(name, _)] => vec![(cluster(name), 1)],
                several => several
                    .iter()
                    .filter(|(_, weight)| *weight > 0)
                    .map(|(name, weight)| (cluster(name), *weight))
                    .collect(),
            };
            Answer {
                action: "forward",
                path: Some(target),
                authority: Some(authority.unwrap_or(asked.host).to_owned()),
                clusters: shares,
                ..base
            }
        }
    }
}

fn host_name(service: &str) -> String {
    host(service)
}

/// The most specific pattern of all: the exact name, the longest wildcard, then `*`.
fn host_of(world: &World, asked: &Asked) -> Option<&'static str> {
    let name = asked.host.split(':').next().unwrap().to_lowercase();
    let all = || world.services.iter().flat_map(|service| service.hosts.iter().copied());
    let exact = all().find(|pattern| *pattern == name);
    let wild = all().filter(|pattern| {
        pattern.strip_prefix('*').is_some_and(|end| name.len() > end.len() && name.ends_with(end))
    });
    exact.or(wild.max_by_key(|pattern| pattern.len()))
}

/// The rules of a host in the order in which they are tried. What follows a rule that takes everything
/// is out of reach within its VirtualService; of several, those that take everything come last.
fn candidates<'a>(world: &'a World, pattern: &str) -> Vec<Candidate<'a>> {
    let (mut narrow, mut wide) = (Vec::new(), Vec::new());
    for service in world.services.iter().filter(|service| service.hosts.contains(&pattern)) {
        let pairs = service.rules.iter().flat_map(|rule| {
            let matches = rule.matches.iter().map(move |one| (rule, Some(one)));
            let whole = rule.matches.is_empty().then_some((rule, None));
            matches.chain(whole)
        });
        // Another port's matches are not there at all.
        for pair in pairs.filter(|(_, one)| one.is_none_or(|one| one.port.is_none_or(|p| p == 80)))
        {
            if pair.1.is_none_or(takes_everything) {
                wide.push(pair);
                break;
            }
            narrow.push(pair);
        }
    }
    narrow.into_iter().chain(wide).collect()
}

fn takes_everything(one: &Match) -> bool {
    let everywhere = match one.uri {
        None | Some(Text::Prefix("/")) => true,
        Some(Text::Regex(regex)) => regex.pattern == ".*",
        _ => false,
    };
    everywhere
        && one.method.is_none()
        && one.scheme.is_none()
        && one.authority.is_none()
        && one.headers.is_empty()
        && one.without.is_empty()
        && one.query.is_none()
}

/// Whether an address is a trusted proxy's.
fn trusts(world: &World, address: Ipv4Addr) -> bool {
    world.proxies.into_iter().flatten().any(|block| {
        let (base, bits) = block.split_once('/').unwrap();
        let shift = 32 - bits.parse::<u32>().unwrap();
        let base: Ipv4Addr = base.parse().unwrap();
        base.to_bits() >> shift == address.to_bits() >> shift
    })
}

fn is_behind(world: &World, asked: &Asked) -> bool {
    trusts(world, asked.peer.parse().unwrap())
}

/// The values of a header, line by line.
fn lines(asked: &Asked, name: &str) -> Vec<&'static str> {
    let lines = asked.headers.iter().filter(|(key, _)| *key == name);
    lines.map(|(_, value)| *value).collect()
}

/// The first address from the right that is no proxy's, or the leftmost; what is no address ends the search.
fn client(world: &World, asked: &Asked) -> Option<Ipv4Addr> {
    if !is_behind(world, asked) {
        return None;
    }
    let told = lines(asked, "x-forwarded-for").join(",");
    let mut seen = None;
    for element in told.split(',').rev() {
        let element = element.trim();
        let address = element.strip_prefix("::ffff:").unwrap_or(element).parse().ok()?;
        seen = Some(address);
        if !trusts(world, address) {
            return seen;
        }
    }
    seen
}

/// How the client speaks to the first proxy.
fn scheme(world: &World, asked: &Asked) -> &'static str {
    match lines(asked, "x-forwarded-proto")[..] {
        ["https"] if is_behind(world, asked) => "https",
        _ => "http",
    }
}

fn fits(text: Text, value: &str) -> bool {
    match text {
        Text::Exact(exact) => value == exact,
        Text::Prefix(prefix) => value.starts_with(prefix),
        Text::Regex(regex) => (regex.means)(value),
        Text::Present => true,
    }
}

fn path(asked: &Asked) -> String {
    // The only dots among the paths.
    asked.path.replace("/c/..", "").replace("/./", "/")
}

fn holds(one: &Match, asked: &Asked, scheme: &str) -> bool {
    let path = path(asked);
    let uri = one.uri.is_none_or(|text| match (text, one.ignore_case) {
        (Text::Exact(exact), true) => exact.eq_ignore_ascii_case(&path),
        (Text::Prefix(prefix), true) => path.to_lowercase().starts_with(&prefix.to_lowercase()),
        (text, _) => fits(text, &path),
    });
    let header = |(name, text): &(&str, Text)| {
        asked.headers.iter().any(|(key, value)| key == name && fits(*text, value))
    };
    // A missing header is an empty one to what must not hold, unless any value counts.
    let header_or_empty = |pair: &(&str, Text)| {
        let there = asked.headers.iter().any(|(key, _)| *key == pair.0);
        header(pair) || (!there && !matches!(pair.1, Text::Present) && fits(pair.1, ""))
    };
    let query = one.query.is_none_or(|(name, text)| {
        let mut pairs = asked.query.into_iter().flat_map(|query| query.split('&'));
        let first = pairs.find(|pair| pair.split('=').next() == Some(name));
        first.is_some_and(|pair| fits(text, pair.split_once('=').map_or("", |(_, value)| value)))
    });
    uri && query
        && one.method.is_none_or(|text| fits(text, asked.method))
        && one.scheme.is_none_or(|text| fits(text, scheme))
        && one.authority.is_none_or(|text| fits(text, asked.host))
        && one.headers.iter().all(header)
        && !one.without.iter().any(header_or_empty)
}

fn rewritten(rewrite: &Rewrite, uri: Option<Text>, path: String) -> String {
    match rewrite {
        Rewrite::Nothing => path,
        // What stands in no path is percent-encoded in what comes out of an expression.
        Rewrite::Letter => path.replace('a', "x-").replace('"', "%22"),
        Rewrite::Group => {
            let mut out = String::new();
            let mut rest = path.chars();
            while let Some(c) = rest.next() {
                match (c, rest.clone().next()) {
                    ('b', Some(next)) => {
                        out.extend([next, 'b']);
                        rest.next();
                    }
                    _ => out.push(c),
                }
            }
            out.replace('"', "%22")
        }
        Rewrite::Uri(new) => match uri {
            None => format!("{new}{}", &path[1..]),
            Some(Text::Prefix(prefix)) => format!("{new}{}", &path[prefix.len()..]),
            Some(_) => (*new).to_owned(),
        },
    }
}

fn location(action: &Action, asked: &Asked, own: &str) -> String {
    let Action::Redirect { uri, authority, scheme, port, .. } = action else {
        panic!("{action:?}")
    };
    let scheme = scheme.unwrap_or(own);
    let mut host = authority.unwrap_or(asked.host).to_owned();
    if authority.is_none() && scheme != own {
        // The old scheme's own port says nothing under the new one.
        let port = if own == "https" { ":443" } else { ":80" };
        host = host.strip_suffix(port).unwrap_or(&host).to_owned();
    }
    if let Some(port) = port {
        host = host.split(':').next().unwrap().to_owned();
        if !matches!((scheme, port), ("http", 80) | ("https", 443)) {
            host = format!("{host}:{port}");
        }
    }
    let path = uri.map_or_else(|| path(asked), str::to_owned);
    let query = asked.query.filter(|_| !path.contains('?'));
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{scheme}://{host}{path}{query}")
}
