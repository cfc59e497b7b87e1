//! The filter types that a configuration may name, and how each is made from its settings.
//!
//! The seam between YAML and user code. Invariant: a name means one type, for HTTP or for TCP.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use schemars::{JsonSchema, SchemaGenerator};
use serde::de::DeserializeOwned;

use super::build::Build;
use super::catch_panic::catch_panic;
use super::files::Files;
use super::outbound::Outbound;
use super::{BadSetting, Filter, Result, TcpFilter};
use crate::config::{FilterSpec, Problem, Wrong};

/// The filter types that `filters: [{type: …}]` may name, and the filters that are everywhere.
#[derive(Default)]
pub struct Registry {
    pub(super) kinds: BTreeMap<String, Kind>,
    pub(super) every_http: Vec<(Arc<str>, Arc<dyn Filter>)>,
    pub(super) every_tcp: Vec<(Arc<str>, Arc<dyn TcpFilter>)>,
    /// `None`: what is made here is not served.
    pub(super) outbound: Option<Arc<dyn Outbound>>,
}

/// One filter type.
pub(super) struct Kind {
    pub(super) make: Make,
    pub(super) author: Author,
    /// The JSON Schema of its settings.
    pub(super) schema: fn(&mut SchemaGenerator) -> schemars::Schema,
}

/// Who wrote a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Author {
    BuiltIn,
    Embedder,
}

/// How a filter is made from an entry of the file that is named.
type MakeFrom<F> = dyn Fn(&FilterSpec, &Path, &mut Build<'_>) -> std::result::Result<Arc<F>, Vec<Problem>>
    + Send
    + Sync;

pub(super) enum Make {
    Http(Box<MakeFrom<dyn Filter>>),
    Tcp(Box<MakeFrom<dyn TcpFilter>>),
}

impl Registry {
    /// An HTTP filter type. `S` is its settings: a struct of which each unknown key is an error, or
    /// `()`. A type that was there by this name, a built-in one too, is replaced.
    pub fn http<S, F>(
        &mut self,
        name: impl Into<String>,
        make: impl Fn(S) -> Result<F> + Send + Sync + 'static,
    ) where
        S: DeserializeOwned + JsonSchema,
        F: Filter,
    {
        self.http_with_files(name, move |settings: S, _: &mut Files<'_>| make(settings));
    }

    /// As [`http`](Registry::http), for a filter whose settings name files: what it reads through
    /// [`Files`] counts as its settings.
    pub fn http_with_files<S, F>(
        &mut self,
        name: impl Into<String>,
        make: impl Fn(S, &mut Files<'_>) -> Result<F> + Send + Sync + 'static,
    ) where
        S: DeserializeOwned + JsonSchema,
        F: Filter,
    {
        self.http_with(name, move |settings: S, build: &mut Build<'_>| {
            make(settings, build.files())
        });
    }

    /// As [`http`](Registry::http), for a filter that calls upstreams or works in the background:
    /// [`Build`] has what it needs for either.
    pub fn http_with<S, F>(
        &mut self,
        name: impl Into<String>,
        make: impl Fn(S, &mut Build<'_>) -> Result<F> + Send + Sync + 'static,
    ) where
        S: DeserializeOwned + JsonSchema,
        F: Filter,
    {
        let make = Make::Http(Box::new(move |spec, file, build| {
            let filter = made(spec, file, build, &make)?;
            Ok(Arc::new(filter) as Arc<dyn Filter>)
        }));
        let schema = SchemaGenerator::subschema_for::<S>;
        self.kinds.insert(
            name.into(),
            Kind {
                make,
                schema,
                author: Author::Embedder,
            },
        );
    }

    /// A TCP filter type, as [`http`](Registry::http).
    pub fn tcp<S, F>(
        &mut self,
        name: impl Into<String>,
        make: impl Fn(S) -> Result<F> + Send + Sync + 'static,
    ) where
        S: DeserializeOwned + JsonSchema,
        F: TcpFilter,
    {
        self.tcp_with_files(name, move |settings: S, _: &mut Files<'_>| make(settings));
    }

    /// As [`tcp`](Registry::tcp), for a filter whose settings name files.
    pub fn tcp_with_files<S, F>(
        &mut self,
        name: impl Into<String>,
        make: impl Fn(S, &mut Files<'_>) -> Result<F> + Send + Sync + 'static,
    ) where
        S: DeserializeOwned + JsonSchema,
        F: TcpFilter,
    {
        self.tcp_with(name, move |settings: S, build: &mut Build<'_>| {
            make(settings, build.files())
        });
    }

    /// As [`tcp`](Registry::tcp), for a filter that calls upstreams or works in the background:
    /// [`Build`] has what it needs for either.
    pub fn tcp_with<S, F>(
        &mut self,
        name: impl Into<String>,
        make: impl Fn(S, &mut Build<'_>) -> Result<F> + Send + Sync + 'static,
    ) where
        S: DeserializeOwned + JsonSchema,
        F: TcpFilter,
    {
        let make = Make::Tcp(Box::new(move |spec, file, build| {
            let filter = made(spec, file, build, &make)?;
            Ok(Arc::new(filter) as Arc<dyn TcpFilter>)
        }));
        let schema = SchemaGenerator::subschema_for::<S>;
        self.kinds.insert(
            name.into(),
            Kind {
                make,
                schema,
                author: Author::Embedder,
            },
        );
    }

    /// A filter of every HTTP route, before those that the configuration names. `name` is for the
    /// log.
    pub fn every_http(&mut self, name: &str, filter: Arc<dyn Filter>) {
        self.every_http.push((Arc::from(name), filter));
    }

    /// A filter of every TCP route, before those that the configuration names. `name` is for the
    /// log.
    pub fn every_tcp(&mut self, name: &str, filter: Arc<dyn TcpFilter>) {
        self.every_tcp.push((Arc::from(name), filter));
    }

    /// What filters that are made from now on call upstreams through.
    pub fn call_through(&mut self, outbound: Arc<dyn Outbound>) {
        self.outbound = Some(outbound);
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |all: &mut dyn Iterator<Item = &Arc<str>>| all.cloned().collect::<Vec<_>>();
        f.debug_struct("Registry")
            .field("kinds", &self.kinds.keys())
            .field(
                "every_http",
                &names(&mut self.every_http.iter().map(|e| &e.0)),
            )
            .field(
                "every_tcp",
                &names(&mut self.every_tcp.iter().map(|e| &e.0)),
            )
            .finish()
    }
}

/// Reads the settings and makes the filter. One that panics over its settings is a problem of the
/// configuration, too.
fn made<S: DeserializeOwned, F>(
    spec: &FilterSpec,
    file: &Path,
    build: &mut Build<'_>,
    make: impl Fn(S, &mut Build<'_>) -> Result<F>,
) -> std::result::Result<F, Vec<Problem>> {
    let settings = spec.read::<S>(file)?;
    catch_panic(|| make(settings, build)).map_err(|error| {
        let (setting, hint) = match error.downcast_ref::<BadSetting>() {
            Some(bad) => (Some(bad.setting.as_str()), bad.hint.clone()),
            None => (None, None),
        };
        let message = error.to_string();
        vec![spec.problem(file, setting, Wrong { message, hint })]
    })
}
