//! Revocation lists in use: what is told of their age, and of CAs of which they do not speak.

use std::time::{Duration, SystemTime};

use super::findings::Findings;
use super::server_tls::{CRL, CertificateFact};
use crate::diag::{Diagnostic, catalog};
use crate::tls::revocation::NextUpdate;

/// Revocation lists of one credential or file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListInUse {
    /// The credential, or the path.
    pub name: String,
    /// When one of them is to be replaced, where they say so.
    pub next_update: Option<NextUpdate>,
    /// Subjects of the CAs whose certificates are refused since none of the lists is theirs.
    pub left_out: Vec<String>,
}

/// Tells of lists that are overdue at `now` (Unix seconds), or soon will be, and of CAs without one; gives
/// facts for their metric.
pub(super) fn told(
    lists: Vec<ListInUse>,
    now: i64,
    findings: &mut Findings,
) -> impl Iterator<Item = CertificateFact> {
    for ListInUse { name, left_out, .. } in &lists {
        for subject in left_out {
            let message = format!(
                "no revocation list of \"{name}\" is \"{subject}\"'s: what it signed is refused"
            );
            findings.add(Diagnostic::new(&catalog::REVOCATION_LIST_MISSING, message));
        }
    }
    let dated = lists.into_iter().filter_map(|list| Some((list.name, list.next_update?)));
    let dated: Vec<_> = dated.collect();
    for (name, next) in &dated {
        let date = u64::try_from(next.at).ok();
        let date = date.and_then(|at| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(at)));
        let date = date.map(httpdate::fmt_http_date).unwrap_or_default();
        let found = if next.at < now {
            let message = format!("the revocation list of \"{name}\" was to be replaced by {date}");
            Some(Diagnostic::new(&catalog::REVOCATION_LIST_OVERDUE, message))
        } else if next.soon_from <= now {
            let message = format!("the revocation list of \"{name}\" is to be replaced by {date}");
            Some(Diagnostic::new(&catalog::REVOCATION_LIST_DUE, message))
        } else {
            None
        };
        let changes = [next.soon_from, next.at.saturating_add(1)];
        findings.change_at(changes.into_iter().find(|change| *change > now));
        if let Some(found) = found {
            findings.add(found);
        }
    }
    dated.into_iter().map(|(name, next)| CertificateFact {
        kind: CRL,
        name,
        serial: String::new(),
        not_after: next.at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::fixture::codes;

    /// At a time, codes out and when they change.
    fn check(now: i64, expected: &[&str], change: Option<i64>) {
        let mut findings = Findings::default();
        let next_update = Some(NextUpdate { at: 100, soon_from: 90 });
        let lists = vec![ListInUse { name: "a".to_owned(), next_update, left_out: Vec::new() }];
        let facts: Vec<_> = told(lists, now, &mut findings).collect();
        assert_eq!((facts.len(), facts.first().map(|fact| fact.not_after)), (1, Some(100)));
        assert_eq!(findings.change(), change, "{now}");
        assert_eq!(codes(findings), expected, "{now}");
    }

    #[test]
    fn a_ca_without_a_list_is_told_of() {
        let mut findings = Findings::default();
        let left_out = vec!["CN=other".to_owned()];
        let lists = vec![ListInUse { name: "a".to_owned(), next_update: None, left_out }];
        assert_eq!(told(lists, 0, &mut findings).count(), 0);
        assert_eq!(codes(findings), ["PC053"]);
    }

    #[test]
    fn a_list_is_told_of_before_and_after_it_is_overdue() {
        check(0, &[], Some(90));
        check(89, &[], Some(90));
        check(90, &["PC049"], Some(101));
        check(100, &["PC049"], Some(101));
        check(101, &["PC048"], None);
        check(i64::MAX, &["PC048"], None);
    }
}
