//! A probe by gRPC's health protocol.

use std::net::SocketAddr;

use http::Uri;
use http::uri::PathAndQuery;
use tokio::net::TcpStream;
use tonic::Request;
use tonic_prost::ProstCodec;

use super::{Failure, Health};
use crate::grpc::client::over;
use crate::grpc::health::{CHECK, HealthCheckRequest, HealthCheckResponse, SERVING};

pub(super) async fn check(address: SocketAddr, service: &str) -> Result<Health, Failure> {
    let stream = TcpStream::connect(address).await?;
    let origin = Uri::try_from(format!("http://{address}")).unwrap_or_default();
    let mut client = over(stream, origin).await?;
    client.ready().await?;
    let request = Request::new(HealthCheckRequest { service: service.to_owned() });
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let answer = client.unary(request, PathAndQuery::from_static(CHECK), codec).await?;
    match answer.into_inner().status {
        SERVING => Ok(Health::good()),
        other => Err(Failure::NotServing(other)),
    }
}
