//! Builds every part, wires them, owns start and stop order.

pub mod settings;
