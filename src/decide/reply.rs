//! How answers of our own reach clients that speak gRPC, as Envoy sends its local replies.

use http::StatusCode;

use crate::auth::jwt::JwtFailure;
use crate::base::grpc;
use crate::route::fault::Abort;

use super::reject::Reject;

/// What a client reads an answer as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// HTTP alone.
    #[default]
    Http,
    /// gRPC: HTTP says 200, and the head says what gRPC has for it.
    Grpc,
    /// gRPC-Web, translated: HTTP says the status too.
    GrpcWeb,
}

/// The status of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// HTTP's.
    pub http: StatusCode,
    /// gRPC's, where it is another than HTTP's maps to.
    pub grpc: Option<u16>,
}

impl Status {
    /// As it is sent.
    #[must_use]
    pub fn sent(self, dialect: Dialect) -> Self {
        let mapped = grpc::status_of(self.http.as_u16());
        match dialect {
            Dialect::Http => Self { grpc: None, ..self },
            Dialect::Grpc => Self { http: StatusCode::OK, grpc: Some(self.grpc.unwrap_or(mapped)) },
            Dialect::GrpcWeb => Self { grpc: Some(mapped), ..self },
        }
    }
}

impl Reject {
    /// The status of the answer.
    pub fn reply(&self) -> Status {
        let grpc = match self {
            Self::Jwt(JwtFailure { reason, .. }) => Some(u16::from(reason.grpc_status())),
            Self::Fault(Abort::Grpc(status)) => Some(*status),
            Self::GrpcDeadline => Some(4),
            _ => None,
        };
        Status { http: self.status(), grpc }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: Status, dialect: Dialect, http: u16, grpc: Option<u16>) {
        let sent = status.sent(dialect);
        assert_eq!((sent.http.as_u16(), sent.grpc), (http, grpc), "{status:?} {dialect:?}");
    }

    #[test]
    fn each_client_is_told_in_its_words() {
        let moved = Status { http: StatusCode::MOVED_PERMANENTLY, grpc: None };
        check(moved, Dialect::Http, 301, None);
        check(moved, Dialect::Grpc, 200, Some(2));
        check(moved, Dialect::GrpcWeb, 301, Some(2));
        let abort = Reject::Fault(Abort::Grpc(8)).reply();
        check(abort, Dialect::Http, 429, None);
        check(abort, Dialect::Grpc, 200, Some(8));
        check(abort, Dialect::GrpcWeb, 429, Some(14));
        check(Reject::GrpcDeadline.reply(), Dialect::Grpc, 200, Some(4));
        check(Reject::RouteNotFound.reply(), Dialect::Grpc, 200, Some(12));
    }
}
