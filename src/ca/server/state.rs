//! What is in force: the authority, who gets what, what was revoked; and issuing with a record.
//!
//! **Invariant:** no certificate leaves without its line in the issuance log; files that do not serve
//! change nothing.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rcgen::{PublicKeyData, SanType};
use time::OffsetDateTime;
use tokio::sync::watch;
use tonic::Status;

use super::folder::{Contents, Folder, FolderError};
use super::ledger::Ledger;
use super::signers::Signers;
use crate::base::hash::{Fingerprint, Hasher};
use crate::base::{limit, pem};
use crate::ca::{
    Authority, AuthorityError, AuthorityFiles, Caller, IssuanceRecord, Issued, Signer, Template,
    TokenCallers, WorkloadId, Workloads,
};
use crate::resources::ConfigFile;
use crate::source::reader::Reader;

/// What a CA is told at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaSettings {
    /// Folder of the authority.
    pub dir: PathBuf,
    /// Folder of everything else: who gets what, what was revoked, and what is written.
    pub state: PathBuf,
    /// Trust domain of every identity.
    pub trust_domain: String,
    /// Identity of its own server.
    pub own: WorkloadId,
    /// DNS names and addresses of its own server.
    pub names: Vec<SanType>,
    /// Life of a certificate when the caller asks for none.
    pub lifetime: Duration,
}

/// What is in force.
pub(super) struct Standing {
    pub(super) authority: Authority,
    pub(super) workloads: Workloads,
    /// Revocation lists of the signing certificate and those before it, as far as they may sign one, DER.
    pub(super) lists: Vec<Vec<u8>>,
    /// The same as PEM, once something was revoked and when no signer's is missing. Envoy wants a list of
    /// every leaf's issuer as soon as it has one, so that it gets none without need.
    pub(super) enforced: String,
}

/// A running CA.
pub struct Ca {
    pub(super) settings: CaSettings,
    pub(super) callers: TokenCallers,
    standing: watch::Sender<Arc<Standing>>,
    ledger: Arc<Mutex<Ledger>>,
}

impl Ca {
    /// Opens the folder and reads it for the first time; it must be usable.
    pub fn open(
        settings: CaSettings,
        callers: TokenCallers,
        now: OffsetDateTime,
    ) -> Result<(Self, Keeper), FolderError> {
        let ledger = Arc::new(Mutex::new(Ledger::open(&settings.state, now)?));
        let (dir, state) = (settings.dir.clone(), settings.state.clone());
        let folder = Folder::open(dir, state, &settings.trust_domain, now)?;
        let mut keeper = Keeper {
            folder,
            signers: Signers::new(&settings.state),
            ledger: ledger.clone(),
            settings: settings.clone(),
            reader: Reader::default(),
            read: None,
            list_due: i64::MIN,
            renewal_due: i64::MIN,
            failure: String::new(),
            unlisted: Unlisted::default(),
        };
        let contents = keeper.folder.read(&mut keeper.reader)?;
        let standing = keeper.settle(contents, now)?;
        let (standing, _) = watch::channel(Arc::new(standing));
        Ok((Self { settings, callers, standing, ledger }, keeper))
    }

    /// What is in force, and when it changes.
    pub(super) fn standing(&self) -> watch::Receiver<Arc<Standing>> {
        self.standing.subscribe()
    }

    /// Tells from which Unix second on nothing can be issued any more, now and whenever it changes.
    pub async fn tell_end(&self, told: impl Fn(i64)) {
        let mut standing = self.standing();
        loop {
            told(standing.borrow_and_update().authority.end().at);
            if standing.changed().await.is_err() {
                return;
            }
        }
    }

    /// Issues a certificate and writes it down; without the record there is no certificate.
    pub(super) fn issue(
        &self,
        authority: &Authority,
        key: &impl PublicKeyData,
        template: Template<'_>,
        caller: Caller,
    ) -> Result<Issued, Status> {
        let now = OffsetDateTime::now_utc();
        let id = template.id;
        let issued = authority.issue(key, template, now).map_err(|error| {
            tracing::error!(%error, identity = %id, "a certificate cannot be issued");
            Status::internal("the CA cannot issue at the moment")
        })?;
        let record = IssuanceRecord::new((&issued, authority.signer()), id, caller, now);
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.add(&record, now).map_err(|error| {
            tracing::error!(%error, "the issuance log cannot be written; nothing is issued");
            Status::internal("the CA cannot issue at the moment")
        })?;
        tracing::info!(serial = issued.serial, identity = %id, %caller, "certificate issued");
        Ok(issued)
    }
}

/// Follows the folder.
pub struct Keeper {
    folder: Folder,
    signers: Signers,
    ledger: Arc<Mutex<Ledger>>,
    settings: CaSettings,
    reader: Reader,
    /// Digest of what is in force.
    read: Option<Fingerprint>,
    /// When the revocation list is written anew, Unix seconds.
    list_due: i64,
    /// When the signing certificate's age is looked at again, Unix seconds.
    renewal_due: i64,
    /// The failure told last, so that it is told once.
    failure: String,
    /// What was told last of signers without a list.
    unlisted: Unlisted,
}

/// Signers whose certificates cannot be revoked.
#[derive(Default, PartialEq, Eq)]
struct Unlisted {
    signers: Vec<String>,
    /// Whether something shall be.
    revoked: bool,
}

impl Unlisted {
    fn tell(&self) {
        if self.signers.is_empty() {
            return;
        }
        let signers = self.signers.join(", ");
        let why = "their keyUsage has no cRLSign, so that they may sign no revocation list";
        if self.revoked {
            tracing::error!(
                signers,
                why,
                "what these signing certificates signed cannot be revoked, and revoked.txt is not empty: \
                 proxies get no list by SDS; plug in a signing certificate with cRLSign"
            );
        } else {
            tracing::warn!(signers, why, "what these signing certificates sign cannot be revoked");
        }
    }
}

impl Keeper {
    /// Proves what was read; a signing certificate that is old is renewed first.
    fn settle(
        &mut self,
        mut contents: Contents,
        now: OffsetDateTime,
    ) -> Result<Standing, FolderError> {
        let mut authority = self.authority(&contents, now);
        if due_for_renewal(&authority, now) {
            match self.renew(&authority, &contents, now) {
                Ok(true) => {
                    contents = self.folder.read(&mut self.reader)?;
                    authority = self.authority(&contents, now);
                    tracing::info!("the signing certificate was renewed");
                }
                Ok(false) => {}
                Err(error) if authority.is_ok() => {
                    tracing::warn!(%error, "the signing certificate cannot be renewed; it is tried again");
                }
                Err(error) => return Err(error),
            }
        }
        let authority = authority.map_err(|why| self.folder.unusable(why))?;
        let file = ConfigFile {
            path: self.folder.workloads_path().display().to_string().into(),
            bytes: contents.workloads.bytes().clone(),
        };
        let workloads =
            Workloads::parse(&file, &self.settings.trust_domain).map_err(FolderError::Workloads)?;
        let (lists, unlisted) = self.lists(&authority, &contents, now)?;
        let mut text = String::new();
        for list in &lists {
            pem::push(&mut text, pem::REVOCATION_LIST, list);
        }
        self.folder.write_list(&text)?;
        let enforce = unlisted.revoked && unlisted.signers.is_empty();
        let enforced = if enforce { text } else { String::new() };
        if unlisted != self.unlisted {
            unlisted.tell();
            self.unlisted = unlisted;
        }
        let half = i64::try_from(limit::CA_CRL_TIME.as_secs() / 2).unwrap_or(i64::MAX);
        let now = now.unix_timestamp();
        let end = authority.end();
        if end.at - now < SOON_SECONDS {
            let days = (end.at - now) / DAY_SECONDS;
            tracing::warn!(
                certificate = end.subject,
                days,
                "a certificate of the CA ends soon: nothing is issued then"
            );
        }
        // That it ended is told at once.
        self.list_due = now.saturating_add(half).min(end.at.saturating_add(1));
        // Without the root's key an old certificate cannot be renewed: it is looked at then anew.
        let old = authority.signer().not_after() - RENEWAL_SECONDS;
        self.renewal_due = if old > now { old } else { self.list_due };
        self.read = Some(digest(&contents));
        Ok(Standing { authority, workloads, lists, enforced })
    }

    /// Replaces a signing certificate, which is kept before it goes, where its root's key is there.
    fn renew(
        &self,
        authority: &Result<Authority, AuthorityError>,
        contents: &Contents,
        now: OffsetDateTime,
    ) -> Result<bool, FolderError> {
        if let Ok(authority) = authority {
            self.keep(authority.signer(), contents)?;
        }
        self.folder.renew(&self.settings.own, &self.settings.trust_domain, now)
    }

    fn keep(&self, signer: &Signer, contents: &Contents) -> Result<(), FolderError> {
        let failed = |why| FolderError::File { path: self.settings.state.clone(), why };
        self.signers.keep(signer, &contents.key).map_err(failed)
    }

    /// The revocation list of the signing certificate, and of each before it that signed what is good
    /// still; and those that may sign none.
    fn lists(
        &self,
        authority: &Authority,
        contents: &Contents,
        now: OffsetDateTime,
    ) -> Result<(Vec<Vec<u8>>, Unlisted), FolderError> {
        let current = authority.signer();
        self.keep(current, contents)?;
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let needed = |name: &str| ledger.needs(name, now.unix_timestamp());
        let before = self.signers.before(&current.name(), needed)?;
        let (may_list, others): (Vec<_>, Vec<_>) =
            std::iter::once(current).chain(&before).partition(|signer| signer.may_list());
        let signers = others.into_iter().map(Signer::name).collect();
        let lists = may_list
            .into_iter()
            .map(|signer| signer.revocation_list(&contents.revoked, now))
            .collect::<Result<_, _>>()
            .map_err(|why| self.folder.unusable(why))?;
        Ok((lists, Unlisted { signers, revoked: !contents.revoked.is_empty() }))
    }

    fn authority(
        &self,
        contents: &Contents,
        now: OffsetDateTime,
    ) -> Result<Authority, AuthorityError> {
        let files = AuthorityFiles {
            certificate: contents.certificate.bytes(),
            key: &contents.key,
            roots: contents.roots.bytes(),
            chain: contents.chain.bytes(),
        };
        Authority::load(files, &self.settings.own, now)
    }

    fn changed(&mut self, now: OffsetDateTime) -> Result<Option<Standing>, FolderError> {
        let contents = self.folder.read(&mut self.reader)?;
        let due = self.list_due.min(self.renewal_due) <= now.unix_timestamp();
        if self.read == Some(digest(&contents)) && !due {
            return Ok(None);
        }
        self.settle(contents, now).map(Some)
    }

    /// Reads the folder again; gives what is in force from now on when that changed.
    fn look(&mut self, now: OffsetDateTime) -> Option<Standing> {
        match self.changed(now) {
            Ok(standing) => {
                self.failure.clear();
                standing
            }
            Err(error) => {
                let failure = error.to_string();
                if failure != self.failure {
                    tracing::error!(%error, "the CA's files cannot be used; it goes on as it was");
                    self.failure = failure;
                }
                None
            }
        }
    }
}

/// Whether most of the signing certificate's life is over.
fn due_for_renewal(authority: &Result<Authority, AuthorityError>, now: OffsetDateTime) -> bool {
    match authority {
        Ok(authority) => authority.signer().not_after() - now.unix_timestamp() < RENEWAL_SECONDS,
        Err(error) => *error == AuthorityError::Expired,
    }
}

fn digest(contents: &Contents) -> Fingerprint {
    let mut hasher = Hasher::default();
    for file in [&contents.certificate, &contents.roots, &contents.chain, &contents.workloads] {
        hasher.part(file.fingerprint().as_bytes());
    }
    for revoked in &contents.revoked {
        hasher.part(&revoked.serial).part(&revoked.at.to_be_bytes());
    }
    hasher.finish()
}

/// Follows the folder for as long as the CA runs.
pub async fn keep(ca: Arc<Ca>, mut keeper: Keeper) {
    loop {
        tokio::time::sleep(limit::CA_SCAN_TIME).await;
        if let Some(standing) = keeper.look(OffsetDateTime::now_utc()) {
            tracing::info!("the CA's files changed; everyone is told");
            ca.standing.send_replace(Arc::new(standing));
        }
    }
}

/// What is left of a chain when it is warned of, as `check` warns of a certificate.
const SOON_SECONDS: i64 = 14 * DAY_SECONDS;
const DAY_SECONDS: i64 = 86_400;

/// A fifth of a year: what is left of a signing certificate made here when it is replaced.
const RENEWAL_SECONDS: i64 = 73 * DAY_SECONDS;

#[cfg(test)]
mod tests;
