//! Retries, faults, mirrors and cross-origin rules of a rule.

use std::sync::Arc;

use http::{HeaderValue, StatusCode};

use crate::base::grpc::number_of;
use crate::resources::meta::{Percent, ProtoDuration, StringMatch};
use crate::resources::virtual_service::{
    CorsPolicy as WrittenCors, Destination, HttpFault, HttpRetry, UnmatchedPreflights,
};
use crate::route::cors::{CorsPolicy, Listed};
use crate::route::fault::{Abort, Fault};
use crate::route::matcher::ValueMatch;
use crate::route::retry::RetryPolicy;
use crate::route::share::Share;
use crate::snapshot::route::Mirror;

use super::conditions::value;
use super::routes::{Broken, Find, Rule};

/// A retry policy as written; what it leaves open is the default's.
pub fn retry(written: &HttpRetry) -> RetryPolicy {
    let mut policy = RetryPolicy::default().on(&written.retry_on);
    let positive = |time: Option<ProtoDuration>| time.map(|t| t.0).filter(|t| !t.is_zero());
    policy.attempts = u32::try_from(written.attempts).unwrap_or(0);
    policy.per_try = positive(written.per_try_timeout);
    policy.base = positive(written.backoff).unwrap_or(policy.base);
    policy.avoid_previous = written.retry_ignore_previous_hosts.unwrap_or(true);
    policy.avoid_hashed = written.retry_ignore_previous_hosts == Some(true);
    policy.remote = written.retry_remote_localities.unwrap_or(false);
    policy
}

impl Rule<'_> {
    pub(super) fn retry(&self) -> Arc<RetryPolicy> {
        let Some(written) = &self.written.retries else {
            return self.scope.settings.retries.clone();
        };
        let mut policy = retry(written);
        let total = self.written.timeout.map(|time| time.0);
        policy.per_try = policy.per_try.filter(|time| total.is_none_or(|total| *time < total));
        Arc::new(policy)
    }

    pub(super) fn fault(&self) -> Option<Box<Fault>> {
        let HttpFault { delay, abort } = self.written.fault.as_deref()?;
        let mut fault = Fault::default();
        if let Some(delay) = delay {
            let percent = delay.percentage.map_or(f64::from(delay.percent), |p| p.value);
            let time = delay.fixed_delay.unwrap_or_default().0;
            fault.delay = Some((Share::percent(percent), time));
        }
        if let Some(abort) = abort {
            let share = abort.percentage.map_or(0.0, |percent| percent.value);
            let http = abort.http_status.and_then(|status| u16::try_from(status).ok());
            let http = http.and_then(|status| StatusCode::from_u16(status).ok()).map(Abort::Http);
            let grpc = abort.grpc_status.as_deref().and_then(number_of).map(Abort::Grpc);
            fault.abort = http.or(grpc).map(|answer| (Share::percent(share), answer));
        }
        fault.delay = fault.delay.filter(|(share, _)| !share.is_none());
        fault.abort = fault.abort.filter(|(share, _)| !share.is_none());
        let some = fault.delay.is_some() || fault.abort.is_some();
        some.then(|| Box::new(fault))
    }

    pub(super) fn mirrors(&mut self, find: &mut Find<'_>) -> Box<[Mirror]> {
        let rule = self.written;
        let old = rule.mirror.as_deref().map(|destination| {
            let share = match (rule.mirror_percentage, rule.mirror_percent) {
                (None, Some(percent)) => Some(Percent { value: f64::from(percent) }),
                (percentage, _) => percentage,
            };
            (".mirror".to_owned(), destination, share)
        });
        let listed = rule.mirrors.iter().enumerate().filter_map(|(index, mirror)| {
            let field = format!(".mirrors[{index}].destination");
            Some((field, mirror.destination.as_ref()?, mirror.percentage))
        });
        let all: Vec<(String, &Destination, Option<Percent>)> =
            old.into_iter().chain(listed).collect();
        let mut out = Vec::new();
        for (field, destination, percentage) in all {
            let share = percentage.map_or(Share::ALL, |percent| Share::percent(percent.value));
            let field = format!("{}{field}", self.field);
            let written = self.destination((destination, &field), "nobody gets a copy");
            let cluster = find(&written);
            if let Some(cluster) = cluster.filter(|_| !share.is_none()) {
                out.push(Mirror { share, cluster });
            }
        }
        out.into()
    }

    pub(super) fn cors(&mut self) -> Result<Option<Box<CorsPolicy>>, Broken> {
        let Some(written) = self.written.cors_policy.as_deref() else { return Ok(None) };
        let mut origins: Vec<ValueMatch> = Vec::new();
        if written.allow_origins.is_empty() {
            origins.extend(written.allow_origin.iter().map(|origin| exact_origin(origin)));
        }
        for (index, origin) in written.allow_origins.iter().enumerate() {
            let field = format!("corsPolicy.allowOrigins[{index}]");
            origins.push(match origin {
                StringMatch::Exact(origin) => exact_origin(origin),
                other => value(&field, other).map_err(|invalid| {
                    self.broken(&format!(".{}", invalid.field), invalid.message)
                })?,
            });
        }
        Ok(Some(Box::new(self.cors_of(written, origins)?)))
    }

    fn cors_of(
        &mut self,
        written: &WrittenCors,
        origins: Vec<ValueMatch>,
    ) -> Result<CorsPolicy, Broken> {
        let expose = self.joined(".corsPolicy.exposeHeaders", &written.expose_headers)?;
        Ok(CorsPolicy {
            origins,
            methods: self.listed(".corsPolicy.allowMethods", &written.allow_methods)?,
            headers: self.listed(".corsPolicy.allowHeaders", &written.allow_headers)?,
            expose,
            max_age: written.max_age.map(|age| HeaderValue::from(age.0.as_secs())),
            credentials: written.allow_credentials.unwrap_or(false),
            answer_unmatched: written.unmatched_preflights == UnmatchedPreflights::Ignore,
        })
    }

    fn listed(&mut self, field: &str, list: &[String]) -> Result<Option<Listed>, Broken> {
        if list.iter().any(|name| name == "*") {
            return Ok(Some(Listed::Asked));
        }
        Ok(self.joined(field, list)?.map(Listed::These))
    }

    fn joined(&mut self, field: &str, list: &[String]) -> Result<Option<HeaderValue>, Broken> {
        if list.is_empty() {
            return Ok(None);
        }
        HeaderValue::try_from(list.join(","))
            .map(Some)
            .map_err(|_| self.broken(field, "it cannot stand in a header"))
    }
}

fn exact_origin(origin: &str) -> ValueMatch {
    if origin == "*" { ValueMatch::Present } else { ValueMatch::Exact(origin.into()) }
}
