//! gRPC's statuses.

/// The gRPC status of a call whose answer has none, by its HTTP status (gRPC's `http-grpc-status-mapping.md`).
pub fn status_of(http: u16) -> u16 {
    match http {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// The names of the statuses, by number.
const NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The number of the status with a name.
pub fn number_of(name: &str) -> Option<u16> {
    NAMES.iter().position(|one| *one == name).and_then(|number| u16::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_names() {
        for (name, expected) in [
            ("OK", Some(0)),
            ("UNAVAILABLE", Some(14)),
            ("UNAUTHENTICATED", Some(16)),
            ("unavailable", None),
            ("14", None),
            ("", None),
        ] {
            assert_eq!(number_of(name), expected, "{name}");
        }
    }

    #[test]
    fn statuses_of_http_have_one_of_grpc() {
        for (http, grpc) in [(200, 2), (400, 13), (401, 16), (403, 7), (404, 12), (500, 2)] {
            assert_eq!(status_of(http), grpc, "{http}");
        }
        for http in [429, 502, 503, 504] {
            assert_eq!(status_of(http), 14, "{http}");
        }
    }
}
