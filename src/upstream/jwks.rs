//! Fetches issuers' key sets in the background (`jwtRules[].jwksUri`, OIDC discovery).
//!
//! **Invariant:** an issuer that cannot be reached harms only its own tokens: nothing here is
//! waited for at the start, on a reload or on a request. Keys survive reloads as long as some rule
//! uses them.

mod access;
mod address;
mod connect;
mod fetch;
mod fetcher;
mod location;
mod proxies;
mod store;
mod telling;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::CertificateDer;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

pub use access::KeyAccess;
use fetch::Client;
pub use fetch::FetchError;
use fetcher::{Fetcher, Pace, Progress, Terms, unix_seconds};
use proxies::Proxies;
use store::Store;

use crate::auth::jwt::{IssuerKeys, JwksSource, KeyLocation, KeyState, SkippedKey};
use crate::telemetry::Metrics;

/// State of one key set, for metrics and the admin port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwksStatus {
    /// Where it is fetched from, without credentials and query.
    pub uri: String,
    /// The issuer it belongs to.
    pub issuer: Box<str>,
    /// Whether tokens can be verified.
    pub state: JwksState,
    /// Usable keys.
    pub keys: usize,
    /// Last successful fetch, in Unix seconds.
    pub last_success_unix: Option<u64>,
    /// Why the last fetch failed, its class and a text; nothing when it succeeded.
    pub last_error: Option<(&'static str, String)>,
    /// When it is fetched next, in Unix seconds; a token that needs it may have it fetched before.
    pub next_fetch_unix: Option<u64>,
    /// Keys of the last set that are not used, and why.
    pub skipped: Vec<SkippedKey>,
    /// Fetches ended, failed ones included.
    pub fetches: u64,
    /// Fetches failed.
    pub failures: u64,
}

/// Whether an issuer's tokens can be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JwksState {
    /// Keys are at hand.
    Ready,
    /// Never had.
    NeverFetched,
    /// The document has no usable key.
    Unusable,
}

impl JwksState {
    /// One word for people and programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::NeverFetched => "never_fetched",
            Self::Unusable => "unusable",
        }
    }
}

impl From<&KeyState> for JwksState {
    fn from(state: &KeyState) -> Self {
        match state {
            KeyState::Ready(_) => Self::Ready,
            KeyState::NeverFetched => Self::NeverFetched,
            KeyState::Unusable => Self::Unusable,
        }
    }
}

/// Keeps key sets fresh on a runtime. Dropping it ends all fetching.
pub struct JwksEngine {
    runtime: Handle,
    client: Arc<Client>,
    pace: Pace,
    store: Option<Arc<Store>>,
    metrics: Arc<Metrics>,
    entries: Mutex<HashMap<KeyLocation, Entry>>,
}

struct Entry {
    issuer: Box<str>,
    keys: Arc<IssuerKeys>,
    asked: Arc<Notify>,
    terms: watch::Sender<Terms>,
    progress: Arc<watch::Sender<Progress>>,
    fetcher: Option<AbortHandle>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(fetcher) = &self.fetcher {
            fetcher.abort();
        }
    }
}

impl JwksEngine {
    /// Fetches on `runtime`, through the proxies of this process's environment; trusts the system's
    /// roots and `extra_roots`.
    pub fn new(
        runtime: Handle,
        extra_roots: Vec<CertificateDer<'static>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let client = Client::new(extra_roots, Proxies::from_environment());
        Self::with_client(runtime, client, metrics, Pace::default())
    }

    fn with_client(runtime: Handle, client: Client, metrics: Arc<Metrics>, pace: Pace) -> Self {
        let client = Arc::new(client);
        Self { runtime, client, pace, store: None, metrics, entries: Mutex::default() }
    }

    /// Keeps the last good key sets below a folder for state, if one is given, and starts with those
    /// kept there.
    #[must_use]
    pub fn with_state(self, folder: Option<&Path>) -> Self {
        Self { store: folder.map(|folder| Arc::new(Store::new(folder))), ..self }
    }

    /// Asks as somebody, or trusts others than the system's roots.
    #[must_use]
    pub fn with_access(self, access: KeyAccess) -> Self {
        let client = Client::new(Vec::new(), Proxies::from_environment()).with_access(access);
        Self { client: Arc::new(client), ..self }
    }

    /// The keys of a source, for rules that are being compiled: those in use when there are any.
    /// Nothing is fetched before [`Self::update`] says that the source is wanted.
    pub fn keys(&self, source: &JwksSource) -> Arc<IssuerKeys> {
        Arc::clone(&self.entry(&mut self.entries(), source).keys)
    }

    /// Fetches exactly these from now on. Known ones go on undisturbed; others are forgotten.
    /// Sources with one location share its keys, and the timeout and issuer of the last of them.
    pub fn update(&self, wanted: &[JwksSource]) {
        let mut entries = self.entries();
        entries.retain(|location, _| wanted.iter().any(|source| source.location == *location));
        if let Some(store) = &self.store {
            store.keep(wanted.iter().map(|source| &source.location));
        }
        for source in wanted {
            let entry = self.entry(&mut entries, source);
            entry.issuer.clone_from(&source.issuer);
            let wanted = terms(source);
            entry.terms.send_if_modified(|terms| {
                let changes = *terms != wanted;
                *terms = wanted;
                changes
            });
            if entry.fetcher.is_none() {
                let fetcher = Fetcher {
                    location: source.location.clone(),
                    keys: Arc::clone(&entry.keys),
                    client: Arc::clone(&self.client),
                    store: self.store.clone(),
                    pace: self.pace,
                    asked: Arc::clone(&entry.asked),
                    terms: entry.terms.subscribe(),
                    progress: Arc::clone(&entry.progress),
                    metrics: self.metrics.jwks(&source.issuer, &source.location.to_string()),
                };
                fetcher.restored();
                entry.fetcher = Some(self.runtime.spawn(fetcher.run()).abort_handle());
            }
        }
    }

    /// State of every key set, ordered by address.
    pub fn status(&self) -> Vec<JwksStatus> {
        let mut all: Vec<_> =
            self.entries().iter().map(|(location, entry)| entry.status(location)).collect();
        all.sort_by(|a, b| a.uri.cmp(&b.uri));
        all
    }

    fn entry<'a>(
        &self,
        entries: &'a mut HashMap<KeyLocation, Entry>,
        source: &JwksSource,
    ) -> &'a mut Entry {
        entries
            .entry(source.location.clone())
            .or_insert_with(|| Entry::new(source, self.store.as_deref()))
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<KeyLocation, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The keys of a source as a gateway kept them below its folder for state; nothing is fetched.
pub fn kept(state: &Path, source: &JwksSource) -> Arc<IssuerKeys> {
    let saved = Store::new(state).load(&source.location, unix_seconds());
    Arc::new(IssuerKeys::new(
        saved.map_or(KeyState::NeverFetched, |saved| KeyState::Ready(saved.keys)),
    ))
}

fn terms(source: &JwksSource) -> Terms {
    Terms { timeout: source.timeout, endpoints: source.endpoints.clone() }
}

impl Entry {
    fn new(source: &JwksSource, store: Option<&Store>) -> Self {
        let saved = store.and_then(|store| store.load(&source.location, unix_seconds()));
        let mut progress = Progress::default();
        let keys = IssuerKeys::new(match saved {
            Some(saved) => {
                progress.last_success_unix = Some(saved.fetched_unix);
                KeyState::Ready(saved.keys)
            }
            None => KeyState::NeverFetched,
        });
        let asked = Arc::new(Notify::new());
        let ask = Arc::clone(&asked);
        keys.on_wanted(move || ask.notify_one());
        Self {
            issuer: source.issuer.clone(),
            keys: Arc::new(keys),
            asked,
            terms: watch::Sender::new(terms(source)),
            progress: Arc::new(watch::Sender::new(progress)),
            fetcher: None,
        }
    }

    fn status(&self, location: &KeyLocation) -> JwksStatus {
        let state = self.keys.current();
        let (keys, skipped) = match &**state {
            KeyState::Ready(set) => (set.usable(), set.skipped().to_vec()),
            KeyState::NeverFetched | KeyState::Unusable => (0, Vec::new()),
        };
        let progress = self.progress.borrow().clone();
        JwksStatus {
            uri: location.to_string(),
            issuer: self.issuer.clone(),
            state: JwksState::from(&**state),
            keys,
            skipped,
            last_success_unix: progress.last_success_unix,
            last_error: progress.last_error,
            next_fetch_unix: progress.next_fetch_unix,
            fetches: progress.fetches,
            failures: progress.failures,
        }
    }
}

#[cfg(test)]
mod tests;
