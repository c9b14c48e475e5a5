//! The mesh identity of a running gateway: who sends it, and how long it keeps the gateway ready.
//!
//! **Invariant:** the gateway stops being ready before its identity ends.

use tokio::runtime::Handle;

use crate::admin::status::Readiness;
use crate::base::limit;
use crate::compile::server_tls::CertificateFact;
use crate::identity::{Feed, IdentitySource, follow};
use crate::source::watch::Teller;

/// Asks a source on the runtime; what it sends goes into the feed, and the reload is told.
pub(super) fn ask(source: &IdentitySource, feed: Feed, teller: Teller, runtime: &Handle) {
    if let IdentitySource::CertificateService(service) = source
        && !service.lists.exists()
    {
        tracing::info!(
            %source, file = %service.lists.display(),
            "the CA service gives no revocation list and this file is not there: nobody of the mesh counts as \
             revoked; name another in --identity-crl, if there is one"
        );
    }
    let deliver = move |identity| {
        feed.put(identity);
        teller.tell();
    };
    runtime.spawn(follow(source.clone(), deliver));
}

/// How long the identity keeps the gateway ready.
#[derive(Debug)]
pub(super) struct IdentityLife {
    readiness: Readiness,
    /// Whether a source was named, so that there must be an identity.
    needed: bool,
    /// The identity looked at last, by its serial, and its end in Unix seconds.
    known: Option<(String, i64)>,
}

impl IdentityLife {
    pub(super) fn new(readiness: Readiness, source: &IdentitySource) -> Self {
        let needed = !matches!(source, IdentitySource::Folder(_));
        let life = Self { readiness, needed, known: None };
        life.readiness.ready_until(if needed { i64::MIN } else { i64::MAX });
        life
    }

    /// Takes the identity of a load at `now`, Unix seconds.
    pub(super) fn update(&mut self, identity: Option<&CertificateFact>, now: i64) {
        let Some(fact) = identity else {
            self.known = None;
            return self.readiness.ready_until(if self.needed { i64::MIN } else { i64::MAX });
        };
        let id = (fact.serial.clone(), fact.not_after);
        if self.known.as_ref() != Some(&id) {
            self.known = Some(id);
            self.readiness.ready_until(ready_until(fact.not_after, now));
        }
    }
}

/// Until when an identity that was had at `now` keeps the gateway ready.
fn ready_until(end: i64, now: i64) -> i64 {
    let most = i64::try_from(limit::IDENTITY_READY_TIME.as_secs()).unwrap_or(i64::MAX);
    let margin = (end.saturating_sub(now) / 10).clamp(1, most);
    end.saturating_sub(margin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_ends_before_the_identity() {
        assert_eq!(ready_until(86_400, 0), 86_400 - 300);
        assert_eq!(ready_until(1_000, 0), 900);
        assert_eq!(ready_until(5, 0), 4);
        assert_eq!(ready_until(0, 100), -1);
    }

    fn fact(serial: &str, not_after: i64) -> CertificateFact {
        CertificateFact { kind: "identity", name: String::new(), serial: serial.into(), not_after }
    }

    #[test]
    fn a_source_must_send_and_files_may_be_missing() {
        let check = |source: &str, identity: Option<&CertificateFact>, ready: bool| {
            let readiness = Readiness::default();
            readiness.configured();
            readiness.serving();
            let mut life = IdentityLife::new(readiness.clone(), &source.parse().unwrap());
            life.update(identity, 0);
            assert_eq!(readiness.is_ready(), ready, "{source}");
        };
        check("certs/identity", None, true);
        check("unix:s", None, false);
        check("unix:s", Some(&fact("1", i64::MAX)), true);
        check("unix:s", Some(&fact("1", 1)), false);
        check("certs/identity", Some(&fact("1", 1)), false);
    }

    #[test]
    fn the_margin_of_an_identity_does_not_shrink_with_its_age() {
        let readiness = Readiness::default();
        let mut life = IdentityLife::new(readiness.clone(), &"unix:s".parse().unwrap());
        life.update(Some(&fact("1", 1_000)), 0);
        life.update(Some(&fact("1", 1_000)), 990);
        assert_eq!(readiness.until(), 900);
    }
}
