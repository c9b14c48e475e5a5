//! From a file's documents to typed resources: envelope, kind, metadata, spec.
//!
//! **Invariant**: every document of a known kind ends as a resource or as a broken one, with a
//! diagnostic for the latter. What Istio's webhook refuses is broken.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::broken::{self, Claims, identify};
use super::de::{self, UnknownField};
use super::kind::{self, Kind, Lookup};
use super::meta::ObjectMeta;
use super::name::{is_dns_label, is_dns_subdomain};
use super::node::{self, Chunk, Entry, Node, Position, Value};
use super::place::collect;
use super::set::AnyResource;
use super::validate::{
    self, Check, Verdict, destination_rule, gateway, security, service_entry, virtual_service,
};
use super::{ConfigFile, Meta, ParsedFile, Resource, nearest, salvage};
use crate::base::id::ResourceId;
use crate::base::limit;
use crate::diag::{Code, Diagnostic, Location, catalog};

mod faults;

use faults::{end_of_text, explain};

/// Reads one file: every document of it that can be read.
pub fn parse_file(file: &ConfigFile) -> ParsedFile {
    let mut reader = Reader { file: ParsedFile::new(file.path.clone()) };
    reader.read_file(&file.bytes);
    reader.file
}

struct Reader {
    file: ParsedFile,
}

impl Reader {
    fn read_file(&mut self, bytes: &[u8]) {
        if bytes.len() as u64 > limit::CONFIG_FILE_BYTES {
            let message = format!("the file has {} bytes", bytes.len());
            let help = format!("split it: {} MiB are the most", limit::CONFIG_FILE_BYTES >> 20);
            let start = Position { line: 1, column: 1 };
            self.unreadable(&catalog::FILE_TOO_LARGE, message, start, &help);
            return self.salvage_bytes(bytes, start);
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => self.read_text(text.strip_prefix('\u{feff}').unwrap_or(text)),
            Err(error) => {
                let position = end_of_text(bytes, &error);
                let message = "the file is not UTF-8 from here on".to_owned();
                self.unreadable(&catalog::NOT_UTF8, message, position, "save the file as UTF-8");
                self.salvage_bytes(bytes, position);
            }
        }
    }

    fn read_text(&mut self, text: &str) {
        let mut budget = node::Budget::default();
        for chunk in node::chunks(text) {
            match node::read(chunk, &mut budget) {
                Ok(roots) => roots.iter().for_each(|root| self.document(root, None)),
                Err((position, error)) => {
                    let (code, help) = explain(&error);
                    self.unreadable(code, error.to_string(), position, help);
                    let Chunk { text, lines_before } = chunk;
                    self.salvage(text, lines_before);
                }
            }
        }
    }

    fn push(&mut self, diagnostic: Diagnostic) {
        let kept = &mut self.file.diagnostics;
        if kept.len() < limit::FILE_FINDINGS {
            kept.push(diagnostic);
        } else if kept.len() == limit::FILE_FINDINGS {
            let message = "the file has more findings than are shown";
            let mut last = Diagnostic::new(&catalog::FINDINGS_LEFT_OUT, message);
            last.location = diagnostic.location;
            kept.push(last.help("correct those that are shown first"));
        }
    }

    fn unreadable(&mut self, code: &'static Code, message: String, at: Position, help: &str) {
        self.unclear(at);
        let diagnostic = Diagnostic::new(code, message).at(self.location(at)).help(help);
        self.push(diagnostic);
    }

    /// Remembers that a document does not say what it is.
    fn unclear(&mut self, at: Position) {
        let location = self.location(at);
        self.file.unclear.get_or_insert(location);
    }

    /// Remembers that something may be a security resource.
    fn unread(&mut self, at: Position) {
        let location = self.location(at);
        self.file.unread.get_or_insert(location);
    }

    /// Looks for resources in bytes that are not UTF-8: what is ASCII, as 8, 16 or 32 bits each.
    fn salvage_bytes(&mut self, bytes: &[u8], at: Position) {
        let text = String::from_utf8_lossy(bytes).replace('\0', "");
        if !salvage::names_a_kind(&text) {
            self.unread(at);
        }
        self.salvage(&text, 0);
    }

    /// Looks for resources in a text that is not YAML. Beyond [`limit::BROKEN_TEXT_RESOURCES`] one of each
    /// kind stands for the others, and may be of any namespace.
    fn salvage(&mut self, text: &str, lines_before: u32) {
        let mut claims: HashMap<&str, Claims> = HashMap::new();
        let mut others: HashSet<&str> = HashSet::new();
        for (index, mut found) in salvage::scan(text).into_iter().enumerate() {
            let kind = found.id.kind;
            if index >= limit::BROKEN_TEXT_RESOURCES {
                if !others.insert(kind) {
                    continue;
                }
                found.id = ResourceId::new(kind, "", "");
            }
            let line = found.line.saturating_add(lines_before);
            let location = Location::new(self.file.path.clone(), line, 1);
            let claims = claims.entry(kind).or_insert_with(|| Claims::of(kind, text)).clone();
            self.file.broken.push(broken::of_text(found.id, location, claims));
        }
        if !salvage::names_a_kind(text) && kind::mentions_policies(text) {
            self.unread(Position { line: lines_before.saturating_add(1), column: 1 });
        }
    }

    fn location(&self, at: Position) -> Location {
        Location::new(self.file.path.clone(), at.line, at.column)
    }

    /// Reads one document, or one item of a list; `listed` is the kind of a kind-list's items.
    fn document(&mut self, root: &Node<'_>, listed: Option<(&str, &str)>) {
        if root.is_null() {
            return;
        }
        if !matches!(root.value, Value::Mapping(_)) {
            let message = format!("expected a resource, found {}", root.describe());
            self.unclear(root.position);
            self.not_a_resource(message, root.position, "");
            if let Value::Sequence(items) = &root.value {
                items.iter().for_each(|item| self.unsaid(item, None));
            }
            return;
        }
        let version = root.text("apiVersion").or(listed.map(|(version, _)| version));
        let kind = root.text("kind").or(listed.map(|(_, kind)| kind));
        let (Some(version), Some(kind)) = (version, kind) else {
            let field = if version.is_none() { "apiVersion" } else { "kind" };
            let message = format!("the document has no {field}");
            self.not_a_resource(message, root.position, field);
            if kind.and_then(Kind::find).is_none() {
                self.unclear(root.position);
            }
            return self.unsaid(root, listed);
        };
        if let (Some(item_kind), Some(items)) = (kind.strip_suffix("List"), root.entry("items")) {
            let listed = (!item_kind.is_empty()).then_some((version, item_kind));
            if let Value::Sequence(items) = &items.value.value {
                items.iter().for_each(|item| self.document(item, listed));
            } else if !items.value.is_null() {
                let message = format!("expected a list, found {}", items.value.describe());
                self.unclear(items.position);
                self.unread(items.position);
                self.not_a_resource(message, items.position, "items");
            }
            return;
        }
        match kind::look_up(version, kind) {
            Lookup::Read(kind) => self.resource(kind, root),
            Lookup::Refused { kind, code, message, help } => {
                let field = if *code == catalog::MISSPELT_KIND { "kind" } else { "apiVersion" };
                let at = entry_position(root, field);
                let id = identify(kind, root);
                let diagnostic = Diagnostic::new(code, message).at(self.location(at)).help(help);
                self.push(diagnostic.field(field).resource(id));
                self.set_aside(kind, root);
            }
            Lookup::Ignored { code, message } => {
                let at = entry_position(root, "kind");
                let diagnostic = Diagnostic::new(code, message).at(self.location(at)).field("kind");
                self.push(diagnostic);
                if *code == catalog::UNKNOWN_KIND && kind::may_be_meant(version, kind) {
                    self.unclear(at);
                    self.unsaid(root, listed);
                }
            }
        }
    }

    fn not_a_resource(&mut self, message: String, at: Position, field: &str) {
        let diagnostic = Diagnostic::new(&catalog::NOT_A_RESOURCE, message)
            .at(self.location(at))
            .field(field)
            .help("write apiVersion, kind and metadata.name, or move the file elsewhere");
        self.push(diagnostic);
    }

    /// Sets a document aside that does not say all of what it is, as far as it may restrict something.
    fn unsaid(&mut self, root: &Node<'_>, listed: Option<(&str, &str)>) {
        let version = root.text("apiVersion").or(listed.map(|(version, _)| version));
        let kind = root.text("kind").or(listed.map(|(_, kind)| kind));
        if let Some(kind) = kind.and_then(Kind::find) {
            self.set_aside(kind, root);
        } else if kind::is_policy(version, kind) {
            let location = self.location(root.position);
            self.file.broken.push(broken::some_policy(root, location));
        } else if version.is_none() && kind.is_none() && root.entry("spec").is_some() {
            self.unread(root.position);
        }
    }

    fn set_aside(&mut self, kind: Kind, root: &Node<'_>) {
        let location = self.location(root.position);
        self.file.broken.push(broken::read(kind, root, location));
    }

    fn resource(&mut self, kind: Kind, root: &Node<'_>) {
        macro_rules! read {
            ($($kind:ident: $check:path,)+) => {
                match kind {
                    $(Kind::$kind => self.typed(kind, root, $check).map(AnyResource::$kind),)+
                }
            };
        }
        let read = read! {
            Gateway: gateway::check,
            VirtualService: virtual_service::check,
            DestinationRule: destination_rule::check,
            ServiceEntry: service_entry::check,
            WorkloadEntry: service_entry::check_workload,
            RequestAuthentication: security::request_authentication,
            AuthorizationPolicy: security::authorization_policy,
            PeerAuthentication: security::peer_authentication,
            Secret: validate::nothing,
            Service: validate::nothing,
            EndpointSlice: validate::nothing,
        };
        self.file.resources.extend(read);
    }

    /// Reads what Istio lets in; the rest is set aside.
    fn typed<T: DeserializeOwned + Default>(
        &mut self,
        kind: Kind,
        root: &Node<'_>,
        check: Check<T>,
    ) -> Option<Arc<Resource<T>>> {
        let id = identify(kind, root);
        let mut unknown = Vec::new();
        let meta = self.meta(root, &id, &mut unknown);
        let spec = if kind.has_spec() {
            unknown.extend(root.entries().iter().filter_map(unknown_envelope_field));
            match root.entry("spec") {
                Some(entry) => de::read(&entry.value, "spec", &mut unknown),
                None => Ok(T::default()),
            }
        } else {
            de::read(root, "", &mut unknown)
        };
        let spec = spec.map_err(|errors| self.wrong_types(&id, root, errors)).ok();
        for field in &unknown {
            self.unknown_field(&id, field);
        }
        if meta.is_none() {
            self.unclear(root.position);
        }
        let (Some(meta), Some(spec)) = (meta, spec) else {
            self.set_aside(kind, root);
            return None;
        };
        let unread = unknown.into_iter().map(|field| field.path.into_boxed_str()).collect();
        let places = collect(root, self.location(root.position));
        let Verdict { findings, admitted } =
            validate::validate(&id, (&meta, &spec), &places, check);
        if !admitted {
            for finding in findings {
                self.push(finding);
            }
            let location = self.location(root.position);
            self.file.broken.push(broken::refused(kind, root, location));
            return None;
        }
        let findings = findings.into();
        Some(Arc::new(Resource { id, meta, spec, unread, findings, places }))
    }

    fn meta(
        &mut self,
        root: &Node<'_>,
        id: &ResourceId,
        unknown: &mut Vec<UnknownField>,
    ) -> Option<Meta> {
        let Some(entry) = root.entry("metadata") else {
            let message = "the document has no metadata".to_owned();
            self.not_a_resource(message, root.position, "metadata");
            return None;
        };
        let read: Result<ObjectMeta, _> = de::read(&entry.value, "metadata", unknown);
        let meta = read.map_err(|errors| self.wrong_types(id, root, errors)).ok()?;
        if meta.name.is_empty() {
            let message = "the document has no metadata.name".to_owned();
            self.not_a_resource(message, entry.position, "metadata.name");
            return None;
        }
        let namespace_ok = meta.namespace.is_empty() || is_dns_label(&meta.namespace);
        for (field, text, good) in [
            ("metadata.name", &meta.name, is_dns_subdomain(&meta.name)),
            ("metadata.namespace", &meta.namespace, namespace_ok),
        ] {
            if !good {
                self.invalid_name(id, &entry.value, field, text);
                return None;
            }
        }
        Some(Meta {
            namespace: id.namespace.clone(),
            name: id.name.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            creation_timestamp: meta.creation_timestamp.map(|time| time.0),
        })
    }

    fn invalid_name(&mut self, id: &ResourceId, metadata: &Node<'_>, field: &str, text: &str) {
        let at = entry_position(metadata, field.trim_start_matches("metadata."));
        let diagnostic = Diagnostic::new(
            &catalog::INVALID_NAME,
            format!("\"{text}\" is not a name that Kubernetes accepts"),
        )
        .at(self.location(at))
        .field(field)
        .resource(id.clone())
        .help("use lower-case letters, digits, \"-\" and, in names, \".\"");
        self.push(diagnostic);
    }

    fn wrong_types(&mut self, id: &ResourceId, root: &Node<'_>, errors: Vec<de::Error>) {
        for error in errors {
            let (path, at) = error.place.unwrap_or_else(|| (String::new(), root.position));
            let diagnostic = Diagnostic::new(&catalog::WRONG_TYPE, error.message);
            self.push(diagnostic.at(self.location(at)).field(path).resource(id.clone()));
        }
    }

    fn unknown_field(&mut self, id: &ResourceId, field: &UnknownField) {
        let help = match nearest::nearest(&field.name, field.known) {
            _ if field.name == "<<" => {
                "merge keys are not followed: write the fields here, or alias a whole value"
                    .to_owned()
            }
            Some(name) => format!("did you mean \"{name}\"? the field is left out"),
            None => "remove it; the field is left out".to_owned(),
        };
        let message = format!("field \"{}\" does not exist here", field.name);
        let diagnostic = Diagnostic::new(&catalog::UNKNOWN_FIELD, message)
            .at(self.location(field.position))
            .field(field.path.clone())
            .resource(id.clone())
            .help(help);
        self.push(diagnostic);
    }
}

/// The fields of an Istio resource's document.
const ENVELOPE: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];

fn unknown_envelope_field(entry: &Entry<'_>) -> Option<UnknownField> {
    let name: &str = &entry.key;
    (!ENVELOPE.contains(&name)).then(|| UnknownField {
        path: name.to_owned(),
        name: name.to_owned(),
        position: entry.position,
        known: ENVELOPE,
    })
}

fn entry_position(node: &Node<'_>, key: &str) -> Position {
    node.entry(key).map_or(node.position, |entry| entry.position)
}

#[cfg(test)]
mod tests;
