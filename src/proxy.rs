//! The data half: connections in, requests through.
