//! gRPC-Web (gRPC's `PROTOCOL-WEB.md`), for ports of protocol `GRPC-WEB`: what browsers can send and read
//! becomes gRPC and back. Trailers are the last message of the body; with `-text` all of it is base64.
//!
//! **Invariant:** of a body less than four bytes wait.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRAILER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Frame;

use crate::base::grpc;
use crate::base::header::{GRPC_MESSAGE, GRPC_STATUS};
use crate::decide::grpc_web::Call;
use crate::decide::request::is_grpc;

/// Marks the message that holds the trailers.
const TRAILERS: u8 = 0x80;

impl Call {
    fn media_type(self) -> HeaderValue {
        HeaderValue::from_static(if self.answer_in_text {
            "application/grpc-web-text+proto"
        } else {
            "application/grpc-web+proto"
        })
    }

    /// Makes the head of an answer gRPC-Web's; nothing when its body is no gRPC: the head tells the
    /// status then.
    pub fn answer<B>(self, response: &mut Response<B>) -> Option<Encoder> {
        let grpc = response.status() == StatusCode::OK && is_grpc(response.headers());
        let status = response.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, self.media_type());
        headers.remove(CONTENT_LENGTH);
        headers.remove(TRAILER);
        if !grpc {
            self.fail(headers, status, None);
            return None;
        }
        Some(Encoder { text: self.answer_in_text, ..Encoder::default() })
    }

    /// Says in a head why there is no answer of gRPC.
    pub fn fail(self, headers: &mut HeaderMap, status: StatusCode, message: Option<HeaderValue>) {
        headers.insert(CONTENT_TYPE, self.media_type());
        headers.insert(GRPC_STATUS, HeaderValue::from(grpc::status_of(status.as_u16())));
        let reason = HeaderValue::from_static(status.canonical_reason().unwrap_or_default());
        headers.insert(GRPC_MESSAGE, message.unwrap_or(reason));
    }
}

/// A request's body that is not base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is not base64")]
pub struct NotBase64;

/// Reads base64 by pieces; each message may be padded by itself.
#[derive(Debug, Default)]
pub struct Decoder {
    waiting: BytesMut,
}

impl Decoder {
    /// What whole groups of four make.
    fn decode(&mut self, bytes: &[u8]) -> Result<Bytes, NotBase64> {
        self.waiting.extend_from_slice(bytes);
        let whole = self.waiting.len() / 4 * 4;
        let groups = self.waiting.split_to(whole);
        let mut out = Vec::with_capacity(whole / 4 * 3);
        let mut rest = &groups[..];
        while !rest.is_empty() {
            // Up to the group that is padded.
            let padded = memchr::memchr(b'=', rest).map_or(rest.len(), |at| (at / 4 + 1) * 4);
            let (run, after) = rest.split_at_checked(padded).ok_or(NotBase64)?;
            STANDARD.decode_vec(run, &mut out).map_err(|_| NotBase64)?;
            rest = after;
        }
        Ok(out.into())
    }

    /// A frame of the body; with the last of them all of it is to be there.
    pub fn decode_frame(
        &mut self,
        frame: Frame<Bytes>,
        last: bool,
    ) -> Result<Frame<Bytes>, NotBase64> {
        let frame = match frame.into_data() {
            Ok(data) => Frame::data(self.decode(&data)?),
            Err(other) => other,
        };
        let done = self.waiting.is_empty() || !(last || frame.is_trailers());
        if done { Ok(frame) } else { Err(NotBase64) }
    }
}

/// Writes an answer's frames as gRPC-Web. Text is padded where a message ends, as in Envoy: so much can
/// be read at once, and nothing of a message waits for the next.
#[derive(Debug, Default)]
pub struct Encoder {
    text: bool,
    /// Bytes seen of a message's prefix.
    prefix: usize,
    length: u32,
    /// Bytes left of a message.
    left: usize,
    /// Bytes of the message that are no group of three yet.
    waiting: BytesMut,
}

impl Encoder {
    /// A frame as it is sent; nothing while too little of it is there.
    pub fn encode(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        let bytes = match frame.into_data() {
            Ok(data) if self.text => self.encode_text(&data),
            Ok(data) => data,
            Err(other) => {
                let trailers = trailers_message(other.trailers_ref()?);
                if self.text { self.encode_end(&trailers) } else { trailers }
            }
        };
        (!bytes.is_empty()).then(|| Frame::data(bytes))
    }

    /// The last message; what one before it lacks is not coming any more.
    fn encode_end(&mut self, trailers: &[u8]) -> Bytes {
        let cut = std::mem::take(&mut self.waiting);
        (STANDARD.encode(cut) + &STANDARD.encode(trailers)).into()
    }

    fn encode_text(&mut self, mut bytes: &[u8]) -> Bytes {
        let mut out = String::with_capacity(bytes.len() / 3 * 4 + 8);
        while !bytes.is_empty() {
            let (message, after) = bytes.split_at(self.within_message(bytes));
            bytes = after;
            self.waiting.extend_from_slice(message);
            let ended = self.prefix == 0 && self.left == 0;
            let whole = if ended { self.waiting.len() } else { self.waiting.len() / 3 * 3 };
            STANDARD.encode_string(self.waiting.split_to(whole), &mut out);
        }
        out.into()
    }

    /// How many of the bytes belong to the message that has begun, or begins with them.
    fn within_message(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        if self.left == 0 {
            for byte in bytes.iter().take(5 - self.prefix) {
                if self.prefix > 0 {
                    self.length = (self.length << 8) | u32::from(*byte);
                }
                self.prefix += 1;
                at += 1;
            }
            if self.prefix < 5 {
                return at;
            }
            self.prefix = 0;
            self.left = usize::try_from(std::mem::take(&mut self.length)).unwrap_or(usize::MAX);
        }
        let rest = self.left.min(bytes.len() - at);
        self.left -= rest;
        at + rest
    }
}

/// Trailers as a message.
fn trailers_message(trailers: &HeaderMap) -> Bytes {
    let mut lines = Vec::new();
    for (name, value) in trailers {
        for part in [name.as_str().as_bytes(), b":", value.as_bytes(), b"\r\n"] {
            lines.extend_from_slice(part);
        }
    }
    let mut out = BytesMut::with_capacity(5 + lines.len());
    out.put_u8(TRAILERS);
    out.put_u32(u32::try_from(lines.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(&lines);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use http::header::ACCEPT;
    use proptest::prelude::*;

    use super::*;

    fn messages(lengths: &[usize]) -> Vec<Vec<u8>> {
        let message = |length: &usize| {
            let mut bytes = vec![0];
            bytes.extend(u32::try_from(*length).unwrap().to_be_bytes());
            bytes.extend((0..*length).map(|index| u8::try_from(index % 251).unwrap()));
            bytes
        };
        lengths.iter().map(message).collect()
    }

    proptest! {
        /// In whatever pieces they come, messages are padded by themselves and read again as they were.
        #[test]
        fn text_is_read_as_it_was_written(
            lengths in prop::collection::vec(0..50_usize, 0..8),
            (written, read) in (1..40_usize, 1..40_usize),
        ) {
            let messages = messages(&lengths);
            let all = messages.concat();
            let mut encoder = Encoder { text: true, ..Encoder::default() };
            let mut text = Vec::new();
            for piece in all.chunks(written) {
                let frame = encoder.encode(Frame::data(Bytes::copy_from_slice(piece)));
                text.extend(frame.into_iter().flat_map(|frame| frame.into_data().unwrap()));
                prop_assert!(encoder.waiting.len() < 3);
            }
            let expected: String = messages.iter().map(|one| STANDARD.encode(one)).collect();
            prop_assert_eq!(std::str::from_utf8(&text).unwrap(), &expected);
            let mut decoder = Decoder::default();
            let mut again = Vec::new();
            for piece in text.chunks(read) {
                again.extend(decoder.decode(piece).unwrap());
                prop_assert!(decoder.waiting.len() < 4);
            }
            prop_assert!(decoder.waiting.is_empty());
            prop_assert_eq!(again, all);
        }
    }

    #[test]
    fn what_is_not_base64_is_refused() {
        for bad in ["AA*A", "A===", "=AAA", "AA=A", "AAAB\nAAAA"] {
            assert_eq!(Decoder::default().decode(bad.as_bytes()), Err(NotBase64), "{bad}");
        }
        let mut short = Decoder::default();
        assert_eq!(short.decode(b"AAAAAA"), Ok(Bytes::from_static(&[0; 3])));
        let last = short.decode_frame(Frame::data(Bytes::from_static(b"A")), true);
        assert_eq!(last.err(), Some(NotBase64));
    }

    #[test]
    fn trailers_are_the_last_message() {
        let trailers = HeaderMap::from_iter([
            (GRPC_STATUS, HeaderValue::from_static("0")),
            (GRPC_MESSAGE, HeaderValue::from_static("ok")),
        ]);
        let frame = Encoder::default().encode(Frame::trailers(trailers)).unwrap();
        let data = frame.into_data().unwrap();
        assert_eq!(&data[..], b"\x80\0\0\0\x20grpc-status:0\r\ngrpc-message:ok\r\n");
    }

    #[test]
    fn trailers_are_read_after_a_message_that_was_cut() {
        let mut encoder = Encoder { text: true, ..Encoder::default() };
        let trailers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("14"))]);
        let frames =
            [Frame::data(Bytes::from_static(&[0, 0, 0, 0, 9, 1, 2])), Frame::trailers(trailers)];
        let mut decoder = Decoder::default();
        let mut read = Vec::new();
        for frame in frames.into_iter().filter_map(|frame| encoder.encode(frame)) {
            read.extend(decoder.decode(&frame.into_data().unwrap()).unwrap());
        }
        assert_eq!(read, b"\0\0\0\0\x09\x01\x02\x80\0\0\0\x10grpc-status:14\r\n");
    }

    fn begun(content_type: &'static str, accept: &'static str) -> Option<Call> {
        let mut headers = HeaderMap::from_iter([
            (CONTENT_TYPE, HeaderValue::from_static(content_type)),
            (ACCEPT, HeaderValue::from_static(accept)),
            (CONTENT_LENGTH, HeaderValue::from_static("5")),
        ]);
        let call = Call::begin(&mut headers);
        assert_eq!(headers.contains_key(CONTENT_LENGTH), call.is_none());
        assert_eq!(is_grpc(&headers), call.is_some() || content_type == "application/grpc");
        call
    }

    #[test]
    fn calls_are_told_by_their_type() {
        let call = |text, answer_in_text| Some(Call { text, answer_in_text });
        assert_eq!(begun("application/grpc-web", "*/*"), call(false, false));
        assert_eq!(
            begun("application/grpc-web+proto", "application/grpc-web-text"),
            call(false, true)
        );
        assert_eq!(
            begun("application/grpc-web-text", "application/grpc-web-text"),
            call(true, true)
        );
        for other in ["application/grpc", "application/grpc-web+json", "text/plain", ""] {
            assert_eq!(begun(other, ""), None, "{other}");
        }
    }
}
