//! Documents that list what the code defines say the same as the code.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fmt::Write as _;
use std::path::Path;

use portcullis::base::limit;

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
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/limits.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(written, page, "run UPDATE_GOLDEN=1 cargo test --test docs");
}
