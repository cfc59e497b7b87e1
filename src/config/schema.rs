//! The JSON Schema of the configuration, made from the table of keys.
//!
//! Printed by `harbr-router schema`, for editors. Invariant: it accepts what the parser accepts; it
//! refuses what the parser refuses where JSON Schema (draft 2020-12) can express it. It is over 400
//! lines because it is one document, most of it literals.

use serde_json::{Map, Value, json};

use super::detect::{PROTOCOLS, db_type_words};
use super::keys::{Default, Key, Kind, On, Section};
use super::model::BALANCE_WORDS;
use super::parse::ON_ERROR;
use super::value::Scheme;

/// The whole schema.
pub(super) fn schema() -> Value {
    let mut root = section(Section::Root);
    let mut defs = Map::new();
    for part in Section::ALL {
        if part != Section::Root {
            defs.insert(name(part).into(), section(part));
        }
    }
    defs.insert("url".into(), url());
    defs.insert("endpoints".into(), endpoints());
    defs.insert("filter".into(), filter());
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!("harbr-router configuration");
    root["$defs"] = Value::Object(defs);
    root["allOf"] = json!([needs_tcp_proxy()]);
    root
}

/// One section: its keys, and rules between them.
fn section(section: Section) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for key in section.keys() {
        properties.insert(key.name.into(), property(key));
        if key.default == Default::Required {
            required.push(key.name);
        }
    }
    let mut out = json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    });
    match section {
        Section::Route => out["allOf"] = json!([hash_rule(), health_rule(), named_rule()]),
        Section::Upstream => out["allOf"] = json!([hash_rule(), health_rule()]),
        Section::Tls => {
            out["dependentRequired"] =
                json!({"client_auth": ["client_ca"], "client_crl": ["client_ca"]});
        }
        _ => {}
    }
    out
}

fn property(key: &Key) -> Value {
    let mut out = kind(key.kind);
    out["description"] = json!(match key.unit() {
        "" => key.meaning.to_owned(),
        unit => format!("{} ({unit})", key.meaning),
    });
    let default = match key.default {
        Default::Int(value) => Some(json!(value)),
        Default::Bool(value) => Some(json!(value)),
        Default::Text(value) => Some(json!(value)),
        Default::Json(text) => serde_json::from_str(text).ok(),
        Default::Required | Default::None | Default::Described(_) => None,
    };
    if let Some(default) = default {
        out["default"] = default;
    }
    out
}

fn kind(kind: Kind) -> Value {
    match kind {
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Int { min, max } => json!({"type": "integer", "minimum": min, "maximum": max}),
        Kind::Addresses => {
            let address = json!({
                "type": "string",
                "pattern": format!("^(?:{IPV4}|\\[{IPV6}\\]):{ANY_PORT}$"),
                "examples": ["0.0.0.0:8080", "[::]:8080"],
            });
            let list = json!({
                "type": "array",
                "items": address,
                "minItems": 1,
                "uniqueItems": true,
            });
            json!({"anyOf": [address, list]})
        }
        Kind::Text(pattern) => json!({
            "type": "string",
            "minLength": 1,
            "pattern": pattern.regex,
            "examples": [pattern.example],
        }),
        Kind::Choice(words) => json!({"enum": words}),
        // The list for editors that complete, the pattern for other spellings.
        Kind::Protocol => json!({
            "anyOf": [
                {"enum": db_type_words().collect::<Vec<_>>()},
                {"type": "string", "pattern": format!("^(?:{})$", schemes(|s| s != Scheme::Http))},
            ],
        }),
        Kind::Networks => json!({
            "type": "array",
            "items": {
                "type": "string",
                "pattern": format!(
                    "^(?:{IPV4}(?:/(?:[0-9]|[12][0-9]|3[0-2]))?|{IPV6}(?:/(?:[0-9]|[1-9][0-9]|1[01][0-9]|12[0-8]))?)$"
                ),
            },
        }),
        Kind::Statuses => {
            let one = json!([
                {"type": "integer", "minimum": 100, "maximum": 599},
                {
                    "type": "string",
                    "pattern": "^ *[1-5][0-9]{2} *(?:- *[1-5][0-9]{2} *)?(?:, *[1-5][0-9]{2} *(?:- *[1-5][0-9]{2} *)?)*$",
                },
            ]);
            json!({
                "anyOf": [
                    one[0],
                    one[1],
                    {"type": "array", "minItems": 1, "items": {"anyOf": one}},
                ],
            })
        }
        Kind::Protocols => json!({
            "anyOf": [
                {"const": false},
                {
                    "type": "array",
                    "items": {
                        "type": "string",
                        "pattern": format!("^{TOKEN}(?:/{TOKEN})?$"),
                        "not": {"pattern": "^(?:[Hh]2|[Hh][Tt][Tt][Pp]|[Tt][Ll][Ss](?:/|$))"},
                    },
                },
            ],
        }),
        Kind::Url => json!({"$ref": "#/$defs/url"}),
        Kind::Endpoints => json!({"$ref": "#/$defs/endpoints"}),
        Kind::Upstream => json!({
            "anyOf": [
                {"$ref": "#/$defs/endpoints"},
                {"type": "string", "pattern": NAME},
            ],
        }),
        Kind::Filters => json!({"type": "array", "items": {"$ref": "#/$defs/filter"}}),
        Kind::List(section) => json!({
            "type": "array",
            "minItems": 1,
            "items": {"$ref": reference(section)},
        }),
        Kind::Map(section) => json!({"$ref": reference(section)}),
        Kind::MapOrFalse(section) => {
            json!({"anyOf": [{"const": false}, {"$ref": reference(section)}]})
        }
        Kind::Named(Section::Route) => routes(),
        Kind::Named(section) => json!({
            "type": "object",
            "propertyNames": {"pattern": NAME},
            "additionalProperties": {"$ref": reference(section)},
        }),
    }
}

fn reference(section: Section) -> String {
    format!("#/$defs/{}", name(section))
}

const fn name(section: Section) -> &'static str {
    match section {
        Section::Root => "root",
        Section::TcpProxy => "tcp_proxy",
        Section::Admin => "admin",
        Section::Server => "server",
        Section::Tls => "tls",
        Section::Certificate => "certificate",
        Section::Http2 => "http2",
        Section::Upstream => "upstream",
        Section::Route => "route",
        Section::Endpoint => "endpoint",
        Section::HealthCheck => "health_check",
        Section::Ejection => "ejection",
        Section::Match => "match",
    }
}

/// The routes: a name is a TCP route, a key with `/` is one by `is_tcp` or by the scheme.
fn routes() -> Value {
    let route = json!({"$ref": reference(Section::Route)});
    let is_tcp = json!({"properties": {"is_tcp": {"const": true}}, "required": ["is_tcp"]});
    let is_not_tcp = json!({"properties": {"is_tcp": {"const": false}}, "required": ["is_tcp"]});
    let database = json!({
        "properties": {"upstream": some_url(|s| s.db_type().is_some())},
        "required": ["upstream"],
    });
    let http = json!({
        "properties": {"upstream": some_url(|s| s == Scheme::Http)},
        "required": ["upstream"],
    });
    let sure_tcp = json!({"anyOf": [is_tcp, {"allOf": [database, {"not": is_not_tcp}]}]});
    let sure_http = json!({"anyOf": [is_not_tcp, {"allOf": [http, {"not": is_tcp}]}]});
    let not_tcp_url = json!({
        "properties": {"upstream": {"not": some_url(|s| s == Scheme::Tcp)}},
    });
    let http_only = json!({
        "properties": {"upstream": {"not": some_url(|s| s != Scheme::Http)}},
    });
    json!({
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": "^[!#-\\[\\]-~]{1,2048}$"},
        "patternProperties": {
            "^[^/]+$": {
                "allOf": [route, without(On::Http), {"not": is_not_tcp}, tcp_health()],
            },
            HTTP_KEY: {
                "allOf": [
                    route,
                    {"if": {"not": is_tcp}, "then": not_tcp_url},
                    {"if": sure_tcp, "then": {"allOf": [without(On::Http), tcp_health()]}},
                    {
                        "if": sure_http,
                        "then": {"allOf": [without(On::Tcp), http_only, http_health()]},
                    },
                ],
            },
        },
        "additionalProperties": {
            "allOf": [route, {"anyOf": [sure_tcp, names_upstream()]}, without(On::Http)],
        },
    })
}

/// An upstream that has a URL of one of these schemes.
fn some_url(fits: impl Fn(Scheme) -> bool) -> Value {
    let pattern = format!("^(?:{})://", schemes(fits));
    let text = json!({"type": "string", "pattern": pattern});
    let map = json!({"type": "object", "properties": {"url": text}, "required": ["url"]});
    json!({
        "anyOf": [text, map, {"type": "array", "contains": {"anyOf": [text, map]}}],
    })
}

/// No key that belongs to the other kind of routes.
fn without(other: On) -> Value {
    let properties: Map<String, Value> = Section::Route
        .keys()
        .iter()
        .filter(|key| key.on == other)
        .map(|key| (key.name.to_owned(), json!(false)))
        .collect();
    json!({"properties": properties})
}

fn http_health() -> Value {
    json!({
        "properties": {
            "health_check": {
                "anyOf": [
                    {"const": false},
                    {"required": ["path"], "properties": {"user": false, "password": false}},
                ],
            },
        },
    })
}

fn tcp_health() -> Value {
    json!({
        "properties": {
            "hash_on": {"const": "client_ip"},
            "health_check": {
                "anyOf": [
                    {"const": false},
                    {"type": "object", "dependentRequired": {"status": ["path"]}},
                ],
            },
        },
    })
}

/// `balance: hash` and `hash_on` go together.
fn hash_rule() -> Value {
    let without_key: Vec<&str> = BALANCE_WORDS
        .iter()
        .copied()
        .filter(|word| *word != "hash")
        .collect();
    json!({
        "if": {"properties": {"balance": {"const": "hash"}}, "required": ["balance"]},
        "then": {"required": ["hash_on"]},
        // One that an embedder registered may hash, too.
        "else": {
            "if": {"properties": {"balance": {"enum": without_key}}},
            "then": {"properties": {"hash_on": false}},
        },
    })
}

/// Not both forms of a health check.
fn health_rule() -> Value {
    json!({"not": {"required": ["health_check", "health_check_path"]}})
}

/// A route that names an upstream does not describe it.
fn named_rule() -> Value {
    let theirs: Map<String, Value> = Section::Route
        .keys()
        .iter()
        .filter(|key| key.is_upstream())
        .map(|key| (key.name.to_owned(), json!(false)))
        .collect();
    json!({
        "if": names_upstream(),
        "then": {"properties": theirs},
    })
}

fn names_upstream() -> Value {
    json!({
        "properties": {"upstream": {"type": "string", "not": {"pattern": "://"}}},
        "required": ["upstream"],
    })
}

/// A route that is a name is TCP, and TCP is either on or off in so many words.
fn needs_tcp_proxy() -> Value {
    json!({
        "if": {
            "properties": {
                "routes": {"type": "object", "not": {"propertyNames": {"pattern": "/"}}},
            },
            "required": ["routes"],
        },
        "then": {
            "properties": {"tcp_proxy": {"required": ["enabled"]}},
            "required": ["tcp_proxy"],
        },
    })
}

fn filter() -> Value {
    json!({
        "type": "object",
        "properties": {
            "type": {
                "type": "string",
                "minLength": 1,
                "description": "the name of the filter; the other keys are its settings",
            },
            "on_error": {
                "enum": ON_ERROR,
                "default": ON_ERROR[0],
                "description": "what happens to a request when the filter itself fails",
            },
        },
        "required": ["type"],
    })
}

/// A URL, a map with one, or a list of both; not only backups.
fn endpoints() -> Value {
    let backup = json!({
        "type": "object",
        "properties": {"backup": {"const": true}},
        "required": ["backup"],
    });
    let one = json!({"anyOf": [{"$ref": "#/$defs/url"}, {"$ref": reference(Section::Endpoint)}]});
    json!({
        "anyOf": [
            {"allOf": [one, {"not": backup}]},
            {
                "type": "array",
                "items": one,
                "minItems": 1,
                "uniqueItems": true,
                "contains": {"not": backup},
            },
        ],
    })
}

fn url() -> Value {
    let host = format!("(?:{IPV4}|\\[{IPV6}\\]|{HOST_NAME})");
    let http = schemes(|scheme| scheme == Scheme::Http);
    let tcp = schemes(|scheme| scheme == Scheme::Tcp);
    let database = schemes(|scheme| scheme.db_type().is_some());
    json!({
        "type": "string",
        "pattern": format!(
            "^(?:(?:{http})://{host}(?::{PORT})?{PATH}/*|(?:{tcp})://{host}:{PORT}/*|(?:{database})://{host}(?::{PORT})?/*)$"
        ),
        "examples": ["http://127.0.0.1:3000", "postgres://db.example.org"],
    })
}

/// The schemes as an expression that ignores case: ECMA-262 has no inline flag for it.
fn schemes(fits: impl Fn(Scheme) -> bool) -> String {
    let any_case = |word: &str| -> String {
        word.chars()
            .map(|c| format!("[{}{}]", c.to_ascii_uppercase(), c.to_ascii_lowercase()))
            .collect()
    };
    let words: Vec<String> = PROTOCOLS
        .iter()
        .filter(|(_, scheme)| fits(*scheme))
        .map(|(word, _)| any_case(word))
        .collect();
    words.join("|")
}

const IPV4: &str = "(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\\.){3}(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
/// Looser than the parser: any digits and colons, at least two colons.
const IPV6: &str = "[0-9A-Fa-f]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*";
const PORT: &str =
    "0*(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";
const ANY_PORT: &str =
    "0*(?:[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";
/// Labels, the last of them not a number.
const HOST_NAME: &str = "(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\\.)*(?![0-9]+\\.?(?:[:/]|$))[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\\.?";
/// Segments that are neither empty nor dots nor stars.
const PATH: &str =
    "(?:/(?!\\.{1,2}(?:/|$)|\\*{1,2}(?:/|$))(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-F]{2})+)*";
/// RFC 9110, section 5.6.2.
const TOKEN: &str = "[A-Za-z0-9!#$%&'*+.^_`|~-]+";
const NAME: &str = "^[A-Za-z0-9_.-]{1,128}$";
/// `/prefix`, `host/prefix`, `*.host/prefix`.
const HTTP_KEY: &str = "^(?!\\*/)(?:\\*\\.)?(?:[A-Za-z0-9_.-]+|\\[[0-9A-Fa-f:.]+\\])?(?::[0-9]{1,5})?(?:/(?!\\*{1,2}(?:/|$))(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)+$";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_table_is_in_the_schema() {
        let schema = schema();
        assert!(schema["properties"]["listen_addr"].is_object());
        assert_eq!(schema["additionalProperties"], json!(false));
        for part in Section::ALL {
            let properties = match part {
                Section::Root => &schema["properties"],
                part => &schema["$defs"][name(part)]["properties"],
            };
            for key in part.keys() {
                let property = &properties[key.name];
                assert!(property["description"].is_string(), "{}", key.name);
            }
        }
    }

    #[test]
    fn it_is_a_valid_schema() {
        assert!(jsonschema::draft202012::meta::is_valid(&schema()));
        assert!(jsonschema::validator_for(&schema()).is_ok());
    }
}
