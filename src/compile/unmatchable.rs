//! Values of AuthorizationPolicies that no request has.

use crate::diag::catalog;
use crate::resources::{AuthorizationPolicy, Resource};

use super::findings::{Findings, at};

/// Tells of principals that no token has: a token's is its issuer, a slash and its subject.
pub fn tell(policy: &Resource<AuthorizationPolicy>, findings: &mut Findings) {
    let mut check = |field: String, values: &[String]| {
        for value in values.iter().filter(|value| !value.contains(['/', '*'])) {
            let message = format!("\"{value}\" is no token's principal: it has no slash");
            let finding = at(policy, field.as_str(), &catalog::UNMATCHABLE_VALUE, message);
            findings
                .add(finding.help("write ISSUER/SUBJECT, or ISSUER/* for each of its subjects"));
        }
    };
    for (index, rule) in policy.spec.rules.iter().enumerate() {
        let rule_field = format!("spec.rules[{index}]");
        for (index, from) in rule.from.iter().flatten().enumerate() {
            let Some(source) = &from.source else { continue };
            let field = format!("{rule_field}.from[{index}].source");
            check(format!("{field}.requestPrincipals"), &source.request_principals);
            check(format!("{field}.notRequestPrincipals"), &source.not_request_principals);
        }
        let conditions = rule.when.iter().enumerate();
        for (index, condition) in conditions.filter(|(_, one)| one.key == "request.auth.principal")
        {
            let field = format!("{rule_field}.when[{index}]");
            check(format!("{field}.values"), &condition.values);
            check(format!("{field}.notValues"), &condition.not_values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::fixture;

    /// A rule, and the fields that are told.
    fn check(rule: &str, expected: &[&str]) {
        let spec = format!("spec: {{rules: [{rule}]}}");
        let set = fixture::set("AuthorizationPolicy", &["{name: a, namespace: edge}", &spec]);
        let mut findings = Findings::default();
        set.authorization_policies.iter().for_each(|policy| tell(policy, &mut findings));
        let found = findings.finish();
        assert!(found.iter().all(|finding| finding.code.id == "PC055"));
        let fields: Vec<_> = found.iter().map(|finding| finding.field.as_str()).collect();
        assert_eq!(fields, expected, "{rule}");
    }

    #[test]
    fn a_principal_without_a_slash_is_told() {
        check(
            "{from: [{source: {requestPrincipals: [alice]}}]}",
            &["spec.rules[0].from[0].source.requestPrincipals"],
        );
        check(
            "{from: [{source: {notRequestPrincipals: ['https:i']}}]}",
            &["spec.rules[0].from[0].source.notRequestPrincipals"],
        );
        let when = |values: &str| {
            format!("{{when: [{{key: request.auth.principal, {values}: [a/b, alice]}}]}}")
        };
        check(&when("values"), &["spec.rules[0].when[0].values"]);
        check(&when("notValues"), &["spec.rules[0].when[0].notValues"]);
    }

    #[test]
    fn others_may_match() {
        check(
            "{from: [{source: {requestPrincipals: [i/s, '*', 'i/*', '*/s', 'i*', '*s', /]}}]}",
            &[],
        );
        check("{from: [{source: {principals: [alice]}}]}", &[]);
        check("{when: [{key: request.auth.presenter, values: [alice]}]}", &[]);
    }
}
