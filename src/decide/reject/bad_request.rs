//! Requests that are not read as any.

use super::answer::{Answer, answer};

/// What is wrong with a request head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRequest {
    /// No host at all.
    MissingHost,
    /// The host is not one.
    InvalidHost,
    /// The head cannot be read as HTTP.
    Unreadable,
    /// The path has no normal form.
    InvalidPath,
    /// The path does not start with `/`: answered 404 as Envoy does.
    NotOriginForm,
    /// `Connection` nominates too many headers, or one that must not be removed.
    ConnectionHeader,
    /// `Transfer-Encoding` names a coding beside `chunked`: answered 501 as Envoy does.
    TransferEncoding,
    /// `Content-Length` is there more than once.
    ContentLength,
    /// The body cannot be read.
    Body,
}

impl BadRequest {
    pub(super) fn answer(self) -> Answer {
        let status = match self {
            Self::NotOriginForm => {
                return answer(404, "", "NR", "route_not_found", "path_not_origin_form");
            }
            Self::TransferEncoding => 501,
            _ => 400,
        };
        let flag = if matches!(self, Self::Unreadable | Self::Body) { "DPE" } else { "-" };
        answer(status, "", flag, self.details(), self.details())
    }

    fn details(self) -> &'static str {
        match self {
            Self::MissingHost => "missing_host_header",
            Self::InvalidHost => "invalid_host",
            Self::Unreadable => "http1.codec_error",
            Self::InvalidPath => "path_normalization_failed",
            Self::NotOriginForm => "path_not_origin_form",
            Self::ConnectionHeader => "connection_header_rejected",
            Self::TransferEncoding => "http1.invalid_transfer_encoding",
            Self::ContentLength => "several_content_lengths",
            Self::Body => "http1.body_error",
        }
    }
}
