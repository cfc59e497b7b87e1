//! Filters from YAML: settings, mistakes in them, schema, and what a reload keeps.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use harbr_router::config;
use harbr_router::filter::{
    BadSetting, Context, Filter, Phases, Registry, Response, Result, TcpFilter, Verdict,
};
use harbr_router::server::Gateway;
use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::{Client, Gw, route};

/// Answers with how many requests it has seen.
struct Counting {
    greeting: String,
    seen: AtomicUsize,
}

/// How requests are counted.
#[derive(Deserialize, JsonSchema)]
struct CountingSettings {
    /// Said before the count.
    greeting: String,
    #[serde(default)]
    words: Vec<String>,
    /// A file whose content is said instead.
    file: Option<String>,
}

#[async_trait]
impl Filter for Counting {
    fn phases(&self) -> Phases {
        Phases::REQUEST
    }

    async fn request(&self, _: &mut Context<'_>) -> Result<Verdict> {
        let seen = self.seen.fetch_add(1, Ordering::SeqCst) + 1;
        let text = format!("{} {seen}", self.greeting);
        Ok(Verdict::Respond(Response::new(StatusCode::OK).body(text)))
    }
}

struct Silent;

impl TcpFilter for Silent {}

fn embed(gateway: Gateway) -> Gateway {
    gateway
        .tcp_filter("silent", |(): ()| Ok(Silent))
        .register(|registry| {
            registry.http_with_files("counting", |settings: CountingSettings, files| {
                if settings.greeting.is_empty() {
                    return Err(BadSetting::new("greeting", "says nothing")
                        .hint("for example `hello`")
                        .into());
                }
                let greeting = match settings.file {
                    Some(file) => files.read_text(file)?,
                    None => settings.greeting,
                };
                assert_ne!(settings.words, ["panic"], "on purpose");
                Ok(Counting {
                    greeting,
                    seen: AtomicUsize::new(0),
                })
            });
        })
}

fn counted(settings: &str) -> String {
    let origin = "http://127.0.0.1:1".to_owned();
    let text = route("/", &[origin], &format!("filters:\n  - {settings}\n"));
    // Never the same places.
    format!("# {}\n{text}", "\n".repeat(settings.len() % 3))
}

#[test]
fn a_reload_keeps_a_filter_whose_settings_did_not_change() {
    let hello = "{type: counting, greeting: hello, words: [a]}";
    let gw = Gw::embed(counted(hello), embed);
    let mut client = gw.client();
    assert_eq!(client.get("/").text(), "hello 1");
    for same in [
        hello,
        "{words: ['a'],   greeting: \"hello\", type: counting}",
        "{type: counting, greeting: hello, words: [a], on_error: continue}",
    ] {
        let reload = gw.reload(counted(same));
        assert_eq!(reload.status, 200, "{}", reload.text());
    }
    assert_eq!(client.get("/").text(), "hello 2");
    for other in [
        "{type: counting, greeting: hello}",
        "{type: counting, greeting: goodbye, words: [a]}",
    ] {
        assert_eq!(gw.reload(counted(other)).status, 200);
        assert!(client.get("/").text().ends_with(" 1"), "{other}");
    }
    let refused = gw.reload(counted("{type: counting, greeting: 5}"));
    assert_eq!(refused.status, 422);
    assert!(
        refused.text().contains("filters[0].greeting"),
        "{}",
        refused.text()
    );
    assert_eq!(client.get("/").text(), "goodbye 2", "it goes on as before");
}

#[test]
fn what_a_filter_read_from_files_counts_as_its_settings() {
    let spoken = "{type: counting, greeting: x, file: said.txt}";
    let folder = tempfile::TempDir::new().unwrap();
    let (file, said) = (folder.path().join("c.yml"), folder.path().join("said.txt"));
    std::fs::write(&said, "one").unwrap();
    let own = "listen_addr: 127.0.0.1:0\nglobal_timeout_ms: 1000\nmax_connections: 10\nadmin: {listen_addr: \"127.0.0.1:0\"}\n";
    let write = |more: &str| std::fs::write(&file, format!("{own}{}{more}", counted(spoken)));
    write("").unwrap();
    let gateway = embed(Gateway::new(config::load(&file).unwrap()));
    let running = gateway.spawn().unwrap();
    let admin = running.admin_addr().unwrap();
    let host = admin.to_string();
    let reload = || Client::connect(admin).call("POST", "/reload", &[("Host", &host)], b"");
    let mut client = Client::connect(running.http_addr());
    assert_eq!(client.get("/").text(), "one 1");
    write("\n# another text\n").unwrap();
    assert_eq!(reload().status, 200);
    assert_eq!(client.get("/").text(), "one 2");
    std::fs::write(&said, "two").unwrap();
    assert_eq!(reload().status, 200);
    assert_eq!(client.get("/").text(), "two 1");
    std::fs::remove_file(&said).unwrap();
    let refused = reload();
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("said.txt"), "{}", refused.text());
    assert_eq!(client.get("/").text(), "two 2");
}

fn mistakes(routes: &str) -> String {
    let own = "listen_addr: 127.0.0.1:0\nglobal_timeout_ms: 1000\nmax_connections: 10\ntcp_proxy: {enabled: true}\nroutes:\n";
    let config = config::parse(&format!("{own}{routes}"), Path::new("c.yml"));
    let config = config.unwrap_or_else(|problems| panic!("{problems}"));
    let error = embed(Gateway::new(config)).check().unwrap_err();
    assert!(error.is_config());
    error.to_string()
}

#[test]
fn every_mistake_in_every_filter_is_told_at_once_with_line_and_column() {
    let said = mistakes(
        "  /a:\n    upstream: http://h\n    filters:\n    - type: cuonting\n      greeting: x\n    - type: counting\n      greetin: 5\n      words: [a, 5, b]\n    \
         - {type: silent}\n    - {type: counting, greeting: \"\"}\n    - {type: counting, greeting: x, words: [panic]}\n  \
         /b: {upstream: \"http://h\", filters: [{type: zebra}]}\n  \
         pg: {upstream: \"postgres://h\", filters: [{type: counting, greeting: x}, {type: silent, n: 1}, {type: slient}]}\n",
    );
    let expected = [
        "c.yml:9:7: routes./a.filters[0].type: unknown filter type `cuonting` (did you mean `counting`? known types: {http})",
        "c.yml:11:7: routes./a.filters[1].greeting: the key `greeting` is missing",
        "c.yml:12:7: routes./a.filters[1].greetin: is not a setting of `counting` (did you mean `greeting`?)",
        "c.yml:13:18: routes./a.filters[1].words[1]: invalid type: integer `5`, expected a string (put it in quotes if it is meant so)",
        "c.yml:14:8: routes./a.filters[2].type: `silent` is a filter of TCP routes, and this route is HTTP",
        "c.yml:15:24: routes./a.filters[3].greeting: says nothing (for example `hello`)",
        "c.yml:17:41: routes./b.filters[0].type: unknown filter type `zebra` (known types: {http})",
        "c.yml:18:45: routes.pg.filters[0].type: `counting` is a filter of HTTP routes, and this route is TCP",
        "c.yml:18:90: routes.pg.filters[1].n: is not a setting of `silent` (it takes none here)",
        "c.yml:18:98: routes.pg.filters[2].type: unknown filter type `slient` (did you mean `silent`? known types: silent)",
    ];
    let (panic, said): (Vec<&str>, Vec<&str>) =
        said.lines().partition(|line| line.starts_with("c.yml:16"));
    assert_eq!(panic.len(), 1, "{said:?}");
    assert!(
        panic[0].contains("routes./a.filters[4]: it panicked"),
        "{panic:?}"
    );
    let lines: Vec<&str> = said
        .into_iter()
        .filter(|l| l.starts_with("c.yml"))
        .collect();
    assert_eq!(
        lines,
        expected.map(|line| line.replace("{http}", &http_types()))
    );
}

/// The types of HTTP filters that are built in, and the one of these tests.
fn http_types() -> String {
    let schema = Registry::built_in().schema();
    let built_in = schema["$defs"]["filter"]["properties"]["type"]["enum"].as_array();
    let mut types: Vec<&str> = built_in
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str())
        .chain(["counting"])
        .collect();
    types.sort_unstable();
    types.join(", ")
}

#[test]
fn a_gateway_without_filter_types_says_so() {
    let text = "listen_addr: 127.0.0.1:0\nglobal_timeout_ms: 1\nmax_connections: 1\nroutes: {/: {upstream: \"http://h\", filters: [{type: x-own}]}}\n";
    let config = config::parse(text, Path::new("c.yml")).unwrap();
    let error = Gateway::new(config).check().unwrap_err().to_string();
    assert!(
        error.starts_with("c.yml:4:47: routes./.filters[0].type: unknown filter type `x-own` ("),
        "{error}"
    );
}

#[test]
fn the_schema_shows_a_filter_type_of_ones_own() {
    let text = "listen_addr: 127.0.0.1:0\nglobal_timeout_ms: 1\nmax_connections: 1\nroutes: {/: {upstream: \"http://h\"}}\n";
    let config = config::parse(text, Path::new("c.yml")).unwrap();
    let schema = embed(Gateway::new(config)).schema();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let takes = |filter: serde_json::Value| {
        validator.is_valid(&serde_json::json!({
            "listen_addr": "127.0.0.1:0", "global_timeout_ms": 1, "max_connections": 1,
            "routes": {"/": {"upstream": "http://h", "filters": [filter]}},
        }))
    };
    assert!(takes(
        serde_json::json!({"type": "counting", "greeting": "x"})
    ));
    assert!(takes(
        serde_json::json!({"type": "silent", "on_error": "continue"})
    ));
    assert!(!takes(
        serde_json::json!({"type": "counting", "greeting": 5})
    ));
    assert!(!takes(
        serde_json::json!({"type": "counting", "greetin": "x"})
    ));
    assert!(!takes(serde_json::json!({"type": "unheard_of"})));
    assert!(schema.to_string().contains("Said before the count."));
}
