//! The entries of `upstreams`: upstreams that routes name.
//!
//! An entry outlives the route that finishes it. Invariant: all routes that name one share one
//! `Arc`, and it carries one protocol.

use std::collections::HashMap;
use std::sync::Arc;

use super::carries::Carries;
use super::fields::Fields;
use super::report::Report;
use super::upstream::Draft;
use crate::config::keys::Section;
use crate::config::model::UpstreamSpec;
use crate::config::problem::Wrong;
use crate::config::trail::Trail;
use crate::config::tree::Value;

/// The entries of `upstreams`.
pub(super) struct Named<'a> {
    pub(super) list: Vec<NamedUpstream<'a>>,
    pub(super) by_name: HashMap<&'a str, usize>,
}

pub(super) struct NamedUpstream<'a> {
    pub(super) name: &'a str,
    /// `None`: the entry is no map, a problem already.
    pub(super) fields: Option<Fields<'a>>,
    pub(super) draft: Option<Draft>,
    pub(super) used: Option<Used>,
}

/// What the first route made of an upstream.
pub(super) struct Used {
    pub(super) carries: Carries,
    pub(super) route: String,
    pub(super) spec: Arc<UpstreamSpec>,
}

impl<'a> Named<'a> {
    pub(super) fn read(
        report: &mut Report,
        root: &'a Fields<'a>,
        trail: &'a Trail<'a>,
    ) -> Named<'a> {
        let mut named = Named {
            list: Vec::new(),
            by_name: HashMap::new(),
        };
        let Some(field) = root.find("upstreams") else {
            return named;
        };
        let Value::Map(entries) = &field.node.value else {
            let wrong = Wrong::new(
                format!(
                    "must be a map from names to upstreams, not {}",
                    field.node.kind()
                ),
                "for example `web: {upstream: \"http://127.0.0.1:3000\"}`",
            );
            root.wrong(report, "upstreams", wrong);
            return named;
        };
        for entry in entries {
            let here = trail.key(&entry.key);
            if !is_upstream_name(&entry.key) {
                let wrong = Wrong::new(
                    "is not the name of an upstream",
                    "letters, digits, `_`, `-` and `.`, at most 128",
                );
                report.problem(entry.key_at, here, wrong);
            }
            let fields = Fields::open(report, &entry.value, entry.key_at, here, Section::Upstream);
            let draft = fields.as_ref().and_then(|fields| {
                let upstream = fields.require(report, "upstream")?;
                Draft::read(report, fields, upstream)
            });
            named.by_name.insert(&entry.key, named.list.len());
            named.list.push(NamedUpstream {
                name: &entry.key,
                fields,
                draft,
                used: None,
            });
        }
        named
    }

    pub(super) fn find(&mut self, name: &str) -> Option<&mut NamedUpstream<'a>> {
        let index = *self.by_name.get(name)?;
        self.list.get_mut(index)
    }

    /// Warns of drafts that no route finished; entries with problems are left out.
    pub(super) fn warn_unused(&self, report: &mut Report) {
        for upstream in &self.list {
            if let (Some(fields), Some(_), None) =
                (&upstream.fields, &upstream.draft, &upstream.used)
            {
                report.warn(fields.at, fields.trail, "no route uses this upstream");
            }
        }
    }
}

fn is_upstream_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}
