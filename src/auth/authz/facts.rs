//! What rules look at.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use crate::auth::jwt::{Verdict, VerifiedToken};

/// Who the peer of a connection is, by its certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Whether its certificate names it at all: by a URI, a DNS name or a subject.
    pub named: bool,
    /// Its names that begin with `spiffe://`; policies can tell no others apart.
    pub ids: Vec<PeerId>,
}

/// A SPIFFE id as policies write it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerId {
    /// All of it but `spiffe://`.
    pub principal: Box<str>,
    /// Its trust domain; nothing when it is no valid id.
    pub trust_domain: Option<Box<str>>,
    /// Its namespace and service account.
    pub workload: Option<(Box<str>, Box<str>)>,
}

/// Facts of a connection, and of a request over it.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Its certificate's names; nothing without one.
    pub peer: Option<&'a Peer>,
    /// The direct peer.
    pub source: IpAddr,
    /// The client by the trusted hops.
    pub remote: IpAddr,
    /// This end of the connection.
    pub local: SocketAddr,
    /// Name in the ClientHello.
    pub server_name: Option<&'a str>,
    /// The request; nothing on a connection that is not HTTP.
    pub http: Option<HttpFacts<'a>>,
}

/// Facts of a request.
#[derive(Clone, Copy, Debug)]
pub struct HttpFacts<'a> {
    /// Host and port as sent.
    pub authority: &'a str,
    /// Its method.
    pub method: &'a str,
    /// `https` or `http`, as the client sees it.
    pub scheme: &'a str,
    /// Its path in every reading, the usual one first.
    pub paths: &'a [std::borrow::Cow<'a, str>],
    /// Which of them is judged.
    pub reading: usize,
    /// Its query, without the question mark.
    pub query: Option<&'a str>,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// What its token says.
    pub verdict: &'a Verdict,
}

impl Facts<'_> {
    /// How many readings the path has.
    pub(super) fn readings(&self) -> usize {
        self.http.as_ref().map_or(1, |http| http.paths.len().max(1))
    }

    /// The same facts in another reading of the path.
    pub(super) fn reading(&self, reading: usize) -> Self {
        Self { http: self.http.map(|http| HttpFacts { reading, ..http }), ..*self }
    }
}

impl<'a> HttpFacts<'a> {
    pub(super) fn path(&self) -> &'a str {
        self.paths.get(self.reading).map_or("", |path| path)
    }

    pub(super) fn token(&self) -> Option<&'a VerifiedToken> {
        match self.verdict {
            Verdict::Verified(token) => Some(token),
            Verdict::Anonymous => None,
        }
    }
}
