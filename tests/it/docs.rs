//! The documentation against the code: what README and `docs/` show loads and runs, what the code
//! has is described, and no link leads nowhere.

mod coverage;
mod links;

use std::path::{Path, PathBuf};

use harbr_router::config;
use harbr_router::filter::Registry;
use tempfile::TempDir;

use crate::support::binary::program;

/// A page: its path from the root of the project, and its text.
struct Page {
    path: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    let read = std::fs::read_to_string(root().join(path));
    read.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// README and every page of `docs/`.
fn pages() -> Vec<Page> {
    let mut paths = vec![PathBuf::from("README.md")];
    let mut folders = vec![PathBuf::from("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).expect("docs/ is there") {
            let entry = entry.expect("it can be listed");
            let path = folder.join(entry.file_name());
            match entry.path().is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|e| e == "md") => paths.push(path),
                false => {}
            }
        }
    }
    paths.sort();
    let page = |path: PathBuf| Page {
        text: read(path.to_str().expect("plain names")),
        path: path.to_string_lossy().into_owned(),
    };
    paths.into_iter().map(page).collect()
}

impl Page {
    /// The contents of all code blocks of one language.
    fn blocks(&self, language: &str) -> Vec<&str> {
        let fence = format!("```{language}\n");
        let after = self.text.split(fence.as_str()).skip(1);
        after
            .map(|rest| rest.split("```").next().unwrap_or(""))
            .collect()
    }
}

/// Where filters find the files that their settings name.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let users = format!(
        "ann:{}\n",
        bcrypt::hash("secret", 4).expect("it can be hashed")
    );
    std::fs::write(folder.path().join("users.htpasswd"), users).expect("it can be written");
    folder
}

#[test]
fn every_configuration_shown_loads_and_its_filters_can_be_made() {
    let folder = folder();
    let file = folder.path().join("config.yml");
    let mut kinds = std::collections::BTreeSet::new();
    let mut shown = 0;
    for page in pages() {
        for block in page.blocks("yaml") {
            shown += 1;
            // `${NAME}` in a secret is the environment's.
            let text = block.replace("${MONITOR_PASSWORD}", "secret");
            let config = config::parse(&text, &file)
                .unwrap_or_else(|problems| panic!("{}: {problems}\n{block}", page.path));
            assert_eq!(config.warnings, Vec::<String>::new(), "{}", page.path);
            if let Err(problems) = Registry::built_in().compile(&config, None) {
                panic!("{}: {problems}\n{block}", page.path);
            }
            let filters = config.http_routes.iter().flat_map(|route| &route.filters);
            kinds.extend(filters.map(|filter| filter.kind.clone()));
        }
    }
    assert!(shown > 15, "{shown} configurations");
    let kinds: Vec<String> = kinds.into_iter().collect();
    let built_in: Vec<String> = coverage::built_in().into_iter().map(|(k, _)| k).collect();
    assert_eq!(kinds, built_in, "each filter is shown");
}

#[test]
fn every_command_shown_runs_on_the_configuration_before_it() {
    let folder = folder();
    let mut ran = 0;
    for page in pages() {
        for block in page.blocks("sh") {
            let before = page.text.split(block).next().unwrap_or("");
            let yaml = before.split("```yaml\n").last().unwrap_or("");
            let yaml = yaml.split("```").next().unwrap_or("");
            std::fs::write(folder.path().join("config.yml"), yaml).expect("it can be written");
            for line in block.lines() {
                let command = line.split('#').next().unwrap_or("").trim();
                let Some(arguments) = command.strip_prefix("harbr-router ") else {
                    continue;
                };
                let output = program()
                    .args(arguments.split(' '))
                    .current_dir(folder.path())
                    .output()
                    .expect("the program runs");
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{}: {command}: {said}", page.path);
                ran += 1;
            }
        }
    }
    assert!(ran >= 4, "{ran} commands");
}

#[test]
fn the_error_that_is_quoted_is_what_the_parser_says() {
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
    let page = read("docs/quickstart.md");
    assert!(page.contains(problems.to_string().trim()), "{problems}");
}

#[test]
fn the_readme_is_short_and_shows_what_it_is() {
    let readme = read("README.md");
    assert!(
        readme.lines().count() <= 150,
        "{} lines",
        readme.lines().count()
    );
    for shown in ["docs/traffic.svg", "benches/peers.svg"] {
        assert!(readme.contains(&format!("]({shown})")), "{shown}");
    }
    for page in pages() {
        for (nth, line) in page.text.lines().enumerate() {
            let is_prose = !line.starts_with(['|', '!']) && !line.contains("](");
            assert!(
                !is_prose || line.chars().count() <= 120,
                "{}:{}: {} columns",
                page.path,
                nth + 1,
                line.chars().count()
            );
        }
    }
}
