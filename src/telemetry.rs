//! Metrics, access log and the record of one request.
