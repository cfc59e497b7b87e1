//! The last error of each endpoint, as the admin listener shows it.
//!
//! `/status` shows it as JSON, `/config` as comments. Invariant: a comment is one line whatever an
//! error contains.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::telemetry::rfc3339;
use crate::upstream::{LastError, Upstream};

/// Words and time (RFC 3339, UTC); null where nothing went wrong yet.
pub(super) fn shown(error: Option<LastError>) -> Value {
    error.map_or(
        Value::Null,
        |error| json!({"at": rfc3339(error.at), "text": error.text}),
    )
}

/// A line of YAML that says nothing, for each endpoint of `upstream` that had an error.
pub(super) fn comments(upstream: &Arc<Upstream>) -> Vec<String> {
    let line = |endpoint: String, error: &LastError| {
        let (upstream, at) = (upstream.label(), rfc3339(error.at));
        let text = &error.text;
        format!("# {at} upstream={upstream} endpoint={endpoint}: {text}\n")
    };
    let set = upstream.endpoints();
    let known = set.iter().filter_map(|endpoint| {
        let error = endpoint.last_error()?;
        let (label, addr) = (endpoint.label(), endpoint.addr());
        Some(line(format!("{label} addr={addr}"), &error))
    });
    let unresolved = upstream.unresolved();
    let unresolved = unresolved
        .into_iter()
        .filter_map(|(label, error)| Some(line(label, &error?)));
    known.chain(unresolved).collect()
}
