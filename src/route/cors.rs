//! Cross-origin requests (`VirtualService.spec.http[].corsPolicy`).

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::matcher::ValueMatch;

const TRUE: HeaderValue = HeaderValue::from_static("true");

/// Which origins may ask, and for what.
#[derive(Clone, Debug)]
pub struct CorsPolicy {
    /// `allowOrigins`; any of them suffices.
    pub origins: Vec<ValueMatch>,
    /// `allowMethods`.
    pub methods: Option<Listed>,
    /// `allowHeaders`.
    pub headers: Option<Listed>,
    /// `exposeHeaders`.
    pub expose: Option<HeaderValue>,
    /// `maxAge` in seconds.
    pub max_age: Option<HeaderValue>,
    /// `allowCredentials`.
    pub credentials: bool,
    /// Preflights of other origins are answered here as well (`unmatchedPreflights: IGNORE`).
    pub answer_unmatched: bool,
}

/// A list as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// `*`: whatever is asked for.
    Asked,
    /// These.
    These(HeaderValue),
}

impl CorsPolicy {
    /// The headers of a preflight's answer; nothing when the request is for the backend.
    pub fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<HeaderMap> {
        let filled = |name: HeaderName| headers.get(name).filter(|value| !value.is_empty());
        let origin = filled(ORIGIN)?;
        let wanted = filled(ACCESS_CONTROL_REQUEST_METHOD)?;
        if *method != Method::OPTIONS {
            return None;
        }
        let allowed = self.allows(origin);
        if !allowed && !self.answer_unmatched {
            return None;
        }
        let mut out = HeaderMap::new();
        if allowed {
            out.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        }
        if self.credentials {
            out.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        let asked = headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
        for (name, list, asked) in [
            (ACCESS_CONTROL_ALLOW_METHODS, &self.methods, Some(wanted)),
            (ACCESS_CONTROL_ALLOW_HEADERS, &self.headers, asked),
        ] {
            let value = match list {
                Some(Listed::These(value)) => Some(value),
                Some(Listed::Asked) => asked,
                None => None,
            };
            if let Some(value) = value {
                out.insert(name, value.clone());
            }
        }
        if let Some(age) = &self.max_age {
            out.insert(ACCESS_CONTROL_MAX_AGE, age.clone());
        }
        Some(out)
    }

    /// What an answer to a request of this origin says besides; nothing when it may not ask.
    pub fn answer(&self, headers: &HeaderMap) -> Option<HeaderMap> {
        let origin = headers.get(ORIGIN).filter(|origin| self.allows(origin))?;
        let mut out = HeaderMap::new();
        out.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.credentials {
            out.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        if let Some(expose) = &self.expose {
            out.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
        Some(out)
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        self.origins.iter().any(|allowed| allowed.matches(origin.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: &CorsPolicy, origin: &str, expected: Option<&[(&str, &str)]>) {
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, origin.parse().unwrap());
        headers.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("PUT"));
        headers.insert(ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_static("x-a, x-b"));
        let found = policy.preflight(&Method::OPTIONS, &headers);
        let found = found.as_ref().map(|headers| {
            headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect::<Vec<_>>()
        });
        assert_eq!(found.as_deref(), expected, "{origin}");
        assert!(policy.preflight(&Method::GET, &headers).is_none());
    }

    fn policy() -> CorsPolicy {
        CorsPolicy {
            origins: vec![ValueMatch::Prefix("https://a.".into())],
            methods: Some(Listed::These(HeaderValue::from_static("GET,PUT"))),
            headers: Some(Listed::Asked),
            expose: Some(HeaderValue::from_static("x-c")),
            max_age: Some(HeaderValue::from_static("60")),
            credentials: true,
            answer_unmatched: false,
        }
    }

    #[test]
    fn preflights_are_answered_for_allowed_origins() {
        let rest = [
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "GET,PUT"),
            ("access-control-allow-headers", "x-a, x-b"),
            ("access-control-max-age", "60"),
        ];
        let mut all = vec![("access-control-allow-origin", "https://a.com")];
        all.extend(rest);
        check(&policy(), "https://a.com", Some(&all));
        check(&policy(), "https://b.com", None);
        check(&CorsPolicy { answer_unmatched: true, ..policy() }, "https://b.com", Some(&rest));
    }

    #[test]
    fn answers_are_marked_for_allowed_origins() {
        let of = |origin| HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static(origin))]);
        let marks = policy().answer(&of("https://a.x")).unwrap();
        assert_eq!(marks.len(), 3);
        assert!(policy().answer(&of("http://a.x")).is_none());
        assert!(policy().answer(&HeaderMap::new()).is_none());
    }
}
