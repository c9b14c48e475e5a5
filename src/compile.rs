//! Resources and files to a snapshot and diagnostics.
