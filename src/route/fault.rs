//! Injected faults (`VirtualService.spec.http[].fault`).

use std::time::Duration;

use http::StatusCode;

use super::share::{Share, another};

/// What a rule injects.
#[derive(Clone, Debug, Default)]
pub struct Fault {
    /// A wait before anything else, and for how many requests.
    pub delay: Option<(Share, Duration)>,
    /// An answer instead of the backend's, and for how many requests; after the wait.
    pub abort: Option<(Share, Abort)>,
}

/// An injected answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// `httpStatus`.
    Http(StatusCode),
    /// `grpcStatus`.
    Grpc(u16),
}

/// What is injected into one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Injected {
    /// A wait.
    pub delay: Option<Duration>,
    /// An answer.
    pub abort: Option<Abort>,
}

impl Fault {
    /// Draws for one request.
    pub fn draw(&self, random: u32) -> Injected {
        let delay = self.delay.filter(|(share, _)| share.takes(another(random, 1)));
        let abort = self.abort.filter(|(share, _)| share.takes(another(random, 2)));
        Injected { delay: delay.map(|(_, time)| time), abort: abort.map(|(_, answer)| answer) }
    }
}

impl Abort {
    /// The status for a client that does not speak gRPC.
    pub fn http_status(self) -> StatusCode {
        match self {
            Self::Http(status) => status,
            Self::Grpc(status) => match status {
                0 => StatusCode::OK,
                1 => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
                3 | 9 | 11 => StatusCode::BAD_REQUEST,
                4 => StatusCode::GATEWAY_TIMEOUT,
                5 => StatusCode::NOT_FOUND,
                6 | 10 => StatusCode::CONFLICT,
                7 => StatusCode::FORBIDDEN,
                8 => StatusCode::TOO_MANY_REQUESTS,
                12 => StatusCode::NOT_IMPLEMENTED,
                14 => StatusCode::SERVICE_UNAVAILABLE,
                16 => StatusCode::UNAUTHORIZED,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_come_as_often_as_written() {
        let time = Duration::from_secs(1);
        let all = Fault {
            delay: Some((Share::ALL, time)),
            abort: Some((Share::percent(0.0), Abort::Grpc(14))),
        };
        assert!((0..99).all(|n| all.draw(n << 24) == Injected { delay: Some(time), abort: None }));
        assert_eq!(Fault::default().draw(7), Injected::default());
    }

    #[test]
    fn a_grpc_status_is_one_of_http_for_other_clients() {
        for (status, expected) in [(0, 200), (1, 499), (7, 403), (14, 503), (15, 500)] {
            assert_eq!(Abort::Grpc(status).http_status(), expected, "{status}");
        }
    }
}
