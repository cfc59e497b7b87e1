//! The documentation against the code: every YAML block of the README is a configuration that
//! loads, its table of keys is the parser's own, and what it quotes as an error is one.

use std::path::{Path, PathBuf};

use harbr_router::config;

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
