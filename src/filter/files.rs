//! The files that a filter's settings name.
//!
//! What stands in them counts as settings: it decides whether a filter keeps its state over a
//! reload. Invariant: bounded whatever the file is.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Result;

/// Reads files from the folder of the configuration, and remembers what stood in them.
#[derive(Debug)]
pub struct Files<'a> {
    folder: &'a Path,
    read: Vec<FileRead>,
}

impl<'a> Files<'a> {
    /// `config` is the configuration's own file.
    pub(super) fn beside(config: &'a Path) -> Files<'a> {
        Files {
            folder: config.parent().unwrap_or(Path::new("")),
            read: Vec::new(),
        }
    }

    /// The configuration's folder, which relative paths mean.
    pub fn folder(&self) -> &Path {
        self.folder
    }

    /// The whole content of a file, at most 8 MiB.
    ///
    /// # Errors
    /// Why it cannot be read, with its path.
    pub fn read(&mut self, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        let path = self.folder.join(path);
        let content = bounded(&path).map_err(|why| format!("{}: {why}", path.display()))?;
        self.read.push(FileRead {
            hash: hash(&content),
            path,
        });
        Ok(content)
    }

    /// The whole content of a text file, at most 8 MiB.
    ///
    /// # Errors
    /// Why it cannot be read, with its path.
    pub fn read_text(&mut self, path: impl AsRef<Path>) -> Result<String> {
        let path = path.as_ref();
        let content = self.read(path)?;
        Ok(String::from_utf8(content).map_err(|_| format!("{}: is not UTF-8", path.display()))?)
    }

    pub(super) fn into_read(self) -> Vec<FileRead> {
        self.read
    }
}

/// A file as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileRead {
    path: PathBuf,
    hash: [u8; 32],
}

impl FileRead {
    /// Whether the same stands in it now.
    pub(super) fn is_unchanged(&self) -> bool {
        bounded(&self.path).is_ok_and(|content| hash(&content) == self.hash)
    }
}

fn bounded(path: &Path) -> std::result::Result<Vec<u8>, String> {
    let mut content = Vec::new();
    let file = File::open(path).map_err(|e| e.to_string())?;
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut content)
        .map_err(|e| e.to_string())?;
    match content.len() as u64 > MAX_BYTES {
        true => Err(format!("is larger than {} MiB", MAX_BYTES >> 20)),
        false => Ok(content),
    }
}

fn hash(content: &[u8]) -> [u8; 32] {
    Sha256::digest(content).into()
}

const MAX_BYTES: u64 = 8 << 20;
