//! How random configurations are written: as Istio's resources.

use serde_json::{Value, json};

use crate::world::{Action, Match, Rewrite, Rule, SERVICES, Text, World};

impl World {
    /// The resources.
    pub(crate) fn yaml(&self) -> String {
        let server =
            json!({"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]});
        let spec = json!({"selector": {"istio": "ingressgateway"}, "servers": [server]});
        let mut gateway = networking("Gateway", "istio-system/g", &spec);
        trust(&mut gateway, self.proxies);
        let mut all = vec![gateway];
        let unreachable = json!({"address": "192.0.2.1"});
        all.extend(SERVICES.iter().map(|name| service_entry(name, &unreachable)));
        all.extend(self.virtual_services("g"));
        documents(&all)
    }

    /// Its VirtualServices, of a Gateway in `istio-system`.
    pub(crate) fn virtual_services(&self, gateway: &str) -> Vec<Value> {
        let all = self.services.iter().enumerate().map(|(index, service)| {
            let spec = json!({
                "hosts": service.hosts,
                "gateways": [format!("istio-system/{gateway}")],
                "http": service.rules.iter().map(Rule::json).collect::<Vec<_>>(),
            });
            networking("VirtualService", &format!("shop/{gateway}-v{index}"), &spec)
        });
        all.collect()
    }
}

/// A resource of Istio's networking API, `NAMESPACE/NAME`.
pub(crate) fn networking(kind: &str, name: &str, spec: &Value) -> Value {
    let (namespace, name) = name.split_once('/').unwrap();
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    })
}

/// Makes a Gateway list the proxies before it.
pub(crate) fn trust(gateway: &mut Value, proxies: Option<&[&str]>) {
    if let Some(proxies) = proxies {
        gateway["metadata"]["annotations"]["portcullis.dev/trusted-proxies"] =
            json!(proxies.join(", "));
    }
}

/// A service with one endpoint.
pub(crate) fn service_entry(name: &str, endpoint: &Value) -> Value {
    let spec = json!({
        "hosts": [host(name)],
        "resolution": "STATIC",
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
        "endpoints": [endpoint],
    });
    networking("ServiceEntry", &format!("shop/{name}"), &spec)
}

/// A file of resources.
pub(crate) fn documents(all: &[Value]) -> String {
    all.iter().map(Value::to_string).collect::<Vec<_>>().join("\n---\n")
}

pub(crate) fn host(service: &str) -> String {
    format!("{service}.internal")
}

impl Text {
    fn json(self) -> Value {
        match self {
            Self::Exact(text) => json!({"exact": text}),
            Self::Prefix(text) => json!({"prefix": text}),
            Self::Regex(regex) => json!({"regex": regex.pattern}),
            Self::Present => json!({}),
        }
    }
}

impl Rule {
    fn json(&self) -> Value {
        let mut rule = json!({"name": self.name});
        if !self.matches.is_empty() {
            rule["match"] = self.matches.iter().map(Match::json).collect();
        }
        match &self.action {
            Action::Respond(status) => rule["directResponse"] = json!({"status": status}),
            Action::Redirect { uri, authority, scheme, port, code } => {
                let mut redirect = json!({"scheme": scheme});
                for (name, value) in [("uri", uri), ("authority", authority)] {
                    if let Some(value) = value {
                        redirect[name] = json!(value);
                    }
                }
                for (name, value) in [("port", port), ("redirectCode", code)] {
                    if let Some(value) = value {
                        redirect[name] = json!(value);
                    }
                }
                rule["redirect"] = redirect;
            }
            Action::Forward { rewrite, authority, to } => {
                let mut written = json!({});
                match rewrite {
                    Rewrite::Nothing => {}
                    Rewrite::Uri(uri) => written["uri"] = json!(uri),
                    Rewrite::Letter => {
                        written["uriRegexRewrite"] = json!({"match": "a", "rewrite": "x-"});
                    }
                    Rewrite::Group => {
                        written["uriRegexRewrite"] = json!({"match": "b(.)", "rewrite": "\\1b"});
                    }
                }
                if let Some(authority) = authority {
                    written["authority"] = json!(authority);
                }
                if written != json!({}) {
                    rule["rewrite"] = written;
                }
                let one = |(name, weight): &(&str, u32)| json!({"destination": {"host": host(name)}, "weight": weight});
                rule["route"] = to.iter().map(one).collect();
            }
        }
        rule
    }
}

impl Match {
    fn json(&self) -> Value {
        let mut out = json!({});
        let texts = [
            ("uri", self.uri),
            ("method", self.method),
            ("scheme", self.scheme),
            ("authority", self.authority),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                out[name] = text.json();
            }
        }
        if self.ignore_case {
            out["ignoreUriCase"] = json!(true);
        }
        let query: Vec<_> = self.query.into_iter().collect();
        let maps = [
            ("headers", &self.headers),
            ("withoutHeaders", &self.without),
            ("queryParams", &query),
        ];
        for (field, list) in maps {
            for (name, text) in list {
                out[field][name] = text.json();
            }
        }
        if let Some(port) = self.port {
            out["port"] = json!(port);
        }
        out
    }
}
