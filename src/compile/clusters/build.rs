//! What a cluster is made of: endpoints, balance, limits, protocol and security.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{ClusterPass, Target, Use};
use crate::base::hash::Hasher;
use crate::base::id::Origin;
use crate::base::labels::DestinationLabels;
use crate::compile::credentials::CredentialError;
use crate::compile::destination_labels::labels;
use crate::compile::destination_rules::{Policy, UNTIL_MENDED};
use crate::compile::findings::{Findings, at};
use crate::compile::mesh_tls::{server_names, speaks_mesh, wants_mesh};
use crate::compile::names::selects;
use crate::compile::networks::{Reached, Way};
use crate::compile::services::{Member, Port, Service, Speaks};
use crate::compile::upstream_tls::{Peer, Secured};
use crate::compile::{balancing, connection_pool, endpoints, locality, server_tls};
use crate::diag::{Diagnostic, Location, catalog};
use crate::resources::destination_rule::{ClientTls, ClientTlsMode, H2UpgradePolicy};
use crate::snapshot::cluster::{Cluster, Protocol};

impl<'a> ClusterPass<'a> {
    pub(super) fn build(
        &mut self,
        target: &Target<'_, 'a>,
        (subset, usage): (&str, Use),
        policy: Policy<'_>,
        findings: &mut Findings,
    ) -> Cluster {
        let Target { service, port, .. } = target;
        let mut members = self.services.members(service, port);
        if let Some((_, subset)) = target.subset {
            members.retain(|member| selects(&subset.labels, &member.labels));
        }
        if usage == Use::Sealed {
            members.retain(speaks_mesh);
        }
        let protocol = protocol(port, usage, &policy, self.settings.upgrade_to_http2);
        let tunnelled = policy.tunnel.is_some() && usage == Use::Tcp;
        let spoken = if tunnelled {
            self::protocol(port, Use::Http, &policy, self.settings.upgrade_to_http2)
        } else {
            protocol
        };
        let (ways, secured, finding) =
            self.security(target, (subset, usage, spoken), &policy, &members);
        if let Some(finding) = finding {
            findings.add(finding);
        }
        let labels = self.labels(service, &members, &secured);
        let Reached { members, encrypted, left_out } =
            self.services.networks().reached(&members, &ways);
        tell_left_out((service, port, subset), &left_out, findings);
        let (balancer, outliers) = (policy.load_balancer, policy.outlier_detection);
        let places = locality::Setting::of(balancer, self.settings);
        let (standings, localities) =
            locality::standings(places, outliers.is_some(), self.settings, &members);
        let balance = balancing::balance(balancer, outliers, localities);
        let (host, number) = (service.host.as_str(), port.number);
        let name = format!("outbound|{number}|{subset}|{host}");
        let connection = connection_pool::rules(&policy, self.settings.tcp_keepalive.as_ref());
        let mut hasher = Hasher::default();
        hasher.part(name.as_bytes()).part(service.namespace.as_bytes());
        hasher.part(format!("{usage:?}{protocol:?}{:?}", connection.proxy).as_bytes());
        hasher.part(secured.rule.as_bytes());
        let pool = policy.connection_pool;
        // PASSTHROUGH has no endpoint at a gateway.
        let reachable = if balance.is_some() { members.as_slice() } else { &[] };
        Cluster {
            name: name.into(),
            key: hasher.finish(),
            origin: service.origin.clone(),
            rules: target.rules(),
            endpoints: endpoints::endpoints(service.discovery, reachable, &standings, &encrypted),
            balance: balance.unwrap_or_default(),
            hash: balancing::hash(balancer),
            outliers: outliers.map(balancing::outliers),
            limits: connection_pool::limits(&policy),
            protocol,
            for_http2: None,
            connection,
            tunnel: connection_pool::tunnel(&policy, spoken == Protocol::Http2)
                .filter(|_| tunnelled),
            labels,
            tls: secured.tls,
            connect_timeout: connection_pool::connect(pool)
                .unwrap_or(self.settings.connect_timeout),
            idle_timeout: connection_pool::idle(pool),
            tcp_idle_timeout: connection_pool::tcp_idle(pool),
        }
    }

    /// How each endpoint is spoken to, and what its TLS demands; and what is wrong with it.
    fn security(
        &mut self,
        target: &Target<'_, 'a>,
        (subset, usage, protocol): (&str, Use, Protocol),
        policy: &Policy<'_>,
        members: &[Member],
    ) -> (Vec<Way>, Secured, Option<Diagnostic>) {
        let all_fail = || vec![Way { encrypted: true, mesh: true }; members.len()];
        let written = policy.tls.filter(|_| usage != Use::Sealed);
        let refusing = self.refusing(target.service).filter(|_| usage != Use::Sealed);
        if let Some(origin) = refusing {
            let message = format!("{origin} cannot be used, and what it demands is not known");
            return (all_fail(), Secured::broken(&message), None);
        }
        let governing = target.governing.as_ref();
        if let Some((rule, field)) = governing.zip(written).and_then(|(g, tls)| g.unread(tls)) {
            let message =
                "TLS settings with a field that does not exist may demand less than they say";
            let finding = at(rule, field, &catalog::POLICY_FAILS_CLOSED, message);
            let finding = finding.help(UNTIL_MENDED);
            return (all_fail(), Secured::broken(message), Some(finding));
        }
        let ways: Vec<Way> =
            members.iter().map(|member| self.way(target, (usage, policy), member)).collect();
        let automatic = automatic(ways.iter().any(|one| one.encrypted));
        let tls = written.unwrap_or(&automatic);
        let (secured, error) = self.secure(target, (subset, protocol), tls, members);
        (ways, secured, error.map(|error| untrusted(target, &error)))
    }

    /// The resource that cannot be used and because of which nothing is sent to a service.
    fn refusing(&self, service: &Service) -> Option<&Origin> {
        self.rules.refusing(service).or_else(|| self.services.refusing(service))
    }

    /// How an endpoint is spoken to.
    fn way(
        &self,
        target: &Target<'_, 'a>,
        (usage, policy): (Use, &Policy<'_>),
        member: &Member,
    ) -> Way {
        match (usage, policy.tls) {
            (Use::Sealed, _) => Way { encrypted: false, mesh: true },
            (_, Some(tls)) => Way {
                encrypted: tls.mode != ClientTlsMode::Disable,
                mesh: tls.mode == ClientTlsMode::IstioMutual,
            },
            (_, None) => {
                let mesh = wants_mesh(self.settings, &self.peers, target.service, member);
                Way { encrypted: mesh, mesh }
            }
        }
    }

    /// The security of connections by a `tls` block, whether written or automatic.
    fn secure(
        &mut self,
        target: &Target<'_, 'a>,
        (subset, protocol): (&str, Protocol),
        tls: &ClientTls,
        members: &[Member],
    ) -> (Secured, Option<CredentialError>) {
        let names = server_names(self.settings, target.service, members);
        let (number, host) = (target.port.number, &target.service.host);
        let mesh_name = format!("outbound_.{number}_.{subset}_.{host}");
        self.tls.secure(tls, &Peer { protocol, names: &names, mesh_name: &mesh_name })
    }

    /// Labels of its metrics, the same as in the last compilation where they are equal.
    fn labels(
        &mut self,
        service: &Service,
        members: &[Member],
        secured: &Secured,
    ) -> Arc<DestinationLabels> {
        let labels = labels(
            service,
            members,
            (&secured.tls, &secured.names),
            (self.own_name(), &self.settings.cluster_domain),
        );
        self.known_labels(labels)
    }
}

/// Tells of endpoints that their networks' gateways cannot pass on to.
fn tell_left_out(
    (service, port, subset): (&Service, &Port, &str),
    left_out: &BTreeMap<String, usize>,
    findings: &mut Findings,
) {
    let of = if subset.is_empty() { String::new() } else { format!(", subset \"{subset}\",") };
    let Origin { resource, file, line } = &service.origin;
    for (network, count) in left_out {
        let message = format!(
            "{count} of the endpoints of \"{}\" at port {}{of} are left out: they do not speak the mesh's TLS, \
             and the gateways of their network \"{network}\" pass on nothing else",
            service.host, port.number
        );
        let finding = Diagnostic::new(&catalog::NO_WAY_INTO_NETWORK, message);
        let location = Location::new(file.clone(), *line, 1);
        findings.add(finding.at(location).resource(resource.clone()));
    }
}

fn untrusted(target: &Target<'_, '_>, error: &CredentialError) -> Diagnostic {
    let own = target.subset.filter(|(_, subset)| {
        subset.traffic_policy.as_ref().is_some_and(|policy| policy.tls.is_some())
    });
    let code = match error {
        CredentialError::File { .. } | CredentialError::Incomplete { .. } => {
            &catalog::IDENTITY_MISSING
        }
        other => server_tls::code(other),
    };
    let rule = own.map(|(rule, _)| rule).or(target.governing.as_ref().map(|rule| rule.rule));
    match rule {
        Some(rule) => at(rule, "spec.trafficPolicy.tls", code, error.explain()).help(UNTIL_MENDED),
        None => Diagnostic::new(code, error.explain())
            .resource(target.service.origin.resource.clone())
            .help(UNTIL_MENDED),
    }
}

/// What holds without a `tls` block.
fn automatic(mesh: bool) -> ClientTls {
    let mode = if mesh { ClientTlsMode::IstioMutual } else { ClientTlsMode::Disable };
    ClientTls { mode, ..ClientTls::default() }
}

fn protocol(port: &Port, usage: Use, policy: &Policy<'_>, mesh_upgrades: bool) -> Protocol {
    let http = policy.connection_pool.and_then(|pool| pool.http.as_ref());
    let upgraded = match http.map(|http| http.h2_upgrade_policy).unwrap_or_default() {
        H2UpgradePolicy::Upgrade => true,
        H2UpgradePolicy::DoNotUpgrade => false,
        H2UpgradePolicy::Default => mesh_upgrades && port.speaks == Speaks::Http,
    };
    let kept = http.is_some_and(|http| http.use_client_protocol);
    match usage {
        Use::Tcp | Use::Sealed => Protocol::Tcp,
        Use::Http2 => Protocol::Http2,
        Use::Http if kept => Protocol::Http1,
        Use::Http if upgraded || port.speaks == Speaks::Http2 => Protocol::Http2,
        Use::Http => Protocol::Http1,
    }
}
