//! Which requests are calls of gRPC-Web, and what becomes of their heads.

use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderValue};

use crate::base::header::GRPC_ACCEPT_ENCODING;

/// The media types, and whether each is text.
const TYPES: [(&str, bool); 4] = [
    ("application/grpc-web", false),
    ("application/grpc-web+proto", false),
    ("application/grpc-web-text", true),
    ("application/grpc-web-text+proto", true),
];

fn is_text(value: Option<&HeaderValue>) -> Option<bool> {
    let value = value?.as_bytes();
    TYPES.iter().find(|(name, _)| name.as_bytes() == value).map(|(_, text)| *text)
}

/// What is to be done with a call of gRPC-Web.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The request's body is base64.
    pub text: bool,
    /// The answer's is to be.
    pub answer_in_text: bool,
}

impl Call {
    /// Makes the head of a call gRPC's; nothing for any other request.
    pub fn begin(headers: &mut HeaderMap) -> Option<Self> {
        let text = is_text(headers.get(CONTENT_TYPE))?;
        let answer_in_text = is_text(headers.get(ACCEPT)).unwrap_or(false);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.remove(CONTENT_LENGTH);
        let identity = HeaderValue::from_static("identity");
        headers.entry(GRPC_ACCEPT_ENCODING).or_insert(identity);
        Some(Self { text, answer_in_text })
    }
}
