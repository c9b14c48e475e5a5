//! Pure authentication: request facts in, verdict out.
