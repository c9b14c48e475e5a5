//! What a worker counts of requests and streams to one destination: looked up once per pool, then
//! plain stores.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::histogram::{BYTES, Histogram, MICROSECONDS};
use super::messages::{Direction, MessageMeter, MessageSeries};
use super::metrics::Metrics;
use super::series::{Count, Fixed, Found, WorkerId};
use crate::base::labels::{DestinationLabels, Reporter};
use crate::base::limit;

/// What stands for callers beyond the bound on series.
const OTHER: &str = "other";

/// `request_protocol` of Istio's metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/1.1 or HTTP/2.
    #[default]
    Http,
    /// HTTP whose content type is gRPC's.
    Grpc,
    /// Bytes: passthrough or a TCP route.
    Tcp,
}

impl Protocol {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

/// One finished request.
#[derive(Clone, Copy, Debug)]
pub struct RequestSample {
    /// Response code; 0 when the client left before there was one.
    pub code: u16,
    /// Response flags, `-` for none.
    pub flags: &'static str,
    /// HTTP or gRPC.
    pub protocol: Protocol,
    /// `grpc-status` of a gRPC answer.
    pub grpc_status: Option<u16>,
    /// From the first byte of the request to the last of the response.
    pub duration: Duration,
    /// Bytes of the request, head included.
    pub request_bytes: u64,
    /// Bytes of the response, head included.
    pub response_bytes: u64,
}

/// What tells one request series from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RequestKey {
    pub(super) destination: Arc<DestinationLabels>,
    pub(super) code: u16,
    pub(super) flags: &'static str,
    pub(super) protocol: Protocol,
    pub(super) grpc_status: Option<u16>,
}

impl RequestKey {
    /// Where a request beyond the bound on series is counted.
    fn other(self) -> Self {
        Self {
            destination: self.destination.other().into(),
            code: self.code / 100 * 100,
            grpc_status: None,
            ..self
        }
    }
}

/// What tells one TCP series from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct TcpKey {
    pub(super) destination: Arc<DestinationLabels>,
    pub(super) flags: &'static str,
}

impl TcpKey {
    fn other(self) -> Self {
        Self { destination: self.destination.other().into(), ..self }
    }
}

/// One worker's copy of a request series.
#[derive(Debug, Default)]
pub(super) struct RequestSeries {
    pub(super) requests: Count,
    pub(super) duration: Histogram,
    pub(super) request_bytes: Histogram,
    pub(super) response_bytes: Histogram,
}

/// One worker's copy of a TCP series.
#[derive(Debug, Default)]
pub(super) struct TcpSeries {
    pub(super) opened: Count,
    pub(super) closed: Count,
    pub(super) sent: Count,
    pub(super) received: Count,
}

/// Bytes of one TCP stream, counted as they go.
#[derive(Clone, Debug)]
pub struct StreamBytes(Arc<TcpSeries>);

impl StreamBytes {
    /// Counts bytes sent to the client; call it on the worker it was made for.
    #[inline]
    pub fn sent(&self, bytes: u64) {
        self.0.sent.add(bytes);
    }

    /// Counts bytes received from the client; call it on the worker it was made for.
    #[inline]
    pub fn received(&self, bytes: u64) {
        self.0.received.add(bytes);
    }
}

/// One destination's metrics on one worker. Hold it as long as the destination is configured: its
/// series are forgotten a while after the last holder let go.
#[derive(Debug)]
pub struct Destination {
    labels: Arc<DestinationLabels>,
    shared: Arc<Metrics>,
    worker: WorkerId,
    requests: Found<(u16, Fixed, Protocol, Option<u16>), RequestSeries>,
    tcp: Found<Fixed, TcpSeries>,
    messages: OnceCell<Arc<MessageSeries>>,
    callers: RefCell<Callers>,
}

/// The same destination as each caller's identity is counted.
type Callers = HashMap<Box<str>, Rc<Destination>, foldhash::fast::RandomState>;

impl Destination {
    pub(super) fn new(
        labels: Arc<DestinationLabels>,
        shared: Arc<Metrics>,
        worker: WorkerId,
    ) -> Self {
        let (requests, tcp, messages) = (Found::default(), Found::default(), OnceCell::new());
        Self { labels, shared, worker, requests, tcp, messages, callers: RefCell::default() }
    }

    /// The same for a caller of this principal (without `spiffe://`) and namespace, where the
    /// destination reports.
    pub fn called_by(self: Rc<Self>, principal: &str, namespace: &str) -> Rc<Self> {
        if self.labels.reporter == Reporter::Source {
            return self;
        }
        let mut callers = self.callers.borrow_mut();
        if let Some(known) = callers.get(principal) {
            return known.clone();
        }
        let (principal, shown, namespace) = if callers.len() < limit::METRIC_SERIES {
            (principal, format!("spiffe://{principal}"), namespace)
        } else {
            (OTHER, OTHER.to_owned(), OTHER)
        };
        let labels = DestinationLabels {
            source_principal: shown.into(),
            source_namespace: namespace.into(),
            ..(*self.labels).clone()
        };
        let caller = self.relabelled(&Arc::new(labels));
        callers.insert(principal.into(), caller.clone());
        caller
    }

    /// The same under other labels.
    pub fn relabelled(&self, labels: &Arc<DestinationLabels>) -> Rc<Self> {
        Rc::new(Self::new(labels.clone(), self.shared.clone(), self.worker))
    }

    /// The labels it is shown by.
    pub fn labels(&self) -> &Arc<DestinationLabels> {
        &self.labels
    }

    /// Counts one finished request.
    pub fn request(&self, sample: &RequestSample) {
        let grpc_status = sample.grpc_status.map(known_grpc_status);
        let tag = (sample.code, Fixed::new(sample.flags), sample.protocol, grpc_status);
        let find = || {
            let key = RequestKey {
                destination: self.labels.clone(),
                code: sample.code,
                flags: sample.flags,
                protocol: sample.protocol,
                grpc_status,
            };
            self.shared.requests.series(key, self.worker, RequestKey::other)
        };
        self.requests.with(tag, find, |series| {
            let micros = u64::try_from(sample.duration.as_micros()).unwrap_or(u64::MAX);
            series.requests.add(1);
            series.duration.observe(micros, &MICROSECONDS);
            series.request_bytes.observe(sample.request_bytes, &BYTES);
            series.response_bytes.observe(sample.response_bytes, &BYTES);
        });
    }

    /// Counts the messages of one direction of a gRPC stream.
    pub fn messages(&self, direction: Direction) -> MessageMeter {
        let find = || {
            let other = |labels: Arc<DestinationLabels>| labels.other().into();
            self.shared.messages.series(self.labels.clone(), self.worker, other)
        };
        MessageMeter::new(self.messages.get_or_init(find).clone(), direction)
    }

    /// Counts a TCP stream that has begun; `flags` is `-` unless it failed before.
    pub fn stream_opened(&self, flags: &'static str) -> StreamBytes {
        self.stream(flags, |series| {
            series.opened.add(1);
            StreamBytes(series.clone())
        })
    }

    /// Counts the end of a TCP stream; `flags` is `-` for none.
    pub fn stream_closed(&self, flags: &'static str) {
        self.stream(flags, |series| series.closed.add(1));
    }

    fn stream<R>(&self, flags: &'static str, then: impl FnOnce(&Arc<TcpSeries>) -> R) -> R {
        let find = || {
            let key = TcpKey { destination: self.labels.clone(), flags };
            self.shared.tcp.series(key, self.worker, TcpKey::other)
        };
        self.tcp.with(Fixed::new(flags), find, then)
    }
}

/// Backends choose the status freely; what gRPC does not define counts as `UNKNOWN`.
fn known_grpc_status(status: u16) -> u16 {
    if status <= 16 { status } else { 2 }
}
