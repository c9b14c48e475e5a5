//! What a cluster is made of: endpoints, balance, limits, protocol and security.

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
use crate::compile::services::{Member, Port, Service, Speaks};
use crate::compile::upstream_tls::{Peer, Secured};
use crate::compile::{balancing, connection_pool, endpoints, locality, server_tls};
use crate::diag::{Diagnostic, catalog};
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
        let (balancer, outliers) = (policy.load_balancer, policy.outlier_detection);
        let places = locality::Setting::of(balancer, self.settings);
        let (standings, localities) =
            locality::standings(places, outliers.is_some(), self.settings, &members);
        let balance = balancing::balance(balancer, outliers, localities);
        let protocol = protocol(port, usage, &policy, self.settings.upgrade_to_http2);
        let tunnelled = policy.tunnel.is_some() && usage == Use::Tcp;
        let spoken = if tunnelled {
            self::protocol(port, Use::Http, &policy, self.settings.upgrade_to_http2)
        } else {
            protocol
        };
        let (flags, secured, finding) =
            self.security(target, (subset, usage, spoken), &policy, &members);
        if let Some(finding) = finding {
            findings.add(finding);
        }
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
            endpoints: endpoints::endpoints(service.discovery, reachable, &standings, &flags),
            balance: balance.unwrap_or_default(),
            hash: balancing::hash(balancer),
            outliers: outliers.map(balancing::outliers),
            limits: connection_pool::limits(&policy),
            protocol,
            for_http2: None,
            connection,
            tunnel: connection_pool::tunnel(&policy, spoken == Protocol::Http2)
                .filter(|_| tunnelled),
            labels: self.labels(service, &members, &secured),
            tls: secured.tls,
            connect_timeout: connection_pool::connect(pool)
                .unwrap_or(self.settings.connect_timeout),
            idle_timeout: connection_pool::idle(pool),
            tcp_idle_timeout: connection_pool::tcp_idle(pool),
        }
    }

    /// Which endpoints are spoken to through TLS, and what it demands; and what is
    /// wrong with it.
    fn security(
        &mut self,
        target: &Target<'_, 'a>,
        (subset, usage, protocol): (&str, Use, Protocol),
        policy: &Policy<'_>,
        members: &[Member],
    ) -> (Vec<bool>, Secured, Option<Diagnostic>) {
        let written = policy.tls.filter(|_| usage != Use::Sealed);
        let refusing = self.refusing(target.service).filter(|_| usage != Use::Sealed);
        if let Some(origin) = refusing {
            let message = format!("{origin} cannot be used, and what it demands is not known");
            return (vec![true; members.len()], Secured::broken(&message), None);
        }
        let governing = target.governing.as_ref();
        if let Some((rule, field)) = governing.zip(written).and_then(|(g, tls)| g.unread(tls)) {
            let message =
                "TLS settings with a field that does not exist may demand less than they say";
            let finding = at(rule, field, &catalog::POLICY_FAILS_CLOSED, message);
            let finding = finding.help(UNTIL_MENDED);
            return (vec![true; members.len()], Secured::broken(message), Some(finding));
        }
        let flags: Vec<bool> =
            members.iter().map(|member| self.encrypted(target, (usage, policy), member)).collect();
        let automatic = automatic(flags.contains(&true));
        let tls = written.unwrap_or(&automatic);
        let (secured, error) = self.secure(target, (subset, protocol), tls, members);
        (flags, secured, error.map(|error| untrusted(target, &error)))
    }

    /// The resource that cannot be used and because of which nothing is sent to a service.
    fn refusing(&self, service: &Service) -> Option<&Origin> {
        self.rules.refusing(service).or_else(|| self.services.refusing(service))
    }

    /// Whether an endpoint is spoken to through TLS.
    fn encrypted(
        &self,
        target: &Target<'_, 'a>,
        (usage, policy): (Use, &Policy<'_>),
        member: &Member,
    ) -> bool {
        match (usage, policy.tls) {
            (Use::Sealed, _) => false,
            (_, Some(tls)) => tls.mode != ClientTlsMode::Disable,
            (_, None) => wants_mesh(self.settings, &self.peers, target.service, member),
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
