//! The admin port: what the gateway runs with, its log level, its drain.
//!
//! **Invariant:** no web page can use this port through an operator's browser: requests that carry an
//! `Origin`, or name a host that is neither an address nor `localhost`, are refused.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use http::header::{HOST, ORIGIN};
use http::{Method, StatusCode, request};
use http_body_util::Full;
use serde_json::Value;

use super::answer::{self, Answer};
use super::page::{Desk, Page};
use super::server::{Handler, Reply, at_once};
use crate::base::host::without_port;
use crate::base::query;
use crate::telemetry::logs::LogLevel;

/// Answers a query, or says what is wrong with it.
pub type Answerer = Box<dyn Fn(&str) -> Result<Value, String> + Send + Sync>;

/// What the admin port shows and does; none of the pages may hold a secret.
pub struct AdminHooks {
    /// The live snapshot.
    pub config_dump: Page,
    /// Diagnostics of the configuration read last.
    pub diagnostics: Page,
    /// Certificates in use.
    pub certs: Page,
    /// State of each key set.
    pub jwks: Page,
    /// What would happen to the request that a query describes, or what is wrong with the query.
    pub explain: Answerer,
    /// Begins a drain without ending the process.
    pub drain: Box<dyn Fn() + Send + Sync>,
    /// Level of the program's log.
    pub level: LogLevel,
}

impl fmt::Debug for AdminHooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminHooks").finish_non_exhaustive()
    }
}

const INDEX: &str = "\
GET  /config_dump     the live snapshot
GET  /diagnostics     what is wrong with the configuration read last
GET  /certs           certificates in use
GET  /jwks            key sets of token issuers: state, keys, last error, next fetch
GET  /explain?url=    what would happen to a request; also method=, protocol=, header=, sni=, source-ip=,
                     token=, client-cert=PEM; as in forms, + is a space and %2B a plus
GET  /logging         level of the program's log
POST /logging?level=  changes it: info, or info,portcullis::proxy=debug
POST /drain           drains without ending the process
";

/// Answers of the admin port.
pub fn handler(hooks: AdminHooks) -> Handler {
    let desk = Desk::default();
    Arc::new(move |head| route(&hooks, &desk, head))
}

fn route(hooks: &AdminHooks, desk: &Desk, head: &request::Parts) -> Reply {
    match page(hooks, head.uri.path()) {
        Some(page) if is_local(head) && head.method != Method::POST => desk.make(page),
        page => at_once(answer(hooks, page.is_some(), head)),
    }
}

fn answer(hooks: &AdminHooks, is_page: bool, head: &request::Parts) -> Answer {
    if !is_local(head) {
        let why = "name this port by its address or as localhost, and send no Origin\n";
        return answer::text(StatusCode::FORBIDDEN, why);
    }
    let writes = head.method == Method::POST;
    match head.uri.path() {
        "/drain" if writes => {
            (hooks.drain)();
            answer::text(StatusCode::OK, "draining\n")
        }
        "/drain" => answer::wrong_method("POST"),
        "/logging" if writes => set_level(&hooks.level, head.uri.query().unwrap_or_default()),
        "/logging" => show_level(&hooks.level),
        path if writes && (is_page || matches!(path, "/" | "/explain")) => {
            answer::wrong_method("GET, HEAD")
        }
        "/explain" => match (hooks.explain)(head.uri.query().unwrap_or_default()) {
            Ok(told) => json(&told),
            Err(why) => answer::text(StatusCode::BAD_REQUEST, format!("{why}\n")),
        },
        "/" => answer::text(StatusCode::OK, INDEX),
        _ => answer::text(StatusCode::NOT_FOUND, "the paths there are: GET /\n"),
    }
}

fn page<'a>(hooks: &'a AdminHooks, path: &str) -> Option<&'a Page> {
    match path {
        "/config_dump" => Some(&hooks.config_dump),
        "/diagnostics" => Some(&hooks.diagnostics),
        "/certs" => Some(&hooks.certs),
        "/jwks" => Some(&hooks.jwks),
        _ => None,
    }
}

fn json(value: &Value) -> Answer {
    let text = format!("{value:#}\n");
    answer::body(StatusCode::OK, "application/json", Full::new(text.into()))
}

fn show_level(level: &LogLevel) -> Answer {
    match level.current() {
        Ok(level) => answer::text(StatusCode::OK, format!("{level}\n")),
        Err(error) => answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn set_level(level: &LogLevel, query: &str) -> Answer {
    let level_of = |(name, value)| (name == "level").then_some(value);
    let Some(wanted) = query::pairs(query).find_map(level_of) else {
        return answer::text(StatusCode::BAD_REQUEST, "say which: POST /logging?level=info\n");
    };
    match level.set(&wanted) {
        Ok(()) => {
            tracing::info!(level = %wanted, "log level changed");
            show_level(level)
        }
        Err(error) => answer::text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

/// Whether the request can only have come from a program, or a person typing the address.
fn is_local(head: &request::Parts) -> bool {
    let mut hosts = head.headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    !head.headers.contains_key(ORIGIN)
        && host.to_str().is_ok_and(is_address)
        && head.uri.authority().is_none_or(|authority| is_address(authority.as_str()))
}

fn is_address(authority: &str) -> bool {
    let host = without_port(authority);
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok()
        || bracketed.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::super::server::tests::exchange;
    use super::*;
    use crate::telemetry::logs;

    /// Sends one request; gives the answer's status and body, and how often the drain was begun.
    fn ask(method: &str, path: &str, headers: &str) -> (u16, String, usize) {
        let drains = Arc::new(AtomicUsize::new(0));
        let seen = drains.clone();
        let (_layer, level) = logs::reloadable("info").unwrap();
        let hooks = AdminHooks {
            config_dump: Arc::new(|| json!({"generation": 3})),
            diagnostics: Arc::new(|| json!([])),
            certs: Arc::new(|| json!([])),
            jwks: Arc::new(|| json!([{"keys": 1}])),
            explain: Box::new(|query| match query {
                "url=x" => Ok(json!({"outcome": "x"})),
                _ => Err("write url=".into()),
            }),
            drain: Box::new(move || {
                seen.fetch_add(1, Ordering::Relaxed);
            }),
            level,
        };
        let answer =
            exchange(handler(hooks), &format!("{method} {path} HTTP/1.1\r\n{headers}\r\n"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned(), drains.load(Ordering::Relaxed))
    }

    fn check(request: (&str, &str), status: u16, body: &str) {
        let (method, path) = request;
        let (answered, text, _) = ask(method, path, "host: 127.0.0.1:15000\r\n");
        assert_eq!(answered, status, "{method} {path}");
        assert!(text.contains(body), "{method} {path}: {text}");
    }

    #[test]
    fn pages_are_served() {
        check(("GET", "/"), 200, "GET  /config_dump");
        check(("GET", "/config_dump"), 200, "\"generation\": 3");
        check(("GET", "/diagnostics"), 200, "[]");
        check(("GET", "/certs"), 200, "[]");
        check(("GET", "/jwks"), 200, "\"keys\": 1");
        check(("GET", "/explain?url=x"), 200, "\"outcome\": \"x\"");
        check(("GET", "/explain"), 400, "url=");
        check(("GET", "/nothing"), 404, "");
        check(("POST", "/config_dump"), 405, "GET, HEAD");
    }

    #[test]
    fn level_is_shown_and_changed() {
        check(("GET", "/logging"), 200, "info\n");
        check(("POST", "/logging?level=debug"), 200, "debug\n");
        check(("POST", "/logging?level=warn%2Ca=trace"), 200, "a=trace,warn\n");
        check(("GET", "/logging?level=debug"), 200, "info\n");
        check(("POST", "/logging?level=loud"), 400, "\"loud\" is not a log level");
        check(("POST", "/logging"), 400, "level=");
    }

    #[test]
    fn drain_needs_a_post() {
        assert_eq!(ask("POST", "/drain", "host: localhost:15000\r\n").2, 1);
        let (status, _, drains) = ask("GET", "/drain", "host: localhost:15000\r\n");
        assert_eq!((status, drains), (405, 0));
    }

    #[test]
    fn web_pages_are_refused() {
        for headers in [
            "host: evil.example\r\n",
            "host: 127.0.0.1.evil.example\r\n",
            "host: localhost\r\norigin: null\r\n",
            "host: localhost\r\norigin: http://localhost\r\n",
            "host: localhost\r\nhost: evil.example\r\n",
            "",
        ] {
            let (status, _, drains) = ask("POST", "/drain", headers);
            assert_eq!((status, drains), (403, 0), "{headers}");
        }
        assert_eq!(ask("POST", "http://evil.example/drain", "host: localhost\r\n").0, 403);
        for headers in ["host: [::1]:15000\r\n", "host: LOCALHOST\r\n", "host: 10.1.2.3\r\n"] {
            assert_eq!(ask("GET", "/", headers).0, 200, "{headers}");
        }
    }
}
