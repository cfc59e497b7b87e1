//! Links and paths: none leads nowhere, and every page can be reached.

use std::path::{Component, Path, PathBuf};

use super::{Page, pages, read, root};

/// Where the links of a text lead, without pictures' titles.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let after = text.split("](").skip(1);
    after.filter_map(|rest| rest.split(')').next())
}

/// `docs/a/../b.md` as `docs/b.md`.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => _ = out.pop(),
            Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

fn target(page: &Page, link: &str) -> PathBuf {
    let folder = Path::new(&page.path).parent().unwrap_or(Path::new(""));
    plain(&folder.join(link.split('#').next().unwrap_or("")))
}

#[test]
fn no_link_leads_nowhere() {
    for page in pages() {
        for link in links(&page.text) {
            if link.starts_with("http") || link.starts_with('#') {
                continue;
            }
            let target = target(&page, link);
            assert!(root().join(&target).exists(), "{}: {link}", page.path);
        }
    }
}

#[test]
fn every_page_is_in_the_summary_and_two_clicks_from_the_readme() {
    let summary = Page {
        path: "docs/SUMMARY.md".into(),
        text: read("docs/SUMMARY.md"),
    };
    let listed: Vec<PathBuf> = links(&summary.text).map(|l| target(&summary, l)).collect();
    let all = pages();
    let of = |path: &Path| all.iter().find(|page| Path::new(&page.path) == path);
    let from = |page: &Page| -> Vec<PathBuf> {
        let local = links(&page.text).filter(|link| !link.starts_with("http"));
        local.map(|link| target(page, link)).collect()
    };
    let readme = of(Path::new("README.md")).expect("it is there");
    let first = from(readme);
    let mut reached = first.clone();
    reached.extend(first.iter().filter_map(|path| of(path)).flat_map(from));
    for page in &all {
        let path = PathBuf::from(&page.path);
        if !page.path.starts_with("docs/") || page.path == "docs/SUMMARY.md" {
            continue;
        }
        assert!(listed.contains(&path), "{} is in SUMMARY.md", page.path);
        assert!(reached.contains(&path), "{} is two clicks away", page.path);
    }
}

#[test]
fn the_paths_that_the_architecture_names_exist() {
    let text = read("docs/architecture.md");
    let named: Vec<&str> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.starts_with("src/") || word.starts_with("tests/"))
        .collect();
    assert!(named.len() > 30, "it walks through the code: {named:?}");
    for path in named {
        assert!(root().join(path).exists(), "{path}");
    }
}
