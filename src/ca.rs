//! The built-in certificate authority: who may have which certificate, and issuing it.
//!
//! Everything but [`server`] is pure: files, sockets and the clock are the server's.
//! **Invariant:** a certificate names one identity of the CA's trust domain, the caller's own, and
//! can never sign another. Keys reach neither errors, logs nor `Debug`.

mod authority;
mod caller;
mod create;
mod record;
mod renewal;
mod request;
pub mod server;
mod signer;
mod validity;
mod workload;
mod workloads;

#[cfg(test)]
mod fixture;

pub use authority::{Authority, AuthorityError, AuthorityFiles, Issued, Template};
pub use caller::{KubernetesTokens, RefusedCaller, TokenCallers};
pub use create::{NewAuthority, create_intermediate, create_root};
pub use record::{Caller, IssuanceRecord};
pub use renewal::renew_after;
pub use request::{RefusedRequest, SigningRequest};
pub use signer::{Revoked, Signer};
pub use validity::End;
pub use workload::{InvalidWorkload, WorkloadId};
pub use workloads::Workloads;
