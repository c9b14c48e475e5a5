//! Words that every layer shares: identifiers, host patterns, durations, limits, secrets.
//!
//! **Invariant:** nothing here does I/O, reads a clock or is asynchronous.

pub mod claim;
pub mod duration;
pub mod file;
pub mod grpc;
pub mod hash;
pub mod header;
pub mod host;
pub mod id;
pub mod labels;
pub mod limit;
pub mod memory;
pub mod pattern;
pub mod pem;
pub mod prefixes;
pub mod query;
pub mod secret;
