//! Black-box tests of the real binary.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    unreachable_pub,
    dead_code,
    reason = "a test that cannot go on fails"
)]

mod advice;
mod announced;
mod authority;
mod authz;
mod backend;
mod balance;
mod ca;
mod ca_cluster_keys;
mod ca_folder;
mod ca_requests;
mod check;
mod client;
mod client_certs;
mod cold_start;
mod credentials;
mod demo;
mod edges;
mod expectations;
mod explain;
mod external;
mod external_grpc;
mod external_streams;
mod failures;
#[path = "../../src/auth/jwt/fixture.rs"]
mod fixture;
mod floods;
mod forwarded;
mod frames;
mod gateway;
mod grpc_answers;
mod grpc_web;
mod hashing;
mod heads;
mod health;
mod http;
mod identity;
mod ignored;
mod informational;
mod jwt;
mod keys;
mod lifecycle;
mod limits;
mod listeners;
mod mirror;
mod networks;
mod observability;
mod operations;
mod outlier;
mod pairs;
mod paths;
mod peer_exchange;
#[path = "../../src/tls/pki.rs"]
mod pki;
mod policies;
mod pressure;
mod probes;
mod reload;
mod reporter;
mod retries;
mod retry_words;
mod revocation;
mod rotation;
mod routes;
mod samples;
mod scripted;
mod set_aside;
mod sidecar;
mod sidecar_names;
mod splice;
mod standing;
mod standing_certificates;
mod standing_requests;
mod strict;
mod tcp;
mod token_rules;
mod trailers;
mod tunnels;
mod upstream;
mod users;
mod websockets;
#[path = "../model/world.rs"]
mod world;
#[path = "../model/written.rs"]
mod written;
