//! Where a file is no text, what is wrong with a document that is no YAML, and what helps.

use std::str::Utf8Error;

use crate::diag::{Code, catalog};
use crate::resources::node::{DocumentError, Position};

/// Where a file stops being UTF-8.
pub(super) fn end_of_text(bytes: &[u8], error: &Utf8Error) -> Position {
    let valid = String::from_utf8_lossy(bytes.get(..error.valid_up_to()).unwrap_or(&[]));
    let line = valid.bytes().filter(|byte| *byte == b'\n').count();
    let column = valid.rsplit('\n').next().unwrap_or_default().chars().count();
    Position { line: saturate(line + 1), column: saturate(column + 1) }
}

fn saturate(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The code of an error, and what helps.
pub(super) fn explain(error: &DocumentError) -> (&'static Code, &'static str) {
    match error {
        DocumentError::Syntax(why) => (&catalog::YAML_SYNTAX, mending(why)),
        DocumentError::TooDeep | DocumentError::TooLarge => {
            (&catalog::YAML_LIMIT, "no Istio resource needs this; nothing of this document is used")
        }
        DocumentError::DuplicateKey(..) => {
            (&catalog::DUPLICATE_KEY, "keep one of them; nothing of this document is used")
        }
        DocumentError::KeyNotText => (
            &catalog::YAML_SYNTAX,
            "write a name before the colon; nothing of this document is used",
        ),
    }
}

/// What usually is behind what the parser says.
fn mending(why: &str) -> &'static str {
    let about = |words: &[&str]| words.iter().any(|word| why.contains(word));
    if about(&["tab"]) {
        "indent with spaces, not with tabs; nothing of this document is used"
    } else if about(&["node content", "flow", "quoted", "end of stream"]) {
        "close the bracket, brace or quote that is open before this place; nothing of this document \
         is used"
    } else if about(&["mapping values", "simple key", "block mapping", "indent"]) {
        "look for a wrong indent, or for a colon in a value that needs quotes; nothing of this \
         document is used"
    } else {
        "correct the YAML; nothing of this document is used"
    }
}
