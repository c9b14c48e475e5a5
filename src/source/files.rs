//! Resources in files: `*.yaml`, `*.yml` and `*.json` under the configured files and folders.
//!
//! `*.test.yaml` hold expectations and no resources. Hidden files and folders are left out, so that a mounted volume's `..data` and an editor's
//! temporary files are not read; a link to a file is.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::reader::Reader;
use crate::base::hash::Fingerprint;
use crate::base::limit;
use crate::diag::{Diagnostic, Location, catalog};
use crate::resources::ConfigFile;

/// Folders below each other; deeper ones are not looked into.
const FOLDER_DEPTH: usize = 16;

/// Reads every configuration file, with the digest of each; what cannot be read is told.
pub fn read(
    roots: &[PathBuf],
    reader: &mut Reader,
) -> (Vec<(ConfigFile, Fingerprint)>, Vec<Diagnostic>) {
    let mut found = Found::new(is_configuration);
    for root in roots {
        found.collect(root, FOLDER_DEPTH);
        if fs::metadata(root).is_ok_and(|meta| meta.is_file()) {
            found.paths.insert(root.clone());
        }
    }
    found.read(reader)
}

/// Reads every file of expectations below the same roots.
pub fn tests(roots: &[PathBuf]) -> (Vec<ConfigFile>, Vec<Diagnostic>) {
    let mut found = Found::new(is_test);
    for root in roots {
        found.collect(root, FOLDER_DEPTH);
    }
    let (files, diagnostics) = found.read(&mut Reader::default());
    (files.into_iter().map(|(file, _)| file).collect(), diagnostics)
}

/// Files of one kind, and folders that cannot be read.
struct Found {
    kind: fn(&Path) -> bool,
    paths: BTreeSet<PathBuf>,
    diagnostics: Vec<Diagnostic>,
}

impl Found {
    fn new(kind: fn(&Path) -> bool) -> Self {
        Self { kind, paths: BTreeSet::new(), diagnostics: Vec::new() }
    }

    fn read(self, reader: &mut Reader) -> (Vec<(ConfigFile, Fingerprint)>, Vec<Diagnostic>) {
        let Self { paths, mut diagnostics, .. } = self;
        let mut files = Vec::new();
        for path in paths.into_iter().take(limit::CONFIG_FILES) {
            match reader.read(&path, limit::CONFIG_FILE_BYTES) {
                Ok(Some(content)) => {
                    let file =
                        ConfigFile { path: shown(&path).into(), bytes: content.bytes().clone() };
                    files.push((file, content.fingerprint()));
                }
                Ok(None) => diagnostics.push(too_large(&path)),
                Err(error) => diagnostics.push(unreadable(&path, &error.to_string())),
            }
        }
        (files, diagnostics)
    }

    fn collect(&mut self, path: &Path, depth: usize) {
        let entries = match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => fs::read_dir(path),
            Ok(meta) if meta.is_file() && (self.kind)(path) => {
                self.paths.insert(path.to_owned());
                return;
            }
            Ok(_) => return,
            Err(error) => Err(error),
        };
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) => return self.diagnostics.push(unreadable(path, &error.to_string())),
        };
        for entry in entries.flatten() {
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            if hidden || depth == 0 || self.paths.len() >= limit::CONFIG_FILES {
                continue;
            }
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_file() && (self.kind)(&path) => {
                    self.paths.insert(path);
                }
                Ok(kind) if kind.is_file() => {}
                _ => self.collect(&path, depth - 1),
            }
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

fn too_large(path: &Path) -> Diagnostic {
    let message = format!("the file is larger than {} bytes", limit::CONFIG_FILE_BYTES);
    Diagnostic::new(&catalog::FILE_TOO_LARGE, message)
        .at(Location::new(shown(path).into(), 1, 1))
        .help("split it")
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
        let (files, diagnostics) = read(&[dir.path().to_owned()], &mut Reader::default());
        assert!(diagnostics.is_empty(), "{diagnostics:?}");
        let base = format!("{}/", dir.path().display());
        files.iter().map(|(file, _)| file.path.strip_prefix(&*base).unwrap().to_owned()).collect()
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
        let (files, diagnostics) = read(&["no/such/folder".into()], &mut Reader::default());
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
        let (files, diagnostics) = read(&[dir.path().to_owned()], &mut Reader::default());
        assert_eq!((files.len(), diagnostics[0].code.id), (1, "PC002"));
    }
}
