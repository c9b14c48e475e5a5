//! Resources in files: `*.yaml`, `*.yml` and `*.json` under the configured files and folders.
//!
//! `*.test.yaml` hold expectations and no resources. Hidden files and folders are left out, so that a mounted volume's `..data` and an editor's
//! temporary files are not read; a link to a file is.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::reader::{Place, Reader};
use crate::base::hash::Fingerprint;
use crate::base::limit;
use crate::diag::{Diagnostic, Location, Severity, catalog};
use crate::resources::ConfigFile;

/// What was read.
#[derive(Debug, Default)]
pub struct Found {
    /// Every configuration file.
    pub files: Vec<FoundFile>,
    /// What could not be read, and what was left out.
    pub diagnostics: Vec<Diagnostic>,
    /// Where links to files lead.
    pub targets: Vec<PathBuf>,
}

/// A file that was read.
#[derive(Debug)]
pub struct FoundFile {
    /// Its path and content.
    pub file: ConfigFile,
    /// Digest of its content.
    pub fingerprint: Fingerprint,
    /// Which file it is: another of the same name has another.
    pub place: Place,
}

/// Reads every configuration file; what cannot be read is told.
pub fn read(roots: &[PathBuf], reader: &mut Reader) -> Found {
    found(roots, is_configuration, reader)
}

/// Reads every file of expectations in the same places.
pub fn tests(roots: &[PathBuf]) -> Found {
    let folders: Vec<_> = roots.iter().filter(|root| !root.is_file()).cloned().collect();
    found(&folders, is_test, &mut Reader::default())
}

fn found(roots: &[PathBuf], kind: fn(&Path) -> bool, reader: &mut Reader) -> Found {
    let mut walk = Walk::new(kind);
    for root in roots {
        walk.root(root);
    }
    let Walk { paths, mut diagnostics, targets, .. } = walk;
    if paths.len() > limit::CONFIG_FILES
        && let Some(first) = paths.iter().nth(limit::CONFIG_FILES)
    {
        let message = format!("more than {} files: this and later ones", limit::CONFIG_FILES);
        diagnostics.push(left_out(first, &message, "read fewer folders, or join small files"));
    }
    let mut files = Vec::new();
    for path in paths.into_iter().take(limit::CONFIG_FILES) {
        match reader.read_placed(&path, limit::CONFIG_FILE_BYTES) {
            Ok((Some(content), place)) => {
                let file = ConfigFile { path: shown(&path).into(), bytes: content.bytes().clone() };
                files.push(FoundFile { file, fingerprint: content.fingerprint(), place });
            }
            Ok((None, _)) => diagnostics.push(too_large(&path)),
            Err(error) => diagnostics.push(unreadable(&path, &error.to_string())),
        }
    }
    Found { files, diagnostics, targets }
}

/// Looks for files of one kind.
struct Walk {
    kind: fn(&Path) -> bool,
    paths: BTreeSet<PathBuf>,
    diagnostics: Vec<Diagnostic>,
    targets: Vec<PathBuf>,
    /// Folders looked into, by device and inode: a link may lead back.
    seen: HashSet<(u64, u64)>,
    /// Links, with the depth that is left; after all that is there itself.
    links: VecDeque<(PathBuf, usize)>,
}

impl Walk {
    fn new(kind: fn(&Path) -> bool) -> Self {
        Self {
            kind,
            paths: BTreeSet::new(),
            diagnostics: Vec::new(),
            targets: Vec::new(),
            seen: HashSet::new(),
            links: VecDeque::new(),
        }
    }

    fn root(&mut self, root: &Path) {
        match fs::metadata(root) {
            Ok(meta) if meta.is_dir() => self.folder(root, limit::CONFIG_FOLDERS_DEPTH),
            // One that was named is read whatever it is called; what is no file is told then.
            _ => _ = self.paths.insert(root.to_owned()),
        }
        while let Some((link, depth)) = self.links.pop_front() {
            self.link(&link, depth);
        }
    }

    fn folder(&mut self, folder: &Path, depth: usize) {
        let entries = match fs::metadata(folder).and_then(|meta| Ok((meta, fs::read_dir(folder)?)))
        {
            Ok((meta, entries)) if self.seen.insert((meta.dev(), meta.ino())) => entries,
            Ok(_) => return,
            Err(error) => return self.diagnostics.push(unreadable(folder, &error.to_string())),
        };
        for entry in entries.flatten() {
            let (path, kind) = (entry.path(), entry.file_type());
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            if hidden || self.paths.len() > limit::CONFIG_FILES {
                continue;
            }
            match kind {
                Ok(kind) if kind.is_dir() && depth == 0 => {
                    let message = format!("deeper than {} folders", limit::CONFIG_FOLDERS_DEPTH);
                    self.diagnostics.push(left_out(&path, &message, "move it up, or name it too"));
                }
                Ok(kind) if kind.is_dir() => self.folder(&path, depth - 1),
                Ok(kind) if kind.is_symlink() => self.links.push_back((path, depth)),
                _ if (self.kind)(&path) => _ = self.paths.insert(path),
                _ => {}
            }
        }
    }

    fn link(&mut self, link: &Path, depth: usize) {
        match fs::metadata(link) {
            Ok(meta) if meta.is_dir() && self.seen.contains(&(meta.dev(), meta.ino())) => {
                let finding =
                    left_out(link, "it leads to a folder that is read already", "remove the link");
                self.diagnostics.push(finding.severity(Severity::Info));
            }
            Ok(meta) if meta.is_dir() => self.folder(link, depth.saturating_sub(1)),
            Ok(_) if (self.kind)(link) => {
                self.targets.extend(link.canonicalize());
                self.paths.insert(link.to_owned());
            }
            Ok(_) => {}
            Err(error) => self.diagnostics.push(unreadable(link, &error.to_string())),
        }
    }
}

fn is_configuration(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml" | "json")) && !is_test(path)
}

fn is_test(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.ends_with(".test.yaml") || name.ends_with(".test.yml"))
}

fn left_out(path: &Path, why: &str, help: &str) -> Diagnostic {
    Diagnostic::new(&catalog::FILES_LEFT_OUT, format!("left out: {why}"))
        .at(Location::new(shown(path).into(), 1, 1))
        .help(help)
}

fn too_large(path: &Path) -> Diagnostic {
    let message = format!("the file is larger than {} MiB", limit::CONFIG_FILE_BYTES >> 20);
    Diagnostic::new(&catalog::FILE_TOO_LARGE, message)
        .at(Location::new(shown(path).into(), 1, 1))
        .help("split it, or move it elsewhere when it is no configuration")
}

fn unreadable(path: &Path, why: &str) -> Diagnostic {
    Diagnostic::new(&catalog::UNREADABLE_FILE, format!("the file cannot be read: {why}"))
        .at(Location::new(shown(path).into(), 1, 1))
        .help("check the path and its permissions")
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(names: &[&str]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "a: 1").unwrap();
        }
        let Found { files, diagnostics, .. } =
            read(&[dir.path().to_owned()], &mut Reader::default());
        assert!(diagnostics.is_empty(), "{diagnostics:?}");
        let base = format!("{}/", dir.path().display());
        files.iter().map(|found| found.file.path.strip_prefix(&*base).unwrap().to_owned()).collect()
    }

    #[test]
    fn folders_are_read_in_order_without_hidden_and_foreign_files() {
        let names = [
            "b.yaml",
            "a/z.yml",
            "a/x.json",
            ".b.yaml.tmp",
            "..data/c.yaml",
            "README.md",
            "b.test.yaml",
        ];
        assert_eq!(check(&names), ["a/x.json", "a/z.yml", "b.yaml"]);
    }

    #[test]
    fn a_missing_folder_is_told_with_its_path() {
        let Found { files, diagnostics, .. } =
            read(&["no/such/folder".into()], &mut Reader::default());
        assert!(files.is_empty());
        assert_eq!(diagnostics[0].code.id, "PC001");
        assert_eq!(&*diagnostics[0].location.as_ref().unwrap().file, "no/such/folder");
    }

    #[test]
    fn a_file_over_the_limit_is_told_and_the_others_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let large = fs::File::create(dir.path().join("large.yaml")).unwrap();
        large.set_len(50 << 20).unwrap();
        fs::write(dir.path().join("small.yaml"), "a: 1").unwrap();
        let found = read(&[dir.path().to_owned()], &mut Reader::default());
        assert_eq!((found.files.len(), found.diagnostics[0].code.id), (1, "PC002"));
    }

    #[test]
    fn what_is_left_out_is_told() {
        use std::os::unix::fs::symlink;

        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/".repeat(limit::CONFIG_FOLDERS_DEPTH + 1));
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("deep.yaml"), "a: 1").unwrap();
        symlink("/dev/zero", dir.path().join("zero.yaml")).unwrap();
        symlink(".", dir.path().join("loop")).unwrap();
        fs::write(dir.path().join("a.yaml"), "a: 1").unwrap();
        symlink("a.yaml", dir.path().join("b.yaml")).unwrap();
        let roots = [dir.path().to_owned(), "/dev/null".into()];
        let found = read(&roots, &mut Reader::default());
        assert_eq!(found.files.len(), 2);
        let shown = |d: &Diagnostic| {
            let file = d.location.as_ref().unwrap().file.rsplit('/').next().unwrap().to_owned();
            format!("{} {} {file}", d.code.id, d.severity.as_str())
        };
        let mut told: Vec<_> = found.diagnostics.iter().map(shown).collect();
        told.sort();
        let expected =
            ["PC001 error null", "PC001 error zero.yaml", "PC017 error a", "PC017 info loop"];
        assert_eq!(told, expected);
        assert!(found.targets.iter().any(|target| target.ends_with("a.yaml")));
    }
}
