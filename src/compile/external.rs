//! Providers of external authorization (`MeshConfig.extensionProviders`) as CUSTOM policies name them.
//!
//! **Invariant:** a provider with any mistake is none, and what its policies select is refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};

use crate::auth::authz::TextMatch;
use crate::base::header::is_framing;
use crate::base::limit;
use crate::resources::mesh_config::{BodyInCheck as WrittenBody, ExtAuthzHttp, ExtensionProvider};
use crate::resources::meta::ProtoDuration;
use crate::snapshot::cluster::{ClusterId, Protocol};
use crate::snapshot::external::{BodyInCheck, HttpCheck, Provider, ProviderProtocol};

use super::clusters::ClusterPass;
use super::findings::Findings;
use super::settings::CompileSettings;

/// Finds a provider by its name, or says why there is none.
pub type FindProvider<'f> = dyn FnMut(&str, &mut Findings) -> Result<Arc<Provider>, String> + 'f;

/// The provider of a name.
pub fn provider(
    name: &str,
    settings: &CompileSettings,
    clusters: &mut ClusterPass<'_>,
    findings: &mut Findings,
) -> Result<Arc<Provider>, String> {
    let mut named = settings.extension_providers.iter().filter(|provider| provider.name == name);
    let written = match (named.next(), named.next()) {
        (None, _) => return Err(format!("MeshConfig has no extensionProvider \"{name}\"")),
        (Some(_), Some(_)) => {
            return Err(format!("MeshConfig has several extensionProviders \"{name}\""));
        }
        (Some(written), None) => written,
    };
    let wrong = |why: String| format!("extensionProvider \"{name}\" cannot be used: {why}");
    one(written, clusters, findings).map(Arc::new).map_err(wrong)
}

fn one(
    written: &ExtensionProvider,
    clusters: &mut ClusterPass<'_>,
    findings: &mut Findings,
) -> Result<Provider, String> {
    let (service, port, timeout, fail_open, status, body, protocol) =
        match (&written.envoy_ext_authz_http, &written.envoy_ext_authz_grpc) {
            (Some(http), None) => (
                &http.service,
                http.port,
                http.timeout,
                http.fail_open,
                &http.status_on_error,
                http.include_request_body_in_check.as_ref(),
                ProviderProtocol::Http(Box::new(http_check(http)?)),
            ),
            (None, Some(grpc)) => (
                &grpc.service,
                grpc.port,
                grpc.timeout,
                grpc.fail_open,
                &grpc.status_on_error,
                grpc.include_request_body_in_check.as_ref(),
                ProviderProtocol::Grpc,
            ),
            _ => return Err("it is neither envoyExtAuthzHttp nor envoyExtAuthzGrpc".into()),
        };
    let (cluster, name) = cluster(service, port, &protocol, clusters, findings)?;
    let authority = HeaderValue::try_from(name.replace('|', "_."));
    Ok(Provider {
        name: written.name.as_str().into(),
        cluster,
        authority: authority.map_err(|_| format!("\"{service}\" is no service's name"))?,
        timeout: time(timeout),
        fail_open,
        status_on_error: status_on_error(status)?,
        body: body.map(body_in_check).transpose()?,
        protocol,
    })
}

fn cluster(
    service: &str,
    port: u32,
    protocol: &ProviderProtocol,
    clusters: &mut ClusterPass<'_>,
    findings: &mut Findings,
) -> Result<(ClusterId, Arc<str>), String> {
    let (namespace, host) = match service.split_once('/') {
        Some((namespace, host)) => (Some(namespace), host),
        None => (None, service),
    };
    let id = clusters.service(namespace, host, port, findings)?;
    let cluster = clusters.get(id).ok_or_else(|| format!("\"{service}\" has no cluster"))?;
    if matches!(protocol, ProviderProtocol::Grpc) && cluster.protocol != Protocol::Http2 {
        return Err(format!(
            "port {port} of \"{service}\" does not speak gRPC; give it the protocol GRPC"
        ));
    }
    Ok((id, cluster.name.clone()))
}

fn http_check(written: &ExtAuthzHttp) -> Result<HttpCheck, String> {
    let prefix = written.path_prefix.as_str();
    let uri = prefix.parse::<http::uri::PathAndQuery>().is_ok_and(|path| path.query().is_none());
    let usable = prefix.is_empty() || (prefix.starts_with('/') && uri);
    if !usable {
        return Err(format!("pathPrefix \"{prefix}\" is no path; begin it with /"));
    }
    let all = [&written.include_headers_in_check, &written.include_request_headers_in_check];
    Ok(HttpCheck {
        path_prefix: prefix.into(),
        request_headers: names(all.into_iter().flatten()),
        added_headers: added(&written.include_additional_headers_in_check)?,
        upstream_on_allow: names(&written.headers_to_upstream_on_allow),
        downstream_on_allow: names(&written.headers_to_downstream_on_allow),
        downstream_on_deny: names(&written.headers_to_downstream_on_deny),
    })
}

fn names<'a>(written: impl IntoIterator<Item = &'a String>) -> Vec<TextMatch> {
    written.into_iter().map(|name| TextMatch::parse(&name.to_ascii_lowercase())).collect()
}

fn added(written: &BTreeMap<String, String>) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let header = |(name, value): (&String, &String)| {
        let invalid = || format!("includeAdditionalHeadersInCheck: \"{name}\" cannot be sent");
        let header = HeaderName::try_from(name.as_str()).ok().filter(|name| !is_framing(name));
        let header = header.ok_or_else(invalid)?;
        Ok((header, HeaderValue::from_str(value).map_err(|_| invalid())?))
    };
    written.iter().map(header).collect()
}

fn time(written: Option<ProtoDuration>) -> Duration {
    let most = limit::EXTERNAL_CHECK_TIME;
    written.map(|time| time.0).filter(|time| !time.is_zero()).map_or(most, |time| time.min(most))
}

fn status_on_error(written: &str) -> Result<StatusCode, String> {
    if written.is_empty() {
        return Ok(StatusCode::FORBIDDEN);
    }
    let status = written.parse().ok().filter(|code| (200..600).contains(code));
    let status = status.and_then(|code: u16| StatusCode::from_u16(code).ok());
    status.ok_or_else(|| format!("statusOnError \"{written}\" is no status from 200 to 599"))
}

fn body_in_check(written: &WrittenBody) -> Result<BodyInCheck, String> {
    let most = limit::EXTERNAL_BODY_BYTES;
    match usize::try_from(written.max_request_bytes) {
        Ok(bytes) if (1..=most).contains(&bytes) => Ok(BodyInCheck {
            most_bytes: bytes,
            partial: written.allow_partial_message,
            as_bytes: written.pack_as_bytes,
        }),
        _ => Err(format!("includeRequestBodyInCheck.maxRequestBytes is 1 to {most}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_errors_has_bounds() {
        assert_eq!(status_on_error("").unwrap(), 403);
        assert_eq!(status_on_error("503").unwrap(), 503);
        for wrong in ["100", "600", "x", "-1", "4 3"] {
            assert!(status_on_error(wrong).is_err(), "{wrong}");
        }
        assert_eq!(time(None), limit::EXTERNAL_CHECK_TIME);
        assert_eq!(time(Some(ProtoDuration(Duration::from_secs(1)))), Duration::from_secs(1));
        assert_eq!(time(Some(ProtoDuration(Duration::MAX))), limit::EXTERNAL_CHECK_TIME);
    }

    #[test]
    fn bodies_are_bounded() {
        let body = |max_request_bytes| WrittenBody { max_request_bytes, ..Default::default() };
        assert_eq!(body_in_check(&body(1024)).unwrap().most_bytes, 1024);
        assert!(body_in_check(&body(0)).is_err());
        assert!(body_in_check(&body(u32::MAX)).is_err());
    }

    #[test]
    fn a_prefix_is_a_path_and_headers_are_names() {
        let check = |path_prefix: &str, usable: bool| {
            let written = ExtAuthzHttp { path_prefix: path_prefix.into(), ..Default::default() };
            assert_eq!(http_check(&written).is_ok(), usable, "{path_prefix}");
        };
        check("", true);
        check("/check", true);
        check("check", false);
        check("/a?b", false);
        check("/a b", false);
        assert!(added(&[("a b".to_owned(), "x".to_owned())].into()).is_err());
        assert!(added(&[("x-a".to_owned(), "\n".to_owned())].into()).is_err());
        let wanted = names(&["X-A*".to_owned()]);
        assert!(wanted.iter().any(|name| name.matches("x-abc")));
    }
}
