//! The filter types that a configuration may name, and how each is made from its settings.
//!
//! Its own file because it is the seam between YAML and user code. Invariant: a name means one
//! type, for HTTP or for TCP. Filled by the `Gateway` builder; read when a snapshot is built.

use std::collections::BTreeSet;

use crate::config::{Config, FilterSpec};
use crate::error::Error;

/// The filter types that `filters: [{type: …}]` may name.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    kinds: BTreeSet<String>,
}

impl Registry {
    /// Refuses a configuration that names a filter type which nobody registered.
    pub fn check(&self, config: &Config) -> Result<(), Error> {
        let http = config.http_routes.iter().map(|r| (&r.key.text, &r.filters));
        let tcp = config.tcp_routes.iter().map(|r| (&r.name, &r.filters));
        let problems: Vec<String> = http
            .chain(tcp)
            .flat_map(|(route, filters)| filters.iter().map(move |filter| (route, filter)))
            .filter(|(_, filter)| !self.kinds.contains(&filter.kind))
            .map(|(route, filter)| self.unknown(config, route, filter))
            .collect();
        match problems.is_empty() {
            true => Ok(()),
            false => Err(Error::config(problems.join("\n"))),
        }
    }

    fn unknown(&self, config: &Config, route: &str, filter: &FilterSpec) -> String {
        let known: Vec<&str> = self.kinds.iter().map(String::as_str).collect();
        let known = match known.is_empty() {
            true => "none is built into this version".to_string(),
            false => known.join(", "),
        };
        format!(
            "{}:{}:{}: routes.{route}.filters: unknown filter type `{}` (known types: {known})",
            config.file.display(),
            filter.at.0,
            filter.at.1,
            filter.kind,
        )
    }
}
