//! Documents that list what the code defines say the same as the code.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use portcullis::base::limit;
use portcullis::diag;
use portcullis::telemetry::catalog::{self, Family};

#[test]
fn the_limits_page_is_the_table_in_the_code() {
    let mut page = String::from(
        "# Limits\n\nEvery wait has a deadline and every buffer a bound. \
         `UPDATE_GOLDEN=1 cargo test --test docs` writes this page.\n\n\
         | limit | value | what it bounds, and why |\n|---|---|---|\n",
    );
    for (name, value, reason) in limit::TABLE {
        let name = name.to_lowercase();
        writeln!(page, "| `{name}` | {value} | {} |", reason.trim()).unwrap();
    }
    check("docs/limits.md", &page);
}

#[test]
fn the_metrics_page_is_the_catalog_in_the_code() {
    let mut page = format!(
        "# Metrics\n\n`/metrics` and `/stats/prometheus` of the metrics port show these in Prometheus' \
         text format 0.0.4.\n`UPDATE_GOLDEN=1 cargo test --test docs` writes this page.\n\n\
         Series of a destination or server that was removed from the configuration are shown for {} \
         more minutes.\nBeyond {} label sets of one kind, further ones are counted under `other`.\n\
         `source_*` and `destination_*` are Istio's labels of the two ends: a gateway is the source \
         (`reporter`), a sidecar the destination.\n\n| metric | type | labels | what it says |\n|---|---|---|---|\n",
        limit::METRIC_GRACE_TIME.as_secs() / 60,
        limit::METRIC_SERIES,
    );
    for Family { name, kind, labels, help } in catalog::ALL {
        let kind = kind.as_str();
        let labels: Vec<_> = labels.split(", ").filter(|label| !label.is_empty()).collect();
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        writeln!(page, "| `{name}` | {kind} | {} | {help} |", labels.join(", ")).unwrap();
    }
    check("docs/metrics.md", &page);
}

#[test]
fn the_page_of_analyzers_says_told_of_the_codes_that_are() {
    let page = fs::read_to_string(root("docs/istio-analyzers.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `IST"));
    let told = rows.filter_map(|row| {
        let (id, rest) = row.split_once('`')?;
        rest.rsplit(" | ").next()?.starts_with("told").then(|| format!("IST{id}"))
    });
    let mut known: Vec<_> = diag::catalog::ALL.iter().map(|code| code.id).collect();
    known.retain(|id| id.starts_with("IST"));
    assert_eq!(told.collect::<Vec<_>>(), known);
}

#[test]
fn every_code_of_a_finding_is_named_by_a_test() {
    let mut text = String::new();
    read_tests(&[root("tests"), root("src")], &mut text);
    let untested = diag::catalog::ALL.iter().filter(|code| !text.contains(code.id));
    let untested: Vec<_> = untested.map(|code| code.id).collect();
    assert!(untested.is_empty(), "no test names {untested:?}");
}

/// What tests say below these folders: whole files, and of a file of code what follows `mod tests`.
fn read_tests(folders: &[PathBuf], text: &mut String) {
    for folder in folders {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read_tests(&[path], text);
                continue;
            }
            let Ok(read) = fs::read_to_string(&path) else { continue };
            let is_code = path.starts_with(root("src"))
                && path.file_stem().is_none_or(|name| !name.to_string_lossy().ends_with("tests"));
            let tests = if is_code { read.split_once("mod tests {") } else { Some(("", &*read)) };
            text.push_str(tests.map_or("", |(_, tests)| tests));
        }
    }
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn check(path: &str, page: &str) {
    let path = root(path);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(written, page, "run UPDATE_GOLDEN=1 cargo test --test docs");
}
