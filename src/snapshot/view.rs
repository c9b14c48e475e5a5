//! A snapshot as JSON, for people and golden tests: what is served, from where, and how it is secured.
//!
//! **Invariant:** no key, token or certificate body; equal snapshots give equal text.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::balance::{Member, Policy};
use crate::base::id::Origin;
use crate::base::limit;
use crate::route::hosts::HostIndex;
use crate::route::path::Normalization;
use crate::route::weight::Weighted;
use crate::snapshot::cluster::{
    Cluster, ClusterId, DnsEndpoint, Endpoint, Endpoints, Limits, Sni, UpstreamTls,
};
use crate::snapshot::forwarded::{ByHost, Forwarded, Said, TrustedProxies};
use crate::snapshot::inbound::Spoken;
use crate::snapshot::listener::{Chain, Listener, ServerBlock, Servers, TcpBlock, Termination};
use crate::snapshot::route::{Action, Route, VirtualHost};
use crate::snapshot::{Authorization, Snapshot};

/// The whole snapshot.
pub fn snapshot(snapshot: &Snapshot) -> Value {
    let listeners: Vec<_> = snapshot.listeners.iter().map(|l| listener(snapshot, l)).collect();
    let clusters: Vec<_> = snapshot.clusters.iter().map(|c| cluster(c)).collect();
    let rules = snapshot.authentication.iter().flat_map(|authenticator| authenticator.rules());
    let rules = rules.map(|rule| json!({"issuer": rule.issuer, "origin": origin(&rule.origin)}));
    json!({
        "generation": snapshot.generation.0,
        "hash": snapshot.hash.to_string(),
        "listeners": listeners,
        "clusters": clusters,
        "authentication": rules.collect::<Vec<_>>(),
        "authorization": match &snapshot.authorization {
            Authorization::Open => json!("open"),
            Authorization::Refuse(by) => json!({"refuse": origin(by)}),
            Authorization::Enforce(access) => access
                .external
                .iter()
                .flat_map(|external| external.policies.iter().map(|policy| ("CUSTOM", policy)))
                .chain(access.shadow.iter().flat_map(|shadow| shadow.iter()))
                .chain(access.policies.iter())
                .map(|(action, policy)| {
                    let at = origin(&policy.origin);
                    json!({"action": action, "origin": at, "rules": policy.rules.len()})
                })
                .collect(),
        },
    })
}

fn origin(origin: &Origin) -> Value {
    Value::String(format!("{} at {}:{}", origin.resource, origin.file, origin.line))
}

fn listener(snapshot: &Snapshot, listener: &Listener) -> Value {
    let servers = match &listener.servers {
        Servers::Http(block) => json!({"http": server(snapshot, block)}),
        Servers::Tcp(block) => json!({"tcp": tcp(snapshot, block)}),
        Servers::Tls(chains) => json!({"tls": table(chains, |chain| match chain {
            Chain::Http(block) => json!({"http": server(snapshot, block)}),
            Chain::Tcp(block) => json!({"tcp": tcp(snapshot, block)}),
            Chain::Passthrough(block) => json!({"passthrough": tcp(snapshot, block)}),
            Chain::AutoPassthrough(auto) => json!({
                "auto_passthrough": table(&auto.services, |block| tcp(snapshot, block)),
            }),
        })}),
        Servers::Inbound(inbound) => json!({"inbound": {
            "mode": inbound.mode(),
            "origin": origin(&inbound.origin),
            "plain": inbound.plain.as_ref().map(|spoken| self::spoken(snapshot, spoken)),
            "mutual": inbound.mutual.as_ref().map(|spoken| self::spoken(snapshot, spoken)),
        }}),
    };
    let mut value = json!({
        "address": format!("{:?}", listener.address),
        "port": listener.port,
        "servers": servers,
    });
    if let (Some(announcers), Value::Object(fields)) = (&listener.announcers, &mut value) {
        let peers: Vec<_> = announcers.peers.iter().map(ToString::to_string).collect();
        let told = json!({"from": peers, "origin": origin(&announcers.origin)});
        fields.insert("proxy_protocol".to_owned(), told);
    }
    value
}

fn spoken(snapshot: &Snapshot, spoken: &Spoken) -> Value {
    json!({
        "http": spoken.http().map(|block| server(snapshot, block)),
        "tcp": spoken.tcp().map(|block| tcp(snapshot, block)),
    })
}

/// Host patterns in order, so that equal tables give equal text.
fn table<T>(index: &HostIndex<T>, value: impl Fn(&T) -> Value) -> Value {
    let mut entries: Vec<_> = index.iter().collect();
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    let entries = entries.into_iter().map(|(host, entry)| (host.to_string(), value(entry)));
    Value::Object(entries.collect::<Map<_, _>>())
}

fn server(snapshot: &Snapshot, block: &ServerBlock) -> Value {
    let mut value = json!({
        "key": &*block.key,
        "origin": origin(&block.origin),
        "hosts": table(&block.hosts, |()| Value::Null).as_object().map(|hosts| hosts.keys().collect::<Vec<_>>()),
        "tls": block.tls.as_ref().map(termination),
        "virtual_hosts": table(&block.routes.hosts, |host| virtual_host(snapshot, host)),
    });
    if let Value::Object(fields) = &mut value {
        fields.extend(forwarded(&block.forwarded.rest));
        let hosts = block.forwarded.hosts.as_ref();
        let own = |own: &Arc<Forwarded>| Value::Object(forwarded(own).collect());
        fields.extend(hosts.map(|hosts| ("forwarded_by_host".to_owned(), table(hosts, own))));
        let ByHost { rest, hosts } = &block.normalization;
        fields.extend(normalization(rest).map(|value| ("path_normalization".to_owned(), value)));
        let own = |own: &Arc<_>| normalization(own).unwrap_or_default();
        let hosts = hosts.as_ref().map(|hosts| table(hosts, own));
        fields.extend(hosts.map(|hosts| ("path_normalization_by_host".to_owned(), hosts)));
    }
    value
}

/// How its Gateway, and not the mesh, has paths read.
fn normalization(how: &Said<Normalization>) -> Option<Value> {
    Some(json!({"value": how.value.name(), "origin": origin(how.by.as_ref()?)}))
}

/// What its Gateway says, and not the mesh.
fn forwarded(forwarded: &Forwarded) -> impl Iterator<Item = (String, Value)> {
    let Forwarded { proxies, client_cert } = forwarded;
    let told = |name: &str, by: Option<&Origin>, value: Value| {
        Some((name.to_owned(), json!({"value": value, "origin": origin(by?)})))
    };
    let trusted = match &proxies.value {
        TrustedProxies::Hops(hops) => json!(hops),
        TrustedProxies::Blocks(blocks) => {
            blocks.iter().map(|block| Value::String(block.to_string())).collect()
        }
    };
    let mode = client_cert.value.name().into();
    let details = told("forward_client_cert_details", client_cert.by.as_ref(), mode);
    told("trusted_proxies", proxies.by.as_ref(), trusted).into_iter().chain(details)
}

fn termination(tls: &Termination) -> Value {
    let names: Vec<_> = tls.certificate_names.iter().map(ToString::to_string).collect();
    json!({
        "usable": match &tls.tls {
            Ok(_) => json!(true),
            Err(unusable) => json!(&*unusable.reason),
        },
        "certificate_names": names,
    })
}

fn virtual_host(snapshot: &Snapshot, host: &VirtualHost) -> Value {
    let routes: Vec<_> = host.routes.iter().map(|route| rule(snapshot, route)).collect();
    json!({
        "https_redirect": host.https_redirect.as_ref().map(origin),
        "routes": routes,
    })
}

fn rule(snapshot: &Snapshot, route: &Route) -> Value {
    let action = match &route.action {
        Action::Redirect(redirect, _) => json!({"redirect": redirect.status.as_u16()}),
        Action::Respond(response) => json!({"respond": response.status.as_u16()}),
        Action::Forward(forward) => json!({
            "forward": forward
                .destinations
                .iter()
                .map(|destination| cluster_name(snapshot, destination.cluster))
                .collect::<Vec<_>>(),
            "timeout": forward.timeout.map(|time| format!("{time:?}")),
            "retries": {
                "attempts": forward.retry.attempts,
                "per_try_timeout": forward.retry.per_try.map(|time| format!("{time:?}")),
            },
            "fault": forward.fault.is_some(),
            "cors": forward.cors.is_some(),
            "mirrors": forward
                .mirrors
                .iter()
                .map(|mirror| cluster_name(snapshot, Some(mirror.cluster)))
                .collect::<Vec<_>>(),
        }),
    };
    json!({"name": &*route.name, "origin": origin(&route.origin), "action": action})
}

fn tcp(snapshot: &Snapshot, block: &TcpBlock) -> Value {
    json!({
        "key": &*block.key,
        "origin": origin(&block.origin),
        "tls": block.tls.as_ref().map(termination),
        "destinations": destinations(snapshot, &block.destinations),
    })
}

fn destinations(snapshot: &Snapshot, list: &Weighted<Option<ClusterId>>) -> Value {
    list.iter().map(|id| cluster_name(snapshot, *id)).collect()
}

fn cluster_name(snapshot: &Snapshot, id: Option<ClusterId>) -> Value {
    let cluster = id.and_then(|id| snapshot.cluster(id));
    cluster.map_or(Value::Null, |cluster| Value::String(cluster.name.to_string()))
}

fn cluster(cluster: &Cluster) -> Value {
    let tls = match &cluster.tls {
        UpstreamTls::Plain => json!("plain"),
        UpstreamTls::Broken(why) => json!({"broken": &**why}),
        UpstreamTls::Tls { config, sni, .. } => json!({
            "alpn": config
                .alpn_protocols
                .iter()
                .map(|name| String::from_utf8_lossy(name).into_owned())
                .collect::<Vec<_>>(),
            "client_certificate": config.client_auth_cert_resolver.has_certs(),
            "sni": match sni {
                Sni::Fixed(name) => json!(name.to_str()),
                Sni::RequestHost => json!("the request's host"),
                Sni::Absent => Value::Null,
            },
        }),
    };
    let share = |member: &Member| match *member {
        Member { weight: 1, level: 0, locality: 0 } => String::new(),
        Member { weight, level, locality } => {
            format!(" weight {weight} level {level} locality {locality}")
        }
    };
    let through = |network: &Option<Arc<str>>| {
        network.as_ref().map_or_else(String::new, |network| format!(" through {network}"))
    };
    let named = |e: &DnsEndpoint| {
        format!("{}:{}{}{}", e.name, e.port, share(&e.member), through(&e.through))
    };
    let endpoints: Vec<String> = match &cluster.endpoints {
        Endpoints::Static(list) => {
            let known = |e: &Endpoint| {
                format!("{:?}{}{}", e.address, share(&e.member), through(&e.through))
            };
            list.iter().map(known).collect()
        }
        Endpoints::Dns(list) => list.iter().map(named).collect(),
        Endpoints::LogicalDns(one) => vec![named(one)],
    };
    let mut shown = json!({
        "name": &*cluster.name,
        "origin": origin(&cluster.origin),
        "endpoints": endpoints,
        "strategy": format!("{:?}", cluster.balance.strategy),
        "protocol": format!("{:?}", cluster.protocol),
        "tls": tls,
        "connect_timeout": format!("{:?}", cluster.connect_timeout),
    });
    if let Some(shown) = shown.as_object_mut() {
        shown.extend(policies(cluster));
    }
    shown
}

/// What a DestinationRule adds, where it does.
fn policies(cluster: &Cluster) -> Map<String, Value> {
    let Policy { warm_up, localities, panic_percent, .. } = &cluster.balance;
    let Limits { connections, pending, requests, retries, budget } = cluster.limits;
    let rules = &cluster.connection;
    let bound = |number: Option<NonZeroU32>| number.map(|number| number.to_string());
    let time = |time: Duration, usual: Duration| (time != usual).then(|| format!("{time:?}"));
    [
        ("hash", cluster.hash.as_ref().map(|hash| format!("{hash:?}"))),
        ("warm_up", warm_up.map(|warm_up| format!("{warm_up:?}"))),
        ("localities", (!localities.is_empty()).then(|| format!("{localities:?}"))),
        ("panic_percent", (*panic_percent > 0).then(|| panic_percent.to_string())),
        ("outliers", cluster.outliers.as_ref().map(|outliers| format!("{outliers:?}"))),
        ("most_connections", bound(connections)),
        ("most_pending", bound(pending)),
        ("most_requests", bound(requests)),
        ("most_retries", bound(retries)),
        ("retry_budget", budget.map(|budget| format!("{budget:?}"))),
        ("tunnel", cluster.tunnel.as_ref().map(ToString::to_string)),
        ("requests_per_connection", bound(rules.requests)),
        ("connection_age", rules.age.map(|age| format!("{age:?}"))),
        ("streams", bound(Some(rules.streams).filter(|s| *s != limit::UPSTREAM_STREAMS))),
        ("keepalive", rules.keepalive.map(|keepalive| format!("{keepalive:?}"))),
        ("ping", rules.ping.map(|ping| format!("{ping:?}"))),
        ("proxy_protocol", rules.proxy.map(|version| format!("{version:?}"))),
        ("idle_timeout", time(cluster.idle_timeout, limit::UPSTREAM_IDLE_TIME)),
        ("tcp_idle_timeout", time(cluster.tcp_idle_timeout, limit::TCP_IDLE_TIME)),
        ("http2_clients", cluster.for_http2.map(|_| "a cluster of their own".to_owned())),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), Value::String(value?))))
    .collect()
}
