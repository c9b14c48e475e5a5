//! When a request is sent again (`VirtualService.spec.http[].retries`).

use std::fmt;
use std::time::Duration;

use http::Response;
use smallvec::SmallVec;

use crate::base::header::{GRPC_STATUS, X_ENVOY_RATELIMITED};
use crate::base::limit;

/// Causes for a retry, as a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Causes(u16);

impl Causes {
    const FIVE_XX: Self = Self(1);
    const GATEWAY_ERROR: Self = Self(1 << 1);
    const RESET: Self = Self(1 << 2);
    const RESET_BEFORE_REQUEST: Self = Self(1 << 3);
    const CONNECT_FAILURE: Self = Self(1 << 4);
    const REFUSED_STREAM: Self = Self(1 << 5);
    const RETRIABLE_4XX: Self = Self(1 << 6);
    const RATE_LIMITED: Self = Self(1 << 7);
    const CANCELLED: Self = Self(1 << 8);
    const DEADLINE_EXCEEDED: Self = Self(1 << 9);
    const RESOURCE_EXHAUSTED: Self = Self(1 << 10);
    const INTERNAL: Self = Self(1 << 11);
    const UNAVAILABLE: Self = Self(1 << 12);
    const ANY_RESET: Self = Self(Self::FIVE_XX.0 | Self::GATEWAY_ERROR.0 | Self::RESET.0);
    /// A request that was not carried out cannot be carried out twice.
    const SAFE: Self =
        Self(Self::CONNECT_FAILURE.0 | Self::REFUSED_STREAM.0 | Self::RESET_BEFORE_REQUEST.0);

    fn any(self, of: Self) -> bool {
        self.0 & of.0 != 0
    }

    fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Their names in `retryOn`.
    const NAMES: [(&str, Self); 13] = [
        ("5xx", Self::FIVE_XX),
        ("gateway-error", Self::GATEWAY_ERROR),
        ("reset", Self::RESET),
        ("reset-before-request", Self::RESET_BEFORE_REQUEST),
        ("connect-failure", Self::CONNECT_FAILURE),
        ("refused-stream", Self::REFUSED_STREAM),
        ("retriable-4xx", Self::RETRIABLE_4XX),
        ("envoy-ratelimited", Self::RATE_LIMITED),
        ("cancelled", Self::CANCELLED),
        ("deadline-exceeded", Self::DEADLINE_EXCEEDED),
        ("resource-exhausted", Self::RESOURCE_EXHAUSTED),
        ("internal", Self::INTERNAL),
        ("unavailable", Self::UNAVAILABLE),
    ];

    fn named(name: &str) -> Self {
        let found = Self::NAMES.iter().find(|(one, _)| *one == name);
        found.map_or_else(Self::default, |(_, cause)| *cause)
    }
}

/// How a try failed without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection.
    Connect,
    /// A connection, and not a byte of the request was sent.
    Unsent,
    /// The backend refused the stream before it looked at it (RFC 9113 section 8.7).
    Refused,
    /// The connection ended or stalled while the answer was awaited.
    Reset,
}

/// A rule's retry policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries after the first (`attempts`).
    pub attempts: u32,
    causes: Causes,
    codes: SmallVec<[u16; 4]>,
    /// Time for each try (`perTryTimeout`); none when nothing.
    pub per_try: Option<Duration>,
    /// Base of the wait between tries (`backoff`).
    pub base: Duration,
    /// Endpoints that failed are left out where there are others (`retryIgnorePreviousHosts`).
    pub avoid_previous: bool,
    /// So they are of a request that a hash keeps on one endpoint: only where the rule says it itself.
    pub avoid_hashed: bool,
    /// Later tries leave out localities that were tried where there are others
    /// (`retryRemoteLocalities`).
    pub remote: bool,
}

impl Default for RetryPolicy {
    /// Istio's default made safe: two retries of what no backend has begun to carry out.
    fn default() -> Self {
        Self {
            attempts: 2,
            causes: Causes::SAFE,
            codes: SmallVec::new(),
            per_try: None,
            base: limit::RETRY_BASE_TIME,
            avoid_previous: true,
            avoid_hashed: false,
            remote: false,
        }
    }
}

impl fmt::Display for RetryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.attempts == 0 {
            return f.write_str("no retry");
        }
        write!(f, "up to {} retries on", self.attempts)?;
        for (name, _) in Causes::NAMES.iter().filter(|(_, cause)| self.causes.any(*cause)) {
            write!(f, " {name}")?;
        }
        for code in &self.codes {
            write!(f, " {code}")?;
        }
        if let Some(time) = self.per_try {
            write!(f, ", {time:?} for each try")?;
        }
        let others = match (self.avoid_previous, self.avoid_hashed) {
            (false, _) => "",
            (true, false) => ", at other endpoints where there are any",
            (true, true) => ", at other endpoints where there are any, whatever a hash says",
        };
        write!(f, ", after waits from {:?}{others}", self.base)?;
        if self.remote {
            f.write_str(", from the second on in localities that were not tried")?;
        }
        Ok(())
    }
}

impl RetryPolicy {
    /// Takes the causes of `retryOn`: names and status codes with commas; empty for the default's.
    #[must_use]
    pub fn on(mut self, words: &str) -> Self {
        let words: Vec<_> = words.split(',').map(str::trim).filter(|w| !w.is_empty()).collect();
        if words.is_empty() {
            return self;
        }
        self.causes = words.iter().fold(Causes::default(), |all, w| all.with(Causes::named(w)));
        self.codes = words.iter().filter_map(|word| word.parse().ok()).collect();
        self
    }

    /// Whether a request may go again after it was sent, so that it must be kept.
    pub fn after_sending(&self) -> bool {
        self.attempts > 0 && (!self.codes.is_empty() || self.causes.0 & !Causes::SAFE.0 != 0)
    }

    /// Whether a failure is a cause.
    pub fn retries(&self, failure: Failure) -> bool {
        let causes = match failure {
            Failure::Connect => Causes::CONNECT_FAILURE.with(Causes::RESET_BEFORE_REQUEST),
            Failure::Unsent => Causes::RESET_BEFORE_REQUEST.with(Causes::CONNECT_FAILURE),
            Failure::Refused => Causes::REFUSED_STREAM,
            Failure::Reset => Causes::default(),
        };
        self.causes.any(causes.with(Causes::ANY_RESET))
    }

    /// Whether an answer is a cause.
    pub fn retries_answer<B>(&self, response: &Response<B>) -> bool {
        let (status, headers) = (response.status(), response.headers());
        // What a rate limit refused is asked for again by its own word alone.
        if headers.contains_key(X_ENVOY_RATELIMITED) {
            return self.causes.any(Causes::RATE_LIMITED);
        }
        let code = status.as_u16();
        let grpc = || match headers.get(GRPC_STATUS).map(http::HeaderValue::as_bytes) {
            Some(b"1") => Causes::CANCELLED,
            Some(b"4") => Causes::DEADLINE_EXCEEDED,
            Some(b"8") => Causes::RESOURCE_EXHAUSTED,
            Some(b"13") => Causes::INTERNAL,
            Some(b"14") => Causes::UNAVAILABLE,
            _ => Causes::default(),
        };
        self.codes.contains(&code)
            || (status.is_server_error() && self.causes.any(Causes::FIVE_XX))
            || (matches!(code, 502..=504) && self.causes.any(Causes::GATEWAY_ERROR))
            || (code == 409 && self.causes.any(Causes::RETRIABLE_4XX))
            || self.causes.any(grpc())
    }

    /// How long to wait before a retry: `random` (0 to 1) of a bound that doubles up to ten times
    /// the base.
    pub fn back_off(&self, retry: u32, random: f64) -> Duration {
        let most = self.base.saturating_mul(2_u32.saturating_pow(retry) - 1);
        most.min(self.base.saturating_mul(10)).mul_f64(random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(words: &str) -> RetryPolicy {
        RetryPolicy::default().on(words)
    }

    fn check(words: &str, failures: &[Failure], codes: &[u16]) {
        let all = [Failure::Connect, Failure::Unsent, Failure::Refused, Failure::Reset];
        let policy = on(words);
        let found: Vec<_> = all.into_iter().filter(|failure| policy.retries(*failure)).collect();
        assert_eq!(found, failures, "{words}");
        let answer = |code: u16| Response::builder().status(code).body(()).unwrap();
        let answers = [200, 404, 409, 418, 429, 500, 502, 503, 504];
        let found: Vec<_> =
            answers.into_iter().filter(|code| policy.retries_answer(&answer(*code))).collect();
        assert_eq!(found, codes, "{words}");
    }

    #[test]
    fn each_word_has_its_causes() {
        use Failure::{Connect, Refused, Reset, Unsent};
        let every = [Connect, Unsent, Refused, Reset];
        check("5xx", &every, &[500, 502, 503, 504]);
        check("gateway-error", &every, &[502, 503, 504]);
        check("reset", &every, &[]);
        check("reset-before-request", &[Connect, Unsent], &[]);
        check("connect-failure", &[Connect, Unsent], &[]);
        check("refused-stream", &[Refused], &[]);
        check("retriable-4xx", &[], &[409]);
        check("418,retriable-status-codes , 503", &[], &[418, 503]);
        check("", &[Connect, Unsent, Refused], &[]);
        check("http3-post-connect-failure,retriable-headers", &[], &[]);
    }

    #[test]
    fn grpc_statuses_are_read_from_headers() {
        for (word, number) in [
            ("cancelled", "1"),
            ("deadline-exceeded", "4"),
            ("resource-exhausted", "8"),
            ("internal", "13"),
            ("unavailable", "14"),
        ] {
            let answer = Response::builder().header(GRPC_STATUS, number).body(()).unwrap();
            assert!(on(word).retries_answer(&answer), "{word}");
            assert!(!on("5xx").retries_answer(&answer), "{word}");
        }
    }

    #[test]
    fn what_a_rate_limit_refused_is_retried_by_its_own_word_alone() {
        let check = |words: &str, status: u16, expected: bool| {
            let answer = Response::builder().status(status).header(X_ENVOY_RATELIMITED, "true");
            assert_eq!(on(words).retries_answer(&answer.body(()).unwrap()), expected, "{words}");
        };
        check("envoy-ratelimited", 429, true);
        check("envoy-ratelimited", 200, true);
        check("5xx,gateway-error,503,unavailable", 503, false);
        check("retriable-4xx,429", 429, false);
        let unmarked = Response::builder().status(429).body(()).unwrap();
        assert!(!on("envoy-ratelimited").retries_answer(&unmarked));
    }

    #[test]
    fn the_default_repeats_only_what_was_not_carried_out() {
        let policy = RetryPolicy::default();
        assert!(!policy.retries(Failure::Reset) && !policy.after_sending());
        assert!(on("unavailable").after_sending() && on("503").after_sending());
    }

    #[test]
    fn retries_wait_up_to_a_bound_that_doubles() {
        let policy = RetryPolicy::default();
        let most: Vec<_> = (1..6).map(|retry| policy.back_off(retry, 1.0).as_millis()).collect();
        assert_eq!(most, [25, 75, 175, 250, 250]);
        assert_eq!(policy.back_off(3, 0.0), Duration::ZERO);
        assert_eq!(policy.back_off(40, 1.0).as_millis(), 250);
    }
}
