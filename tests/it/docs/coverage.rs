//! What the code has and a reader looks up: each key, filter, metric, field and reason has its
//! place, and nothing is described that is not there.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use harbr_router::config;
use harbr_router::filter::Registry;
use harbr_router::http::respond;
use harbr_router::telemetry::{ClientAddress, Record, Second};
use harbr_router::{Fault, Reason};

use super::{read, root};

/// The words in backquotes in the first column of a page's tables.
fn first_column(page: &str) -> BTreeSet<String> {
    let text = read(page);
    let cells = text.lines().filter_map(|line| {
        let cell = line.strip_prefix("| `")?.split('|').next()?;
        Some(cell.to_owned())
    });
    cells
        .flat_map(|cell| {
            let words = cell.split('`').map(str::trim).map(str::to_owned);
            words
                .filter(|w| !w.is_empty() && w != ",")
                .collect::<Vec<_>>()
        })
        .collect()
}

/// `UPDATE_DOCS=1 cargo test --test it docs` writes the table instead.
#[test]
fn the_page_of_keys_is_the_table_that_the_parser_uses() {
    let path = "docs/configuration.md";
    let text = read(path);
    let (before, rest) = text.split_once("<!-- keys -->\n").expect("start marker");
    let (table, after) = rest.split_once("<!-- /keys -->").expect("end marker");
    let expected = config::keys::markdown_table();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let updated = format!("{before}<!-- keys -->\n{expected}<!-- /keys -->{after}");
        std::fs::write(root().join(path), updated).expect("it can be written");
        return;
    }
    assert_eq!(
        table, expected,
        "run: UPDATE_DOCS=1 cargo test --test it docs"
    );
}

/// The types of filters that come with the crate, and the names of their settings.
pub fn built_in() -> Vec<(String, Vec<String>)> {
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
fn every_filter_has_a_page_with_its_settings_and_its_refusal() {
    let reference = read("conf/reference.yaml");
    let index = read("docs/filters/index.md");
    for (kind, settings) in built_in() {
        let page = read(&format!("docs/filters/{kind}.md"));
        assert!(page.starts_with(&format!("# {kind}\n")), "{kind}");
        assert!(page.contains("**Refusal**: "), "{kind}: its refusal");
        assert!(
            index.contains(&format!("| [`{kind}`]({kind}.md) |")),
            "{kind}"
        );
        for setting in settings {
            let named = page.lines().any(|line| {
                let starts = ["`", ".", ":"].map(|end| format!("`{setting}{end}"));
                line.starts_with('|') && starts.iter().any(|word| line.contains(word))
            });
            assert!(named, "{kind}: {setting} on its page");
            let mut lines = reference
                .lines()
                .map(|line| line.trim_start_matches([' ', '#', '-']));
            let written = lines.any(|line| line.starts_with(&format!("{setting}:")));
            assert!(written, "{kind}: {setting} in reference.yaml");
        }
    }
}

#[test]
fn every_reason_is_explained_with_the_status_that_clients_read() {
    let page = read("docs/reasons.md");
    for reason in Reason::ALL {
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{reason}` |")));
        let row = row.unwrap_or_else(|| panic!("{reason} has a row"));
        let status = row.split('|').nth(2).unwrap().trim();
        if !status.is_empty() {
            let fault = reason.fault().or(Some(Fault::Gateway));
            assert_eq!(
                status,
                respond::status(reason, fault).to_string(),
                "{reason}"
            );
        }
    }
    let rows = first_column("docs/reasons.md");
    assert_eq!(rows.len(), Reason::ALL.len(), "{rows:?}");
}

#[test]
fn every_metric_is_described_and_none_that_is_not_there() {
    let sources = [
        "metrics/families.rs",
        "metrics/aliases.rs",
        "metrics/edges.rs",
        "metrics/routes.rs",
    ];
    let mut names = BTreeSet::new();
    for source in sources {
        let text = read(&format!("src/telemetry/{source}"));
        names.extend(
            text.split('"')
                .skip(1)
                .step_by(2)
                .filter(|word| word.starts_with("harbr_") || word.starts_with("tcp_proxy_"))
                .map(str::to_owned),
        );
    }
    assert!(names.len() > 20, "{names:?}");
    let page = read("docs/metrics.md");
    for name in &names {
        assert!(page.contains(&format!("`{name}`")), "{name}");
    }
    for name in first_column("docs/metrics.md") {
        assert!(names.contains(&name), "{name} is a metric");
    }
}

#[test]
fn every_field_of_the_access_log_is_described_and_none_that_is_not_there() {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    let some = Some(Duration::from_millis(1));
    let record = Record {
        client: ClientAddress::Text("192.0.2.1:5"),
        proxy: "10.0.0.1:5",
        route: "/",
        upstream: "/",
        endpoint: "a:1",
        method: "GET",
        host: b"a",
        path: b"/",
        protocol: "HTTP/1.1",
        tls: "TLSv1.3",
        client_cert_subject: "CN=bob",
        client_cert_sha256: "00",
        status: 200,
        bytes_in: 1,
        bytes_out: 1,
        tries: 1,
        queue: some,
        connect: some,
        first_byte: some,
        total: Duration::from_millis(1),
        request_id: b"1",
        user_agent: b"a",
        ..Record::at(time, "0.0.0.0:80", Reason::Ok)
    };
    let mut line = Vec::new();
    record.write(&mut line, &mut Second::new());
    let line: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
    let fields: BTreeSet<String> = line.as_object().unwrap().keys().cloned().collect();
    assert_eq!(first_column("docs/access-log.md"), fields);
}
