//! Arguments in, exit code out.

use std::io::Write;
use std::process::ExitCode;

use portcullis::base::memory;
use portcullis::cli::{self, Cli};

#[global_allocator]
static ALLOCATOR: memory::Mimalloc = memory::Mimalloc;

fn main() -> ExitCode {
    match cli::run(Cli::from_env()) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
