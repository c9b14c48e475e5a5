//! A connection in use by one request.
//!
//! **Invariant:** its endpoint counts the request until the lease is dropped, and is told how it went.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures_util::future::Either;
use http::header::{CONTENT_TYPE, HeaderMap};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use pin_project_lite::pin_project;
use tokio::time::{Instant, timeout};

use super::host::{Facts, Host};
use crate::balance::outlier::Event;
use crate::base::header::GRPC_STATUS;
use crate::base::limit;
use crate::telemetry::upstream::UpstreamMetrics;
use crate::upstream::bounds::Permit;

/// A connection in use; its endpoint counts it until it is dropped.
pub struct Lease<B> {
    sender: Option<Sender<B>>,
    /// Whether it carried a request before: then it may have been closed meanwhile.
    pub reused: bool,
    /// When an answer would come too late; a request given up after it counts against the endpoint.
    pub deadline: Option<Instant>,
    waiting: bool,
    last: bool,
    facts: Rc<Facts>,
    host: Rc<Host<B>>,
    metrics: Rc<UpstreamMetrics>,
    _permit: Option<Permit>,
}

/// A sender of either version.
pub(super) enum Sender<B> {
    /// HTTP/1.1: this request alone.
    Http1(http1::SendRequest<B>),
    /// HTTP/2: one of several.
    Http2(http2::SendRequest<B>),
}

/// What a lease is made of.
pub(super) struct Parts<B> {
    pub(super) sender: Sender<B>,
    pub(super) facts: Rc<Facts>,
    pub(super) host: Rc<Host<B>>,
    pub(super) metrics: Rc<UpstreamMetrics>,
    pub(super) permit: Option<Permit>,
    /// Whether the connection is not used again.
    pub(super) last: bool,
}

impl<B> Lease<B> {
    pub(super) fn new(parts: Parts<B>) -> Self {
        let Parts { sender, facts, host, metrics, permit, last } = parts;
        let active = &host.room.active;
        active.set(active.get() + 1);
        metrics.active(1);
        facts.streams.set(facts.streams.get() + 1);
        let reused = facts.served.get() > 1;
        Self {
            sender: Some(sender),
            reused,
            deadline: None,
            waiting: false,
            last,
            facts,
            host,
            metrics,
            _permit: permit,
        }
    }

    /// The endpoint's address; none for a Unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.facts.peer
    }

    /// This end's address.
    pub fn local(&self) -> Option<SocketAddr> {
        self.facts.local
    }
}

/// An answer; or why there is none, with the request when nothing of it was sent.
pub type Answer<B> = Result<Response<Incoming>, TrySendError<Request<B>>>;

impl<B: http_body::Body + 'static> Lease<B> {
    /// Waits until the connection takes a request: one given back a moment ago may still be finishing
    /// its last.
    pub async fn ready(&mut self) {
        self.waiting = true;
        if let Some(Sender::Http1(sender)) = &mut self.sender {
            let _ = sender.ready().await;
        }
    }

    /// Whether the HTTP/2 connection takes an extended CONNECT.
    pub async fn takes_connects(&self) -> bool {
        timeout(limit::CONNECT_TIME, self.facts.connects.taken()).await.unwrap_or(false)
    }

    /// Sends a request. Not `async`, so that what waits for the answer has no room for the request.
    pub fn send(&mut self, request: Request<B>) -> impl Future<Output = Answer<B>> {
        self.waiting = true;
        let answer = match &mut self.sender {
            Some(Sender::Http1(sender)) => {
                self.facts.allowance.asked();
                Either::Left(Either::Left(sender.try_send_request(request)))
            }
            Some(Sender::Http2(sender)) => {
                Either::Left(Either::Right(sender.try_send_request(request)))
            }
            None => Either::Right(std::future::pending()),
        };
        Sending { lease: self, answer }
    }

    fn answered(&mut self, answer: &Answer<B>) {
        self.waiting = false;
        self.facts.allowance.answered();
        if let Some(watch) = &*self.host.watch.borrow()
            && let Some(event) = self.event(answer)
        {
            watch.record(event, &self.metrics);
        }
    }

    /// What an answer says of the endpoint. A connection that died while it lay idle says nothing, nor
    /// does a client that broke off.
    fn event(&self, answer: &Answer<B>) -> Option<Event> {
        match answer {
            Ok(response) => Some(Event::Answer(meaning(response))),
            Err(error) if error.message().is_some() || error.error().is_user() => None,
            Err(error) if self.reused && error.error().is_incomplete_message() => None,
            Err(_) => Some(Event::Failed),
        }
    }

    /// Gives an HTTP/1.1 connection back once its response was read to the end.
    pub fn give_back(mut self) {
        if !self.last
            && let Some(Sender::Http1(sender)) = self.sender.take()
            && self.host.keep(sender, self.facts.clone())
        {
            self.metrics.idle(1);
        }
    }
}

pin_project! {
    struct Sending<'a, B, F> {
        lease: &'a mut Lease<B>,
        #[pin]
        answer: F,
    }
}

impl<B, F> Future for Sending<'_, B, F>
where
    B: http_body::Body + 'static,
    F: Future<Output = Answer<B>>,
{
    type Output = Answer<B>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer<B>> {
        let this = self.project();
        let answer = ready!(this.answer.poll(cx));
        this.lease.answered(&answer);
        Poll::Ready(answer)
    }
}

/// The code of an answer; of a gRPC answer without a body, what its status stands for.
fn meaning(response: &Response<Incoming>) -> u16 {
    let headers = response.headers();
    grpc_status(headers).map_or(response.status().as_u16(), |status| match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    })
}

fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    let grpc = headers.get(CONTENT_TYPE)?.as_bytes().starts_with(b"application/grpc");
    headers.get(GRPC_STATUS).filter(|_| grpc)?.to_str().ok()?.parse().ok()
}

impl<B> Drop for Lease<B> {
    fn drop(&mut self) {
        let room = &self.host.room;
        room.active.set(room.active.get().saturating_sub(1));
        self.metrics.active(-1);
        self.facts.streams.set(self.facts.streams.get().saturating_sub(1));
        room.free();
        if self.waiting
            && let Some(watch) = &*self.host.watch.borrow()
            && self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
        {
            watch.record(Event::TimedOut, &self.metrics);
        }
    }
}
