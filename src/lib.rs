//! portcullis: an edge ingress gateway that reads Istio's resources.
//!
//! Two halves meet in one immutable [`snapshot::Snapshot`]. The control half reads files
//! ([`source`]), parses them ([`resources`]), compiles them ([`compile`]) and publishes the result
//! ([`reload`]). The data half ([`proxy`]) accepts connections and serves each request by asking
//! [`decide`], a pure function over the snapshot, what should happen, and then doing it.
//!
//! Modules in reading order, lowest layer first; each imports only from those above it in this list
//! (`tests/layering.rs` holds the table):
//!
//! [`base`], [`diag`], [`resources`], [`telemetry`], [`route`], [`auth`], [`balance`], [`tls`],
//! [`snapshot`], [`decide`], [`explain`], [`expectation`], [`compile`], [`grpc`], [`net`], [`probe`], [`upstream`], [`proxy`], [`source`],
//! [`ca`], [`identity`], [`reload`], [`admin`], [`app`], [`cli`].

pub mod base;
pub mod diag;

pub mod resources;
pub mod telemetry;

pub mod auth;
pub mod balance;
pub mod route;
pub mod tls;

pub mod snapshot;

pub mod compile;
pub mod decide;
pub mod expectation;
pub mod explain;

pub mod grpc;
pub mod net;
pub mod probe;
pub mod source;

pub mod ca;
pub mod identity;
pub mod upstream;

pub mod proxy;
pub mod reload;

pub mod admin;
pub mod app;
pub mod cli;
