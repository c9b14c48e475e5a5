//! What a provider's answer changes: headers of the request for the backend, and of the answer for the
//! client.
//!
//! **Invariant:** headers that frame or address a message are not a provider's to change.

use http::HeaderValue;
use http::header::{EXPECT, HOST, HeaderMap, HeaderName, TRAILER};

use crate::base::header::is_framing;
use crate::proxy::http::exchange::Exchange;

/// What an allowing answer changes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Headers taken from the request, before others are set.
    pub(super) remove: Vec<HeaderName>,
    /// Headers of the request.
    pub(super) request: Vec<Change>,
    /// Headers of the answer.
    pub(super) answer: Vec<Change>,
}

/// One header that is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    name: HeaderName,
    value: HeaderValue,
    how: How,
}

/// How a header is changed (`envoy.config.core.v3.HeaderValueOption.append_action`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// It takes the place of all lines that are there.
    Set,
    /// It is one line more.
    Add,
    /// It is one line more where there is one.
    AddIfPresent,
    /// It is there where none is.
    SetIfAbsent,
    /// It takes the place of all lines where there are some.
    SetIfPresent,
}

impl Change {
    /// Nothing where it is not a provider's to make.
    pub(super) fn new(name: HeaderName, value: HeaderValue, how: How) -> Option<Self> {
        may_change(&name).then_some(Self { name, value, how })
    }

    /// Makes it.
    pub fn make(self, headers: &mut HeaderMap) {
        let Self { name, value, how } = self;
        let made = match how {
            How::Set | How::Add => true,
            How::AddIfPresent | How::SetIfPresent => headers.contains_key(&name),
            How::SetIfAbsent => !headers.contains_key(&name),
        };
        match how {
            _ if !made => {}
            How::Add | How::AddIfPresent => _ = headers.append(name, value),
            How::Set | How::SetIfAbsent | How::SetIfPresent => _ = headers.insert(name, value),
        }
    }
}

impl Changes {
    /// Changes the request, and keeps what its answer is to be changed by: of what two providers set, the
    /// word of the one that was asked first is the last.
    pub(super) fn make(self, exchange: &mut Exchange) {
        let headers = exchange.request.headers_mut();
        for name in self.remove.iter().filter(|name| may_change(name)) {
            headers.remove(name);
        }
        for change in self.request {
            change.make(headers);
        }
        exchange.changes.splice(0..0, self.answer);
    }
}

pub(super) fn may_change(name: &HeaderName) -> bool {
    ![HOST, EXPECT, TRAILER].contains(name) && !is_framing(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of `x`, a change of it, and the lines after it.
    fn check(before: &[&'static str], how: How, after: &[&str]) {
        let x = HeaderName::from_static("x");
        let line = |value: &&'static str| (x.clone(), HeaderValue::from_static(value));
        let mut headers: HeaderMap = before.iter().map(line).collect();
        let change = Change::new(x.clone(), HeaderValue::from_static("new"), how).unwrap();
        change.make(&mut headers);
        let lines: Vec<_> = headers.get_all(&x).iter().collect();
        assert_eq!(lines, after, "{before:?} {how:?}");
    }

    #[test]
    fn each_way_looks_at_what_is_there() {
        for (how, absent, present) in [
            (How::Set, &["new"][..], &["new"][..]),
            (How::Add, &["new"], &["a", "b", "new"]),
            (How::AddIfPresent, &[], &["a", "b", "new"]),
            (How::SetIfAbsent, &["new"], &["a", "b"]),
            (How::SetIfPresent, &[], &["new"]),
        ] {
            check(&[], how, absent);
            check(&["a", "b"], how, present);
        }
    }

    #[test]
    fn what_frames_or_addresses_a_message_stays() {
        for name in [
            "host",
            "content-length",
            "transfer-encoding",
            "connection",
            "keep-alive",
            "proxy-connection",
            "te",
            "trailer",
            "upgrade",
            "expect",
        ] {
            let value = HeaderValue::from_static("1");
            let change = Change::new(HeaderName::from_static(name), value, How::Set);
            assert_eq!(change, None, "{name}");
        }
    }
}
