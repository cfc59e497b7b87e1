//! The JSON Schema of a configuration, with every registered filter's settings in it.
//!
//! Invariant: it takes what the registry takes.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::registry::Registry;
use crate::config;

impl Registry {
    /// The schema of a configuration that may name these types.
    pub fn schema(&self) -> Value {
        let mut schema = config::schema();
        if self.kinds.is_empty() {
            return schema;
        }
        let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
        let mut generator = SchemaGenerator::new(settings);
        let names: Vec<&String> = self.kinds.keys().collect();
        let each: Vec<Value> = self
            .kinds
            .iter()
            .map(|(name, kind)| {
                let settings = (kind.schema)(&mut generator).to_value();
                let on_error = schema["$defs"]["filter"]["properties"]["on_error"].clone();
                json!({
                    "if": {"properties": {"type": {"const": name}}, "required": ["type"]},
                    "then": with_settings(name, on_error, settings),
                })
            })
            .collect();
        let filter = &mut schema["$defs"]["filter"];
        filter["properties"]["type"]["enum"] = json!(names);
        filter["allOf"] = Value::Array(each);
        // Only types that hold themselves are left here.
        for (name, definition) in generator.take_definitions(true) {
            schema["$defs"][name] = definition;
        }
        schema
    }
}

/// The schema of one entry of `filters`: its settings, and the two keys that every filter has.
fn with_settings(name: &str, on_error: Value, settings: Value) -> Value {
    let both = json!({"type": {"const": name}, "on_error": on_error});
    let mut settings = match settings {
        Value::Object(settings) => settings,
        _ => Map::new(),
    };
    settings.remove("$schema");
    settings.remove("title");
    let is_null = settings.get("type") == Some(&json!("null"));
    if is_null {
        settings.clear();
    }
    let composed = ["oneOf", "anyOf", "allOf", "$ref", "if"];
    if composed.iter().any(|key| settings.contains_key(*key)) {
        let mut inner = Value::Object(settings);
        open(&mut inner);
        return json!({
            "type": "object",
            "properties": both,
            "required": ["type"],
            "allOf": [inner],
            "unevaluatedProperties": false,
        });
    }
    settings.insert("type".into(), json!("object"));
    settings
        .entry("additionalProperties")
        .or_insert(json!(false));
    let properties = settings.entry("properties").or_insert(json!({}));
    if let (Value::Object(properties), Value::Object(both)) = (properties, both) {
        properties.extend(both);
    }
    Value::Object(settings)
}

/// Lets a schema and the alternatives in it take other keys, which the one around it judges.
fn open(schema: &mut Value) {
    let Value::Object(schema) = schema else {
        return;
    };
    if schema.get("additionalProperties") == Some(&json!(false)) {
        schema.remove("additionalProperties");
    }
    for key in ["oneOf", "anyOf", "allOf"] {
        if let Some(Value::Array(parts)) = schema.get_mut(key) {
            parts.iter_mut().for_each(open);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use schemars::JsonSchema;
    use serde::Deserialize;

    use super::*;
    use crate::filter::{FromFn, Verdict, from_fn};

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Plain {
        #[expect(dead_code, reason = "only its schema is looked at")]
        requests: u32,
        #[expect(dead_code, reason = "only its schema is looked at")]
        #[serde(default)]
        tags: BTreeMap<String, String>,
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    enum OneOf {
        #[expect(dead_code, reason = "only its schema is looked at")]
        Prefix(Plain),
        #[expect(dead_code, reason = "only its schema is looked at")]
        Word { to: String },
    }

    fn registry() -> Registry {
        fn none<S>(_: S) -> crate::filter::Result<FromFn<Nothing>> {
            Ok(from_fn(nothing as Nothing))
        }
        type Nothing = fn(&mut crate::filter::Context<'_>) -> crate::filter::Result<Verdict>;
        fn nothing(_: &mut crate::filter::Context<'_>) -> crate::filter::Result<Verdict> {
            Ok(Verdict::Continue)
        }
        let mut registry = Registry::default();
        registry.http("plain", none::<Plain>);
        registry.http("one_of", none::<OneOf>);
        registry.http("bare", none::<()>);
        registry
    }

    #[test]
    fn the_schema_takes_what_each_type_takes_and_nothing_else() {
        let schema = registry().schema();
        assert!(jsonschema::draft202012::meta::is_valid(&schema));
        let schema = jsonschema::validator_for(&schema).unwrap();
        let takes = |filter: Value| {
            schema.is_valid(&json!({
                "listen_addr": "127.0.0.1:0", "global_timeout_ms": 1, "max_connections": 1,
                "routes": {"/": {"upstream": "http://h", "filters": [filter]}},
            }))
        };
        for good in [
            json!({"type": "plain", "requests": 5}),
            json!({"type": "plain", "requests": 5, "on_error": "continue", "tags": {"a": "b"}}),
            json!({"type": "one_of", "word": {"to": "x"}}),
            json!({"type": "one_of", "prefix": {"requests": 1}, "on_error": "refuse"}),
            json!({"type": "bare"}),
        ] {
            assert!(takes(good.clone()), "{good}");
        }
        for bad in [
            json!({"type": "plain"}),
            json!({"type": "plain", "requests": "5"}),
            json!({"type": "plain", "requests": 5, "more": 1}),
            json!({"type": "plain", "requests": 5, "on_error": "maybe"}),
            json!({"type": "one_of"}),
            json!({"type": "one_of", "word": {"to": "x"}, "prefix": {"requests": 1}}),
            json!({"type": "one_of", "word": {"to": "x"}, "more": 1}),
            json!({"type": "bare", "more": 1}),
            json!({"type": "unheard_of"}),
        ] {
            assert!(!takes(bad.clone()), "{bad}");
        }
    }
}
