//! What happens to a connection and a request: one pure function each.
