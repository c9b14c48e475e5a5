//! Pure routing: request head in, route out.
//!
//! Knows hosts, paths, headers and regular expressions; knows nothing of Istio's resources.
//!
//! **Invariant:** nothing here is built per request; matchers, templates and weights are made once.

pub mod cors;
pub mod fault;
pub mod headers;
pub mod hosts;
pub mod index;
pub mod matcher;
pub mod path;
pub mod retry;
pub mod rewrite;
pub mod share;
pub mod time_format;
pub mod variable;
pub mod weight;
