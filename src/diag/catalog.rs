//! Every code, its severity and its one-line meaning.
//!
//! `IST` codes are Istio's own, used where the meaning is the same; `PC` codes are this gateway's:
//! 00x reading, 01x fields, 02x TLS material, 03x listeners and hosts, 04x routes, clusters and identity,
//! 05x tokens, authorization and revocation, 06x known and not acted on, 07x networks.
//!
//! **Invariant**: an id is used once and never given a second meaning.

use super::Severity;

/// A kind of finding.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Code {
    /// `IST0101`, `PC001`.
    pub id: &'static str,
    /// Severity unless the finding says otherwise.
    pub severity: Severity,
    /// Meaning in one line.
    pub summary: &'static str,
    /// What to do where the finding says nothing closer.
    pub help: &'static str,
}

macro_rules! codes {
    ($($name:ident = $id:literal, $severity:ident, $summary:literal, $help:literal;)+) => {
        $(
            #[doc = concat!("`", $id, "`: ", $summary, ".")]
            pub static $name: Code =
                Code { id: $id, severity: Severity::$severity, summary: $summary, help: $help };
        )+

        /// Every code, in the order of the documentation.
        pub static ALL: &[&Code] = &[$(&$name),+];
    };
}

codes! {
    DEPRECATED = "IST0002", Warning, "a deprecated field or feature is in use",
        "write the field that took its place";
    REFERENCE_NOT_FOUND = "IST0101", Error, "a resource that is referred to does not exist",
        "define it, or correct the name";
    SCHEMA_ERROR = "IST0106", Error, "the resource breaks a rule of Istio's validation",
        "correct the field: Istio's webhook refuses the resource, and this version of it is not used";
    UNKNOWN_ANNOTATION = "IST0108", Warning, "an annotation of portcullis's does not exist",
        "correct its name, or remove it";
    PORT_SELECTOR_REQUIRED = "IST0112", Error,
        "the destination has several ports and the route names none",
        "name the port in destination.port.number";
    PORT_NAME = "IST0118", Info, "a Service's port says no protocol",
        "begin its name with the protocol (http-web, grpc-api), or write appProtocol";
    INVALID_ANNOTATION = "IST0125", Warning, "an annotation's value is not valid",
        "correct the annotation, or remove it";
    NO_SERVER_VERIFICATION = "IST0128", Warning,
        "TLS to a backend does not verify the server's certificate",
        "name the CA of the backend in caCertificates or credentialName";
    NO_SERVER_VERIFICATION_PORT = "IST0129", Warning,
        "TLS to a backend's port does not verify the server's certificate",
        "name the CA of the backend in caCertificates or credentialName";
    UNREACHABLE_RULE = "IST0130", Warning, "a rule can never be reached",
        "move it before the rule that takes its requests, or remove it";
    INEFFECTIVE_MATCH = "IST0131", Warning, "a match of a rule has no effect",
        "remove it, or move its rule before the one that takes its requests";
    HOST_NOT_IN_GATEWAY = "IST0132", Warning,
        "a VirtualService's host is not served by the Gateway it names",
        "add the host to a server of the Gateway, or take it off the VirtualService";
    SCHEMA_WARNING = "IST0133", Warning, "Istio's validation warns about the resource",
        "correct the field, or keep it if this is meant";
    ADDRESSES_REQUIRED = "IST0134", Warning, "a TCP ServiceEntry has no addresses",
        "list the addresses in spec.addresses";
    MESH_RULES_NOT_FOLLOWED = "IST0140", Warning,
        "a VirtualService of the mesh does not hold for requests of this gateway",
        "name the subset in the route of the gateway's own VirtualService";
    CONFLICTING_GATEWAYS = "IST0145", Error,
        "two Gateways of this workload serve the same host on the same port",
        "keep one server for a host";
    CLAIM_ROUTE_WITHOUT_AUTHENTICATION = "IST0149", Error,
        "a route asks for a token's claim and no RequestAuthentication reads tokens",
        "add a RequestAuthentication that selects this gateway";
    INVALID_CREDENTIAL = "IST0161", Error, "a Gateway's credential is not usable",
        "correct the credential; new files are taken up without a restart";
    PORT_NOT_ON_SERVICE = "IST0162", Warning,
        "a Gateway's port is on no Service of this gateway",
        "add the port to the Service, or serve on one of its ports";
    INEFFECTIVE_POLICY = "IST0167", Warning, "a policy has no effect",
        "correct the policy, or remove it";
    SUBSET_WITHOUT_ENDPOINTS = "IST0173", Error, "a subset's labels match no endpoint",
        "correct the subset's labels, or those of the endpoints";
    UNKNOWN_RULE_HOST = "IST0174", Warning, "a DestinationRule's host is not a known service",
        "define the service, or correct the host";
    CONFLICTING_PROTOCOLS = "IST0177", Warning,
        "ServiceEntries give a host's port different protocols",
        "write the same protocol in each, or keep one of them";

    UNREADABLE_FILE = "PC001", Error, "a file could not be read",
        "check that it is there and who may read it";
    FILE_TOO_LARGE = "PC002", Error, "a file is larger than the limit",
        "split the file";
    NOT_UTF8 = "PC003", Error, "a file is not UTF-8",
        "save the file as UTF-8";
    YAML_SYNTAX = "PC004", Error, "a document is not YAML",
        "correct the YAML; nothing of this document is used";
    YAML_LIMIT = "PC005", Error, "a document is nested too deep or grows too large",
        "no Istio resource needs this; nothing of this document is used";
    DUPLICATE_KEY = "PC006", Error, "a mapping has the same key twice",
        "keep one of them; nothing of this document is used";
    NOT_A_RESOURCE = "PC007", Error, "a document lacks apiVersion, kind or name",
        "write apiVersion, kind and metadata.name, or move the file elsewhere";
    UNKNOWN_VERSION = "PC008", Error, "the apiVersion is not one this kind is served in",
        "write an apiVersion that the kind is served in";
    UNKNOWN_KIND = "PC009", Warning, "the kind is not known and the document is ignored",
        "correct the kind, or move the document elsewhere";
    FILES_LEFT_OUT = "PC017", Error, "files are too many or too deep and are not read",
        "name fewer folders with --config";
    NOTHING_FOUND = "PC018", Warning, "there is no resource in the configuration",
        "check --config; files that end in .yaml, .yml or .json are read";

    UNWORKABLE = "PC019", Error, "the resource says what Istio lets in and what cannot work",
        "correct the field: it cannot be done as written";
    UNKNOWN_FIELD = "PC010", Error, "the field does not exist",
        "remove it; the field is left out";
    WRONG_TYPE = "PC011", Error, "the value has the wrong type or form",
        "correct it; this version of the resource is not used";
    INVALID_NAME = "PC012", Error, "a name is not one that Kubernetes accepts",
        "use lower-case letters, digits, \"-\" and, in names, \".\"";
    DUPLICATE_RESOURCE = "PC013", Error, "two resources have the same kind, namespace and name",
        "remove one of the two, or give it another name; the later one is not used";
    MISSPELT_KIND = "PC014", Error, "the kind does not exist in Istio's API group",
        "correct the kind";
    FINDINGS_LEFT_OUT = "PC015", Error, "a file has more findings than are kept",
        "correct those that are shown first";
    LAST_GOOD_GOES_ON = "PC016", Warning,
        "a resource's document is broken and its last good version goes on",
        "correct the document, or delete it to take the resource away";

    CERTIFICATE_UNREADABLE = "PC020", Error, "a certificate cannot be parsed",
        "write PEM certificates, leaf first";
    KEY_UNREADABLE = "PC021", Error, "a private key cannot be parsed or is of no supported type",
        "write an unencrypted PEM key: RSA, ECDSA P-256 or P-384, or Ed25519";
    KEY_MISMATCH = "PC022", Error, "a private key does not belong to its certificate",
        "write the key that the certificate was issued for";
    CERTIFICATE_EXPIRED = "PC023", Error, "a certificate has expired",
        "replace it: peers refuse it; no restart is needed";
    CERTIFICATE_EXPIRES_SOON = "PC024", Warning, "a certificate expires within 14 days",
        "renew it; new files are taken up without a restart";
    CERTIFICATE_NOT_YET_VALID = "PC025", Error, "a certificate is not valid yet",
        "peers refuse it until then; compare the issuer's clock";
    CHAIN_INCOMPLETE = "PC026", Warning, "a certificate chain lacks an intermediate",
        "write the leaf first, then each certificate that issued the one before it";
    SAN_MISSING = "PC027", Warning, "a certificate does not cover a host of its server",
        "have it issued with this name, or take the host off the server";
    CA_UNREADABLE = "PC028", Error, "a CA bundle or a revocation list cannot be used",
        "write PEM certificates, or a revocation list in PEM or DER";
    TLS_PARAMETER_IGNORED = "PC029", Warning, "a TLS parameter is not supported and is left out",
        "remove it, or write one that is supported";

    PORT_CONFLICT = "PC030", Error, "a server's port is another's, or the program's own",
        "give one of the two another port or bind address";
    DUPLICATE_HOST = "PC031", Error, "a host is claimed twice on a port",
        "keep one server for a host";
    INVALID_HOST = "PC032", Error, "a host is not a name, a wildcard or \"*\"",
        "write a name, \"*.\" and a name, or \"*\"";
    GATEWAY_NOT_SELECTED = "PC033", Info, "a Gateway selects other workloads than this one",
        "correct the selector, or --labels, if it was meant for this one";
    SERVER_WITHOUT_ROUTES = "PC034", Warning, "no VirtualService is bound to a server",
        "name the Gateway in spec.gateways of a VirtualService that shares a host";
    LISTENER_SETTING = "PC035", Error, "a listener cannot be opened as written",
        "correct it; the server is left out until then";
    PORT_NOT_BOUND = "PC036", Error, "the system refuses a port; it is tried again",
        "free the address; binding is tried again";
    PORT_MAP_UNUSED = "PC037", Warning, "--port-map moves a port that no server has",
        "correct the port, or leave it out";

    WEIGHTS = "PC041", Error, "the weights of a route do not make sense together",
        "each destination gets its weight's share of the sum";
    CLUSTER_WITHOUT_ENDPOINTS = "PC042", Warning, "a destination has no endpoint",
        "requests get 503 until it has one";
    ROUTE_BROKEN = "PC045", Error, "a route cannot be served and answers with an error",
        "correct it; requests that the rule takes get an error until then";
    IDENTITY_MISSING = "PC046", Error, "the mesh identity is missing or cannot be used",
        "check --identity";
    IDENTITY_AWAITED = "PC047", Warning, "the mesh identity has not come from its source yet",
        "check that the source of --identity runs and knows this workload";
    REVOCATION_LIST_OVERDUE = "PC048", Error, "a revocation list is older than it says it may be",
        "fetch its issuer's new one: what was revoked since is let in, what this one lists is not";
    REVOCATION_LIST_DUE = "PC049", Warning, "a tenth of a revocation list's time is left",
        "fetch its issuer's new one; it is taken up without a restart";
    KEYS_UNUSABLE = "PC050", Error, "a token rule has no usable key",
        "correct jwks or jwksUri; tokens of this issuer are refused until then";
    INVALID_TOKEN_RULE = "PC051", Error, "a token rule cannot be used",
        "correct the rule; tokens of its issuer are refused until then";
    POLICY_FAILS_CLOSED = "PC052", Error,
        "a security resource is broken and what it selects refuses",
        "correct the resource, or remove it";
    REVOCATION_LIST_MISSING = "PC053", Warning, "a CA has no revocation list beside those of others",
        "add its list, an empty one too; its certificates are refused until then";
    REVOCATION_LIST_NONE = "PC054", Info, "nobody of the mesh counts as revoked",
        "name the file with the list in --identity-crl, if there is one";
    UNMATCHABLE_VALUE = "PC055", Warning, "a value of a policy can match nothing",
        "correct the value, or remove it";

    FIELD_NOT_ACTED_ON = "PC060", Warning, "the field is known and not acted on",
        "remove it, or do not rely on it";
    KIND_NOT_ACTED_ON = "PC061", Warning, "the kind is known and has no effect on this gateway",
        "remove it, or do not rely on it";
    VALUE_NOT_ACTED_ON = "PC062", Warning, "the value is known and not acted on",
        "write another value, or do not rely on this one";

    UNKNOWN_NETWORK = "PC070", Warning, "an endpoint's network is one that no MeshNetworks name",
        "name the network in --mesh-networks, or correct it; until then the address is connected to as it is";
    NETWORK_GATEWAY_UNUSABLE = "PC071", Error, "a gateway of a network cannot be used as written",
        "write its address and port: a network without a gateway is connected to directly";
    NO_WAY_INTO_NETWORK = "PC072", Warning,
        "endpoints are left out because their network's gateways pass on the mesh's TLS alone",
        "have them speak the mesh's TLS: serviceAccount, or the label security.istio.io/tlsMode: istio";
    OWN_NETWORK_UNSAID = "PC073", Warning,
        "a gateway that passes on the mesh's TLS does not say which network it is in",
        "add topology.istio.io/network=NAME to --labels; until then it reaches each network that has gateways through those, its own too";
}

/// The code with an id.
pub fn find(id: &str) -> Option<&'static Code> {
    ALL.iter().copied().find(|code| code.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_used_once() {
        let ids: std::collections::BTreeSet<_> = ALL.iter().map(|code| code.id).collect();
        assert_eq!(ids.len(), ALL.len());
    }

    #[test]
    fn every_id_has_a_known_prefix_a_summary_and_a_help() {
        for code in ALL {
            assert!(code.id.starts_with("IST0") || code.id.starts_with("PC0"), "{}", code.id);
            assert!(!code.summary.ends_with('.') && !code.summary.is_empty(), "{}", code.id);
            assert!(!code.help.ends_with('.') && !code.help.is_empty(), "{}", code.id);
            assert_eq!(find(code.id), Some(*code));
        }
        assert_eq!(find("PC999"), None);
    }
}
