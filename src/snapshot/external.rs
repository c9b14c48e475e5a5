//! External authorization: who is asked about which requests and connections (`MeshConfig.extensionProviders`).

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};

use super::cluster::ClusterId;
use crate::auth::authz::{PolicySet, TextMatch};

/// The CUSTOM policies of one provider.
#[derive(Clone, Debug)]
pub struct External {
    /// The policies; a request or connection that a rule of theirs matches is asked about.
    pub policies: PolicySet,
    /// The provider; nothing when it is missing or broken, and what is selected is refused.
    pub provider: Option<Arc<Provider>>,
}

impl External {
    /// Who is asked about a connection whose bytes are passed on; by HTTP nothing can be said of it.
    pub fn provider_of_streams(&self) -> Option<&Provider> {
        self.provider.as_deref().filter(|one| matches!(one.protocol, ProviderProtocol::Grpc))
    }
}

/// A service that is asked about requests and connections.
#[derive(Clone, Debug)]
pub struct Provider {
    /// `extensionProviders[].name`.
    pub name: Arc<str>,
    /// Its service.
    pub cluster: ClusterId,
    /// `:authority` of a check by gRPC: the cluster's name with `_.` for `|`, as Istio has it.
    pub authority: HeaderValue,
    /// Longest wait for its answer.
    pub timeout: Duration,
    /// Whether a request passes when the provider fails.
    pub fail_open: bool,
    /// What a client is told when the provider fails.
    pub status_on_error: StatusCode,
    /// What it is told of bodies; nothing when it is told nothing.
    pub body: Option<BodyInCheck>,
    /// How it is asked.
    pub protocol: ProviderProtocol,
}

/// How much of a request's body a provider is told (`includeRequestBodyInCheck`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyInCheck {
    /// Most bytes.
    pub most_bytes: usize,
    /// Whether the beginning of a longer body will do; else a longer one gets 413.
    pub partial: bool,
    /// Whether gRPC has it as bytes.
    pub as_bytes: bool,
}

/// How a provider is asked.
#[derive(Clone, Debug)]
pub enum ProviderProtocol {
    /// `envoyExtAuthzGrpc`.
    Grpc,
    /// `envoyExtAuthzHttp`.
    Http(Box<HttpCheck>),
}

/// What a check by HTTP has, and what of its answer counts. Names are in lower case, with a star at one
/// end.
#[derive(Clone, Debug, Default)]
pub struct HttpCheck {
    /// Put before the path.
    pub path_prefix: Box<str>,
    /// Headers of the request that are told, beside `authorization`.
    pub request_headers: Vec<TextMatch>,
    /// Headers that are set.
    pub added_headers: Vec<(HeaderName, HeaderValue)>,
    /// Headers of an allowing answer that the request gets.
    pub upstream_on_allow: Vec<TextMatch>,
    /// Headers of an allowing answer that the client gets.
    pub downstream_on_allow: Vec<TextMatch>,
    /// Headers of a denying answer that the client gets; all when there are none.
    pub downstream_on_deny: Vec<TextMatch>,
}
