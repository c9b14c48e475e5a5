//! TLS material and configurations; pure over PEM bytes.
//!
//! [`material`], [`roots`] and [`revocation`] turn PEM into checked types, [`trust`] holds the rules for a peer's
//! certificate, [`crypto`] turns Istio's version, suite and curve names into a rustls provider, and
//! [`server`] and [`client`] build the configurations. No file, socket or clock is touched here.
//!
//! **Invariant:** a configuration exists only for material that was proven usable, and sessions of
//! one server policy are never resumed by another.

pub mod certificate;
pub mod client;
pub mod crypto;
mod dn;
pub mod identity;
pub mod material;
pub mod revocation;
pub mod roots;
pub mod server;
pub mod trust;

#[cfg(test)]
mod handshake_tests;
#[cfg(test)]
pub(crate) mod pki;
