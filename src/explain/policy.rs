//! What policies say that are not enforced, and what a rule does besides choosing where a request goes:
//! faults, cross-origin answers, header operations, mirrors, retries.

use super::{Explanation, Step, place};
use crate::auth::authz::{Remark, RuleVerdict};
use crate::route::fault::{Abort, Fault};
use crate::route::headers::HeaderOps;
use crate::snapshot::route::Forward;
use crate::snapshot::{Access, Snapshot};

/// What policies say that are not enforced.
pub(super) fn remarks(tale: &mut Explanation, remarks: &[Remark<'_>]) {
    for Remark { action, result, by } in remarks {
        let text = match *action {
            "audit" => "an AUDIT policy matches".to_owned(),
            action => format!("dry run of {}: {result}", action.to_ascii_uppercase()),
        };
        let step = tale.step("shadow", text);
        if let Some(origin) = by {
            step.by(origin);
        }
    }
}

/// What each rule of the policies in force says.
pub(super) fn judged<'a>(
    tale: &'a mut Explanation,
    access: &Access,
    verdicts: &[RuleVerdict<'_>],
) -> &'a mut Step {
    let without_rules = access.policies.iter().filter(|(_, one)| one.rules.is_empty());
    let without_rules = without_rules
        .map(|(action, one)| format!("{action} without a rule: {}", place(&one.origin)));
    tale.step("access", "judged by the policies that select it")
        .considered(without_rules)
        .considered(verdicts.iter().map(rule))
}

fn rule(verdict: &RuleVerdict<'_>) -> String {
    let says = match verdict.matched {
        0 => "does not match",
        all if all == verdict.readings => "matches",
        _ => "matches some readings of the path",
    };
    format!("{} {says}: {}", verdict.action, place(verdict.origin))
}

/// What a rule injects, for so many of its requests.
pub(super) fn fault(tale: &mut Explanation, fault: &Fault) {
    let delay = fault.delay.map(|(share, time)| format!("{share} wait {time:?} first"));
    let abort = fault.abort.map(|(share, abort)| match abort {
        Abort::Http(status) => format!("{share} are answered {}", status.as_u16()),
        Abort::Grpc(status) => format!("{share} are answered with gRPC status {status}"),
    });
    let parts: Vec<_> = delay.into_iter().chain(abort).collect();
    tale.step("fault", parts.join(", "));
}

/// What holds for a request that is sent on.
pub(super) fn lines(snapshot: &Snapshot, forward: &Forward) -> Vec<String> {
    let mut out = vec![forward.retry.to_string()];
    if let Some(cors) = &forward.cors {
        let count = cors.origins.len();
        let plural = if count == 1 { "" } else { "s" };
        let credentials = if cors.credentials { "with" } else { "without" };
        let text = format!("allowOrigins has {count} form{plural}, {credentials} credentials");
        out.push(text);
    }
    for mirror in &forward.mirrors {
        let name = snapshot.cluster(mirror.cluster).map_or("nobody", |cluster| &*cluster.name);
        out.push(format!("{} are mirrored to {name}", mirror.share));
    }
    out
}

/// The names that steps over headers touch; values may be secrets.
pub(super) fn operations(of: &str, steps: &[HeaderOps]) -> Option<String> {
    let names = |verb: &str, names: Vec<&str>| {
        (!names.is_empty()).then(|| format!("{verb} {}", names.join(" ")))
    };
    let parts: Vec<_> = steps
        .iter()
        .flat_map(|step| {
            let pairs = |list: &'_ [(http::HeaderName, _)]| -> Vec<String> {
                list.iter().map(|(name, _)| name.to_string()).collect()
            };
            let removed = step.remove.iter().map(http::HeaderName::as_str).collect();
            let (set, added) = (pairs(&step.set), pairs(&step.add));
            [
                names("removes", removed),
                names("sets", set.iter().map(String::as_str).collect()),
                names("adds", added.iter().map(String::as_str).collect()),
            ]
        })
        .flatten()
        .collect();
    (!parts.is_empty()).then(|| format!("{of} headers: {}", parts.join(", ")))
}
