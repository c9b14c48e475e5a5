//! HTTP routes of a server block.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use crate::base::id::Origin;
use crate::route::cors::CorsPolicy;
use crate::route::fault::Fault;
use crate::route::headers::HeaderOps;
use crate::route::hosts::HostIndex;
use crate::route::index::RuleIndex;
use crate::route::matcher::{RequestHead, RequestMatch};
use crate::route::retry::RetryPolicy;
use crate::route::rewrite::{PathRewrite, Redirect, TargetTooLong};
use crate::route::share::Share;
use crate::route::weight::Weighted;

use super::cluster::ClusterId;

/// Virtual hosts by name.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    /// The most specific host wins as a whole.
    pub hosts: HostIndex<Arc<VirtualHost>>,
}

/// The routes of one host, in order; the first that matches wins.
#[derive(Clone, Debug)]
pub struct VirtualHost {
    /// The host pattern as text.
    pub name: Box<str>,
    /// `tls.httpsRedirect` of a plaintext server: requests that are not HTTPS get 301. Holds the
    /// server's origin.
    pub https_redirect: Option<Origin>,
    /// Rules in order.
    pub routes: Vec<Arc<Route>>,
    /// Finds the first rule that applies, where there are many.
    pub index: Option<RuleIndex>,
}

impl VirtualHost {
    /// Orders and indexes the rules once they are all there: those that take every request go behind
    /// the others, as Istio has it when several VirtualServices share a host.
    pub fn settle(&mut self) {
        self.routes.sort_by_key(|route| route.condition.is_catch_all());
        let conditions: Vec<_> = self.routes.iter().map(|route| &route.condition).collect();
        self.index = RuleIndex::new(&conditions);
    }

    /// The first rule that applies.
    pub fn find(&self, head: &RequestHead<'_>) -> Option<&Route> {
        let route = match &self.index {
            None => self.routes.iter().find(|route| route.condition.mismatch(head).is_none()),
            Some(index) => {
                let condition = |number: usize| {
                    self.routes.get(number).map(|route: &Arc<Route>| &route.condition)
                };
                index.first(head, condition).and_then(|number| self.routes.get(number))
            }
        };
        route.map(|route| &**route)
    }
}

/// One rule.
#[derive(Debug)]
pub struct Route {
    /// Route name for logs; empty when it has none.
    pub name: Arc<str>,
    /// What its requests are counted as (`statPrefix`); nothing when they are not.
    pub counted: Option<Arc<str>>,
    /// The rule.
    pub origin: Origin,
    /// When it applies.
    pub condition: RequestMatch,
    /// What it does.
    pub action: Action,
}

/// What a rule does.
#[derive(Debug)]
pub enum Action {
    /// To a backend.
    Forward(Forward),
    /// Answered with a `location`.
    Redirect(Redirect, HeaderOps),
    /// Answered with fixed content.
    Respond(DirectResponse),
}

/// Forwarding to one of several destinations.
#[derive(Debug)]
pub struct Forward {
    /// Weighted destinations.
    pub destinations: Weighted<Destination>,
    /// New path.
    pub path: Option<PathRewrite>,
    /// New authority (`rewrite.authority`, or a `host` header operation).
    pub authority: Option<HeaderValue>,
    /// Time for the whole answer, counted from the end of the request; none when nothing.
    pub timeout: Option<Duration>,
    /// When a request is sent again.
    pub retry: Arc<RetryPolicy>,
    /// What is injected.
    pub fault: Option<Box<Fault>>,
    /// Which origins may ask.
    pub cors: Option<Box<CorsPolicy>>,
    /// Who gets a copy.
    pub mirrors: Box<[Mirror]>,
}

/// Who gets a copy of requests.
#[derive(Clone, Copy, Debug)]
pub struct Mirror {
    /// Of how many.
    pub share: Share,
    /// Where it goes.
    pub cluster: ClusterId,
}

impl Forward {
    /// To nobody: what cannot be used refuses (503).
    pub fn nowhere() -> Self {
        Self::to(None)
    }

    /// To a cluster as it came, and tried once.
    pub fn to(cluster: Option<ClusterId>) -> Self {
        Self {
            destinations: Weighted::single(Destination {
                cluster,
                authority: None,
                request_headers: Vec::new(),
                response_headers: Vec::new(),
            }),
            path: None,
            authority: None,
            timeout: None,
            retry: Arc::default(),
            fault: None,
            cors: None,
            mirrors: Box::default(),
        }
    }

    /// Path and query as the rule wants them, from those that would be sent without it.
    pub fn target<'a>(&self, current: &'a str) -> Result<Cow<'a, str>, TargetTooLong> {
        match &self.path {
            None => Ok(Cow::Borrowed(current)),
            Some(rewrite) => rewrite.target(current).map(Cow::Owned),
        }
    }
}

/// One destination.
#[derive(Debug)]
pub struct Destination {
    /// Its cluster; nothing when the service is not known (503, `NC`).
    pub cluster: Option<ClusterId>,
    /// New authority from this destination's own header operations.
    pub authority: Option<HeaderValue>,
    /// Steps over request headers, in order.
    pub request_headers: Vec<HeaderOps>,
    /// Steps over response headers, in order.
    pub response_headers: Vec<HeaderOps>,
}

/// A fixed answer.
#[derive(Debug)]
pub struct DirectResponse {
    /// Its status.
    pub status: StatusCode,
    /// Its body; empty for none.
    pub body: Bytes,
    /// Operations on its headers.
    pub response_headers: HeaderOps,
}
