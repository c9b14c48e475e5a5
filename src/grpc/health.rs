//! gRPC's health protocol (`grpc.health.v1`).

use prost::Message;

/// Path of the method that asks once.
pub const CHECK: &str = "/grpc.health.v1.Health/Check";

/// `ServingStatus.SERVING`.
pub const SERVING: i32 = 1;

/// `HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct HealthCheckRequest {
    /// Which service; empty for the server as a whole.
    #[prost(string, tag = "1")]
    pub service: String,
}

/// `HealthCheckResponse`.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct HealthCheckResponse {
    /// `ServingStatus`: 0 unknown, 1 serving, 2 not serving, 3 no such service.
    #[prost(int32, tag = "1")]
    pub status: i32,
}
