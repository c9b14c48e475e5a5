//! The file that says who may have which identity: `workloads.yaml` in the CA's folder.
//!
//! ```yaml
//! sockets:                     # processes that connect to --sds and --workload-api
//! - {uid: 1000, namespace: shop, serviceAccount: cart}
//! tokens:                      # join tokens for CreateCertificate, by their SHA-256
//! - sha256: 8b9f...e1
//!   namespace: istio-system
//!   serviceAccount: gateway
//!   expires: "2027-01-01T00:00:00Z"
//! ```
//!
//! **Invariant:** a user or token has one identity; a file with a mistake gives nobody anything new.

use std::collections::HashMap;

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::workload::WorkloadId;
use crate::base::hash::Fingerprint;
use crate::resources::{ConfigFile, parse_single};

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    sockets: Vec<SocketEntry>,
    tokens: Vec<TokenEntry>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SocketEntry {
    uid: Option<u32>,
    namespace: String,
    service_account: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TokenEntry {
    sha256: String,
    namespace: String,
    service_account: String,
    expires: String,
}

/// Identities by how their holders prove them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workloads {
    users: HashMap<u32, WorkloadId>,
    tokens: HashMap<String, (WorkloadId, Option<i64>)>,
}

impl Workloads {
    /// Reads the file for a trust domain; every mistake is told on a line of its own.
    pub fn parse(file: &ConfigFile, trust_domain: &str) -> Result<Self, Vec<String>> {
        let read: File = parse_single(file, "list of workloads").map_err(|diagnostics| {
            let told = diagnostics.iter().map(|finding| {
                let place = finding.location.as_ref().map(ToString::to_string).unwrap_or_default();
                format!("{place}: {}", finding.message)
            });
            told.collect::<Vec<_>>()
        })?;
        let mut workloads = Self::default();
        let mut mistakes = Vec::new();
        for (index, entry) in read.sockets.iter().enumerate() {
            if let Err(mistake) = workloads.add_user(entry, trust_domain) {
                mistakes.push(format!("{}: sockets[{index}]: {mistake}", file.path));
            }
        }
        for (index, entry) in read.tokens.iter().enumerate() {
            if let Err(mistake) = workloads.add_token(entry, trust_domain) {
                mistakes.push(format!("{}: tokens[{index}]: {mistake}", file.path));
            }
        }
        if mistakes.is_empty() { Ok(workloads) } else { Err(mistakes) }
    }

    fn add_user(&mut self, entry: &SocketEntry, trust_domain: &str) -> Result<(), String> {
        let uid = entry.uid.ok_or("\"uid\" is missing")?;
        let id = WorkloadId::new(trust_domain, &entry.namespace, &entry.service_account)
            .map_err(|error| error.to_string())?;
        match self.users.insert(uid, id) {
            None => Ok(()),
            Some(_) => Err(format!("uid {uid} has an identity already")),
        }
    }

    fn add_token(&mut self, entry: &TokenEntry, trust_domain: &str) -> Result<(), String> {
        let digest = entry.sha256.to_ascii_lowercase();
        if digest.len() != DIGEST_CHARS || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("\"sha256\" is the token's SHA-256 in 64 hexadecimal digits".to_owned());
        }
        let expires = match entry.expires.as_str() {
            "" => None,
            text => {
                let at = OffsetDateTime::parse(text, &Rfc3339);
                Some(at.map_err(|_| "\"expires\" is a time like 2027-01-01T00:00:00Z")?)
            }
        };
        let id = WorkloadId::new(trust_domain, &entry.namespace, &entry.service_account)
            .map_err(|error| error.to_string())?;
        let entry = (id, expires.map(OffsetDateTime::unix_timestamp));
        match self.tokens.insert(digest, entry) {
            None => Ok(()),
            Some(_) => Err("this token has an identity already".to_owned()),
        }
    }

    /// The identity of a process's user.
    pub fn user(&self, uid: u32) -> Option<&WorkloadId> {
        self.users.get(&uid)
    }

    /// The identity of a join token, by its digest, at `now` in Unix seconds.
    pub fn join(&self, digest: &Fingerprint, now: i64) -> Option<&WorkloadId> {
        let (id, expires) = self.tokens.get(&digest.to_string())?;
        expires.is_none_or(|expires| now < expires).then_some(id)
    }
}

const DIGEST_CHARS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Workloads, Vec<String>> {
        let file = ConfigFile { path: "w.yaml".into(), bytes: text.as_bytes().into() };
        Workloads::parse(&file, "td")
    }

    #[test]
    fn users_and_tokens_have_identities() {
        let digest = Fingerprint::of(b"a join token, long enough");
        let workloads = read(&format!(
            "sockets: [{{uid: 0, namespace: a, serviceAccount: b}}]\n\
             tokens: [{{sha256: '{digest}', namespace: c, serviceAccount: d, \
             expires: '2027-01-01T00:00:00Z'}}]\n"
        ))
        .unwrap();
        let name = |id: Option<&WorkloadId>| id.map(ToString::to_string);
        assert_eq!(name(workloads.user(0)).as_deref(), Some("spiffe://td/ns/a/sa/b"));
        assert_eq!(workloads.user(1), None);
        let end = 1_798_761_600;
        let joined = name(workloads.join(&digest, end - 1));
        assert_eq!(joined.as_deref(), Some("spiffe://td/ns/c/sa/d"));
        assert_eq!(workloads.join(&digest, end), None);
        assert_eq!(workloads.join(&Fingerprint::of(b"other"), 0), None);
        assert_eq!(read(""), Ok(Workloads::default()));
    }

    fn check(text: &str, said: &str) {
        let mistakes = read(text).unwrap_err().join("\n");
        assert!(mistakes.contains(said), "{text}: {mistakes}");
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        check("sockets: [{uid: 1, namespace: a}]", "sockets[0]: namespace \"a\"");
        check("sockets: [{namespace: a, serviceAccount: b}]", "\"uid\" is missing");
        check(
            "sockets: [{uid: x, namespace: a, serviceAccount: b}]",
            "w.yaml:1:17: expected a whole number",
        );
        check("socket: []", "no field \"socket\"");
        let twice = "{uid: 1, namespace: a, serviceAccount: b}";
        check(&format!("sockets: [{twice}, {twice}]"), "sockets[1]: uid 1 has");
        check("tokens: [{sha256: abc, namespace: a, serviceAccount: b}]", "64 hexadecimal");
        let digest = "0".repeat(64);
        let token = format!("sha256: '{digest}', namespace: a, serviceAccount: b");
        check(&format!("tokens: [{{{token}, expires: soon}}]"), "2027-01-01");
        check(&format!("tokens: [{{{token}}}, {{{token}}}]"), "tokens[1]: this token");
        check("a: [", "w.yaml:2:1: while parsing");
    }
}
