//! The gateway's own ports: status, metrics, admin.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, PoisonError};

use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::admin::metrics;
use crate::admin::router::{self, AdminHooks};
use crate::admin::server::{Handler, serve};
use crate::admin::status::{self, Readiness};
use crate::compile::settings::OwnPorts;
use crate::diag::render;
use crate::explain::{Question, explain};
use crate::probe::Prober;
use crate::proxy::worker::Command;
use crate::snapshot::cell::SnapshotCell;
use crate::snapshot::view;
use crate::telemetry::Metrics;
use crate::telemetry::logs::LogLevel;
use crate::upstream::jwks::JwksEngine;

use super::control::{SharedReport, unix_seconds};
use super::endpoint_states::EndpointStates;
use super::key_sets;
use super::workers::Commands;

/// A port of our own that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address} for {flag}: {cause}; choose another address with {flag}, or {flag} off"
)]
pub(super) struct PortError {
    flag: &'static str,
    address: SocketAddr,
    cause: std::io::Error,
}

/// Our ports, open and not yet served.
pub(super) struct Ports {
    status: Option<TcpListener>,
    metrics: Option<TcpListener>,
    admin: Option<TcpListener>,
}

impl Ports {
    /// Opens them, so that a port in use is told before anything is served.
    pub(super) fn open(own: &OwnPorts) -> Result<Self, PortError> {
        Ok(Self {
            status: open("--status", own.status)?,
            metrics: open("--metrics", own.metrics)?,
            admin: open("--admin", own.admin)?,
        })
    }

    /// Serves them on the control runtime until it ends.
    pub(super) fn serve(
        self,
        runtime: &Handle,
        (readiness, prober): (&Readiness, Option<Prober>),
        metrics: &Arc<Metrics>,
        hooks: AdminHooks,
    ) {
        let all: [(Option<TcpListener>, Handler); 3] = [
            (self.status, status::handler(readiness.clone(), prober)),
            (self.metrics, metrics::handler(metrics.clone())),
            (self.admin, router::handler(hooks)),
        ];
        for (listener, handler) in all {
            if let Some(listener) = listener {
                runtime.spawn(serve_port(listener, handler));
            }
        }
    }
}

/// Serves a port of our own for as long as it is awaited.
pub(super) async fn serve_port(listener: TcpListener, handler: Handler) {
    match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => match serve(listener, handler).await {},
        Err(error) => tracing::error!(%error, "a port of our own is not served"),
    }
}

/// Opens a port of our own, if it has an address.
pub(super) fn open(
    flag: &'static str,
    address: Option<SocketAddr>,
) -> Result<Option<TcpListener>, PortError> {
    let Some(address) = address else { return Ok(None) };
    let open = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    open().map(Some).map_err(|cause| PortError { flag, address, cause })
}

/// What the admin port shows and does.
pub(super) fn hooks(
    (cell, engine, endpoints): (SnapshotCell, Arc<JwksEngine>, EndpointStates),
    report: &SharedReport,
    (workers, readiness): (Commands, Readiness),
    level: LogLevel,
) -> AdminHooks {
    let read = |report: &SharedReport| report.clone();
    let (diagnostics, certificates) = (read(report), read(report));
    let (explained, keyed) = (cell.clone(), cell.clone());
    AdminHooks {
        config_dump: Arc::new(move || view::snapshot(&cell.load())),
        diagnostics: Arc::new(move || {
            let report = diagnostics.lock().unwrap_or_else(PoisonError::into_inner);
            render::value(&report.diagnostics)
        }),
        certs: Arc::new(move || {
            let report = certificates.lock().unwrap_or_else(PoisonError::into_inner);
            let list = report.certificates.iter().map(|fact| {
                json!({
                    "kind": fact.kind,
                    "name": fact.name,
                    "serial": fact.serial,
                    "not_after": fact.not_after,
                })
            });
            Value::Array(list.collect())
        }),
        jwks: Arc::new(move || key_sets::shown(&engine, &keyed.load())),
        explain: Box::new(move |query| {
            let question =
                Question::from_query(query, unix_seconds()).map_err(|e| e.to_string())?;
            let snapshot = explained.load();
            let mut told = explain(&snapshot, &question).map_err(|e| e.to_string())?;
            endpoints.tell(&mut told, &snapshot);
            serde_json::to_value(told).map_err(|e| e.to_string())
        }),
        drain: Box::new(move || {
            readiness.draining();
            workers.send(|| Command::Drain);
        }),
        level,
    }
}
