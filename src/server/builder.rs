//! What a [`Gateway`] is given before it runs: filters, balancers, discoveries, services.
//!
//! The builder methods of [`Gateway`]; none of them opens or starts anything. Invariant: what is
//! added here stays for the life of the gateway, over reloads and, since the new process adds it,
//! too, over upgrades. Read by `mod.rs` when it assembles.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pingora_core::services::ServiceWithDependents;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::config;
use crate::error::Error;
use crate::filter::{self, Filter, Registry, TcpFilter};
use crate::server::{Gateway, Start};
use crate::upstream::Balancer;
use crate::upstream::discovery::Resolver;

impl Gateway {
    /// A gateway for the configuration in a file. Warnings of the configuration go to the log.
    ///
    /// # Errors
    /// Every problem in it, each with line and column.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Gateway, Error> {
        let config = config::load(path.as_ref());
        let config = config.map_err(|problems| Error::config(problems.to_string()))?;
        for warning in &config.warnings {
            log::warn!("{warning}");
        }
        Ok(Gateway::new(config))
    }

    /// Adds an HTTP filter type, which `filters: [{type: name, …}]` may name from now on. `S` is
    /// its settings; see [`Registry::http`].
    pub fn filter<S, F>(
        mut self,
        name: impl Into<String>,
        make: impl Fn(S) -> filter::Result<F> + Send + Sync + 'static,
    ) -> Gateway
    where
        S: DeserializeOwned + JsonSchema,
        F: Filter,
    {
        self.additions.filters.http(name, make);
        self
    }

    /// Adds a TCP filter type; see [`Registry::tcp`].
    pub fn tcp_filter<S, F>(
        mut self,
        name: impl Into<String>,
        make: impl Fn(S) -> filter::Result<F> + Send + Sync + 'static,
    ) -> Gateway
    where
        S: DeserializeOwned + JsonSchema,
        F: TcpFilter,
    {
        self.additions.filters.tcp(name, make);
        self
    }

    /// Lets `fill` add filter types in ways that have no method of their own here.
    pub fn register(mut self, fill: impl FnOnce(&mut Registry)) -> Gateway {
        fill(&mut self.additions.filters);
        self
    }

    /// Puts a filter before those of every HTTP route. `name` is for the log.
    pub fn every_request(mut self, name: &str, filter: impl Filter) -> Gateway {
        self.additions.filters.every_http(name, Arc::new(filter));
        self
    }

    /// Puts a filter before those of every TCP route. `name` is for the log.
    pub fn every_session(mut self, name: &str, filter: impl TcpFilter) -> Gateway {
        self.additions.filters.every_tcp(name, Arc::new(filter));
        self
    }

    /// Adds a balancer, which `balance: name` may name from now on. `hash_on` may stand beside it.
    /// A built-in word cannot be taken.
    pub fn balancer(mut self, name: impl Into<String>, balancer: impl Balancer) -> Gateway {
        self.additions.balancers.add(name, balancer);
        self
    }

    /// Asks `resolver` instead of the system for the addresses of some hosts of upstreams: for the
    /// name `suffix`, or, when that begins with a dot, for every name that ends with it, as in
    /// `.consul`. It is asked again and again in the background, and never while a request waits.
    pub fn discovery(mut self, suffix: &str, resolver: impl Resolver + 'static) -> Gateway {
        self.resolvers.add(suffix, resolver);
        self
    }

    /// Runs a Pingora service beside ours, in the same Pingora server. Its sockets are its own
    /// affair: they do not take part in reloads and upgrades. It ends when the gateway has drained.
    pub fn service(mut self, service: impl ServiceWithDependents + 'static) -> Gateway {
        self.services.push(Box::new(service));
        self
    }

    /// The JSON Schema of a configuration for this gateway.
    pub fn schema(&self) -> serde_json::Value {
        let mut schema = self.additions.filters.schema();
        self.additions.balancers.add_to_schema(&mut schema);
        schema
    }

    /// Where [`run`](Gateway::run) writes its process id, instead of `server.pid_file`.
    pub fn pid_file(self, path: Option<PathBuf>) -> Gateway {
        Gateway {
            pid_file: path,
            ..self
        }
    }

    /// What [`run`](Gateway::run) calls once, when every listener accepts.
    pub fn on_serving(self, call: impl FnOnce() + Send + Sync + 'static) -> Gateway {
        Gateway {
            serving: Box::new(call),
            ..self
        }
    }

    /// What [`run`](Gateway::run) calls at USR1, after the access log: a log of the caller's own is
    /// opened again. Must not wait.
    pub fn on_reopen(self, call: impl Fn() + Send + Sync + 'static) -> Gateway {
        Gateway {
            reopen: Box::new(call),
            ..self
        }
    }

    /// The same, to take over the listening sockets of the process that runs with this
    /// configuration's `server.upgrade_sock`; where there is none, it starts as any other.
    pub fn upgrading(mut self) -> Gateway {
        self.start = Start::Upgrade;
        self
    }
}
