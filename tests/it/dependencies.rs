//! What is built in, against `deny.toml`: licences, banned crates, and where the sources come from.
//!
//! `make deny` asks more (advisories, other platforms) and needs cargo-deny and the network; this
//! needs neither.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

#[test]
fn every_licence_is_an_allowed_one() {
    let allowed = list("licenses", "allow");
    assert!(allowed.contains(&"MIT".to_owned()), "{allowed:?}");
    let packages = packages();
    assert!(packages.len() > 100, "only {} crates", packages.len());
    let refused = packages.iter().filter(|package| {
        let terms = package["license"].as_str();
        !terms.is_some_and(|terms| permits(terms, &allowed))
    });
    let refused: Vec<_> = refused
        .map(|package| format!("{}: {}", package["name"], package["license"]))
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn every_allowed_licence_is_needed() {
    let packages = packages();
    for one in list("licenses", "allow") {
        let is_named = |package: &Value| {
            package["license"]
                .as_str()
                .is_some_and(|l| l.contains(&one))
        };
        assert!(packages.iter().any(is_named), "no crate is under {one}");
    }
}

#[test]
fn no_banned_crate_is_locked() {
    let banned = list("bans", "deny");
    assert!(banned.contains(&"openssl".to_owned()), "{banned:?}");
    let locked = locked("name");
    assert!(locked.contains(&"rustls".to_owned()), "{locked:?}");
    let found: Vec<_> = locked.iter().filter(|name| banned.contains(name)).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn every_source_is_an_allowed_registry() {
    let allowed = list("sources", "allow-registry");
    let is_allowed = |source: &&String| {
        let registry = source.strip_prefix("registry+");
        registry.is_some_and(|registry| allowed.iter().any(|one| one == registry))
    };
    let sources = locked("source");
    assert!(sources.len() > 100, "only {} sources", sources.len());
    let others: Vec<_> = sources.iter().filter(|s| !is_allowed(s)).collect();
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn terms_are_read_as_spdx_says() {
    let allowed = ["MIT".to_owned(), "ISC".to_owned()];
    let permits = |terms| permits(terms, &allowed);
    assert!(permits("MIT"));
    assert!(permits("GPL-3.0 OR MIT"));
    assert!(permits("GPL-3.0/MIT"));
    assert!(permits("(GPL-3.0 OR MIT) AND ISC"));
    assert!(permits("GPL-3.0 AND X OR MIT"), "AND binds closer");
    assert!(!permits("GPL-3.0"));
    assert!(!permits("MIT AND GPL-3.0"));
    assert!(!permits("(GPL-3.0 OR MIT) AND X"));
    assert!(!permits("MIT WITH X"), "an exception is another licence");
    assert!(!permits(""));
}

/// The crates that are built on this machine, dev-dependencies included.
fn packages() -> Vec<Value> {
    let version = output(Command::new("rustc").arg("-vV"));
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo.args(["metadata", "--locked", "--offline", "--format-version=1"]);
    cargo.args(["--filter-platform", host.expect("rustc names its host")]);
    let found: Value = serde_json::from_str(&output(&mut cargo)).expect("cargo prints JSON");
    found["packages"].as_array().expect("a list").clone()
}

fn output(command: &mut Command) -> String {
    let out = command.output().expect("the toolchain of this test");
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{errors}");
    String::from_utf8(out.stdout).expect("text")
}

/// The values of `key` in Cargo.lock.
fn locked(key: &str) -> Vec<String> {
    let text = read("Cargo.lock");
    let values = text.lines().filter_map(|line| line.split_once(" = "));
    let values = values.filter(|(found, _)| *found == key);
    values
        .map(|(_, v)| v.trim_matches('"').to_owned())
        .collect()
}

/// The strings of the list `key` of a section in `deny.toml`.
fn list(section: &str, key: &str) -> Vec<String> {
    let text = read("deny.toml");
    let lines = text.lines().filter(|line| !line.trim().starts_with('#'));
    let text = lines.collect::<Vec<_>>().join("\n");
    let (_, rest) = text.split_once(&format!("[{section}]\n")).expect(section);
    let (_, rest) = rest.split_once(&format!("{key} = [")).expect(key);
    let (inside, _) = rest.split_once(']').expect("the list ends");
    let strings = inside.split('"').skip(1).step_by(2);
    strings.map(str::to_owned).collect()
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Whether `terms` can be met with nothing but the allowed licences. `/` is the old way to say OR.
fn permits(terms: &str, allowed: &[String]) -> bool {
    let terms = terms
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let mut words = terms.split_whitespace().peekable();
    let permitted = any(&mut words, allowed);
    permitted && words.next().is_none()
}

type Words<'a, 'b> = &'b mut std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(words: Words<'_, '_>, allowed: &[String]) -> bool {
    let mut permitted = all(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        permitted |= all(words, allowed);
    }
    permitted
}

fn all(words: Words<'_, '_>, allowed: &[String]) -> bool {
    let mut permitted = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        permitted &= one(words, allowed);
    }
    permitted
}

fn one(words: Words<'_, '_>, allowed: &[String]) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let permitted = any(words, allowed);
        return words.next_if_eq(&")").is_some() && permitted;
    }
    let Some(licence) = words.next() else {
        return false;
    };
    let mut licence = licence.to_owned();
    if words.next_if_eq(&"WITH").is_some() {
        licence = format!("{licence} WITH {}", words.next().unwrap_or_default());
    }
    allowed.contains(&licence)
}
