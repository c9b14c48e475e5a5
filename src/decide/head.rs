//! From a request's head to what deciding looks at, or to why it is refused.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, Method, Request, Uri, Version};

use super::reject::{BadRequest, Reject};
use super::sanitize::Noticed;
use super::trusted::{Sender, told};
use crate::base::host::{is_name, without_port};
use crate::base::limit;
use crate::route::matcher::RequestHead;
use crate::route::path::{Normalization, normalize};
use crate::snapshot::forwarded::TrustedProxies;

/// What was read from a request's head.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// Host and port as sent.
    pub authority: String,
    /// `https` or `http`, as the client sees it.
    pub scheme: &'static str,
    /// Path in normal form, without query.
    pub path: String,
    /// A WebSocket upgrade is asked for.
    pub upgrade: bool,
    /// The trusted client address, when it is not the peer's.
    pub trusted: Option<HeaderValue>,
    /// The same as an address.
    pub trusted_ip: Option<IpAddr>,
}

impl Head {
    /// Judges a head. Until it is told [who is believed](Head::believe), the peer is the client; until it is
    /// told [how paths are read](Head::read_path), there is none.
    pub fn read<B>(request: &Request<B>) -> Result<Self, Reject> {
        if request.version() < Version::HTTP_11 {
            return Err(Reject::Http10);
        }
        if *request.method() == Method::CONNECT {
            return Err(Reject::UpgradeRefused);
        }
        let headers = request.headers();
        let most = match request.version() {
            Version::HTTP_11 => limit::HTTP1_HEADER_FIELDS,
            _ => limit::HTTP2_HEADER_FIELDS,
        };
        if headers.len() > most {
            return Err(Reject::TooManyHeaders);
        }
        let noticed = Noticed::of(headers);
        if noticed.has(Noticed::CONNECTION) {
            check_nominations(headers)?;
        }
        if noticed.has(Noticed::TRANSFER_ENCODING) && has_other_coding(headers) {
            return Err(Reject::BadRequest(BadRequest::TransferEncoding));
        }
        if noticed.has(Noticed::CONTENT_LENGTH) {
            check_length(headers)?;
        }
        let authority = authority(request)?;
        if !request.uri().path().starts_with('/') {
            return Err(Reject::BadRequest(BadRequest::NotOriginForm));
        }
        let upgrade = noticed.has(Noticed::UPGRADE) && upgrade(headers)?;
        Ok(Self { authority, upgrade, ..Self::default() })
    }

    /// Reads the path as its host's server does.
    pub fn read_path<B>(&mut self, request: &Request<B>, how: Normalization) -> Result<(), Reject> {
        let path = normalize(request.uri().path(), how);
        self.path = path.ok_or(Reject::BadRequest(BadRequest::InvalidPath))?.into_owned();
        Ok(())
    }

    /// Takes over what a sender says of the client, as far as the server believes it.
    pub fn believe(&mut self, proxies: &TrustedProxies, sender: Sender, headers: &HeaderMap) {
        let told = told(proxies, sender, headers);
        self.scheme = told.scheme.unwrap_or(if sender.tls { "https" } else { "http" });
        self.trusted_ip = told.client;
        self.trusted = told.client.and_then(|ip| HeaderValue::try_from(ip.to_string()).ok());
    }

    /// The client's end, as far as it is known.
    pub fn client(&self, peer: SocketAddr) -> SocketAddr {
        self.trusted_ip.map_or(peer, |ip| SocketAddr::new(ip, 0))
    }

    /// Path and query for the backend before any rewrite, when they differ from what was sent; `cut` is
    /// what is left of them where a token was taken out.
    pub fn target(&self, sent: &Uri, cut: Option<String>) -> Option<String> {
        if cut.is_some() || self.path == sent.path() {
            return cut;
        }
        Some(self.path_and_query(sent).into_owned())
    }

    /// Path in normal form, with the query as sent.
    pub fn path_and_query(&self, sent: &Uri) -> Cow<'_, str> {
        match sent.query() {
            Some(query) => Cow::Owned(format!("{}?{query}", self.path)),
            None => Cow::Borrowed(&self.path),
        }
    }

    /// What routing looks at.
    pub fn for_routing<'a>(
        &'a self,
        method: &'a Method,
        headers: &'a HeaderMap,
        query: Option<&'a str>,
    ) -> RequestHead<'a> {
        RequestHead {
            method,
            scheme: self.scheme,
            authority: &self.authority,
            path: &self.path,
            query,
            headers,
            token: None,
        }
    }
}

fn authority<B>(request: &Request<B>) -> Result<String, Reject> {
    let authority = if let Some(authority) = request.uri().authority() {
        authority.as_str()
    } else {
        let mut lines = request.headers().get_all(HOST).iter();
        let host = lines.next().ok_or(Reject::BadRequest(BadRequest::MissingHost))?;
        if lines.next().is_some() {
            return Err(Reject::BadRequest(BadRequest::InvalidHost));
        }
        host.to_str().map_err(|_| Reject::BadRequest(BadRequest::InvalidHost))?
    };
    let host = without_port(authority);
    if !(is_name(host.trim_end_matches('.')) || authority.is_empty()) {
        return Err(Reject::BadRequest(BadRequest::InvalidHost));
    }
    Ok(authority.to_owned())
}

/// Too many nominations, or one that would hide what later parts trust, is an attack.
fn check_nominations(headers: &HeaderMap) -> Result<(), Reject> {
    let mut names = headers.get_all(CONNECTION).iter().flat_map(nominated);
    let bad = |name: &[u8]| {
        name.eq_ignore_ascii_case(b"x-forwarded-for")
            || name.eq_ignore_ascii_case(b"x-forwarded-proto")
            || name.eq_ignore_ascii_case(b"host")
    };
    let mut count = 0;
    let refused = names.any(|name| {
        count += 1;
        count >= limit::CONNECTION_NOMINATIONS || bad(name)
    });
    if refused { Err(Reject::BadRequest(BadRequest::ConnectionHeader)) } else { Ok(()) }
}

/// Whether a body has a coding beside `chunked`. It would be passed on as if it were plain: the coding is
/// between two hops (RFC 9112 section 6.1).
pub fn has_other_coding(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
}

/// A length said twice may be read as either (RFC 9110 section 8.6).
fn check_length(headers: &HeaderMap) -> Result<(), Reject> {
    let several = headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some();
    if several { Err(Reject::BadRequest(BadRequest::ContentLength)) } else { Ok(()) }
}

/// The names that a `Connection` header nominates, or the protocols in an `Upgrade` header.
pub fn nominated(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty())
}

/// Whether a WebSocket is asked for; `h2c` is ignored, any other upgrade refused.
fn upgrade(headers: &HeaderMap) -> Result<bool, Reject> {
    let mut wanted = headers.get_all(UPGRADE).iter().flat_map(nominated).peekable();
    if wanted.peek().is_none() {
        return Ok(false);
    }
    let asked = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(nominated)
        .any(|name| name.eq_ignore_ascii_case(b"upgrade"));
    if !asked {
        return Ok(false);
    }
    let mut other = false;
    for protocol in wanted.filter(|name| !name.eq_ignore_ascii_case(b"h2c")) {
        if protocol.eq_ignore_ascii_case(b"websocket") {
            return Ok(true);
        }
        other = true;
    }
    if other { Err(Reject::UpgradeRefused) } else { Ok(false) }
}
