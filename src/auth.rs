//! Pure authentication: request facts in, verdict out.

pub mod authz;
pub mod jwt;
