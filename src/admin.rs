//! Status, metrics and admin ports.
