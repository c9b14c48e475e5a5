//! Path and query of a request as its backend sees them.

use http::uri::PathAndQuery;

use super::reject::{BadRequest, Reject};
use crate::route::rewrite::TargetTooLong;
use crate::snapshot::route::Forward;

/// Path and query for the backend, where they may differ from those that were `sent`. A rule's rewrite
/// begins with `changed`, where something else changed them before it.
pub fn target(
    rule: &Forward,
    sent: &str,
    changed: Option<&str>,
) -> Result<Option<PathAndQuery>, Reject> {
    if changed.is_none() && rule.path.is_none() {
        return Ok(None);
    }
    let target = rule.target(changed.unwrap_or(sent));
    let target = target.map_err(|TargetTooLong| Reject::TargetTooLong)?;
    let target = PathAndQuery::try_from(target.into_owned());
    target.map(Some).map_err(|_| Reject::BadRequest(BadRequest::InvalidPath))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limit;
    use crate::route::rewrite::{PathRewrite, TARGET};

    /// What becomes of `sent` where the first bytes give way to another text; or the status of the answer.
    fn check(
        new: Option<(usize, &str)>,
        sent: &str,
        changed: Option<&str>,
        expected: Result<Option<&str>, u16>,
    ) {
        let path = new.map(|(matched, text)| PathRewrite::prefix(matched, text, TARGET));
        let rule = Forward { path, ..Forward::nowhere() };
        let found = target(&rule, sent, changed);
        let found = found.as_ref().map(|new| new.as_ref().map(PathAndQuery::as_str));
        assert_eq!(found.map_err(|reject| reject.reply().http.as_u16()), expected, "{sent}");
    }

    #[test]
    fn a_rewrite_begins_with_what_is_left_of_what_was_sent() {
        check(None, "/a?q=\"", None, Ok(None));
        check(None, "/a?token=x", Some("/a"), Ok(Some("/a")));
        check(Some((2, "/b")), "/a/c?q", None, Ok(Some("/b/c?q")));
        check(Some((2, "/b")), "/a/c?token=x", Some("/a/c"), Ok(Some("/b/c")));
    }

    #[test]
    fn what_no_target_holds_is_refused() {
        check(Some((2, "/b?x=")), "/a\"c", None, Err(400));
        check(Some((2, "/b")), "/a\"c", None, Ok(Some("/b\"c")));
        let long = "c".repeat(limit::TARGET_BYTES);
        check(Some((1, "/b")), &format!("/{long}"), None, Err(414));
    }
}
