//! Every code, its severity and its one-line meaning.
//!
//! `IST` codes are Istio's own, used where the meaning is the same; `PC` codes are this gateway's:
//! 00x reading, 01x fields, 02x TLS material, 03x listeners and hosts, 04x routes and clusters,
//! 05x tokens and authorization, 06x known and not acted on.
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
}

macro_rules! codes {
    ($($name:ident = $id:literal, $severity:ident, $summary:literal;)+) => {
        $(
            #[doc = concat!("`", $id, "`: ", $summary, ".")]
            pub static $name: Code =
                Code { id: $id, severity: Severity::$severity, summary: $summary };
        )+

        /// Every code, in the order of the documentation.
        pub static ALL: &[&Code] = &[$(&$name),+];
    };
}

codes! {
    DEPRECATED = "IST0002", Warning, "a deprecated field or feature is in use";
    REFERENCE_NOT_FOUND = "IST0101", Error, "a resource that is referred to does not exist";
    SCHEMA_ERROR = "IST0106", Error, "the resource breaks a rule of Istio's validation";
    PORT_SELECTOR_REQUIRED = "IST0112", Error,
        "the destination has several ports and the route names none";
    INVALID_ANNOTATION = "IST0125", Warning, "an annotation's value is not valid";
    NO_SERVER_VERIFICATION = "IST0128", Warning,
        "TLS to a backend does not verify the server's certificate";
    NO_SERVER_VERIFICATION_PORT = "IST0129", Warning,
        "TLS to a backend's port does not verify the server's certificate";
    UNREACHABLE_RULE = "IST0130", Warning, "a rule can never be reached";
    HOST_NOT_IN_GATEWAY = "IST0132", Warning,
        "a VirtualService's host is not served by the Gateway it names";
    SCHEMA_WARNING = "IST0133", Warning, "Istio's validation warns about the resource";
    ADDRESSES_REQUIRED = "IST0134", Warning, "a TCP ServiceEntry has no addresses";
    CLAIM_ROUTE_WITHOUT_AUTHENTICATION = "IST0149", Error,
        "a route asks for a token's claim and no RequestAuthentication reads tokens";
    INVALID_CREDENTIAL = "IST0161", Error, "a Gateway's credential is not usable";
    INEFFECTIVE_POLICY = "IST0167", Warning, "a policy has no effect";
    SUBSET_WITHOUT_ENDPOINTS = "IST0173", Error, "a subset's labels match no endpoint";
    UNKNOWN_RULE_HOST = "IST0174", Warning, "a DestinationRule's host is not a known service";

    UNREADABLE_FILE = "PC001", Error, "a file could not be read";
    FILE_TOO_LARGE = "PC002", Error, "a file is larger than the limit";
    NOT_UTF8 = "PC003", Error, "a file is not UTF-8";
    YAML_SYNTAX = "PC004", Error, "a document is not YAML";
    YAML_LIMIT = "PC005", Error, "a document is nested too deep or grows too large";
    DUPLICATE_KEY = "PC006", Error, "a mapping has the same key twice";
    NOT_A_RESOURCE = "PC007", Error, "a document lacks apiVersion, kind or name";
    UNKNOWN_VERSION = "PC008", Error, "the apiVersion is not one this kind is served in";
    UNKNOWN_KIND = "PC009", Warning, "the kind is not known and the document is ignored";
    FILES_LEFT_OUT = "PC017", Error, "files are too many or too deep and are not read";
    NOTHING_FOUND = "PC018", Warning, "there is no resource in the configuration";

    UNKNOWN_FIELD = "PC010", Error, "the field does not exist";
    WRONG_TYPE = "PC011", Error, "the value has the wrong type or form";
    INVALID_NAME = "PC012", Error, "a name is not one that Kubernetes accepts";
    DUPLICATE_RESOURCE = "PC013", Error, "two resources have the same kind, namespace and name";
    MISSPELT_KIND = "PC014", Error, "the kind does not exist in Istio's API group";
    FINDINGS_LEFT_OUT = "PC015", Error, "a file has more findings than are kept";
    LAST_GOOD_GOES_ON = "PC016", Warning,
        "a resource's document is broken and its last good version goes on";

    CERTIFICATE_UNREADABLE = "PC020", Error, "a certificate cannot be parsed";
    KEY_UNREADABLE = "PC021", Error, "a private key cannot be parsed or is of no supported type";
    KEY_MISMATCH = "PC022", Error, "a private key does not belong to its certificate";
    CERTIFICATE_EXPIRED = "PC023", Error, "a certificate has expired";
    CERTIFICATE_EXPIRES_SOON = "PC024", Warning, "a certificate expires within 14 days";
    CERTIFICATE_NOT_YET_VALID = "PC025", Error, "a certificate is not valid yet";
    CHAIN_INCOMPLETE = "PC026", Warning, "a certificate chain lacks an intermediate";
    SAN_MISSING = "PC027", Warning, "a certificate does not cover a host of its server";
    CA_UNREADABLE = "PC028", Error, "a CA bundle or a revocation list cannot be used";
    TLS_PARAMETER_IGNORED = "PC029", Warning, "a TLS parameter is not supported and is left out";

    PORT_CONFLICT = "PC030", Error, "two servers cannot share a port";
    DUPLICATE_HOST = "PC031", Error, "a host is claimed twice on a port";
    INVALID_HOST = "PC032", Error, "a host is not a name, a wildcard or \"*\"";
    GATEWAY_NOT_SELECTED = "PC033", Info, "a Gateway selects other workloads than this one";
    SERVER_WITHOUT_ROUTES = "PC034", Warning, "no VirtualService is bound to a server";
    LISTENER_SETTING = "PC035", Error, "a listener cannot be opened as written";
    PORT_NOT_BOUND = "PC036", Error, "the system refuses a port; it is tried again";

    INVALID_REGEX = "PC040", Error, "a regular expression does not compile";
    WEIGHTS = "PC041", Error, "the weights of a route do not make sense together";
    CLUSTER_WITHOUT_ENDPOINTS = "PC042", Warning, "a destination has no endpoint";
    ROUTE_BROKEN = "PC045", Error, "a route cannot be served and answers with an error";
    IDENTITY_MISSING = "PC046", Error, "the mesh identity is missing or cannot be used";
    IDENTITY_AWAITED = "PC047", Warning, "the mesh identity has not come from its source yet";

    KEYS_UNUSABLE = "PC050", Error, "a token rule has no usable key";
    INVALID_TOKEN_RULE = "PC051", Error, "a token rule cannot be used";
    POLICY_FAILS_CLOSED = "PC052", Error,
        "a security resource is broken and what it selects refuses";

    FIELD_NOT_ACTED_ON = "PC060", Warning, "the field is known and not acted on";
    KIND_NOT_ACTED_ON = "PC061", Warning, "the kind is known and has no effect on this gateway";
    VALUE_NOT_ACTED_ON = "PC062", Warning, "the value is known and not acted on";
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
    fn every_id_has_a_known_prefix_and_a_summary() {
        for code in ALL {
            assert!(code.id.starts_with("IST0") || code.id.starts_with("PC0"), "{}", code.id);
            assert!(!code.summary.ends_with('.') && !code.summary.is_empty(), "{}", code.id);
            assert_eq!(find(code.id), Some(*code));
        }
        assert_eq!(find("PC999"), None);
    }
}
