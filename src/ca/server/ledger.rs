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
    /// Whether a write failed since the last whole line, so that half of one may be there.
    torn: bool,
    /// Whether a line cannot be read: it may be of any signer's certificate.
    unreadable: bool,
    /// When the last certificate of each signer ends, Unix seconds.
    ends: HashMap<String, i64>,
}

impl Ledger {
    /// Opens the log of a folder, which is made when it is missing.
    pub(super) fn open(folder: &Path) -> Result<Self, FolderError> {
        let path = folder.join(LOG);
        let failed = |why: io::Error| match why.kind() {
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                FolderError::ReadOnly { folder: folder.to_owned(), why }
            }
            _ => FolderError::File { path: path.clone(), why },
        };
        make_folder(folder).map_err(failed)?;
        let file = options().create(true).open(&path).map_err(failed)?;
        file.try_lock().map_err(|_| FolderError::InUse(folder.to_owned()))?;
        let mut ends = HashMap::new();
        let (mut torn, mut unreadable) = (false, false);
        let mut lines = BufReader::new(File::open(&path).map_err(failed)?);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).map_err(failed)? > 0 {
            torn = line.last() != Some(&b'\n');
            match Line::parse(&line) {
                Some((line, end)) => note(&mut ends, &line.signer, end),
                None => unreadable |= !line.trim_ascii().is_empty(),
            }
            line.clear();
        }
        let bytes = file.metadata().map_err(failed)?.len();
        Ok(Self { path, file, bytes, due: limit::CA_LOG_BYTES, torn, unreadable, ends })
    }

    /// Writes a certificate down.
    pub(super) fn add(&mut self, record: &IssuanceRecord, now: OffsetDateTime) -> io::Result<()> {
        if self.bytes >= self.due {
            if let Err(error) = self.shorten(now.unix_timestamp()) {
                tracing::warn!(%error, "the issuance log cannot be shortened; it grows on");
            }
            self.due = self.bytes.saturating_mul(2).max(limit::CA_LOG_BYTES);
        }
        let mut line = record.to_line();
        if self.torn {
            line.insert(0, '\n');
        }
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        self.torn = written.is_err();
        self.unreadable |= self.torn;
        written?;
        self.bytes += line.len() as u64;
        note(&mut self.ends, record.signer(), record.end());
        Ok(())
    }

    /// Whether a signer may have signed what is good still at `now`, Unix seconds. A line without a
    /// signer was written by a version that did not name it.
    pub(super) fn needs(&self, signer: &str, now: i64) -> bool {
        self.unreadable || [signer, ""].iter().any(|name| self.ends.get(*name) >= Some(&now))
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
        let bytes = file.metadata()?.len();
        fs::rename(&beside, &self.path)?;
        (self.file, self.bytes, self.torn) = (file, bytes, false);
        self.ends.retain(|_, end| *end >= now);
        self.path.parent().map_or(Ok(()), sync_folder)
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
        assert!(ledger.needs(long.signer(), long.end()));
        // It is locked still, and is read back.
        assert!(matches!(Ledger::open(dir.path()), Err(FolderError::InUse(_))));
        drop(ledger);
        let ledger = Ledger::open(dir.path()).unwrap();
        assert!(ledger.needs(long.signer(), long.end()));
        assert!(!ledger.needs(long.signer(), long.end() + 1));
        assert!(!ledger.needs("other", NOW.unix_timestamp()));
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
        assert!(ledger.needs("any", i64::MAX), "the cut line may be of any signer");
    }

    #[test]
    fn a_whole_line_without_its_end_and_one_that_failed_stay_apart_from_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two, three] = [(); 3].map(|()| record(Duration::from_hours(1)));
        fs::write(dir.path().join(LOG), one.to_line().trim_end()).unwrap();
        let mut ledger = Ledger::open(dir.path()).unwrap();
        ledger.add(&two, NOW).unwrap();
        assert!(!ledger.needs("any", NOW.unix_timestamp()));
        let writable = std::mem::replace(&mut ledger.file, File::open(&ledger.path).unwrap());
        assert!(ledger.add(&three, NOW).is_err());
        ledger.file = writable;
        ledger.file.write_all(b"half").unwrap();
        ledger.add(&three, NOW).unwrap();
        let expected = [one.to_line(), two.to_line(), "half\n".to_owned(), three.to_line()];
        assert_eq!(fs::read_to_string(dir.path().join(LOG)).unwrap(), expected.concat());
        assert!(ledger.needs("any", NOW.unix_timestamp()));
    }
}
