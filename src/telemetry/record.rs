//! What is remembered of one request, or one TCP stream, until its end.
//!
//! **Invariant:** a record is consumed once, by [`RequestRecord::finish`]; with the access log off it
//! holds no text of the request.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Version};
use tokio::time::Instant;

use super::destination::{Destination, Protocol, RequestSample};
use super::worker::WorkerTelemetry;
use crate::base::grpc;
use crate::base::id::Origin;

/// One request or TCP stream.
#[derive(Debug)]
pub struct RequestRecord {
    /// When its first byte came.
    pub start: Instant,
    /// HTTP, gRPC or TCP.
    pub protocol: Protocol,
    /// Where it went; nothing when nothing matched.
    pub destination: Option<Rc<Destination>>,
    /// What its route is counted as (`statPrefix`); nothing when it is not.
    pub route: Option<Arc<str>>,
    /// Response code; 0 when there was none.
    pub code: u16,
    /// `grpc-status` of a gRPC answer.
    pub grpc_status: Option<u16>,
    /// Response flags (`UF,URX`), `-` for none.
    pub flags: &'static str,
    /// Reason code of an answer made here.
    pub reason: Option<&'static str>,
    /// Response code details (`via_upstream`); empty for none.
    pub details: Cow<'static, str>,
    /// Body bytes received from the client.
    pub bytes_received: u64,
    /// Body bytes sent to the client.
    pub bytes_sent: u64,
    /// Bytes of the request's head.
    pub request_head_bytes: u64,
    /// Bytes of the response's head.
    pub response_head_bytes: u64,
    /// What only the access log needs; nothing when it is off.
    pub log: Option<Box<LogFields>>,
}

/// Fields of one access log line that metrics do not need. What is missing is shown as `-` or null.
#[derive(Debug, Default)]
pub struct LogFields {
    /// When the first byte came, by the wall clock.
    pub start_time: Option<SystemTime>,
    /// `:method`.
    pub method: Option<Method>,
    /// `:path` as the client sent it, before any rewrite.
    pub path: Option<PathAndQuery>,
    /// HTTP version of the request.
    pub version: Option<Version>,
    /// Connection termination details.
    pub connection_termination: Option<&'static str>,
    /// Upstream transport failure reason.
    pub upstream_transport_failure: Option<Box<str>>,
    /// Time the backend took to answer, in milliseconds.
    pub upstream_service_milliseconds: Option<u64>,
    /// `x-forwarded-for` as sent to the backend.
    pub forwarded_for: Option<HeaderValue>,
    /// `user-agent`.
    pub user_agent: Option<HeaderValue>,
    /// `x-request-id`.
    pub request_id: Option<HeaderValue>,
    /// `:authority` or `host`.
    pub authority: Option<HeaderValue>,
    /// Endpoint that served it.
    pub upstream_host: Option<SocketAddr>,
    /// Cluster, `outbound|80||cart.shop.svc.cluster.local`.
    pub upstream_cluster: Option<Arc<str>>,
    /// This end of the connection to the endpoint.
    pub upstream_local: Option<SocketAddr>,
    /// Address the client connected to.
    pub downstream_local: Option<SocketAddr>,
    /// Address of the client.
    pub downstream_remote: Option<SocketAddr>,
    /// Name in the ClientHello.
    pub server_name: Option<Arc<str>>,
    /// Name of the route.
    pub route_name: Option<Arc<str>>,
    /// Resource that decided the outcome.
    pub resource: Option<Origin>,
    /// What policies say that are not enforced.
    pub shadow: Vec<Shadow>,
}

/// What policies that are not enforced say.
#[derive(Debug)]
pub struct Shadow {
    /// `audit`; or `deny` and `allow` for dry runs.
    pub action: &'static str,
    /// `matched`, `allowed` or `denied`.
    pub result: &'static str,
    /// The rule.
    pub by: Option<Origin>,
}

impl fmt::Display for Shadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.action, self.result)?;
        self.by.iter().try_for_each(|origin| write!(f, " {origin}"))
    }
}

impl RequestRecord {
    /// Opens a record; `log` is [`super::WorkerLog::fields`].
    pub fn new(start: Instant, protocol: Protocol, log: Option<Box<LogFields>>) -> Self {
        Self {
            start,
            protocol,
            destination: None,
            route: None,
            code: 0,
            grpc_status: None,
            flags: "-",
            reason: None,
            details: Cow::Borrowed(""),
            bytes_received: 0,
            bytes_sent: 0,
            request_head_bytes: 0,
            response_head_bytes: 0,
            log,
        }
    }

    /// Notes why it was refused or ended, and by what.
    pub fn rejected(&mut self, details: Cow<'static, str>, origin: Option<&Origin>) {
        self.details = details;
        if let (Some(log), Some(origin)) = (&mut self.log, origin) {
            log.resource = Some(origin.clone());
        }
    }

    /// Counts and notes what a policy says that is not enforced.
    pub fn shadow(
        &mut self,
        worker: &WorkerTelemetry,
        (action, result): (&'static str, &'static str),
        by: Option<&Origin>,
    ) {
        worker.metrics.shadow(action, result);
        if let Some(log) = &mut self.log {
            log.shadow.push(Shadow { action, result, by: by.cloned() });
        }
    }

    /// Ends the record: one metrics sample, one access log line. A TCP stream is counted as closed,
    /// so it must have been counted as opened.
    pub fn finish(&mut self, worker: &WorkerTelemetry) {
        let duration = self.start.elapsed();
        let destination = self.destination.as_deref().unwrap_or(worker.metrics.nowhere());
        if self.protocol == Protocol::Tcp {
            destination.stream_closed(self.flags);
        } else {
            destination.request(&RequestSample {
                code: self.code,
                flags: self.flags,
                protocol: self.protocol,
                grpc_status: self.grpc_status.or_else(|| self.implied_grpc_status()),
                duration,
                request_bytes: self.request_head_bytes.saturating_add(self.bytes_received),
                response_bytes: self.response_head_bytes.saturating_add(self.bytes_sent),
            });
        }
        if let Some(route) = &self.route {
            worker.metrics.route_request(route, self.code);
        }
        self.tell(worker, duration);
    }

    /// What gRPC makes of an answer without a status, by its response code.
    fn implied_grpc_status(&self) -> Option<u16> {
        (self.protocol == Protocol::Grpc && self.code != 0).then(|| grpc::status_of(self.code))
    }

    /// Ends the record of a TCP stream that never began. One that had a destination is counted there
    /// as opened and closed, as Istio does.
    pub fn finish_refused(self, worker: &WorkerTelemetry) {
        if let Some(destination) = &self.destination {
            destination.stream_opened(self.flags);
            destination.stream_closed(self.flags);
        }
        let duration = self.start.elapsed();
        self.tell(worker, duration);
    }

    fn tell(&self, worker: &WorkerTelemetry, duration: Duration) {
        if let Some(reason) = self.reason {
            worker.metrics.rejection(reason);
        }
        if let Some(fields) = &self.log {
            worker.log.write(self, fields, duration);
        }
    }
}
