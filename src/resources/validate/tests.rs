mod virtual_service;

use std::sync::Arc;

use crate::resources::{ConfigFile, parse};

/// Compares the findings about a spec, as `code field`.
fn check(kind: &str, spec: &str, expected: &[&str]) {
    let group = match kind {
        "RequestAuthentication" | "AuthorizationPolicy" | "PeerAuthentication" => "security",
        _ => "networking",
    };
    let text = format!(
        "{{apiVersion: {group}.istio.io/v1, kind: {kind}, metadata: {{name: a}}, spec: {spec}}}"
    );
    let file = ConfigFile { path: "a.yaml".into(), bytes: Arc::from(text.as_bytes()) };
    let parsed = parse(&[file]);
    let findings: Vec<_> = parsed.diagnostics.iter().chain(parsed.set.findings()).collect();
    assert!(findings.iter().all(|d| d.location.is_some() && d.resource.is_some()));
    let mut found: Vec<_> = findings.iter().map(|d| format!("{} {}", d.code.id, d.field)).collect();
    found.sort_unstable();
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(found, expected, "{spec}: {findings:#?}");
}

fn server(rest: &str, expected: &[&str]) {
    check("Gateway", &format!("{{servers: [{{hosts: [a.com], {rest}}}]}}"), expected);
}

const HTTPS: &str = "port: {number: 443, name: https, protocol: HTTPS}";

#[test]
fn a_gateway_that_istio_admits_passes() {
    server("port: {number: 80, name: http, protocol: http}", &[]);
    server("port: {number: 80, name: a, protocol: HTTP}, tls: {httpsRedirect: true}", &[]);
    server(&format!("{HTTPS}, tls: {{mode: SIMPLE, credentialName: a}}"), &[]);
    server(
        &format!(
            "{HTTPS}, tls: {{mode: MUTUAL, serverCertificate: /a, privateKey: /b, caCertificates: /c}}"
        ),
        &[],
    );
    server(&format!("{HTTPS}, tls: {{mode: PASSTHROUGH}}, bind: 10.0.0.1"), &[]);
}

#[test]
fn a_gateway_that_istio_refuses_is_reported() {
    check("Gateway", "{}", &["IST0106 spec.servers"]);
    check(
        "Gateway",
        "{servers: [{}]}",
        &["IST0106 spec.servers[0].hosts", "IST0106 spec.servers[0].port"],
    );
    server(
        "port: {number: 0, name: a, protocol: X}",
        &["IST0106 spec.servers[0].port.number", "IST0106 spec.servers[0].port.protocol"],
    );
    server(HTTPS, &["IST0106 spec.servers[0].tls"]);
    server(
        "port: {number: 80, name: a, protocol: HTTP}, tls: {mode: SIMPLE, credentialName: a}",
        &["IST0106 spec.servers[0].tls"],
    );
    server(
        &format!("{HTTPS}, tls: {{mode: SIMPLE}}"),
        &["IST0106 spec.servers[0].tls.serverCertificate"],
    );
    server(
        &format!("{HTTPS}, tls: {{mode: ISTIO_MUTUAL, credentialName: a}}"),
        &["IST0106 spec.servers[0].tls"],
    );
    server(
        &format!("{HTTPS}, tls: {{mode: SIMPLE, credentialName: a, credentialNames: [b]}}"),
        &["IST0106 spec.servers[0].tls"],
    );
    server(&format!("{HTTPS}, bind: nowhere, tls: {{}}"), &["IST0106 spec.servers[0].bind"]);
    check(
        "Gateway",
        &format!("{{servers: [{{hosts: ['*a.com', A_b/c.com], {HTTPS}, tls: {{}}}}]}}"),
        &["PC032 spec.servers[0].hosts[0]", "IST0106 spec.servers[0].hosts[1]"],
    );
}

#[test]
fn policies_that_istio_admits_pass() {
    check("AuthorizationPolicy", "{}", &[]);
    check("AuthorizationPolicy", "{rules: [{}]}", &[]);
    check(
        "AuthorizationPolicy",
        "{action: DENY, rules: [{from: [{source: {ipBlocks: [10.0.0.0/8, '::1']}}], to: [{operation: \
         {paths: ['/a/{*}/{**}', /b*], ports: ['80']}}], when: [{key: 'request.headers[x]', values: [a]}]}]}",
        &[],
    );
    check(
        "RequestAuthentication",
        "{jwtRules: [{issuer: a, jwksUri: https://a/b, fromHeaders: [{name: x}]}]}",
        &[],
    );
    check(
        "PeerAuthentication",
        "{selector: {matchLabels: {a: b}}, portLevelMtls: {80: {mode: STRICT}}}",
        &[],
    );
}

#[test]
fn policies_that_istio_refuses_are_reported() {
    let rule = |rule: &str, expected: &[&str]| {
        check("AuthorizationPolicy", &format!("{{rules: [{{{rule}}}]}}"), expected);
    };
    check("AuthorizationPolicy", "{action: DENY}", &["IST0106 spec.rules"]);
    check("AuthorizationPolicy", "{action: CUSTOM, rules: [{}]}", &["IST0106 spec.provider"]);
    rule("from: []", &["IST0106 spec.rules[0].from"]);
    rule("from: [{}]", &["IST0106 spec.rules[0].from[0].source"]);
    rule("from: [{source: {}}]", &["IST0106 spec.rules[0].from[0].source"]);
    rule("to: [{operation: {paths: []}}]", &["IST0106 spec.rules[0].to[0].operation"]);
    rule(
        "to: [{operation: {paths: ['/{**}/{*}']}}]",
        &["IST0106 spec.rules[0].to[0].operation.paths[0]"],
    );
    rule("to: [{operation: {ports: [http]}}]", &["IST0106 spec.rules[0].to[0].operation.ports[0]"]);
    rule(
        "from: [{source: {ipBlocks: [10.0.0]}}]",
        &["IST0106 spec.rules[0].from[0].source.ipBlocks[0]"],
    );
    rule(
        "from: [{source: {principals: ['']}}]",
        &["IST0106 spec.rules[0].from[0].source.principals[0]"],
    );
    rule("when: [{key: nonsense, values: [a]}]", &["IST0106 spec.rules[0].when[0].key"]);
    rule("when: [{key: source.ip}]", &["IST0106 spec.rules[0].when[0]"]);
    check("RequestAuthentication", "{jwtRules: [{}]}", &["IST0106 spec.jwtRules[0].issuer"]);
    check(
        "RequestAuthentication",
        "{jwtRules: [{issuer: a, jwks: '{'}]}",
        &["IST0106 spec.jwtRules[0].jwks"],
    );
    check(
        "RequestAuthentication",
        "{jwtRules: [{issuer: a, jwksUri: 'ftp://a'}]}",
        &["IST0106 spec.jwtRules[0].jwksUri"],
    );
    check("PeerAuthentication", "{portLevelMtls: {80: {}}}", &["IST0106 spec.portLevelMtls"]);
    check(
        "PeerAuthentication",
        "{selector: {matchLabels: {}}}",
        &["IST0133 spec.selector.matchLabels"],
    );
}

#[test]
fn a_destination_rule_is_checked_everywhere() {
    check(
        "DestinationRule",
        "{host: a, subsets: [{name: v1, labels: {a: b}}], exportTo: ['.']}",
        &[],
    );
    check("DestinationRule", "{}", &["IST0106 spec.host"]);
    check("DestinationRule", "{host: a, trafficPolicy: {}}", &["IST0106 spec.trafficPolicy"]);
    check(
        "DestinationRule",
        "{host: a, subsets: [{name: v1}, {name: v1}]}",
        &["IST0106 spec.subsets[1].name"],
    );
    check("DestinationRule", "{host: a, exportTo: ['*', b]}", &["IST0106 spec.exportTo"]);
    let selecting = |to: &str, expected: &[&str]| {
        let spec =
            format!("{{host: a, workloadSelector: {{matchLabels: {{a: b}}}}, exportTo: {to}}}");
        check("DestinationRule", &spec, expected);
    };
    selecting("['.']", &[]);
    selecting("[default]", &[]);
    selecting("['*']", &["IST0106 spec.exportTo"]);
}

fn policy(policy: &str, expected: &str) {
    check("DestinationRule", &format!("{{host: a, trafficPolicy: {{{policy}}}}}"), &[expected]);
}

#[test]
fn a_traffic_policy_is_checked() {
    policy(
        "tls: {mode: SIMPLE}, portLevelSettings: [{port: {number: 80}}]",
        "IST0106 spec.trafficPolicy.portLevelSettings[0]",
    );
    policy(
        "tls: {mode: MUTUAL, clientCertificate: /a}",
        "IST0106 spec.trafficPolicy.tls.privateKey",
    );
    policy("tls: {mode: ISTIO_MUTUAL, credentialName: a}", "PC019 spec.trafficPolicy.tls");
    policy(
        "loadBalancer: {consistentHash: {maglev: {tableSize: 10}}}",
        "IST0106 spec.trafficPolicy.loadBalancer.consistentHash.maglev.tableSize",
    );
    policy(
        "connectionPool: {tcp: {maxConnections: -1}}",
        "IST0106 spec.trafficPolicy.connectionPool.tcp.maxConnections",
    );
    policy(
        "outlierDetection: {consecutiveErrors: 1}",
        "IST0002 spec.trafficPolicy.outlierDetection.consecutiveErrors",
    );
    policy(
        "connectionPool: {http: {useClientProtocol: true, h2UpgradePolicy: UPGRADE}}",
        "IST0106 spec.trafficPolicy.connectionPool.http.useClientProtocol",
    );
    policy(
        "connectionPool: {http: {http2KeepAlive: {interval: 1s}}}",
        "IST0106 spec.trafficPolicy.connectionPool.http.http2KeepAlive.timeout",
    );
    policy(
        "outlierDetection: {consecutiveLocalOriginFailures: 1}",
        "IST0106 spec.trafficPolicy.outlierDetection.consecutiveLocalOriginFailures",
    );
    policy(
        "tunnel: {targetHost: a, targetPort: 1}, proxyProtocol: {}",
        "IST0106 spec.trafficPolicy",
    );
    policy("portLevelSettings: [{tls: {}}]", "IST0106 spec.trafficPolicy.portLevelSettings[0]");
}

#[test]
fn load_balancing_is_checked() {
    policy(
        "loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 7}, ringHash: {}}}",
        "IST0106 spec.trafficPolicy.loadBalancer.consistentHash.maglev",
    );
    policy(
        "loadBalancer: {consistentHash: {useSourceIp: true, httpHeaderName: a}}",
        "IST0106 spec.trafficPolicy.loadBalancer.consistentHash",
    );
    policy(
        "loadBalancer: {consistentHash: {httpCookie: {ttl: 0s}}}",
        "IST0106 spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.name",
    );
    policy("loadBalancer: {warmup: {}}", "IST0106 spec.trafficPolicy.loadBalancer.warmup");
    policy(
        "loadBalancer: {warmup: {duration: 1s, aggression: 0}}",
        "IST0106 spec.trafficPolicy.loadBalancer.warmup.aggression",
    );
    policy(
        "loadBalancer: {localityLbSetting: {failoverPriority: [a]}}",
        "IST0133 spec.trafficPolicy.loadBalancer.localityLbSetting.failoverPriority",
    );
    policy(
        "loadBalancer: {zoneAwareLbSetting: {failover: [{from: a, to: b}]}}",
        "IST0133 spec.trafficPolicy.loadBalancer.zoneAwareLbSetting.failover",
    );
    policy(
        "outlierDetection: {}, loadBalancer: {zoneAwareLbSetting: {failover: [{from: a, to: b/c}]}}",
        "IST0106 spec.trafficPolicy.loadBalancer.zoneAwareLbSetting.failover[0]",
    );
    policy(
        "outlierDetection: {}, loadBalancer: {zoneAwareLbSetting: {failoverPriority: [a, \
         topology.kubernetes.io/zone]}}",
        "IST0106 spec.trafficPolicy.loadBalancer.zoneAwareLbSetting.failoverPriority[1]",
    );
    policy(
        "loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {b: 99}}]}}",
        "IST0106 spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to",
    );
    policy(
        "outlierDetection: {}, loadBalancer: {localityLbSetting: {failover: [{from: a, to: a}]}}",
        "IST0106 spec.trafficPolicy.loadBalancer.localityLbSetting.failover[0]",
    );
}

#[test]
fn a_service_entry_is_checked_by_its_resolution() {
    let entry = |rest: &str, expected: &[&str]| {
        let ports = "ports: [{number: 80, name: http, protocol: HTTP}]";
        check("ServiceEntry", &format!("{{hosts: [a.com], {ports}, {rest}}}"), expected);
    };
    entry("resolution: STATIC, endpoints: [{address: 10.0.0.1, ports: {http: 8080}}]", &[]);
    entry("resolution: DNS", &[]);
    entry(
        "resolution: STATIC, endpoints: [{address: b.com}]",
        &["IST0106 spec.endpoints[0].address"],
    );
    entry("endpoints: [{address: 10.0.0.1}]", &["IST0106 spec.endpoints"]);
    entry(
        "resolution: DNS, endpoints: [{address: b.com, ports: {web: 1}}]",
        &["IST0106 spec.endpoints[0].ports.web"],
    );
    entry(
        "resolution: DNS_ROUND_ROBIN, endpoints: [{address: b.com}, {address: c.com}]",
        &["IST0106 spec.endpoints"],
    );
    check("ServiceEntry", "{hosts: ['*'], resolution: STATIC}", &["IST0106 spec.hosts[0]"]);
    check("ServiceEntry", "{hosts: ['*.a.com'], resolution: DNS}", &["IST0106 spec.hosts[0]"]);
    check(
        "ServiceEntry",
        "{hosts: [a], ports: [{number: 1, name: a, protocol: TCP}]}",
        &["IST0134 spec.ports[0]"],
    );
    entry("workloadSelector: {labels: {a: b}}", &["IST0133 spec.workloadSelector"]);
    entry(
        "resolution: DNS, endpoints: [{address: 'unix:///a'}]",
        &["IST0106 spec.endpoints[0].address"],
    );
    check(
        "ServiceEntry",
        "{hosts: [a, b], addresses: [10.0.0.1], resolution: STATIC, ports: [{number: 1, name: a, \
         protocol: TCP}]}",
        &["IST0106 spec.ports[0].protocol"],
    );
    check(
        "ServiceEntry",
        "{hosts: ['*.a.com'], resolution: DYNAMIC_DNS, ports: [{number: 1, name: a, protocol: MONGO}]}",
        &["IST0106 spec.ports[0].protocol"],
    );
    check("WorkloadEntry", "{}", &["IST0106 spec.address"]);
    check("WorkloadEntry", "{network: far}", &["IST0133 spec.address"]);
    check("WorkloadEntry", "{address: 'unix://a'}", &["IST0106 spec.address"]);
    check("WorkloadEntry", "{address: 'unix://@a', ports: {http: 1}}", &["IST0106 spec.ports"]);
    check("WorkloadEntry", "{address: 'a b'}", &["IST0106 spec.address"]);
}
