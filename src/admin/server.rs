//! A small HTTP/1.1 server for one address: one request per connection.
//!
//! **Invariant:** a client that is slow or silent costs one of [`limit::ADMIN_CONNECTIONS`]
//! connections for at most [`limit::ADMIN_TIME`], and never touches the data path.

use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use http::{Method, Request, request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::answer::{self, Answer};
use crate::base::limit;

/// An answer that may take a while.
pub type Reply = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// Turns a request head into an answer; request bodies are not read.
pub type Handler = Arc<dyn Fn(&request::Parts) -> Reply + Send + Sync>;

/// An answer that is there.
pub(super) fn at_once(answer: Answer) -> Reply {
    Box::pin(ready(answer))
}

/// Wait after a failed accept, for lack of file descriptors most likely.
const ACCEPT_RETRY_TIME: Duration = Duration::from_millis(100);

/// Serves a port until dropped; dropping it also ends its open connections.
pub async fn serve(listener: TcpListener, handler: Handler) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        if connections.len() >= limit::ADMIN_CONNECTIONS {
            connections.join_next().await;
        }
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(serve_connection(stream, handler.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "an admin connection cannot be accepted");
                sleep(ACCEPT_RETRY_TIME).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, handler: Handler) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (head, _) = request.into_parts();
        let reply = match head.method {
            Method::GET | Method::HEAD | Method::POST => handler(&head),
            _ => at_once(answer::wrong_method("GET, HEAD, POST")),
        };
        reply.map(Ok::<_, Infallible>)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limit::REQUEST_HEAD_TIME)
        .max_buf_size(limit::HTTP1_HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(limit::ADMIN_TIME, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an admin connection failed"),
        Err(_) => tracing::debug!("an admin connection took too long"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use http::StatusCode;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::task::AbortHandle;

    use super::*;

    /// Sends bytes to a served port and reads until the connection ends.
    pub(in super::super) fn exchange(handler: Handler, request: &str) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (address, server) = start(handler).await;
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            server.abort();
            answer
        })
    }

    pub(in super::super) async fn start(handler: Handler) -> (std::net::SocketAddr, AbortHandle) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (address, tokio::spawn(serve(listener, handler)).abort_handle())
    }

    fn hello() -> Handler {
        Arc::new(|head| {
            let text = format!("{} {}", head.method, head.uri);
            at_once(answer::text(StatusCode::OK, text))
        })
    }

    fn check(request: &str, start: &str, end: &str) {
        let answer = exchange(hello(), request);
        assert!(answer.starts_with(start) && answer.ends_with(end), "{answer}");
    }

    #[test]
    fn one_request_is_answered_and_the_connection_ends() {
        let request = "GET /x HTTP/1.1\r\nhost: localhost\r\n\r\n";
        check(request, "HTTP/1.1 200 OK\r\n", "\r\n\r\nGET /x");
        check(&request.replace("GET", "HEAD"), "HTTP/1.1 200 OK\r\n", "\r\n\r\n");
    }

    #[test]
    fn other_methods_and_broken_heads_are_refused() {
        let request = "DELETE /x HTTP/1.1\r\nhost: localhost\r\n\r\n";
        check(request, "HTTP/1.1 405 Method Not Allowed\r\n", "use GET, HEAD, POST\n");
        check("\u{1}\r\n\r\n", "HTTP/1.1 400 Bad Request\r\n", "\r\n\r\n");
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000));
        check(&long, "HTTP/1.1 4", "\r\n\r\n");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_cut_off() {
        let (address, server) = start(hello()).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut answer = Vec::new();
        let ended = timeout(limit::ADMIN_TIME * 2, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok());
        server.abort();
    }
}
