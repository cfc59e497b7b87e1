//! The documentation against the code: every YAML block of the README is a configuration that
//! loads, its table of keys is the parser's own, and what it quotes as an error is one.

use std::path::{Path, PathBuf};

use harbr_router::config;
use harbr_router::filter::Registry;

fn readme() -> (PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(&path).expect("README.md is there");
    (path, text)
}

/// The contents of all code blocks of one language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence)
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap_or("").to_string())
        .collect()
}

#[test]
fn every_yaml_block_of_the_readme_loads() {
    let (_, text) = readme();
    let yaml = blocks(&text, "yaml");
    assert!(yaml.len() >= 2, "the README shows configurations");
    for block in yaml {
        let config = config::parse(&block, Path::new("config.yml"))
            .unwrap_or_else(|problems| panic!("{problems}\n{block}"));
        assert_eq!(config.warnings, Vec::<String>::new(), "{block}");
    }
}

#[test]
fn every_filter_of_the_readme_can_be_made() {
    let folder = tempfile::tempdir().unwrap();
    let users = format!("ann:{}\n", bcrypt::hash("secret", 4).unwrap());
    std::fs::write(folder.path().join("users.htpasswd"), users).unwrap();
    let (_, text) = readme();
    let mut kinds = std::collections::BTreeSet::new();
    for block in blocks(&text, "yaml") {
        let config = config::parse(&block, &folder.path().join("config.yml")).unwrap();
        if let Err(problems) = Registry::built_in().compile(&config, None) {
            panic!("{problems}\n{block}");
        }
        let filters = config.http_routes.iter().flat_map(|route| &route.filters);
        kinds.extend(filters.map(|filter| filter.kind.clone()));
    }
    let built_in: Vec<String> = built_in().into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(
        kinds.into_iter().collect::<Vec<_>>(),
        built_in,
        "each is shown"
    );
}

#[test]
fn the_readme_and_the_reference_hold_every_setting_of_the_built_in_filters() {
    let (path, text) = readme();
    let reference = path.with_file_name("conf").join("reference.yaml");
    let reference = std::fs::read_to_string(reference).unwrap();
    for (kind, settings) in built_in() {
        let row = text
            .lines()
            .find(|line| line.starts_with(&format!("| `{kind}` |")));
        let row = row.unwrap_or_else(|| panic!("{kind} has a row"));
        for setting in settings {
            assert!(row.contains(&setting), "{kind}: {setting} in README.md");
            let mut lines = reference
                .lines()
                .map(|line| line.trim_start_matches([' ', '#', '-']));
            let written = lines.any(|line| line.starts_with(&format!("{setting}:")));
            assert!(written, "{kind}: {setting} in reference.yaml");
        }
    }
}

/// The types of filters that come with the crate, and the names of their settings.
fn built_in() -> Vec<(String, Vec<String>)> {
    let schema = Registry::built_in().schema();
    let each = schema["$defs"]["filter"]["allOf"].as_array().unwrap();
    let settings = |entry: &serde_json::Value| {
        let kind = &entry["if"]["properties"]["type"]["const"];
        let properties = entry["then"]["properties"].as_object().unwrap();
        let names = properties.keys().filter(|name| *name != "type");
        (kind.as_str().unwrap().to_owned(), names.cloned().collect())
    };
    let mut each: Vec<(String, Vec<String>)> = each.iter().map(settings).collect();
    for (_, names) in &mut each {
        names.retain(|name| name != "on_error");
    }
    each.sort();
    each
}

#[test]
fn the_error_the_readme_quotes_is_what_the_parser_says() {
    let (_, text) = readme();
    let quoted = &blocks(&text, "text")[0];
    let wrong = "\
listen_addr: 0.0.0.0:8080
global_timeout_ms: 30000
max_connections: 10000
routes:
  /api:
    upstream: http://10.0.0.1:9000
    retry_cout: 2
";
    let problems = config::parse(wrong, Path::new("config.yml")).unwrap_err();
    assert_eq!(problems.to_string().trim(), quoted.trim());
}

/// `UPDATE_README=1 cargo test --test it docs` writes the table instead.
#[test]
fn the_readme_has_the_table_of_keys_that_the_parser_uses() {
    let (path, text) = readme();
    let (before, rest) = text.split_once("<!-- keys -->\n").expect("start marker");
    let (table, after) = rest.split_once("<!-- /keys -->").expect("end marker");
    let expected = config::keys::markdown_table();
    if std::env::var_os("UPDATE_README").is_some() {
        let updated = format!("{before}<!-- keys -->\n{expected}<!-- /keys -->{after}");
        std::fs::write(path, updated).expect("README.md can be written");
        return;
    }
    assert_eq!(
        table, expected,
        "run: UPDATE_README=1 cargo test --test it docs"
    );
}
