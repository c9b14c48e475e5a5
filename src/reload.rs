//! Read, parse, compile, publish or keep, report.
