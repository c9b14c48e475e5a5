//! What serves a connection, found again in each snapshot.
//!
//! **Invariant:** a connection is never served by a block that would not have taken it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use super::connection::Connection;
use crate::base::hash::Fingerprint;
use crate::base::id::Generation;
use crate::decide::connection::choose;
use crate::snapshot::Snapshot;
use crate::snapshot::listener::{Chain, ListenAddress, Listener, ServerBlock, Servers};
use crate::tls::revocation::Crls;

/// The block that serves a connection, looked up again when the snapshot changes.
#[derive(Debug)]
pub struct Serving {
    /// The snapshot it was looked up in.
    pub generation: Generation,
    /// The listener.
    pub listener: Arc<Listener>,
    /// The block.
    pub block: Arc<ServerBlock>,
}

/// What a connection's block is in the live snapshot.
#[derive(Debug)]
pub struct ServingCell {
    address: ListenAddress,
    server_name: Option<Arc<str>>,
    key: Arc<str>,
    client_rule: Option<Fingerprint>,
    member: Option<Box<Member>>,
    current: RefCell<Option<Rc<Serving>>>,
}

/// A client of the mesh, whose authorities may revoke its certificate.
#[derive(Debug)]
struct Member {
    chain: Rc<[CertificateDer<'static>]>,
    /// Digest of what was revoked when it was looked at last, and what that made of it.
    judged: Cell<(Fingerprint, bool)>,
}

impl Member {
    fn is_revoked(&self, revocations: &Crls) -> bool {
        let (digest, revoked) = self.judged.get();
        if digest == revocations.revoked() {
            return revoked;
        }
        let revoked = revocations.revoke(self.chain.iter());
        self.judged.set((revocations.revoked(), revoked));
        revoked
    }
}

impl ServingCell {
    /// The block in this snapshot; nothing when it is gone, asks other client certificates, or the
    /// client's was revoked.
    pub fn resolve(&self, snapshot: &Snapshot) -> Option<Rc<Serving>> {
        if let Some(current) = self.current.borrow().as_ref()
            && current.generation == snapshot.generation
        {
            return Some(current.clone());
        }
        let (listener, block) = self.find(snapshot)?;
        let (listener, block) = (listener.clone(), block.clone());
        let next = Rc::new(Serving { generation: snapshot.generation, listener, block });
        self.current.replace(Some(next.clone()));
        Some(next)
    }

    /// Whether a snapshot has the block still, with the same rule for clients. Where it has not, the
    /// connection ends with what it carries.
    pub fn is_served(&self, snapshot: &Snapshot) -> bool {
        self.find(snapshot).is_some()
    }

    fn find<'a>(
        &self,
        snapshot: &'a Snapshot,
    ) -> Option<(&'a Arc<Listener>, &'a Arc<ServerBlock>)> {
        let listener = snapshot.listener(&self.address)?;
        let block = match &listener.servers {
            Servers::Http(block) => block,
            Servers::Tls(chains) => match choose(chains, self.server_name.as_deref())? {
                Chain::Http(block) => block,
                _ => return None,
            },
            Servers::Inbound(inbound) => inbound.http(self.client_rule.is_some())?,
            Servers::Tcp(_) => return None,
        };
        let same = block.key == self.key && client_rule(block) == self.client_rule;
        let revoked = match (&self.member, &block.tls) {
            (Some(member), Some(tls)) => {
                tls.revocations.as_ref().is_some_and(|revocations| member.is_revoked(revocations))
            }
            _ => false,
        };
        (same && !revoked).then_some((listener, block))
    }

    /// Takes the certificate that a client of the mesh showed, leaf first; it was verified by the
    /// block that serves it.
    pub(super) fn of_member(mut self, chain: &Rc<[CertificateDer<'static>]>) -> Self {
        let Some(serving) = self.current.get_mut() else { return self };
        let revocations = serving.block.tls.as_ref().and_then(|tls| tls.revocations.as_ref());
        self.member = revocations.filter(|_| !chain.is_empty()).map(|revocations| {
            let judged = Cell::new((revocations.revoked(), false));
            Box::new(Member { chain: chain.clone(), judged })
        });
        self
    }

    /// Where the connection was accepted.
    pub(super) fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// What was asked of the client's certificate.
    pub(super) fn client_rule(&self) -> Option<Fingerprint> {
        self.client_rule
    }

    /// Lets go of a former snapshot, which an idle connection would keep alive.
    pub fn forget(&self) {
        self.current.take();
    }
}

fn client_rule(block: &ServerBlock) -> Option<Fingerprint> {
    block.tls.as_ref().map(|tls| tls.client_rule)
}

/// The place of a connection that a block takes.
pub(super) fn serving(connection: &Connection, block: Arc<ServerBlock>) -> ServingCell {
    ServingCell {
        address: connection.listener.address.clone(),
        server_name: connection.server_name.clone(),
        key: block.key.clone(),
        client_rule: client_rule(&block),
        member: None,
        current: RefCell::new(Some(Rc::new(Serving {
            generation: connection.snapshot.generation,
            listener: connection.listener.clone(),
            block,
        }))),
    }
}
