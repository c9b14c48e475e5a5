//! Distinguished names as OpenSSL prints them with its RFC 2253 flags: what Envoy writes into
//! `Subject=` of XFCC and what operators compare against.
//!
//! **Invariant:** the output is printable ASCII, whatever the certificate holds.

use std::fmt::Write as _;

use x509_parser::der_parser::asn1_rs::Tag;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Renders a name, last RDN first.
pub(super) fn render(name: &X509Name<'_>) -> String {
    let mut out = String::new();
    let rdns: Vec<_> = name.iter().collect();
    for rdn in rdns.into_iter().rev() {
        let attributes: Vec<_> = rdn.iter().collect();
        let mut separator = ',';
        for attribute in attributes.into_iter().rev() {
            if !out.is_empty() {
                out.push(separator);
            }
            push_attribute(&mut out, attribute);
            separator = '+';
        }
    }
    out
}

fn push_attribute(out: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let oid = attribute.attr_type().to_id_string();
    let known = SHORT_NAMES.iter().find(|(id, _)| *id == oid);
    out.push_str(known.map_or(&*oid, |(_, short)| short));
    out.push('=');
    let raw = attribute.attr_value();
    let text = match raw.tag() {
        Tag::NumericString
        | Tag::PrintableString
        | Tag::Utf8String
        | Tag::Ia5String
        | Tag::VisibleString => std::str::from_utf8(raw.data).ok().map(str::to_owned),
        Tag::T61String => Some(raw.data.iter().map(|byte| char::from(*byte)).collect()),
        Tag::BmpString => utf16(raw.data),
        _ => None,
    };
    match text {
        Some(text) if known.is_some() => push_escaped(out, &text),
        _ => {
            out.push('#');
            raw.data.iter().for_each(|byte| push_hex(out, *byte));
        }
    }
}

fn utf16(bytes: &[u8]) -> Option<String> {
    let (pairs, []) = bytes.as_chunks::<2>() else { return None };
    String::from_utf16(&pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect::<Vec<_>>()).ok()
}

fn push_escaped(out: &mut String, text: &str) {
    let last = text.len().wrapping_sub(1);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b'#' if at == 0 => out.push_str("\\#"),
            b' ' if at == 0 || at == last => out.push_str("\\ "),
            0x20..=0x7e => out.push(char::from(byte)),
            _ => {
                out.push('\\');
                push_hex(out, byte);
            }
        }
    }
}

fn push_hex(out: &mut String, byte: u8) {
    // Writing to a String cannot fail.
    let _ = write!(out, "{byte:02X}");
}

/// OpenSSL's short names of the attributes seen in certificates.
const SHORT_NAMES: [(&str, &str); 18] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.15", "businessCategory"),
    ("2.5.4.17", "postalCode"),
    ("2.5.4.42", "GN"),
    ("2.5.4.43", "initials"),
    ("2.5.4.46", "dnQualifier"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::pki;
    use rcgen::DnType;

    fn check(attributes: &[(DnType, &str)], expected: &str) {
        let der = pki::certificate_with_subject(attributes);
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert_eq!(render(certificate.subject()), expected);
    }

    #[test]
    fn last_attribute_comes_first() {
        check(&[(DnType::CountryName, "DE"), (DnType::CommonName, "client")], "CN=client,C=DE");
    }

    #[test]
    fn an_empty_name_is_empty() {
        check(&[], "");
    }

    #[test]
    fn separators_quotes_and_controls_are_escaped() {
        check(
            &[(DnType::CommonName, "#a,b\";URI=x\r\n é ")],
            "CN=\\#a\\,b\\\"\\;URI=x\\0D\\0A \\C3\\A9\\ ",
        );
    }
}
