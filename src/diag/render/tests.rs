use std::sync::Arc;

use super::*;
use crate::base::id::ResourceId;
use crate::diag::catalog;

const RULE: &str =
    "kind: VirtualService\nspec:\n  subset: v3\n---\nkind: Secret\ndata:\n  a: aHVudGVyMg\n";

fn at(line: u32, column: u32) -> Location {
    Location::new("gateways/shop.yaml".into(), line, column)
}

fn subset() -> Diagnostic {
    Diagnostic::new(&catalog::REFERENCE_NOT_FOUND, "subset \"v3\" is not defined")
        .at(at(3, 3))
        .field("spec.subset")
        .resource(ResourceId::new("VirtualService", "shop", "cart"))
        .help("defined: \"v1\"")
}

fn check(diagnostics: &[Diagnostic], source: &str, expected: &str) {
    let look_up = |path: &str| (path == "gateways/shop.yaml").then(|| Arc::from(source.as_bytes()));
    assert_eq!(text(diagnostics, &look_up), expected);
}

#[test]
fn text_shows_the_line_with_a_caret() {
    check(
        &[subset()],
        RULE,
        "error[IST0101] gateways/shop.yaml:3:3 VirtualService shop/cart spec.subset: subset \"v3\" is \
         not defined\n  3 |   subset: v3\n    |   ^\n  = help: defined: \"v1\"\n1 error, 0 warnings\n",
    );
}

#[test]
fn text_without_a_place_or_source_has_no_line() {
    let placeless = Diagnostic::new(&catalog::UNKNOWN_KIND, "kind \"A\" is not known");
    let elsewhere = subset().at(Location::new("other.yaml".into(), 1, 1)).help("define it");
    let past_the_end = placeless.clone().at(at(99, 1));
    check(
        &[placeless, elsewhere, past_the_end],
        RULE,
        "warning[PC009]: kind \"A\" is not known\n  = help: correct the kind, or move the document \
         elsewhere\nerror[IST0101] other.yaml:1:1 VirtualService shop/cart spec.subset: subset \"v3\" \
         is not defined\n  = help: define it\nwarning[PC009] gateways/shop.yaml:99:1: kind \"A\" is \
         not known\n  = help: correct the kind, or move the document elsewhere\n1 error, 2 \
         warnings\n",
    );
}

#[test]
fn a_secrets_line_is_never_shown() {
    let look_up = |_: &str| Some(Arc::from(RULE.as_bytes()));
    let syntax = Diagnostic::new(&catalog::YAML_SYNTAX, "broken").at(at(7, 6));
    assert!(!text(&[syntax], &look_up).contains("aHVudGVyMg"));
    let typed = subset().resource(ResourceId::new("Secret", "a", "b"));
    assert!(!text(&[typed], &look_up).contains("subset: v3"));
    let json = "{\"kind\":\"Secret\",\"data\":{\"a\":\"aHVudGVyMg\"}}";
    let look_up = |_: &str| Some(Arc::from(json.as_bytes()));
    let syntax = Diagnostic::new(&catalog::YAML_SYNTAX, "broken").at(at(1, 30));
    assert!(!text(&[syntax], &look_up).contains("aHVudGVyMg"));
}

#[test]
fn a_line_beside_keys_of_tokens_is_never_shown() {
    let shown = |rule: &str| {
        let source = format!("kind: RequestAuthentication\nspec:\n  jwtRules:\n  - {rule}\n");
        let look_up = |_: &str| Some(Arc::from(source.as_bytes()));
        let unknown = Diagnostic::new(&catalog::UNKNOWN_FIELD, "no such field").at(at(4, 5));
        text(&[unknown], &look_up).contains("  4 |")
    };
    assert!(!shown("{issuer: x, jwks: '{\"keys\":[{\"k\":\"aHVudGVyMg\"}]}', bogus: 1}"));
    assert!(!shown("{issuer: x, jwk: '{\"keys\":[{\"kty\":\"oct\",\"k\":\"aHVudGVyMg\"}]}'}"));
    assert!(!shown("{issuer: x, jwksUri: https://y, jwks: aHVudGVyMg}"));
    assert!(!shown("{issuer: x, \"jwks\" : aHVudGVyMg}"));
    assert!(shown("{issuer: x, jwksUri: https://y/jwks, bogus: 1}"));
}

#[test]
fn hostile_characters_are_escaped() {
    let hostile =
        Diagnostic::new(&catalog::UNKNOWN_FIELD, "field \"\u{1b}[31m\u{202e}\"").at(at(1, 4));
    check(
        &[hostile],
        "a\u{7}\tb: c\r\n",
        "error[PC010] gateways/shop.yaml:1:4: field \"\\u{1b}[31m\\u{202e}\"\n  1 | a\\u{7} b: c\n    \
         |        ^\n  = help: remove it; the field is left out\n1 error, 0 warnings\n",
    );
}

#[test]
fn a_long_line_is_cut_around_its_place() {
    let line = format!("{}here{}", "a".repeat(5_000), "b".repeat(5_000));
    let look_up = |_: &str| Some(Arc::from(line.as_bytes()));
    let found = text(&[subset().at(at(1, 5_001))], &look_up);
    assert!(found.len() < 700 && found.contains("aahereb"), "{found}");
    let caret = found.lines().nth(2).unwrap().find('^').unwrap();
    assert_eq!(found.lines().nth(1).unwrap().as_bytes()[caret], b'h');
}

#[test]
fn json_follows_the_contract() {
    let value: Value = serde_json::from_str(&json(&[subset()])).unwrap();
    assert_eq!(
        value,
        json!({
            "diagnostics": [{
                "code": "IST0101", "severity": "error", "file": "gateways/shop.yaml", "line": 3,
                "column": 3, "field": "spec.subset",
                "resource": {"kind": "VirtualService", "namespace": "shop", "name": "cart"},
                "message": "subset \"v3\" is not defined", "help": "defined: \"v1\"",
            }],
            "errors": 1, "warnings": 0,
        })
    );
    let bare = Diagnostic::new(&catalog::UNKNOWN_KIND, "x");
    let value: Value = serde_json::from_str(&json(&[bare])).unwrap();
    assert_eq!(value["diagnostics"][0]["resource"], Value::Null);
    assert_eq!(value["diagnostics"][0]["file"], Value::Null);
}

#[test]
fn sarif_has_rules_results_and_locations() {
    let info = Diagnostic::new(&catalog::GATEWAY_NOT_SELECTED, "x").at(Location::new(
        "/a b:c".into(),
        0,
        0,
    ));
    let value: Value = serde_json::from_str(&sarif(&[subset(), info])).unwrap();
    assert_eq!(value["version"], "2.1.0");
    let run = &value["runs"][0];
    assert_eq!(run["tool"]["driver"]["rules"][0]["id"], "IST0101");
    let result = &run["results"][0];
    assert_eq!(result["ruleIndex"], 0);
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "gateways/shop.yaml");
    assert_eq!(place["region"], json!({"startLine": 3, "startColumn": 3}));
    let place = &run["results"][1]["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "file:///a%20b%3Ac");
    assert_eq!(place["region"]["startLine"], 1);
    assert_eq!(run["results"][1]["level"], "note");
}
