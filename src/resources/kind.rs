//! Which kinds are read, in which API versions, and what is said about the others.
//!
//! **Invariant**: a document that was meant to be a security resource is never merely ignored.

use super::nearest;
use crate::diag::{Code, catalog};

macro_rules! kinds {
    ($($name:ident, $group:literal, $versions:expr;)+) => {
        /// A kind that is read.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Kind {
            $($name,)+
        }

        impl Kind {
            const ALL: &[Self] = &[$(Self::$name),+];
            const NAMES: &[&str] = &[$(stringify!($name)),+];

            /// Kind as written in YAML.
            pub(super) fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            fn group(self) -> &'static str {
                match self {
                    $(Self::$name => $group,)+
                }
            }

            fn versions(self) -> &'static [&'static str] {
                match self {
                    $(Self::$name => $versions,)+
                }
            }
        }
    };
}

const ISTIO: &[&str] = &["v1", "v1beta1", "v1alpha3"];
const SECURITY: &[&str] = &["v1", "v1beta1"];
const CORE: &[&str] = &["v1"];
const SECURITY_GROUP: &str = "security.istio.io";
const ISTIO_GROUPS: &[&str] = &[
    SECURITY_GROUP,
    "extensions.istio.io",
    "install.istio.io",
    "networking.istio.io",
    "telemetry.istio.io",
];

kinds! {
    Gateway, "networking.istio.io", ISTIO;
    VirtualService, "networking.istio.io", ISTIO;
    DestinationRule, "networking.istio.io", ISTIO;
    ServiceEntry, "networking.istio.io", ISTIO;
    WorkloadEntry, "networking.istio.io", ISTIO;
    RequestAuthentication, "security.istio.io", SECURITY;
    AuthorizationPolicy, "security.istio.io", SECURITY;
    PeerAuthentication, "security.istio.io", SECURITY;
    Secret, "", CORE;
    Service, "", CORE;
    EndpointSlice, "discovery.k8s.io", CORE;
}

/// Kinds that exist beside the ones above and mean nothing to a gateway of its own.
const WITHOUT_EFFECT: &[&str] = &[
    "ConfigMap",
    "EnvoyFilter",
    "IstioOperator",
    "Namespace",
    "ProxyConfig",
    "ServiceAccount",
    "Sidecar",
    "Telemetry",
    "WasmPlugin",
    "WorkloadGroup",
];

impl Kind {
    /// Whether the resource's fields stand below `spec`.
    pub(super) fn has_spec(self) -> bool {
        !matches!(self, Self::Secret | Self::EndpointSlice)
    }

    /// Whether it restricts who may do what.
    pub(super) fn is_security(self) -> bool {
        self.group() == SECURITY_GROUP
    }

    /// The kind with a name.
    pub(super) fn find(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

/// What is done with a document.
pub(super) enum Lookup {
    /// It is read as this kind.
    Read(Kind),
    /// It was meant to be this kind and cannot be read as it.
    Refused { kind: Kind, code: &'static Code, message: String, help: String },
    /// It is of no concern.
    Ignored { code: &'static Code, message: String },
}

/// Whether a document of an unknown kind may have been meant to be one that is read.
pub(super) fn may_be_meant(api_version: &str, name: &str) -> bool {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let group_misspelt = |kind: Kind| nearest::nearest(group, &[kind.group()]).is_some();
    group.ends_with("istio.io") || Kind::find(name).is_some_and(group_misspelt)
}

/// Whether a document of no known kind says that it is a security resource.
pub(super) fn is_policy(api_version: Option<&str>, name: Option<&str>) -> bool {
    let policies = || Kind::ALL.iter().filter(|kind| kind.is_security()).map(|kind| kind.name());
    match (api_version, name) {
        (Some(version), _) => {
            let group = version.split('/').next().unwrap_or_default();
            group.ends_with("istio.io")
                && nearest::nearest(group, ISTIO_GROUPS) == Some(SECURITY_GROUP)
        }
        (None, Some(name)) => nearest::nearest(name, &policies().collect::<Vec<_>>()).is_some(),
        (None, None) => false,
    }
}

/// Whether a text is about security resources.
pub(super) fn mentions_policies(text: &str) -> bool {
    let policies = Kind::ALL.iter().filter(|kind| kind.is_security());
    text.contains(SECURITY_GROUP) || policies.into_iter().any(|kind| text.contains(kind.name()))
}

/// Finds the kind of a document.
pub(super) fn look_up(api_version: &str, name: &str) -> Lookup {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let istio = group.ends_with("istio.io");
    if let Some(kind) = Kind::find(name) {
        if group == kind.group() && kind.versions().contains(&version) {
            return Lookup::Read(kind);
        }
        if istio || group == kind.group() || kind.is_security() {
            return wrong_version(kind, api_version);
        }
    }
    if WITHOUT_EFFECT.contains(&name) && (istio || group.is_empty()) {
        let message = format!("kind \"{name}\" has no effect on this gateway");
        return Lookup::Ignored { code: &catalog::KIND_NOT_ACTED_ON, message };
    }
    if istio && let Some(kind) = nearest::nearest(name, Kind::NAMES).and_then(Kind::find) {
        return Lookup::Refused {
            kind,
            code: &catalog::MISSPELT_KIND,
            message: format!("kind \"{name}\" does not exist in \"{api_version}\""),
            help: format!("did you mean \"{}\"?", kind.name()),
        };
    }
    let message = format!("kind \"{name}\" of \"{api_version}\" is not known and is ignored");
    Lookup::Ignored { code: &catalog::UNKNOWN_KIND, message }
}

fn wrong_version(kind: Kind, api_version: &str) -> Lookup {
    let slash = if kind.group().is_empty() { "" } else { "/" };
    let latest = kind.versions().first().copied().unwrap_or_default();
    Lookup::Refused {
        kind,
        code: &catalog::UNKNOWN_VERSION,
        message: format!("kind \"{}\" is not served in \"{api_version}\"", kind.name()),
        help: format!("write \"{}{slash}{latest}\"", kind.group()),
    }
}
