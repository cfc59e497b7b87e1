//! The configuration as users meet it: every key accepted and refused, every mistake reported at
//! its place, parser and schema of one mind, and no text that breaks the parser.

mod effects;
mod hints;
mod mistakes;
mod seed;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use harbr_router::config::keys::{Kind, Section, markdown_table};
use harbr_router::config::{self, Config, DbType, Problems, tree};
use harbr_router::server::Gateway;
use proptest::prelude::*;
use serde_json::Value;

use mistakes::{MISTAKES, RefusedBy};

/// Where a snippet stands in an otherwise correct file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is the file.
    Whole,
    /// At the top of the file: line 6.
    Top,
    /// The key of an HTTP route: line 5.
    Key,
    /// Routes, without a `tcp_proxy` section: line 5.
    Routes,
    /// The keys of `/api`, which has none: line 6.
    Upstream,
    /// More keys of `/api`, which has an upstream: line 7.
    Route,
    /// More keys of `pg`, a Postgres route: line 8.
    Tcp,
    /// Routes, with TCP enabled: line 6.
    TcpRoutes,
    /// Routes, with TCP enabled and an upstream `web`: line 8.
    Named,
}

impl Place {
    pub fn file_with(self, snippet: &str) -> String {
        let head = "listen_addr: 127.0.0.1:0\nglobal_timeout_ms: 3000\nmax_connections: 9\n";
        let tcp = "tcp_proxy: {enabled: true}\n";
        match self {
            Place::Whole => snippet.to_owned(),
            Place::Top => {
                format!("{head}routes:\n  /: {{upstream: \"http://h\"}}\n{snippet}\n")
            }
            Place::Key => format!("{head}routes:\n  {snippet}:\n    upstream: http://h\n"),
            Place::Routes => format!("{head}routes:\n  {snippet}\n"),
            Place::Upstream => format!("{head}routes:\n  /api:\n    {snippet}\n"),
            Place::Route => {
                format!("{head}routes:\n  /api:\n    upstream: http://h\n    {snippet}\n")
            }
            Place::Tcp => {
                format!("{head}{tcp}routes:\n  pg:\n    upstream: postgres://h\n    {snippet}\n")
            }
            Place::TcpRoutes => format!("{head}{tcp}routes:\n  {snippet}\n"),
            Place::Named => format!(
                "{head}{tcp}upstreams:\n  web: {{upstream: \"http://h\"}}\nroutes:\n  {snippet}\n"
            ),
        }
    }
}

pub fn parse(text: &str) -> Result<Config, Problems> {
    config::parse(text, Path::new("c.yml"))
}

/// A text as the values that a schema looks at; `None` when it is not one YAML document.
fn values(text: &str) -> Option<Value> {
    let (node, problems) = tree::read(text, Path::new("c.yml"));
    match problems.is_empty() {
        true => serde_json::to_value(node?.to_yaml()).ok(),
        false => None,
    }
}

static SCHEMA: LazyLock<jsonschema::Validator> =
    LazyLock::new(|| jsonschema::validator_for(&config::schema()).expect("the schema is valid"));

fn conf(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("conf")
        .join(name)
}

const CONF: [&str; 4] = [
    "minimal.yaml",
    "gateway.yaml",
    "databases.yaml",
    "reference.yaml",
];

#[test]
fn every_mistake_is_reported_at_its_place() {
    assert!(MISTAKES.len() >= 120);
    for (place, snippet, _, start) in MISTAKES {
        let checked = match parse(&place.file_with(snippet)) {
            Ok(config) => Gateway::new(config).check().map_err(|e| e.to_string()),
            Err(problems) => Err(problems.to_string()),
        };
        let Err(problems) = checked else {
            panic!("accepted: {snippet}");
        };
        let first = problems.lines().next().unwrap_or_default();
        let found = first.strip_prefix("c.yml:").unwrap_or(first);
        assert!(found.starts_with(start), "{snippet}\n{found}\n{start}");
        assert!(first.ends_with(')'), "no hint: {first}");
        assert!(!problems.contains("secret"), "{problems}");
    }
}

#[test]
fn parser_and_schema_are_of_one_mind() {
    for (place, snippet, refused_by, _) in MISTAKES {
        let found = match values(&place.file_with(snippet)) {
            None => RefusedBy::Tree,
            Some(values) if SCHEMA.is_valid(&values) => RefusedBy::Parser,
            Some(_) => RefusedBy::Both,
        };
        assert_eq!(found, *refused_by, "{snippet}");
    }
}

#[test]
fn a_match_that_an_error_advises_for_the_path_of_a_url_is_accepted() {
    let mut advised = 0;
    for scheme in [
        "postgres",
        "postgresql",
        "mysql",
        "mariadb",
        "redis",
        "valkey",
        "mongodb",
        "mongo",
        "mssql",
        "oracle",
        "cql",
        "couchdb",
        "tcp",
    ] {
        for name in ["shop", "0", "yes", "null", "a b", "1e3", "my-db.x"] {
            let route = format!("x: {{upstream: \"{scheme}://h:7/{name}\"}}");
            let Err(problems) = parse(&Place::TcpRoutes.file_with(&route)) else {
                continue;
            };
            let problems = problems.to_string();
            let Some((_, hint)) = problems.split_once("`match: ") else {
                continue;
            };
            let (matches, _) = hint.split_once('`').unwrap();
            let route = format!("x: {{upstream: \"{scheme}://h:7\", match: {matches}}}");
            if let Err(problems) = parse(&Place::TcpRoutes.file_with(&route)) {
                panic!("{scheme}, {name}: {problems}");
            }
            advised += 1;
        }
    }
    assert!(advised > 0, "nothing was advised");
}

#[test]
fn two_mistakes_are_reported_at_once_in_the_order_of_the_file() {
    let text = "listen_addr: 127.0.0.1:0\n\
                global_timeout_ms: 3000\n\
                max_connections: 0\n\
                routes:\n\
                \x20 /api:\n\
                \x20   upstream: https://h\n\
                \x20   timeot_ms: 5\n\
                admn: false\n";
    assert_eq!(
        parse(text).unwrap_err().to_string(),
        "c.yml:3:1: max_connections: must be 1 to 10000000, not 0 (for example `max_connections: 1000`)\n\
         c.yml:6:5: routes./api.upstream: TLS to an upstream is not supported yet, and it would be sent in clear: `https://` (write `http://` if that is meant)\n\
         c.yml:7:5: routes./api.timeot_ms: is not a key of the configuration (did you mean `timeout_ms`?)\n\
         c.yml:8:1: admn: is not a key of the configuration (did you mean `admin`?)"
    );
}

#[test]
fn every_name_of_a_protocol_is_a_scheme_and_a_db_type_for_parser_and_schema() {
    for (name, kind) in [
        ("postgres", DbType::Postgres),
        ("postgresql", DbType::Postgres),
        ("PostgreSQL", DbType::Postgres),
        ("mysql", DbType::Mysql),
        ("MariaDB", DbType::Mysql),
        ("mongodb", DbType::Mongodb),
        ("mongo", DbType::Mongodb),
        ("redis", DbType::Redis),
        ("valkey", DbType::Redis),
        ("oracle", DbType::Oracle),
        ("sqlserver", DbType::Sqlserver),
        ("mssql", DbType::Sqlserver),
        ("cassandra", DbType::Cassandra),
        ("CQL", DbType::Cassandra),
        ("couchdb", DbType::Couchdb),
        ("influxdb", DbType::Influxdb),
        ("elasticsearch", DbType::Elasticsearch),
        ("tcp", DbType::Tcp),
    ] {
        // As both, as the scheme alone, and as the type of what the URL says nothing about.
        for route in [
            format!("upstream: \"{name}://h:7\", db_type: {name}"),
            format!("upstream: \"{name}://h:7\""),
            format!("upstream: \"tcp://h:7\", db_type: {name}, is_tcp: true"),
        ] {
            let text = Place::TcpRoutes.file_with(&format!("db: {{{route}}}"));
            let config = parse(&text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
            assert_eq!(config.tcp_routes[0].db_type, kind, "{route}");
            assert_eq!(config.warnings, Vec::<String>::new(), "{route}");
            let values = values(&text).expect("it is YAML");
            assert!(SCHEMA.is_valid(&values), "the schema refuses {route}");
        }
    }
}

#[test]
fn nonsense_is_refused_in_every_key() {
    for section in Section::ALL {
        for key in section.keys() {
            for nonsense in ["[[]]", "{a: {b: c}}", "null", "\"\\t\""] {
                let text = in_section(section, &format!("{}: {nonsense}", key.name));
                let name = format!("{}{}: {nonsense}", section.path(), key.name);
                let problems = match parse(&text) {
                    Ok(_) => panic!("the parser takes {name}"),
                    Err(problems) => problems,
                };
                let named = problems.0.iter().any(|p| p.path.contains(key.name));
                assert!(named, "{name}: {problems}");
                if key.kind != Kind::Bool || nonsense != "{}" {
                    let values = values(&text).expect("it is YAML");
                    assert!(!SCHEMA.is_valid(&values), "the schema takes {name}");
                }
            }
        }
    }
}

/// A file in which a section holds one line more than it must.
fn in_section(section: Section, line: &str) -> String {
    let required = [
        "listen_addr",
        "global_timeout_ms",
        "max_connections",
        "routes",
    ];
    let name = line.split(':').next().unwrap_or_default();
    match section {
        Section::Root if required.contains(&name) => {
            let rest = Place::Top.file_with("");
            let replaced =
                |l: &str| l.starts_with(name) || (name == "routes" && l.starts_with(' '));
            let kept: Vec<&str> = rest.lines().filter(|l| !replaced(l)).collect();
            format!("{}\n{line}\n", kept.join("\n"))
        }
        Section::Root => Place::Top.file_with(line),
        Section::TcpProxy => Place::Top.file_with(&format!("tcp_proxy: {{{line}}}")),
        Section::Admin => Place::Top.file_with(&format!("admin: {{{line}}}")),
        Section::Server => Place::Top.file_with(&format!("server: {{{line}}}")),
        Section::Http2 => Place::Top.file_with(&format!("http2: {{{line}}}")),
        Section::Tls if name == "certificates" => Place::Top.file_with(&format!("tls: {{{line}}}")),
        Section::Tls => {
            let needs = match name {
                "client_auth" | "client_crl" => "client_ca: a.pem, ",
                "redirect_http" => "listen_addr: \"0.0.0.0:8443\", ",
                _ => "",
            };
            let certificates = "certificates: [{cert: a.pem, key: a.key}]";
            Place::Top.file_with(&format!("tls: {{{certificates}, {needs}{line}}}"))
        }
        Section::Certificate => {
            let rest = match name {
                "cert" => "key: a.key",
                "key" => "cert: a.pem",
                _ => "cert: a.pem, key: a.key",
            };
            Place::Top.file_with(&format!("tls: {{certificates: [{{{rest}, {line}}}]}}"))
        }
        Section::Upstream if name == "upstream" => {
            Place::Top.file_with(&format!("upstreams: {{u: {{{line}}}}}"))
        }
        Section::Upstream => Place::Top.file_with(&format!(
            "upstreams: {{u: {{upstream: \"http://h\", {line}}}}}"
        )),
        Section::Route if name == "upstream" => Place::Upstream.file_with(line),
        Section::Route => Place::Route.file_with(line),
        Section::Endpoint if name == "url" => {
            Place::Upstream.file_with(&format!("upstream: {{{line}}}"))
        }
        Section::Endpoint => {
            Place::Upstream.file_with(&format!("upstream: {{url: \"http://h\", {line}}}"))
        }
        Section::HealthCheck => Place::Tcp.file_with(&format!("health_check: {{{line}}}")),
        Section::Ejection => Place::Route.file_with(&format!("ejection: {{{line}}}")),
        Section::Match => Place::Tcp.file_with(&format!("match: {{{line}}}")),
    }
}

#[test]
fn the_files_in_conf_are_accepted_by_parser_and_schema() {
    for name in CONF {
        let config = match config::load(&conf(name)) {
            Ok(config) => config,
            Err(problems) => panic!("{problems}"),
        };
        assert_eq!(config.warnings, Vec::<String>::new(), "{name}");
        let values = values(&config.text).expect("it is YAML");
        let errors: Vec<String> = SCHEMA.iter_errors(&values).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
    }
}

#[test]
fn the_gateway_file_has_http_and_databases() {
    let config = config::load(&conf("gateway.yaml")).unwrap();
    let http: Vec<&str> = config
        .http_routes
        .iter()
        .map(|r| r.key.text.as_str())
        .collect();
    assert_eq!(http, ["/api", "/static", "/"]);
    let tcp: Vec<(&str, u16)> = config
        .tcp_routes
        .iter()
        .map(|r| (r.name.as_str(), r.listen[0].port()))
        .collect();
    assert_eq!(tcp, [("mysql-primary", 9090), ("postgres-analytics", 5433)]);
    let lines = std::fs::read_to_string(conf("minimal.yaml")).unwrap();
    assert_eq!(lines.lines().count(), 6);
}

#[test]
fn the_reference_holds_every_key_and_its_default() {
    let text = std::fs::read_to_string(conf("reference.yaml")).unwrap();
    for section in Section::ALL {
        for key in section.keys() {
            let name = format!("{}{}", section.path(), key.name);
            let mut lines = text
                .lines()
                .map(|line| line.trim_start_matches([' ', '#', '-']));
            let start = format!("{}:", key.name);
            assert!(lines.clone().any(|line| line.starts_with(&start)), "{name}");
            let written = |value: &str| {
                lines.any(|line| {
                    line.strip_prefix(&start)
                        .is_some_and(|rest| rest.trim().trim_matches('"') == value)
                })
            };
            use harbr_router::config::keys::Default;
            let (mut written, default) = match key.default {
                Default::Int(value) => (written, value.to_string()),
                Default::Text(value) => (written, value.to_owned()),
                // `enabled` stands as true there because the file has TCP routes.
                Default::Bool(value) if key.name != "enabled" => (written, value.to_string()),
                _ => continue,
            };
            assert!(written(&default), "{name}: {default}");
        }
    }
}

#[test]
fn the_table_for_readers_has_a_row_for_each_key() {
    let table = markdown_table();
    let rows: usize = Section::ALL
        .into_iter()
        .map(|section| match section {
            Section::Upstream => 1,
            section => section.keys().len(),
        })
        .sum();
    assert_eq!(table.lines().count(), rows + 2);
}

#[test]
fn a_file_that_cannot_be_read_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none.yml");
    let problem = config::load(&missing).unwrap_err().to_string();
    assert!(
        problem.contains("none.yml: there is no such file (name one with `-c FILE`"),
        "{problem}"
    );
    let problem = config::load(folder.path()).unwrap_err().to_string();
    assert!(problem.contains("cannot be read"), "{problem}");
    let binary = folder.path().join("b.yml");
    std::fs::write(&binary, b"a: \xff\n").unwrap();
    let problem = config::load(&binary).unwrap_err().to_string();
    assert!(
        problem.contains("is not UTF-8, byte 4 cannot be read"),
        "{problem}"
    );
    let large = folder.path().join("l.yml");
    std::fs::write(&large, "é".repeat(5 << 20)).unwrap();
    let problem = config::load(&large).unwrap_err().to_string();
    assert!(problem.contains("is larger than 8 MiB"), "{problem}");
}

#[test]
fn paths_mean_the_folder_of_the_file() {
    let text = Place::Top.file_with("server: {pid_file: run/a.pid, log_file: /var/b.log}");
    let config = config::parse(&text, Path::new("/etc/harbr/config.yml")).unwrap();
    assert_eq!(config.server.pid_file, Some("/etc/harbr/run/a.pid".into()));
    assert_eq!(config.server.log_file, Some("/var/b.log".into()));
    let config = config::parse(&text, Path::new("config.yml")).unwrap();
    assert_eq!(config.server.pid_file, Some("run/a.pid".into()));
}

#[test]
fn secrets_are_never_printed() {
    let text = Place::Tcp
        .file_with("health_check: {user: u, password: hid-den}\nadmin: {token: hid-den-too}");
    let config = parse(&text).unwrap();
    assert_eq!(
        config
            .admin
            .as_ref()
            .unwrap()
            .token
            .as_ref()
            .unwrap()
            .reveal(),
        "hid-den-too"
    );
    assert!(!format!("{config:?}").contains("hid-den"));
    assert!(config.text.contains("hid-den"));
    let redacted = config.redacted_text();
    assert!(!redacted.contains("hid-den"), "{redacted}");
    assert!(parse(&redacted).is_ok(), "{redacted}");
}

#[test]
fn a_secret_may_come_from_the_environment() {
    let path = std::env::var("PATH").unwrap();
    let config = parse(&Place::Top.file_with("admin: {token: \"x${PATH}\"}")).unwrap();
    assert_eq!(
        config.admin.unwrap().token.unwrap().reveal(),
        format!("x{path}")
    );
}

#[test]
fn tcp_routes_are_checked_but_not_served_when_tcp_is_off() {
    let off = |routes: &str| {
        parse(&Place::Routes.file_with(&format!("{routes}\ntcp_proxy: {{enabled: false}}")))
    };
    let config = off("a: {upstream: \"postgres://h\"}").unwrap();
    assert!(config.tcp_routes.is_empty());
    assert_eq!(
        config.warnings,
        ["c.yml:6:13: tcp_proxy.enabled: is false, so TCP routes are not served: `a`"]
    );
    assert!(off("a: {upstream: \"tcp://h\"}").is_err());
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    for (routes, warning) in [
        (
            "a: {upstream: \"postgres://h\", db_type: redis}",
            "6:33: routes.a.db_type: says redis while scheme or port of the upstream say postgres; redis is used",
        ),
        (
            "a: {upstream: \"postgres://h\", match: {database: x}}",
            "6:3: routes.a.match: is the only route of 0.0.0.0:9090 and takes everything",
        ),
    ] {
        let config = parse(&Place::TcpRoutes.file_with(routes)).unwrap();
        assert_eq!(config.warnings, [format!("c.yml:{warning}")]);
    }
    let config = parse(&Place::Named.file_with("/: {upstream: \"http://h\"}")).unwrap();
    assert_eq!(
        config.warnings,
        ["c.yml:6:3: upstreams.web: no route uses this upstream"]
    );
}

#[test]
fn routes_that_can_be_told_apart_share_a_listener() {
    let config = parse(&Place::TcpRoutes.file_with(
        "a: {upstream: \"postgres://h\", match: {database: a}}\n  \
         b: {upstream: \"postgres://h\", match: {database: b, user: u}}\n  \
         c: {upstream: \"postgres://h\", match: {database: b, user: v}}\n  \
         d: {upstream: \"mysql://h\"}\n  \
         e: {upstream: \"redis://h\"}\n  \
         f: {upstream: \"redis://h\", match: {sni: f.example.org}}\n  \
         g: {upstream: \"tcp://h:1\", match: {sni: g.example.org}}\n  \
         h: {upstream: \"tcp://h:1\", default: true}\n  \
         i: {upstream: \"elasticsearch://h\"}",
    ));
    let config = config.unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.tcp_routes.len(), 9);
    assert!(config.tcp_routes.iter().all(|r| r.listen[0].port() == 9090));
    // What three of them differ by is said inside of TLS.
    let [warning] = config.warnings.as_slice() else {
        panic!("{:?}", config.warnings);
    };
    assert!(
        warning.contains("do not get it from `a`, `b`, `c`:"),
        "{warning}"
    );
}

/// Which Postgres routes of a listener are reached in TLS.
#[test]
fn a_match_that_takes_tls_away_is_a_warning() {
    let [a, b, sni, rest] = [
        "a: {upstream: \"postgres://h\", match: {database: a}}",
        "b: {upstream: \"postgres://h\", match: {database: b, user: u}}",
        "s: {upstream: \"postgres://h\", match: {sni: s.example.org}}",
        "r: {upstream: \"postgres://h\", default: true}",
    ];
    for (routes, named) in [
        (
            vec![a, rest],
            "routes.a.match: Postgres clients that ask for TLS on 0.0.0.0:9090 do not get it from `a`, `r`: ",
        ),
        (
            vec![b, a, rest],
            "routes.b.match: Postgres clients that ask for TLS on 0.0.0.0:9090 do not get it from `b`, `a`, `r`: ",
        ),
        // By name the others are reached.
        (
            vec![sni, a],
            "routes.a.match: Postgres clients that ask for TLS on 0.0.0.0:9090 do not get it from `a`: ",
        ),
        (
            vec![sni, a, rest],
            "routes.a.match: Postgres clients that ask for TLS on 0.0.0.0:9090 do not get it from `a`: ",
        ),
        (vec![sni, rest], ""),
        (
            vec![
                sni,
                "t: {upstream: \"postgres://h\", match: {sni: t.example.org}}",
            ],
            "",
        ),
        (
            vec![
                "p: {upstream: \"postgres://h\"}",
                "c: {upstream: \"redis://h\"}",
            ],
            "",
        ),
        (
            vec![
                sni,
                "x: {upstream: \"postgres://h\", tcp_listen_port: 5433}",
            ],
            "is the only route",
        ),
    ] {
        let text = Place::TcpRoutes.file_with(&routes.join("\n  "));
        let config = parse(&text).unwrap_or_else(|problems| panic!("{text}: {problems}"));
        match named.is_empty() {
            true => assert_eq!(config.warnings, Vec::<String>::new(), "{text}"),
            false => assert!(config.warnings[0].contains(named), "{:?}", config.warnings),
        }
    }
}

/// The cost of a file must grow with its size, not with its square: each of these would take
/// minutes otherwise.
#[test]
fn large_files_are_read_in_time() {
    let started = std::time::Instant::now();
    let many = |line: &dyn Fn(usize) -> String| -> String {
        (0..10_000).map(|n| format!("{}\n  ", line(n))).collect()
    };
    let good = many(&|n| format!("/r{n}: {{upstream: \"http://h{n}:80\", retry_count: 1}}"));
    assert_eq!(
        parse(&Place::Routes.file_with(&good))
            .unwrap()
            .http_routes
            .len(),
        10_000
    );
    let same = many(&|n| format!("/{}: {{upstream: \"http://h\"}}", "/".repeat(n % 100)));
    assert!(parse(&Place::Routes.file_with(&same)).is_err());
    let unknown = many(&|n| format!("/r{n}: {{upstream: nam{n}}}"));
    let problems = parse(&Place::Routes.file_with(&unknown)).unwrap_err();
    assert_eq!(problems.0.len(), 1001);
    assert!(problems.to_string().contains("and 9000 more problems"));
    let shared =
        many(&|n| format!("r{n}: {{upstream: \"postgres://h\", match: {{database: d{n}}}}}"));
    let config = parse(&Place::TcpRoutes.file_with(&shared)).unwrap();
    assert_eq!(config.tcp_routes.len(), 10_000);
    let endpoints: Vec<String> = (0..20_000).map(|n| format!("\"http://h{n}\"")).collect();
    let one = format!("/: {{upstream: [{}]}}", endpoints.join(","));
    assert!(parse(&Place::Routes.file_with(&one)).is_ok());
    let took = started.elapsed();
    assert!(took < std::time::Duration::from_secs(20), "{took:?}");
}

/// Texts that are nearly a configuration: a correct file with pieces cut, doubled or replaced.
fn mutated() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "",
        " ",
        "\n",
        "\t",
        ":",
        "-",
        "- ",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "'",
        "|",
        ">",
        "#",
        "&a ",
        "*a",
        "!x ",
        "<<",
        "---",
        "...",
        "%",
        "0",
        "-1",
        "1e9",
        "null",
        "true",
        "é",
        "\u{0}",
        "\u{feff}",
        "\r",
        "://",
        "http://",
        "tcp://",
        "${",
        "${PATH}",
        "upstream: ",
        "routes:",
        "*.",
        "%2e",
        "/../",
    ]);
    let edit = (any::<prop::sample::Index>(), 0usize..12, piece);
    (0..CONF.len(), prop::collection::vec(edit, 1..6)).prop_map(|(file, edits)| {
        let text = std::fs::read_to_string(conf(CONF[file])).unwrap();
        let mut chars: Vec<char> = text.chars().collect();
        for (index, length, piece) in edits {
            let start = index.index(chars.len() + 1);
            let end = (start + length).min(chars.len());
            chars.splice(start..end, piece.chars());
        }
        chars.into_iter().collect()
    })
}

proptest! {
    #[test]
    fn no_text_breaks_the_parser(text in any::<String>()) {
        let _ = parse(&text);
    }

    #[test]
    fn no_text_that_looks_like_yaml_breaks_the_parser(
        text in "([ \\n\\t:,{}\\[\\]&*!|>'\"%@`#?a0~.<-]|- |: |\\n  |--- |\\n\\? |é){0,60}"
    ) {
        let _ = parse(&text);
    }

    #[test]
    fn no_change_to_a_correct_file_breaks_the_parser(text in mutated()) {
        match parse(&text) {
            Ok(config) => {
                let _ = config.redacted_text();
                // What the parser takes, the schema takes.
                let values = values(&text).expect("it is YAML");
                // Names of balancers and filters, and filters' settings, are known one step later.
                prop_assert!(SCHEMA.is_valid(&values) || Gateway::new(config).check().is_err(), "{}", text);
            }
            Err(problems) => {
                prop_assert!(!problems.0.is_empty());
                let lines = text.matches(['\n', '\r']).count() + 1;
                for problem in &problems.0 {
                    prop_assert!((1..=lines).contains(&problem.line), "{}", problem);
                    prop_assert!(problem.column >= 1, "{}", problem);
                    prop_assert!(!problem.to_string().contains('\n'), "{}", problem);
                }
            }
        }
    }
}
