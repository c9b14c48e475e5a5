//! The issuance log: a line for each certificate, until it has ended.
//!
//! **Invariant:** one process at a time writes it. It is replaced whole, so that a crash loses no line.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::files::{make_folder, sync_folder};
use super::folder::FolderError;
use crate::base::limit;
use crate::ca::IssuanceRecord;

/// What is read back of a line.
#[derive(Deserialize, Serialize)]
struct Line {
    time: String,
    not_after: String,
    /// Empty: any.
    #[serde(default)]
    signer: String,
    /// Lines that this one stands for, as far as they are shown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    unreadable: String,
    /// `not_after`, Unix seconds.
    #[serde(skip)]
    end: i64,
}

impl Line {
    fn parse(line: &[u8]) -> Option<Self> {
        let line: Self = serde_json::from_slice(line).ok()?;
        let end = OffsetDateTime::parse(&line.not_after, &Rfc3339).ok()?.unix_timestamp();
        Some(Self { end, ..line })
    }

    /// Stands for lines that cannot be read and were written by `time`: they may be of any signer's
    /// certificate, which ends [`limit::CA_LIFETIME`] later at most.
    fn for_unreadable(text: &[u8], time: OffsetDateTime) -> Self {
        let last = time + limit::CA_LIFETIME;
        let written = |time: OffsetDateTime| time.format(&Rfc3339).unwrap_or_default();
        Self {
            time: written(time),
            not_after: written(last),
            signer: String::new(),
            unreadable: String::from_utf8_lossy(text).into_owned(),
            end: last.unix_timestamp(),
        }
    }

    /// When it was written, and `now` when it does not say or says later.
    fn written(&self, now: OffsetDateTime) -> OffsetDateTime {
        OffsetDateTime::parse(&self.time, &Rfc3339).map_or(now, |time| time.min(now))
    }
}

/// The log, open and locked.
pub(super) struct Ledger {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// From this size on lines of ended certificates are taken out.
    due: u64,
    /// Whether a write failed: what lies after `bytes` is of a certificate that nobody got.
    torn: bool,
    /// When the last certificate of each signer ends, Unix seconds.
    ends: HashMap<String, i64>,
}

impl Ledger {
    /// Opens the log of a folder, which is made when it is missing. What cannot be read of it is set aside.
    pub(super) fn open(folder: &Path, now: OffsetDateTime) -> Result<Self, FolderError> {
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
        let bytes = file.metadata().map_err(failed)?.len();
        let ends = HashMap::new();
        let mut ledger =
            Self { path: path.clone(), file, bytes, due: limit::CA_LOG_BYTES, torn: false, ends };
        if !ledger.read().map_err(failed)? {
            ledger.rewrite(now).map_err(failed)?;
        }
        Ok(ledger)
    }

    /// Notes what its lines say; tells whether all can be read.
    fn read(&mut self) -> io::Result<bool> {
        let mut lines = BufReader::new(File::open(&self.path)?);
        let (mut line, mut whole) = (Vec::new(), true);
        while lines.read_until(b'\n', &mut line)? > 0 {
            match Line::parse(&line).filter(|_| line.ends_with(b"\n")) {
                Some(known) => note(&mut self.ends, &known.signer, known.end),
                None => whole = false,
            }
            line.clear();
        }
        Ok(whole)
    }

    /// Writes a certificate down.
    pub(super) fn add(&mut self, record: &IssuanceRecord, now: OffsetDateTime) -> io::Result<()> {
        if self.bytes >= self.due {
            if let Err(error) = self.rewrite(now) {
                tracing::warn!(%error, "the issuance log cannot be shortened; it grows on");
            }
            self.due = self.bytes.saturating_mul(2).max(limit::CA_LOG_BYTES);
        }
        if self.torn {
            self.file.set_len(self.bytes)?;
        }
        let line = record.to_line();
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        self.torn = written.is_err();
        written?;
        self.bytes += line.len() as u64;
        note(&mut self.ends, record.signer(), record.end());
        Ok(())
    }

    /// Whether a signer may have signed what is good still at `now`, Unix seconds. A line without a
    /// signer cannot be read, or was written by a version that did not name it.
    pub(super) fn needs(&self, signer: &str, now: i64) -> bool {
        [signer, ""].iter().any(|name| self.ends.get(*name) >= Some(&now))
    }

    /// Takes out lines of certificates that have ended at `now`. One line stands for those that cannot be
    /// read; half a line at the end, left by a crash, goes: its certificate was not given to anybody.
    fn rewrite(&mut self, now: OffsetDateTime) -> io::Result<()> {
        let beside = self.path.with_file_name(format!(".{LOG}.new"));
        if beside.exists() {
            fs::remove_file(&beside)?;
        }
        let file = options().create_new(true).open(&beside)?;
        file.try_lock()?;
        let ends = self.copy(&file, now)?;
        file.sync_all()?;
        let bytes = file.metadata()?.len();
        fs::rename(&beside, &self.path)?;
        (self.file, self.bytes, self.torn, self.ends) = (file, bytes, false, ends);
        self.path.parent().map_or(Ok(()), sync_folder)
    }

    /// Copies what is kept; tells when the last certificate of each signer ends.
    fn copy(&self, to: &File, now: OffsetDateTime) -> io::Result<HashMap<String, i64>> {
        let mut kept = Kept { out: BufWriter::new(to), ends: HashMap::new(), now };
        let mut log = BufReader::new(File::open(&self.path)?.take(self.bytes));
        let (mut line, mut unreadable) = (Vec::new(), Vec::new());
        while log.read_until(b'\n', &mut line)? > 0 {
            match Line::parse(&line) {
                Some(known) => {
                    kept.unreadable(&mut unreadable, known.written(now))?;
                    kept.line(line.trim_ascii_end(), &known)?;
                }
                None if line.ends_with(b"\n") => {
                    if unreadable.len() < SHOWN_BYTES {
                        unreadable.extend_from_slice(shown(&line));
                    }
                }
                None => tracing::warn!(
                    log = %self.path.display(),
                    line = %String::from_utf8_lossy(shown(&line)),
                    "the issuance log ended with half a line, of a certificate that nobody got; it is taken out"
                ),
            }
            line.clear();
        }
        kept.unreadable(&mut unreadable, now)?;
        kept.out.flush()?;
        Ok(kept.ends)
    }
}

/// What is kept of a log.
struct Kept<'a> {
    out: BufWriter<&'a File>,
    ends: HashMap<String, i64>,
    now: OffsetDateTime,
}

impl Kept<'_> {
    fn line(&mut self, text: &[u8], line: &Line) -> io::Result<()> {
        if line.end < self.now.unix_timestamp() {
            return Ok(());
        }
        note(&mut self.ends, &line.signer, line.end);
        self.out.write_all(text)?;
        self.out.write_all(b"\n")
    }

    /// Lines that cannot be read and were written by `time`.
    fn unreadable(&mut self, text: &mut Vec<u8>, time: OffsetDateTime) -> io::Result<()> {
        if text.trim_ascii().is_empty() {
            return Ok(());
        }
        let line = Line::for_unreadable(shown(text), time);
        text.clear();
        tracing::warn!(
            text = line.unreadable,
            until = line.not_after,
            "lines of the issuance log cannot be read: what signed their certificates is kept for as long \
             as one may live"
        );
        self.line(&serde_json::to_vec(&line)?, &line)
    }
}

/// As much of what cannot be read as is told.
fn shown(text: &[u8]) -> &[u8] {
    text.get(..SHOWN_BYTES).unwrap_or(text)
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
const SHOWN_BYTES: usize = 512;

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

    fn text(dir: &Path) -> String {
        fs::read_to_string(dir.join(LOG)).unwrap()
    }

    #[test]
    fn what_has_ended_goes_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(dir.path(), NOW).unwrap();
        let (short, long) = (record(Duration::from_mins(1)), record(Duration::from_hours(1)));
        for record in [&short, &long, &short] {
            ledger.add(record, NOW).unwrap();
        }
        ledger.due = 0;
        ledger.add(&short, NOW + Duration::from_mins(2)).unwrap();
        assert_eq!(text(dir.path()), format!("{}{}", long.to_line(), short.to_line()));
        assert!(ledger.due >= limit::CA_LOG_BYTES);
        assert!(ledger.needs(long.signer(), long.end()));
        // It is locked still, and is read back.
        assert!(matches!(Ledger::open(dir.path(), NOW), Err(FolderError::InUse(_))));
        drop(ledger);
        let ledger = Ledger::open(dir.path(), NOW).unwrap();
        assert!(ledger.needs(long.signer(), long.end()));
        assert!(!ledger.needs(long.signer(), long.end() + 1));
        assert!(!ledger.needs("other", NOW.unix_timestamp()));
        let mode = fs::metadata(dir.path().join(LOG)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn half_a_line_at_the_end_is_taken_out() {
        let line = record(Duration::from_hours(1)).to_line();
        let check = |end: &str, left: &str| {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(LOG), format!("{line}{end}")).unwrap();
            // A shortened log that was not put in place.
            fs::write(dir.path().join(".issued.jsonl.new"), "half").unwrap();
            let mut ledger = Ledger::open(dir.path(), NOW).unwrap();
            assert_eq!(text(dir.path()), format!("{line}{left}"), "{end:?}");
            assert!(!ledger.needs("any", NOW.unix_timestamp()), "{end:?}");
            ledger.due = 0;
            let next = record(Duration::from_hours(1));
            ledger.add(&next, NOW).unwrap();
            assert_eq!(text(dir.path()), format!("{line}{left}{}", next.to_line()), "{end:?}");
        };
        check("", "");
        check("{\"time\":\"2026", "");
        check("\0\0\0", "");
        check(line.trim_end(), &line);
    }

    #[test]
    fn lines_that_cannot_be_read_count_for_every_signer_until_what_they_hold_has_ended() {
        let next = record(Duration::from_hours(1));
        let late = NOW + limit::CA_LIFETIME / 2;
        let end = (NOW + limit::CA_LIFETIME).unix_timestamp();
        let check = |log: String, end: i64| {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(LOG), log).unwrap();
            // However often it is opened and shortened.
            for _ in 0..2 {
                let mut ledger = Ledger::open(dir.path(), late).unwrap();
                assert!(ledger.needs("any", end) && !ledger.needs("any", end + 1));
                ledger.rewrite(late + Duration::from_hours(1)).unwrap();
                assert!(text(dir.path()).contains(r#""unreadable":"broken\n{}\n""#));
            }
            let mut ledger = Ledger::open(dir.path(), late).unwrap();
            ledger.rewrite(OffsetDateTime::from_unix_timestamp(end + 1).unwrap()).unwrap();
            assert_eq!(text(dir.path()), "");
        };
        check(format!("broken\n{{}}\n{}", next.to_line()), end);
        // Nothing tells when they were written.
        check("broken\n{}\n".to_owned(), (late + limit::CA_LIFETIME).unix_timestamp());
    }

    #[test]
    fn what_failed_to_be_written_is_taken_out() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = [(); 2].map(|()| record(Duration::from_hours(1)));
        let mut ledger = Ledger::open(dir.path(), NOW).unwrap();
        ledger.add(&one, NOW).unwrap();
        let writable = std::mem::replace(&mut ledger.file, File::open(&ledger.path).unwrap());
        assert!(ledger.add(&two, NOW).is_err());
        assert!(ledger.add(&two, NOW).is_err(), "it cannot be taken out either");
        ledger.file = writable;
        ledger.file.write_all(b"half").unwrap();
        ledger.add(&two, NOW).unwrap();
        assert_eq!(text(dir.path()), format!("{}{}", one.to_line(), two.to_line()));
        assert!(!ledger.needs("any", NOW.unix_timestamp()));
    }
}
