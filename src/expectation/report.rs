//! What became of tests, for people and for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Judged;
use crate::explain;

/// A line for each test; below one that failed, where it differs and what was decided.
pub fn text(all: &[Judged]) -> String {
    let mut out = String::new();
    for test in all {
        let result = if test.passed() { "ok    " } else { "FAILED" };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{result} {} {}", test.location, plain(&test.name));
        for one in &test.differences {
            let actual = one.actual.as_deref().map_or("nothing".to_owned(), plain);
            let _ = writeln!(out, "    {:<10}- {}", one.field, plain(&one.expected));
            let _ = writeln!(out, "    {:<10}+ {actual}", "");
        }
        match &test.told {
            Err(why) => _ = writeln!(out, "    {}", plain(why)),
            Ok(told) if !test.passed() => {
                let _ = writeln!(out, "    was decided:");
                for line in explain::text(told).lines() {
                    let _ = writeln!(out, "      {}", plain(line));
                }
            }
            Ok(_) => {}
        }
    }
    let failed = all.iter().filter(|test| !test.passed()).count();
    let _ = writeln!(out, "{} passed, {failed} failed", all.len() - failed);
    out
}

/// `{"tests":[{"name","file","line","passed","error","differences":[{"field","expected","actual"}],
/// "outcome"}],"passed","failed"}`.
pub fn json(all: &[Judged]) -> Value {
    let tests: Vec<Value> = all
        .iter()
        .map(|test| {
            let differences = test.differences.iter().map(
                |one| json!({"field": one.field, "expected": one.expected, "actual": one.actual}),
            );
            json!({
                "name": test.name,
                "file": &*test.location.file,
                "line": test.location.line,
                "passed": test.passed(),
                "error": test.told.as_ref().err(),
                "differences": differences.collect::<Vec<_>>(),
                "outcome": test.told.as_ref().ok().map(|told| &told.outcome),
            })
        })
        .collect();
    let failed = all.iter().filter(|test| !test.passed()).count();
    json!({"tests": tests, "passed": all.len() - failed, "failed": failed})
}

/// Text without control characters, which a terminal would act on.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
