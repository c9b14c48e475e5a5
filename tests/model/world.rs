//! Random configurations and requests, as plain values.

use fastrand::Rng;

/// Some VirtualServices of one Gateway.
#[derive(Debug)]
pub(crate) struct World {
    /// The proxies before it, where its Gateway lists them.
    pub(crate) proxies: Option<&'static [&'static str]>,
    pub(crate) services: Vec<VirtualService>,
}

#[derive(Debug)]
pub(crate) struct VirtualService {
    pub(crate) hosts: Vec<&'static str>,
    pub(crate) rules: Vec<Rule>,
}

#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) matches: Vec<Match>,
    pub(crate) action: Action,
}

/// A condition on a text.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Text {
    Exact(&'static str),
    Prefix(&'static str),
    Regex(Regex),
    Present,
}

/// An expression, and what it means.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Regex {
    pub(crate) pattern: &'static str,
    pub(crate) means: fn(&str) -> bool,
}

#[derive(Debug, Default)]
pub(crate) struct Match {
    pub(crate) uri: Option<Text>,
    pub(crate) ignore_case: bool,
    pub(crate) method: Option<Text>,
    pub(crate) scheme: Option<Text>,
    pub(crate) authority: Option<Text>,
    pub(crate) headers: Vec<(&'static str, Text)>,
    pub(crate) without: Vec<(&'static str, Text)>,
    pub(crate) query: Option<(&'static str, Text)>,
    pub(crate) port: Option<u16>,
}

#[derive(Debug)]
pub(crate) enum Action {
    Forward {
        rewrite: Rewrite,
        authority: Option<&'static str>,
        to: Vec<(&'static str, u32)>,
    },
    Redirect {
        uri: Option<&'static str>,
        authority: Option<&'static str>,
        scheme: Option<&'static str>,
        port: Option<u16>,
        code: Option<u16>,
    },
    Respond(u16),
}

#[derive(Debug)]
pub(crate) enum Rewrite {
    Nothing,
    Uri(&'static str),
    /// Every `a` becomes `x-`.
    Letter,
    /// Every `b` with what follows it changes places: `b(.)` to `\1b`.
    Group,
}

/// A request.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Who connects.
    pub(crate) peer: &'static str,
    pub(crate) host: &'static str,
    pub(crate) path: &'static str,
    pub(crate) query: Option<&'static str>,
    pub(crate) method: &'static str,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
}

/// Hosts of one VirtualService; none covers another of the same list.
const PATTERNS: [&[&str]; 6] = [
    &["a.com"],
    &["a.com", "b.com"],
    &["x.a.com", "*.y.a.com"],
    &["*.a.com", "b.com"],
    &["*.y.a.com", "a.com"],
    &["*"],
];
const HOSTS: [&str; 10] = [
    "a.com",
    "A.com",
    "b.com",
    "a.com:80",
    "b.com:8080",
    "x.a.com",
    "y.a.com",
    "x.y.a.com",
    "c.com",
    "xa.com",
];
const PATHS: [&str; 11] =
    ["/", "/a", "/a/b", "/ab", "/A/b", "/b/a/", "/c/../a", "/a%2Fb", "/a/./b", "/bba", "/a/\"b"];
/// Proxies that a Gateway may list.
pub(crate) const PROXIES: [Option<&[&str]>; 5] = [
    None,
    Some(&[]),
    Some(&["127.0.0.0/8", "10.0.0.0/24"]),
    Some(&["192.0.2.7/32"]),
    Some(&["10.0.0.0/8", "127.0.0.1/32", "192.0.2.0/24"]),
];
const PEERS: [&str; 4] = ["127.0.0.1", "10.0.0.1", "192.0.2.7", "203.0.113.1"];
/// Lines of `x-forwarded-for`.
const FORWARDED: [&[&str]; 9] = [
    &["10.9.1.1"],
    &["6.6.6.6, 203.0.113.9"],
    &["203.0.113.9,10.0.0.7"],
    &["10.9.1.1", "192.0.2.7"],
    &["nonsense, 10.9.1.2 ,10.0.0.7, 192.0.2.9"],
    &["203.0.113.9, unknown"],
    &["10.0.0.8, 10.0.0.7"],
    &["::ffff:203.0.113.9"],
    &[""],
];
pub(crate) const SERVICES: [&str; 3] = ["red", "green", "blue"];

const ANYTHING: Regex = Regex { pattern: ".*", means: |_| true };
const EXPRESSIONS: [Regex; 4] = [
    Regex { pattern: "/a.*", means: |text| text.starts_with("/a") },
    Regex { pattern: "/(a|ab)", means: |text| text == "/a" || text == "/ab" },
    Regex {
        pattern: "/[a-z/]+",
        means: |text| {
            text.len() > 1
                && text.starts_with('/')
                && text[1..].chars().all(|c| c == '/' || c.is_ascii_lowercase())
        },
    },
    ANYTHING,
];

pub(crate) fn pick<T: Copy>(rng: &mut Rng, list: &[T]) -> T {
    list[rng.usize(..list.len())]
}

/// One time in `n`.
pub(crate) fn rarely(rng: &mut Rng, n: usize) -> bool {
    rng.usize(..n) == 0
}

fn text(rng: &mut Rng, exact: &[&'static str], prefixes: &[&'static str], regex: Regex) -> Text {
    match rng.u8(..3) {
        0 => Text::Exact(pick(rng, exact)),
        1 => Text::Prefix(pick(rng, prefixes)),
        _ => Text::Regex(regex),
    }
}

/// A condition on a header or a parameter.
fn value(rng: &mut Rng) -> Text {
    if rarely(rng, 4) {
        return Text::Present;
    }
    let regex = Regex { pattern: "v.?", means: |text| text.starts_with('v') && text.len() <= 2 };
    text(rng, &["v", "", "value"], &["v", "va"], regex)
}

fn condition(rng: &mut Rng) -> Match {
    let mut out = Match::default();
    if rng.u8(..8) > 0 {
        let regex = pick(rng, &EXPRESSIONS);
        let uri =
            text(rng, &["/", "/a", "/a/b", "/A/b", "/ab"], &["/", "/a", "/a/", "/b", "/A"], regex);
        out.ignore_case = rarely(rng, 4);
        out.uri = Some(uri);
    }
    if rarely(rng, 5) {
        let regex = Regex { pattern: "P.*", means: |text| text.starts_with('P') };
        out.method = Some(text(rng, &["GET", "POST"], &["P", "PU"], regex));
    }
    if rarely(rng, 8) {
        let regex = Regex { pattern: "https?", means: |text| text == "http" || text == "https" };
        out.scheme = Some(text(rng, &["http", "https"], &["http", "https"], regex));
    }
    if rarely(rng, 8) {
        let regex = Regex { pattern: ".*[.]com(:80)?", means: |text| !text.ends_with("8080") };
        out.authority = Some(text(rng, &["a.com", "a.com:80"], &["a.", "x.", "A"], regex));
    }
    for (rare, list) in [(4, &mut out.headers), (6, &mut out.without)] {
        if rarely(rng, rare) {
            list.push((pick(rng, &["x-a", "x-b"]), value(rng)));
        }
    }
    if rarely(rng, 5) {
        out.query = Some((pick(rng, &["q", "p"]), value(rng)));
    }
    if rarely(rng, 8) {
        out.port = Some(pick(rng, &[80, 81]));
    }
    out
}

fn action(rng: &mut Rng, named: bool) -> Action {
    match rng.u8(..6) {
        0 => Action::Respond(rng.u16(200..500)),
        1 => Action::Redirect {
            uri: (!rarely(rng, 3)).then(|| pick(rng, &["/moved", "/moved?x=1", "/"])),
            authority: rarely(rng, 2).then(|| pick(rng, &["n.com", "n.com:90"])),
            scheme: Some(pick(rng, &["http", "https"])),
            port: rarely(rng, 4).then(|| pick(rng, &[80, 443, 8443])),
            code: rarely(rng, 2).then(|| pick(rng, &[301, 302, 303, 307, 308])),
        },
        _ => {
            let rewrite = match rng.u8(..5) {
                0 => Rewrite::Uri(pick(rng, &["/", "/new", "/new/", "/new?x="])),
                1 => Rewrite::Letter,
                2 if named => Rewrite::Group,
                _ => Rewrite::Nothing,
            };
            let mut to = vec![(pick(rng, &SERVICES), rng.u32(..3))];
            if rarely(rng, 3) {
                to = vec![("red", rng.u32(..3)), ("green", rng.u32(1..5)), ("blue", rng.u32(..2))];
            }
            let authority = rarely(rng, 4).then_some("upstream.com");
            Action::Forward { rewrite, authority, to }
        }
    }
}

impl World {
    pub(crate) fn random(rng: &mut Rng) -> Self {
        let services = (0..rng.usize(1..4)).map(|service| {
            let hosts = pick(rng, &PATTERNS).to_vec();
            // Enough rules, now and then, that they are indexed.
            let most = if rarely(rng, 4) { 40 } else { 6 };
            let rules = (0..rng.usize(1..=most)).map(|rule| {
                let matches = (0..rng.usize(..3)).map(|_| condition(rng)).collect();
                Rule { name: format!("s{service}r{rule}"), matches, action: action(rng, true) }
            });
            let rules = rules.collect();
            VirtualService { hosts, rules }
        });
        let services = services.collect();
        Self { proxies: pick(rng, &PROXIES), services }
    }
}

impl Asked {
    pub(crate) fn random(rng: &mut Rng) -> Self {
        let values = ["v", "", "value", "vx", "w"];
        let mut headers = Vec::new();
        for name in ["x-a", "x-b"] {
            for _ in 0..rng.usize(..3) {
                headers.push((name, pick(rng, &values)));
            }
        }
        let forwarded = if rng.bool() { pick(rng, &FORWARDED) } else { &[] };
        headers.extend(forwarded.iter().map(|line| ("x-forwarded-for", *line)));
        if rarely(rng, 3) {
            let lines: &[&str] = pick(rng, &[&["https"], &["http"], &["https", "https"], &["wss"]]);
            headers.extend(lines.iter().map(|line| ("x-forwarded-proto", *line)));
        }
        let queries =
            [None, Some("q=v"), Some("q=w&q=v"), Some("q"), Some("p=value&q=vx"), Some("pq=v")];
        Self {
            peer: pick(rng, &PEERS),
            host: pick(rng, &HOSTS),
            path: pick(rng, &PATHS),
            query: pick(rng, &queries),
            method: pick(rng, &["GET", "POST", "PUT"]),
            headers,
        }
    }
}
