//! The request's head: which server has it, and what is believed of whoever sent it.

use http::header::HOST;
use http::{HeaderValue, Request};
use hyper::ext::Protocol;

use super::request::{Arrived, refuse};
use super::{Explanation, Question};
use crate::base::header::{X_FORWARDED_CLIENT_CERT, X_FORWARDED_FOR};
use crate::base::id::Origin;
use crate::decide::head::Head;
use crate::decide::reject::Reject;
use crate::decide::request::serving_block;
use crate::decide::sanitize::{Arrival, sanitize};
use crate::decide::trusted::Sender;
use crate::decide::websocket;
use crate::snapshot::forwarded::{Forwarded, TrustedProxies};
use crate::snapshot::listener::{ServerBlock, Servers};

/// The request as it is judged: its head read, and what a client may not say to the server that has it
/// taken out.
pub(super) fn read<'a>(
    tale: &mut Explanation,
    question: &Question,
    arrived: &Arrived<'a>,
) -> Option<(Request<()>, Head, &'a ServerBlock)> {
    let mut request = request(question);
    if websocket::arrived(&mut request) {
        let text = "an extended CONNECT: judged as the GET with an upgrade that it stands for";
        tale.step("websocket", text);
    }
    let inbound = matches!(arrived.listener.servers, Servers::Inbound(_));
    let workload = inbound && arrived.identity.is_some();
    let mut head = match Head::read(&request) {
        Ok(head) => head,
        Err(reject) => {
            refuse(tale, "request", &reject);
            return None;
        }
    };
    let server = serving_block(arrived.listener, arrived.block, &head.authority);
    let sender = Sender { peer: question.source, tls: arrived.tls, workload };
    let own = server.unwrap_or(arrived.block);
    let forwarded = own.forwarded.of(&head.authority);
    let how = own.normalization.of(&head.authority);
    if let Err(reject) = head.read_path(&request, how.value) {
        refuse(tale, "request", &reject);
        return None;
    }
    head.believe(&forwarded.proxies.value, sender, request.headers());
    let form = format!("{} {}://{}{}", request.method(), head.scheme, head.authority, head.path);
    let step = tale.step("request", form).considered(
        (head.path != request.uri().path()).then(|| format!("sent as {}", request.uri().path())),
    );
    if let Some(origin) = &how.by {
        step.by(origin).considered([format!(
            "paths of {} are read by {}",
            head.authority,
            how.value.name()
        )]);
    }
    if head.upgrade {
        tale.step("upgrade", "to a WebSocket, once the backend grants it");
    }
    let Some(server) = server else {
        refuse(tale, "host", &Reject::Misdirected);
        return None;
    };
    if !std::ptr::eq(server, arrived.block) {
        tale.outcome.server = Some(server.key.to_string());
        let text = format!("{} is served by {} on this connection", head.authority, server.key);
        tale.step("host", text).by(&server.origin);
    }
    let (address, certificate) = arrival(question, arrived);
    client(tale, forwarded, (question, &head), certificate.as_ref());
    let mode = forwarded.client_cert.value;
    let arrival = Arrival {
        peer: &address,
        certificate: certificate.as_ref().filter(|_| mode.asks()),
        request_id: HeaderValue::from_static("-"),
        workload,
    };
    sanitize(&mut request, &head, mode, arrival);
    Some((request, head, server))
}

/// Tells what is believed of the client's address, and what becomes of word of its certificate.
fn client(
    tale: &mut Explanation,
    Forwarded { proxies, client_cert }: &Forwarded,
    (question, head): (&Question, &Head),
    certificate: Option<&HeaderValue>,
) {
    let forwarded = question.headers.contains_key(X_FORWARDED_FOR);
    let text = match (head.trusted_ip, &proxies.value) {
        (Some(ip), _) => Some(format!("{ip}, as x-forwarded-for says")),
        (None, TrustedProxies::Blocks(blocks)) if forwarded => {
            let trusted: Vec<_> = blocks.iter().map(ToString::to_string).collect();
            let trusted = if trusted.is_empty() { "nobody".to_owned() } else { trusted.join(", ") };
            let peer = question.source;
            Some(format!("{peer}: x-forwarded-for tells of no other; trusted is {trusted}"))
        }
        (None, _) => None,
    };
    let tell = |tale: &mut Explanation, step, text, by: Option<&Origin>| {
        let step = tale.step(step, text);
        if let Some(origin) = by {
            step.by(origin);
        }
    };
    if let Some(text) = text {
        tell(tale, "client", text, proxies.by.as_ref());
    }
    if certificate.is_some() || question.headers.contains_key(X_FORWARDED_CLIENT_CERT) {
        let text = format!("{} of x-forwarded-client-cert", client_cert.value.name());
        tell(tale, "client cert details", text, client_cert.by.as_ref());
    }
}

/// The client's address, and what `x-forwarded-client-cert` says of its certificate.
fn arrival(question: &Question, arrived: &Arrived<'_>) -> (HeaderValue, Option<HeaderValue>) {
    let address = HeaderValue::try_from(question.source.to_string());
    let own = arrived.block.tls.as_ref().map_or(&[][..], |tls| &tls.certificate_uris);
    let leaf = question.client_chain.first().zip(arrived.identity.as_ref());
    let certificate =
        leaf.and_then(|(leaf, identity)| HeaderValue::try_from(identity.xfcc(own, leaf)).ok());
    (address.unwrap_or(HeaderValue::from_static("-")), certificate)
}

/// The request as a client sends it.
fn request(question: &Question) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = question.method.clone();
    let path = question.url.path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(http::Uri::default, Into::into);
    *request.headers_mut() = question.headers.clone();
    if question.protocol.eq_ignore_ascii_case(websocket::WEBSOCKET) {
        request.extensions_mut().insert(Protocol::from_static(websocket::WEBSOCKET));
    }
    let authority = question.url.authority().map_or("", |authority| authority.as_str());
    if let Ok(host) = HeaderValue::from_str(authority)
        && !request.headers().contains_key(HOST)
    {
        request.headers_mut().insert(HOST, host);
    }
    request
}
