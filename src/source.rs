//! Where configuration comes from.
//!
//! **Invariant:** what is read is bounded, and a file that cannot be read harms no other.

pub mod files;
pub mod reader;
pub mod touched;
pub mod watch;
pub mod writing;
