//! What gRPC has for HTTP's statuses.

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

#[cfg(test)]
mod tests {
    use super::*;

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
