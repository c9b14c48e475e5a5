//! One access log line, in text or JSON.
//!
//! **Invariant:** a line holds exactly one line feed, its last byte, whatever the request held; no
//! value can end its field early.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderValue, Version};
use time::OffsetDateTime;
use time::macros::format_description;

use super::record::{LogFields, RequestRecord};

/// What is logged instead of a token.
const REDACTED: &[u8] = b"[redacted]";

/// What a line needs beside the record.
pub(super) struct Context<'a> {
    pub(super) clock: &'a mut Clock,
    /// Names of query parameters that carry tokens; without them, any may.
    pub(super) token_parameters: Option<&'a [Box<str>]>,
}

/// Formats times; keeps the text of the second it saw last.
#[derive(Debug, Default)]
pub(super) struct Clock {
    second: Option<u64>,
    text: String,
}

impl Clock {
    /// ISO 8601 in UTC with milliseconds.
    fn write(&mut self, time: SystemTime, out: &mut Vec<u8>) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != Some(since.as_secs()) {
            let seconds = i64::try_from(since.as_secs()).unwrap_or_default();
            let date =
                OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
            let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
            self.text = date.format(format).unwrap_or_default();
            self.second = Some(since.as_secs());
        }
        let _ = write!(out, "{}.{:03}Z", self.text, since.subsec_millis());
    }
}

/// Istio's default text format, then `"reason" "resource" "shadow"`.
pub(super) fn text(
    out: &mut Vec<u8>,
    record: &RequestRecord,
    fields: &LogFields,
    duration: Duration,
    context: &mut Context<'_>,
) {
    out.push(b'[');
    match fields.start_time {
        Some(time) => context.clock.write(time, out),
        None => out.push(b'-'),
    }
    out.extend_from_slice(b"] \"");
    bare(out, fields.method.as_ref().map(|method| method.as_str().as_bytes()));
    out.push(b' ');
    let path = fields.path.as_ref().map(|path| redact(path.as_str(), context.token_parameters));
    bare(out, path.as_deref());
    out.push(b' ');
    bare(out, fields.version.map(|version| protocol(version).as_bytes()));
    let _ = write!(out, "\" {} {} ", record.code, record.flags);
    bare(out, present(&record.details));
    out.push(b' ');
    bare(out, fields.connection_termination.map(str::as_bytes));
    out.push(b' ');
    quoted(out, fields.upstream_transport_failure.as_deref().map(str::as_bytes));
    let (received, sent) = (record.bytes_received, record.bytes_sent);
    let _ = write!(out, " {received} {sent} {} ", duration.as_millis());
    match fields.upstream_service_milliseconds {
        Some(milliseconds) => {
            let _ = write!(out, "{milliseconds}");
        }
        None => out.push(b'-'),
    }
    for header in [&fields.forwarded_for, &fields.user_agent, &fields.request_id, &fields.authority]
    {
        out.push(b' ');
        quoted(out, header.as_ref().map(HeaderValue::as_bytes));
    }
    out.extend_from_slice(b" \"");
    address(out, fields.upstream_host);
    out.extend_from_slice(b"\" ");
    bare(out, fields.upstream_cluster.as_deref().map(str::as_bytes));
    for peer in [fields.upstream_local, fields.downstream_local, fields.downstream_remote] {
        out.push(b' ');
        address(out, peer);
    }
    for name in [&fields.server_name, &fields.route_name] {
        out.push(b' ');
        bare(out, name.as_deref().map(str::as_bytes));
    }
    out.push(b' ');
    quoted(out, record.reason.map(str::as_bytes));
    out.push(b' ');
    let resource = fields.resource.as_ref().map(ToString::to_string);
    quoted(out, resource.as_deref().map(str::as_bytes));
    out.push(b' ');
    quoted(out, shadow(fields).as_deref().map(str::as_bytes));
    out.push(b'\n');
}

/// Istio's JSON keys, then `reason`, `resource` and `shadow`.
pub(super) fn json(
    out: &mut Vec<u8>,
    record: &RequestRecord,
    fields: &LogFields,
    duration: Duration,
    context: &mut Context<'_>,
) {
    out.extend_from_slice(b"{\"start_time\":");
    match fields.start_time {
        Some(time) => {
            out.push(b'"');
            context.clock.write(time, out);
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
    let method = fields.method.as_ref().map(|method| method.as_str().as_bytes());
    let path = fields.path.as_ref().map(|path| redact(path.as_str(), context.token_parameters));
    member(out, "route_name", fields.route_name.as_deref().map(str::as_bytes));
    member(out, "method", method);
    member(out, "path", path.as_deref());
    member(out, "protocol", fields.version.map(|version| protocol(version).as_bytes()));
    let _ = write!(out, ",\"response_code\":{}", record.code);
    member(out, "response_flags", Some(record.flags.as_bytes()));
    member(out, "response_code_details", present(&record.details));
    let ended = fields.connection_termination.map(str::as_bytes);
    member(out, "connection_termination_details", ended);
    let (received, sent) = (record.bytes_received, record.bytes_sent);
    let _ = write!(out, ",\"bytes_received\":{received},\"bytes_sent\":{sent}");
    let _ = write!(out, ",\"duration\":{}", duration.as_millis());
    let service = fields.upstream_service_milliseconds.map(|n| n.to_string());
    member(out, "upstream_service_time", service.as_deref().map(str::as_bytes));
    for (key, header) in [
        ("x_forwarded_for", &fields.forwarded_for),
        ("user_agent", &fields.user_agent),
        ("request_id", &fields.request_id),
        ("authority", &fields.authority),
    ] {
        member(out, key, header.as_ref().map(HeaderValue::as_bytes));
    }
    member_address(out, "upstream_host", fields.upstream_host);
    member(out, "upstream_cluster", fields.upstream_cluster.as_deref().map(str::as_bytes));
    member_address(out, "upstream_local_address", fields.upstream_local);
    member_address(out, "downstream_local_address", fields.downstream_local);
    member_address(out, "downstream_remote_address", fields.downstream_remote);
    member(out, "requested_server_name", fields.server_name.as_deref().map(str::as_bytes));
    let failure = fields.upstream_transport_failure.as_deref().map(str::as_bytes);
    member(out, "upstream_transport_failure_reason", failure);
    member(out, "reason", record.reason.map(str::as_bytes));
    let resource = fields.resource.as_ref().map(ToString::to_string);
    member(out, "resource", resource.as_deref().map(str::as_bytes));
    member(out, "shadow", shadow(fields).as_deref().map(str::as_bytes));
    out.extend_from_slice(b"}\n");
}

/// What policies say that are not enforced.
fn shadow(fields: &LogFields) -> Option<String> {
    let remarks = fields.shadow.iter().map(ToString::to_string);
    (!fields.shadow.is_empty()).then(|| remarks.collect::<Vec<_>>().join("; "))
}

/// The path with the values of token parameters cut; the whole query, where any may be one.
fn redact<'a>(path: &'a str, names: Option<&[Box<str>]>) -> std::borrow::Cow<'a, [u8]> {
    let Some((before, query)) = path.split_once('?') else {
        return path.as_bytes().into();
    };
    let Some(names) = names else {
        return [before.as_bytes(), b"?", REDACTED].concat().into();
    };
    let secret = |pair: &str| {
        let (name, _) = pair.split_once('=')?;
        is_token(name, names).then_some(name.len())
    };
    if !query.split('&').any(|pair| secret(pair).is_some()) {
        return path.as_bytes().into();
    }
    let mut out = before.as_bytes().to_vec();
    let mut separator = b'?';
    for pair in query.split('&') {
        out.push(separator);
        separator = b'&';
        match secret(pair).and_then(|end| pair.get(..end)) {
            Some(name) => {
                out.extend_from_slice(name.as_bytes());
                out.push(b'=');
                out.extend_from_slice(REDACTED);
            }
            None => out.extend_from_slice(pair.as_bytes()),
        }
    }
    out.into()
}

/// Compares after percent-decoding, as a backend might; letter case is no way around it either.
fn is_token(name: &str, names: &[Box<str>]) -> bool {
    let same = |name: &str| {
        name.eq_ignore_ascii_case("access_token")
            || names.iter().any(|token| token.eq_ignore_ascii_case(name))
    };
    if name.contains('%') {
        same(&percent_encoding::percent_decode_str(name).decode_utf8_lossy())
    } else {
        same(name)
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

fn present(text: &str) -> Option<&[u8]> {
    (!text.is_empty()).then_some(text.as_bytes())
}

fn address(out: &mut Vec<u8>, address: Option<SocketAddr>) {
    let _ = match address {
        Some(address) => write!(out, "{address}"),
        None => write!(out, "-"),
    };
}

fn member_address(out: &mut Vec<u8>, key: &str, address: Option<SocketAddr>) {
    match address {
        Some(address) => {
            let _ = write!(out, ",\"{key}\":\"{address}\"");
        }
        None => member(out, key, None),
    }
}

/// A value between spaces: spaces in it become `_`, as Envoy does with details.
fn bare(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        Some(value) if !value.is_empty() => escape(out, value, Style::Bare),
        _ => out.push(b'-'),
    }
}

/// A value between quotation marks.
fn quoted(out: &mut Vec<u8>, value: Option<&[u8]>) {
    out.push(b'"');
    match value {
        Some(value) if !value.is_empty() => escape(out, value, Style::Quoted),
        _ => out.push(b'-'),
    }
    out.push(b'"');
}

fn member(out: &mut Vec<u8>, key: &str, value: Option<&[u8]>) {
    let _ = write!(out, ",\"{key}\":");
    match value {
        Some(value) => {
            out.push(b'"');
            escape(out, value, Style::Json);
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Bare,
    Quoted,
    Json,
}

fn escape(out: &mut Vec<u8>, value: &[u8], style: Style) {
    let plain = |b: &u8| {
        matches!(b, b'!' | b'#'..=b'[' | b']'..=b'~') || *b == b' ' && style != Style::Bare
    };
    if value.iter().all(plain) {
        out.extend_from_slice(value);
        return;
    }
    for chunk in value.utf8_chunks() {
        for c in chunk.valid().chars() {
            escape_char(out, c, style);
        }
        for byte in chunk.invalid() {
            let _ = match style {
                Style::Json => write!(out, "\u{fffd}"),
                _ => write!(out, "\\x{byte:02x}"),
            };
        }
    }
}

fn escape_char(out: &mut Vec<u8>, c: char, style: Style) {
    let _ = match c {
        '"' => write!(out, "\\\""),
        '\\' => write!(out, "\\\\"),
        ' ' if style == Style::Bare => write!(out, "_"),
        c if deceives(c) => match style {
            Style::Json => write!(out, "\\u{:04x}", u32::from(c)),
            _ if c.is_ascii() => write!(out, "\\x{:02x}", u32::from(c)),
            _ => write!(out, "\\u{{{:04x}}}", u32::from(c)),
        },
        c if style == Style::Bare && c.is_whitespace() => write!(out, "_"),
        c => write!(out, "{c}"),
    };
}

/// Controls, line separators, and marks that reorder or hide text; all are below U+10000.
fn deceives(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

#[cfg(test)]
mod tests;
