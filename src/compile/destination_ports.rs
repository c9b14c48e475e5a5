//! Which port of a service a destination means.
//!
//! **Invariant:** a destination without a port never gets one by guessing.

use crate::diag::{Diagnostic, catalog};

use super::clusters::Written;
use super::findings::at;
use super::services::{Port, Service};

/// Why a destination's port is not known.
pub(super) enum PortProblem {
    Unknown(u32),
    Several,
    None,
}

impl PortProblem {
    /// The finding.
    pub(super) fn tell(&self, written: &Written<'_>, host: &str) -> Diagnostic {
        match self {
            Self::Unknown(number) => written.missing(
                "port",
                format!("\"{host}\" has no port {number}"),
                "name one of the service's ports",
            ),
            Self::None => written.missing(
                "port",
                format!("\"{host}\" has no port"),
                "give the service a port",
            ),
            Self::Several => at(
                written.resource,
                format!("{}.port", written.field),
                &catalog::PORT_SELECTOR_REQUIRED,
                format!("\"{host}\" has several ports"),
            )
            .help(written.until("add destination.port.number")),
        }
    }
}

/// The port named, else the only one, else the one with the listener's number.
pub(super) fn pick_port<'s>(
    service: &'s Service,
    written: &Written<'_>,
) -> Result<&'s Port, PortProblem> {
    let by_number = |number: u32| service.ports.iter().find(|p| u32::from(p.number) == number);
    let named = written.destination.port.as_ref().map(|port| port.number);
    match (named, service.ports.as_slice()) {
        (Some(number), _) => by_number(number).ok_or(PortProblem::Unknown(number)),
        (None, []) => Err(PortProblem::None),
        (None, [only]) => Ok(only),
        (None, _) => by_number(u32::from(written.listener)).ok_or(PortProblem::Several),
    }
}
