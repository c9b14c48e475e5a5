//! Metrics, access log, program log and the record of one request.
//!
//! Each worker holds one [`WorkerTelemetry`]; a request fills a [`RequestRecord`], which is consumed
//! once and becomes one metrics sample and one access log line.
//!
//! **Invariant:** nothing here blocks a worker: samples are plain stores into the worker's own series,
//! lines go to the worker's own buffer, and what does not fit is dropped and counted.

pub mod access_log;
pub mod catalog;
pub mod config;
pub mod destination;
pub mod downstream;
pub mod exposition;
pub mod keys;
pub mod logs;
pub mod messages;
pub mod metrics;
pub mod record;
pub mod upstream;
pub mod worker;

mod histogram;
mod line;
mod process;
mod series;

pub use crate::base::labels::DestinationLabels;
pub use access_log::{AccessLog, LogFormat, WorkerLog};
pub use destination::{Destination, Protocol, RequestSample};
pub use metrics::{Metrics, WorkloadLabels};
pub use record::{LogFields, RequestRecord};
pub use worker::{WorkerMetrics, WorkerTelemetry};
