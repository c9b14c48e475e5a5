//! WebSockets: once one is granted both sides speak freely until one ends.

use hyper::Response;
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::task::spawn_local;

use super::body::ResponseBody;
use super::exchange::Exchange;
use super::request_body::RequestBody;
use crate::base::limit;
use crate::net::copy::{self, Moved};
use crate::net::liveness::Order;
use crate::proxy::tcp::{STOPPED, verdict};
use crate::upstream::pool::lease::Lease;

/// Passes on that it is granted, and joins the two sides once that is sent.
pub fn switch(
    exchange: Box<Exchange>,
    mut response: Response<Incoming>,
    client: Option<OnUpgrade>,
    lease: Lease<RequestBody>,
) -> Response<ResponseBody> {
    let backend = hyper::upgrade::on(&mut response);
    let (parts, _) = response.into_parts();
    exchange.liveness().switch();
    spawn_local(async move {
        match client {
            // A backend that switches unasked has no client side to be joined to.
            None => exchange.finish(),
            Some(client) => match tokio::try_join!(client, backend) {
                Ok((client, backend)) => tunnel(exchange, client, backend).await,
                Err(error) => {
                    tracing::debug!(%error, "upgrade failed");
                    exchange.finish();
                }
            },
        }
        drop(lease);
    });
    Response::from_parts(parts, ResponseBody::none())
}

async fn tunnel(mut exchange: Box<Exchange>, client: Upgraded, backend: Upgraded) {
    let mut client = TokioIo::new(client);
    let mut backend = TokioIo::new(backend);
    let moved = Moved::default();
    let worker = exchange.connection().registered.worker.clone();
    let registered = worker.register();
    let cut = std::future::poll_fn(|cx| match registered.liveness.watch(cx.waker()) {
        Order::Cut => std::task::Poll::Ready(()),
        Order::Serve | Order::Drain => std::task::Poll::Pending,
    });
    let standing = exchange.standing.clone();
    let refused = async {
        match &standing {
            None => std::future::pending().await,
            Some(standing) => standing.refused().await,
        }
    };
    let verdict = tokio::select! {
        end = copy::streams(&mut client, &mut backend, limit::TCP_IDLE_TIME, &moved) => {
            tracing::debug!(?end, "upgraded stream ended");
            verdict(&end)
        }
        () = cut => Some(("-", STOPPED)),
        reject = refused => {
            exchange.rejected(&reject);
            None
        }
    };
    if let Some((flag, reason)) = verdict {
        exchange.record.flags = flag;
        exchange.record.reason = Some(reason);
    }
    exchange.record.bytes_received = moved.forth.get();
    exchange.record.bytes_sent += moved.back.get();
    exchange.finish();
}
