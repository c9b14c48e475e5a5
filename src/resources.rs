//! The Istio API as written: nothing defaulted, nothing resolved.
