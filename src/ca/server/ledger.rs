//! The issuance log: a line for each certificate, until it has ended.
//!
//! **Invariant:** one process at a time writes it. It is replaced whole, so that a crash loses no line.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::files::{make_folder, sync_folder};
use super::folder::FolderError;
use crate::base::limit;
use crate::ca::IssuanceRecord;

/// What is read back of a line.
#[derive(Deserialize)]
struct Line {
    not_after: String,
    #[serde(default)]
    signer: String,
}

impl Line {
    fn parse(line: &[u8]) -> Option<(Self, i64)> {
        let line: Self = serde_json::from_slice(line).ok()?;
        let end = OffsetDateTime::parse(&line.not_after, &Rfc3339).ok()?.unix_timestamp();
        Some((line, end))
    }
}

/// The log, open and locked.
pub(super) struct Ledger {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// From this size on lines of ended certificates are taken out.
    due: u64,
    /// When the last certificate of each signer ends, Unix seconds.
    ends: HashMap<String, i64>,
}

impl Ledger {
    /// Opens the log of a folder, which is made when it is missing.
    pub(super) fn open(folder: &Path) -> Result<Self, FolderError> {
        let path = folder.join(LOG);
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                FolderError::ReadOnly { folder: folder.to_owned(), source }
            }
            _ => FolderError::File { path: path.clone(), source },
        };
        make_folder(folder).map_err(failed)?;
        let mut file = options().create(true).open(&path).map_err(failed)?;
        file.try_lock().map_err(|_| FolderError::InUse(folder.to_owned()))?;
        let mut ends = HashMap::new();
        let mut whole = true;
        for line in BufReader::new(File::open(&path).map_err(failed)?).split(b'\n') {
            let line = line.map_err(failed)?;
            let read = Line::parse(&line);
            whole = read.is_some();
            if let Some((line, end)) = read {
                note(&mut ends, &line.signer, end);
            }
        }
        // A line that a crash cut stays apart from the next one.
        if !whole {
            file.write_all(b"\n").map_err(failed)?;
        }
        let bytes = file.metadata().map_err(failed)?.len();
        Ok(Self { path, file, bytes, due: limit::CA_LOG_BYTES, ends })
    }

    /// Writes a certificate down.
    pub(super) fn add(&mut self, record: &IssuanceRecord, now: OffsetDateTime) -> io::Result<()> {
        if self.bytes >= self.due {
            if let Err(error) = self.shorten(now.unix_timestamp()) {
                tracing::warn!(%error, "the issuance log cannot be shortened; it grows on");
            }
            self.due = self.bytes.saturating_mul(2).max(limit::CA_LOG_BYTES);
        }
        let line = record.to_line();
        self.file.write_all(line.as_bytes())?;
        self.bytes += line.len() as u64;
        note(&mut self.ends, record.signer(), record.end());
        Ok(())
    }

    /// When the last certificate of a signer ends, Unix seconds.
    pub(super) fn last_end(&self, signer: &str) -> Option<i64> {
        self.ends.get(signer).copied()
    }

    /// Takes out lines of certificates that have ended at `now`, Unix seconds.
    fn shorten(&mut self, now: i64) -> io::Result<()> {
        let beside = self.path.with_file_name(format!(".{LOG}.new"));
        if beside.exists() {
            fs::remove_file(&beside)?;
        }
        let file = options().create_new(true).open(&beside)?;
        file.try_lock()?;
        let mut out = BufWriter::new(&file);
        for line in BufReader::new(File::open(&self.path)?).split(b'\n') {
            let mut line = line?;
            let ended = Line::parse(&line).is_some_and(|(_, end)| end < now);
            if !ended && !line.is_empty() {
                line.push(b'\n');
                out.write_all(&line)?;
            }
        }
        out.flush()?;
        drop(out);
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        if let Some(folder) = self.path.parent() {
            sync_folder(folder)?;
        }
        self.bytes = file.metadata()?.len();
        self.file = file;
        self.ends.retain(|_, end| *end >= now);
        Ok(())
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.append(true).mode(0o600);
    options
}

fn note(ends: &mut HashMap<String, i64>, signer: &str, end: i64) {
    if let Some(last) = ends.get_mut(signer) {
        *last = end.max(*last);
    } else {
        ends.insert(signer.to_owned(), end);
    }
}

const LOG: &str = "issued.jsonl";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::ca::fixture::{Files, NOW, workload};
    use crate::ca::{Caller, Template};
    use rcgen::KeyPair;
    use std::time::Duration;

    fn record(life: Duration) -> IssuanceRecord {
        let authority = Files::new().load(NOW).unwrap();
        let id = workload("a");
        let template = Template { id: &id, names: Vec::new(), life };
        let issued = authority.issue(&KeyPair::generate().unwrap(), template, NOW).unwrap();
        IssuanceRecord::new((&issued, authority.signer()), &id, Caller::JoinToken, NOW)
    }

    fn lines(dir: &Path) -> Vec<String> {
        fs::read_to_string(dir.join(LOG)).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_has_ended_goes_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(dir.path()).unwrap();
        let (short, long) = (record(Duration::from_mins(1)), record(Duration::from_hours(1)));
        for record in [&short, &long, &short] {
            ledger.add(record, NOW).unwrap();
        }
        ledger.due = 0;
        ledger.add(&short, NOW + Duration::from_mins(2)).unwrap();
        assert_eq!(lines(dir.path()), [long.to_line().trim_end(), short.to_line().trim_end()]);
        assert!(ledger.due >= limit::CA_LOG_BYTES);
        assert_eq!(ledger.last_end(long.signer()), Some(long.end()));
        // It is locked still, and is read back.
        assert!(matches!(Ledger::open(dir.path()), Err(FolderError::InUse(_))));
        drop(ledger);
        let ledger = Ledger::open(dir.path()).unwrap();
        assert_eq!(ledger.last_end(long.signer()), Some(long.end()));
        assert_eq!(ledger.last_end("other"), None);
        let mode = fs::metadata(dir.path().join(LOG)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_crash_cuts_one_line_at_most() {
        let dir = tempfile::tempdir().unwrap();
        let line = record(Duration::from_hours(1)).to_line();
        // A line half written, and a shortened log that was not put in place.
        fs::write(dir.path().join(LOG), format!("{line}{{\"time\":\"2026")).unwrap();
        fs::write(dir.path().join(".issued.jsonl.new"), "half").unwrap();
        let mut ledger = Ledger::open(dir.path()).unwrap();
        ledger.due = 0;
        let next = record(Duration::from_hours(1));
        ledger.add(&next, NOW).unwrap();
        let (line, next) = (line.trim_end(), next.to_line());
        assert_eq!(lines(dir.path()), [line, "{\"time\":\"2026", next.trim_end()]);
    }
}
