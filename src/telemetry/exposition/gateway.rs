//! `portcullis_*`: what only this gateway tells.

use std::sync::Arc;

use prometheus::TextEncoder;

use super::super::catalog::{self, Family};
use super::super::downstream::ConnectionKind;
use super::super::keys::{CRL, CertificateExpiry, JwksSeries};
use super::super::metrics::Metrics;
use super::super::series::{Copies, Count, Level, lock};
use super::super::upstream::{BOUNDS, ConnectOutcome, UpstreamSeries};
use super::{Lines, family, head, pairs, sample};

type Cluster = Copies<Box<str>, UpstreamSeries>;
type Issuer = Copies<(Box<str>, Box<str>), JwksSeries>;

/// Connections to backends, and what limits and outlier detection did; of the last two only what
/// happened at all.
pub(super) fn clusters(metrics: &Arc<Metrics>) -> Lines {
    let all: Arc<[Cluster]> = metrics.upstreams.all().into();
    let connections = family(&catalog::UPSTREAM_CONNECTIONS, &all, |out, (cluster, copies)| {
        let active: i64 = copies.iter().map(|series| series.active.value()).sum();
        let idle: i64 = copies.iter().map(|series| series.idle.value()).sum();
        for (state, now) in [("active", active), ("idle", idle)] {
            let labels = pairs(&[("cluster", cluster), ("state", state)]);
            sample(out, catalog::UPSTREAM_CONNECTIONS.name, &labels, now);
        }
    });
    let connects = family(&catalog::UPSTREAM_CONNECTS, &all, |out, (cluster, copies)| {
        for outcome in ConnectOutcome::ALL {
            let labels = pairs(&[("cluster", cluster), ("outcome", outcome.as_str())]);
            let count = total(copies, |series| series.connects.get(outcome as usize));
            sample(out, catalog::UPSTREAM_CONNECTS.name, &labels, count);
        }
    });
    let overflows = family(&catalog::OVERFLOWS, &all, |out, (cluster, copies)| {
        for (number, bound) in BOUNDS.iter().enumerate() {
            let count = total(copies, |series| series.overflows.get(number));
            if count > 0 {
                let labels = pairs(&[("cluster", cluster), ("limit", bound)]);
                sample(out, catalog::OVERFLOWS.name, &labels, count);
            }
        }
    });
    let ejections = family(&catalog::EJECTIONS, &all, |out, (cluster, copies)| {
        let ejected = total(copies, |series| Some(&series.ejections));
        let spared = total(copies, |series| Some(&series.spared));
        for (outcome, count) in [("ejected", ejected), ("spared", spared)] {
            if count > 0 {
                let labels = pairs(&[("cluster", cluster), ("outcome", outcome)]);
                sample(out, catalog::EJECTIONS.name, &labels, count);
            }
        }
    });
    let ejected = family(&catalog::EJECTED, &all, |out, (cluster, copies)| {
        if total(copies, |series| Some(&series.ejections)) > 0 {
            let now: i64 = copies.iter().map(|series| series.ejected.value()).sum();
            sample(out, catalog::EJECTED.name, &pairs(&[("cluster", cluster)]), now);
        }
    });
    Box::new(connections.chain(connects).chain(overflows).chain(ejections).chain(ejected))
}

fn total<S>(copies: &[Arc<S>], of: impl Fn(&S) -> Option<&Count>) -> u64 {
    copies.iter().filter_map(|series| of(series).map(Count::value)).sum()
}

/// Key sets and certificates.
pub(super) fn keys(metrics: &Arc<Metrics>) -> Lines {
    let issuers: Arc<[Issuer]> = metrics.jwks.all().into();
    let of_issuers = |described: &'static Family, of: fn(&JwksSeries) -> &Count| {
        family(described, &issuers, move |out, ((issuer, uri), copies): &Issuer| {
            let labels = pairs(&[("issuer", issuer), ("uri", uri)]);
            sample(out, described.name, &labels, total(copies, |series| Some(of(series))));
        })
    };
    let errors = family(&catalog::JWKS_LAST_ERROR, &issuers, |out, ((issuer, uri), copies)| {
        for class in copies.iter().filter_map(|series| *lock(&series.last_error)) {
            let labels = pairs(&[("issuer", issuer), ("uri", uri), ("class", class)]);
            sample(out, catalog::JWKS_LAST_ERROR.name, &labels, 1);
        }
    });
    let (lists, certificates): (Vec<_>, Vec<_>) =
        lock(&metrics.certificates).clone().into_iter().partition(|one| one.kind == CRL);
    let (lists, certificates): (Arc<[_]>, Arc<[_]>) = (lists.into(), certificates.into());
    let lists = family(&catalog::CRL_NEXT_UPDATE, &lists, |out, list: &CertificateExpiry| {
        let labels = pairs(&[("name", &list.name)]);
        sample(out, catalog::CRL_NEXT_UPDATE.name, &labels, list.not_after_unix_seconds);
    });
    let expiries = family(
        &catalog::CERTIFICATE_EXPIRY,
        &certificates,
        |out, certificate: &CertificateExpiry| {
            let CertificateExpiry { kind, name, serial, not_after_unix_seconds } = certificate;
            let labels = pairs(&[("kind", kind), ("name", name), ("serial", serial)]);
            sample(out, catalog::CERTIFICATE_EXPIRY.name, &labels, not_after_unix_seconds);
        },
    );
    Box::new(
        of_issuers(&catalog::JWKS_KEYS, |series| &series.keys)
            .chain(of_issuers(&catalog::JWKS_LAST_SUCCESS, |series| &series.last_success))
            .chain(of_issuers(&catalog::JWKS_FAILURES, |series| &series.failures))
            .chain(of_issuers(&catalog::JWKS_READY, |series| &series.ready))
            .chain(of_issuers(&catalog::JWKS_NEXT_FETCH, |series| &series.next_fetch))
            .chain(errors)
            .chain(expiries)
            .chain(lists),
    )
}

/// Clients' connections, handshakes, and what was refused.
pub(super) fn clients(metrics: &Arc<Metrics>) -> Lines {
    let handshakes: Arc<[_]> = metrics.handshakes.all().into();
    let handshakes = family(&catalog::HANDSHAKES, &handshakes, |out, ((server, how), copies)| {
        let labels = pairs(&[("outcome", how.as_str()), ("server", server)]);
        sample(out, catalog::HANDSHAKES.name, &labels, total(copies, |count| Some(count)));
    });
    let routes: Arc<[_]> = metrics.routes.all().into();
    let routes = family(&catalog::ROUTE_REQUESTS, &routes, |out, ((route, code), copies)| {
        let labels = pairs(&[("response_code", &code.to_string()), ("route", route)]);
        sample(out, catalog::ROUTE_REQUESTS.name, &labels, total(copies, |count| Some(count)));
    });
    let rejections: Arc<[_]> = metrics.rejections.all().into();
    let rejections = family(&catalog::REJECTIONS, &rejections, |out, (reason, copies)| {
        let labels = pairs(&[("reason", reason)]);
        sample(out, catalog::REJECTIONS.name, &labels, total(copies, |count| Some(count)));
    });
    let shadow: Arc<[_]> = metrics.shadow.all().into();
    let shadow = family(&catalog::SHADOW, &shadow, |out, ((action, result), copies)| {
        let labels = pairs(&[("action", action), ("result", result)]);
        sample(out, catalog::SHADOW.name, &labels, total(copies, |count| Some(count)));
    });
    let refusals = routes.chain(handshakes).chain(rejections).chain(shadow);
    Box::new(std::iter::once(connections(metrics)).chain(refusals))
}

fn connections(metrics: &Metrics) -> String {
    let mut out = String::new();
    head(&mut out, &catalog::REQUESTS_ACTIVE);
    let requests = metrics.total(|worker| worker.requests_active.value());
    sample(&mut out, catalog::REQUESTS_ACTIVE.name, "", requests);
    head(&mut out, &catalog::CONNECTIONS_ACTIVE);
    for kind in ConnectionKind::ALL {
        let open: i64 = metrics
            .total(|worker| worker.connections_active.get(kind as usize).map_or(0, Level::value));
        let labels = pairs(&[("kind", kind.as_str())]);
        sample(&mut out, catalog::CONNECTIONS_ACTIVE.name, &labels, open);
    }
    head(&mut out, &catalog::CONNECTIONS);
    let accepted = metrics.total(|worker| worker.connections.value());
    sample(&mut out, catalog::CONNECTIONS.name, "", accepted);
    head(&mut out, &catalog::CONNECTIONS_REFUSED);
    let over = metrics.total(|worker| worker.connections_over_limit.value());
    sample(&mut out, catalog::CONNECTIONS_REFUSED.name, &pairs(&[("reason", "limit")]), over);
    out
}

/// What is kept in the registry.
pub(super) fn registered(metrics: &Metrics) -> String {
    let mut out = String::new();
    if TextEncoder::new().encode_utf8(&metrics.config.registry.gather(), &mut out).is_err() {
        tracing::error!("metrics cannot be encoded");
    }
    out
}
