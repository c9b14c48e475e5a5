//! Status, metrics and admin ports.
//!
//! **Invariant:** these ports run on the control runtime, show no secret, and change nothing but by
//! `POST`.

pub mod answer;
pub mod metrics;
pub mod page;
pub mod router;
pub mod server;
pub mod status;
