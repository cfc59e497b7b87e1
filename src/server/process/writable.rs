//! Whether the log files that a configuration names can be opened, asked without opening them.
//!
//! `--test` must report what a start would fail at, and leave nothing behind. Invariant: nothing is
//! made or changed. It answers for the account that asks: a test under another account than that of
//! the start may report a folder that the other one may write to.

use std::io::ErrorKind;
use std::path::Path;

use nix::unistd::{AccessFlags, eaccess};

use crate::config::{AccessLog, Config};
use crate::error::Error;

/// # Errors
/// A configuration error that names the key and the path.
pub(crate) fn check(config: &Config) -> Result<(), Error> {
    let server = &config.server;
    let access_log = match &server.access_log {
        AccessLog::File(path) => Some(path),
        AccessLog::Off | AccessLog::Stdout => None,
    };
    let named = [
        ("server.log_file", server.log_file.as_ref()),
        ("server.access_log", access_log),
    ];
    let file = config.file.display();
    let problems: Vec<String> = named
        .into_iter()
        .filter_map(|(key, path)| Some((key, why_not(path?)?, path?)))
        .map(|(key, why, path)| format!("{file}: {key}: cannot open {}: {why}", path.display()))
        .collect();
    match problems.is_empty() {
        true => Ok(()),
        false => Err(Error::config(problems.join("\n"))),
    }
}

/// Why `path` cannot be opened to append to it; `None`: it can, as far as can be seen.
fn why_not(path: &Path) -> Option<String> {
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => Some("it is a folder".to_owned()),
        Ok(_) => denied(path, AccessFlags::W_OK),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| *folder != Path::new(""));
            let folder = folder.unwrap_or(Path::new("."));
            let why = match folder.metadata() {
                Ok(metadata) if metadata.is_dir() => {
                    denied(folder, AccessFlags::W_OK | AccessFlags::X_OK)
                }
                Ok(_) => Some("it is no folder".to_owned()),
                Err(error) => Some(error.to_string()),
            };
            why.map(|why| format!("{}: {why}", folder.display()))
        }
        Err(error) => Some(error.to_string()),
    }
}

fn denied(path: &Path, wanted: AccessFlags) -> Option<String> {
    let errno = eaccess(path, wanted).err()?;
    Some(errno.desc().to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn what_can_be_opened_is_told_from_what_cannot_and_nothing_is_made() {
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("old.log"), "line\n").unwrap();
        for name in ["old.log", "new.log"] {
            assert_eq!(why_not(&at(name)), None, "{name}");
        }
        for (name, why) in [
            ("", "it is a folder"),
            ("none/a.log", "No such file"),
            ("old.log/a.log", "Not a directory"),
        ] {
            let said = why_not(&at(name)).unwrap();
            assert!(said.contains(why), "{name}: {said}");
        }
        assert_eq!(why_not(Path::new("/dev/null")), None);
        assert_eq!(why_not(Path::new("a-file-that-is-not-here.log")), None);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(at("old.log")).unwrap(), "line\n");
    }
}
