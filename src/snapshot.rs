//! The compiled world: immutable, shared, complete.
