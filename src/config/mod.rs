//! The configuration: a YAML file becomes a [`Config`] that is known to make sense, or every
//! problem in it. No tokio, no Pingora; nothing here touches the network.
//!
//! [`load`] reads a file, [`parse`] a text. On the way: `tree` (YAML with positions), `parse`
//! (rules, by the table in [`keys`]), [`model`] and [`value`] (what comes out).

mod deserialize;
pub mod detect;
mod encryption;
mod globals;
mod host;
pub mod keys;
pub mod model;
mod node;
mod parse;
pub mod problem;
mod redact;
mod route_key;
mod scalar;
mod schema;
mod secret_name;
mod settings;
mod settings_error;
mod suspicious_key;
mod table;
mod trail;
pub mod tree;
mod upgrades;
mod url;
pub mod value;

use std::io::Read;
use std::path::{Path, PathBuf};

pub use encryption::out_of_reach_in_tls;
pub use globals::Changed;
pub use model::*;
pub(crate) use problem::did_you_mean;
pub use problem::{Mark, Problem, Problems, Wrong};
pub use settings::{FilterSpec, OnError, Settings};
pub use upgrades::Upgrades;
pub use value::*;

/// The `server.upgrade_sock` that a file names, which need not be valid, nor YAML any more: the
/// first that is written in it.
pub(crate) fn upgrade_sock_in(path: &Path) -> Option<PathBuf> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(tree::MAX_BYTES as u64)
        .read_to_end(&mut bytes)
        .ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines().map(|line| match line.split_once(" #") {
        Some((line, _comment)) => line,
        None if line.trim_start().starts_with('#') => "",
        None => line,
    });
    let value = lines.find_map(|line| Some(line.split_once("upgrade_sock:")?.1))?;
    let value = value.split([',', '}']).next().unwrap_or(value);
    let sock = value.trim().trim_matches(['"', '\'']);
    let folder = path.parent().unwrap_or(Path::new(""));
    match sock.is_empty() {
        true => None,
        false => std::path::absolute(folder.join(sock)).ok(),
    }
}

/// Reads a configuration file.
///
/// # Errors
/// Every problem in it; one without a line when the file cannot be read at all.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let mut bytes = Vec::new();
    // One byte more than allowed is enough to refuse it, whatever the file is.
    let read = std::fs::File::open(path).and_then(|file| {
        file.take(tree::MAX_BYTES as u64 + 1)
            .read_to_end(&mut bytes)
    });
    if let Err(error) = read {
        let (message, hint) = match error.kind() {
            std::io::ErrorKind::NotFound => (
                "there is no such file".to_owned(),
                "name one with `-c FILE` or CONFIG_FILE",
            ),
            std::io::ErrorKind::PermissionDenied => (
                "may not be read by this user".to_owned(),
                "check the permissions of the file and of its folders",
            ),
            _ => (
                format!("cannot be read: {error}"),
                "name a readable file with `-c FILE` or CONFIG_FILE",
            ),
        };
        return Err(Problems::file(path, message, hint));
    }
    if bytes.len() > tree::MAX_BYTES {
        return Err(Problems::file(
            path,
            format!("is larger than {} MiB", tree::MAX_BYTES >> 20),
            "one file holds one gateway's configuration",
        ));
    }
    match String::from_utf8(bytes) {
        Ok(text) => parse(&text, path),
        Err(error) => Err(Problems::file(
            path,
            format!(
                "is not UTF-8, byte {} cannot be read",
                error.utf8_error().valid_up_to() + 1
            ),
            "save it as UTF-8",
        )),
    }
}

/// Reads a configuration from a text. `file` is what problems name, and its folder is what
/// relative paths mean; it is not opened. Variables in secrets come from the environment.
///
/// # Errors
/// Every problem in the text.
pub fn parse(text: &str, file: &Path) -> Result<Config, Problems> {
    parse::parse_with(text, file, &|name| std::env::var(name).ok())
}

/// The JSON Schema (draft 2020-12) of the configuration, for editors and `harbr-router schema`.
pub fn schema() -> serde_json::Value {
    schema::schema()
}
