//! What a filter is given when it is made, besides its settings.
//!
//! Invariant: nothing runs and nothing is sent before the configuration is in force.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use super::files::{FileRead, Files};
use super::outbound::{NotServing, Outbound, UpstreamClient};
use super::tasks::{Task, Tasks};
use super::{BadSetting, Result};
use crate::config::{Config, did_you_mean};

/// Files, upstreams and background tasks for a filter that is being made.
pub struct Build<'a> {
    files: Files<'a>,
    config: &'a Config,
    outbound: Option<&'a dyn Outbound>,
    upstreams: Vec<String>,
    tasks: Vec<Task>,
}

impl<'a> Build<'a> {
    pub(super) fn new(config: &'a Config, outbound: Option<&'a dyn Outbound>) -> Build<'a> {
        Build {
            files: Files::beside(&config.file),
            config,
            outbound,
            upstreams: Vec::new(),
            tasks: Vec::new(),
        }
    }

    /// The files beside the configuration. What is read through them counts as settings.
    pub fn files(&mut self) -> &mut Files<'a> {
        &mut self.files
    }

    /// A client of the upstream `name`, which an HTTP route of the configuration must use: an entry
    /// of `upstreams`, or the key of a route with endpoints of its own. `setting` is the key of this
    /// filter's settings that names it.
    ///
    /// # Errors
    /// There is no such upstream. The configuration is refused with it, at the setting's line.
    pub fn upstream(&mut self, setting: &str, name: &str) -> Result<Arc<dyn UpstreamClient>> {
        if !is_upstream(self.config, name) {
            let message = format!("no HTTP route uses an upstream `{name}`");
            let bad = BadSetting::new(setting, message);
            return Err(match did_you_mean(name, upstreams(self.config)) {
                Some(meant) => bad.hint(meant),
                None => bad,
            }
            .into());
        }
        self.upstreams.push(name.to_owned());
        Ok(match self.outbound {
            Some(outbound) => outbound.client(name),
            None => Arc::new(NotServing),
        })
    }

    /// Runs `task` in the background from when the configuration is in force until the filter is
    /// gone: its entry was removed or changed and no request uses it any more, or the gateway has
    /// stopped. An error ends the task alone, and goes to the log under `name`. What it works out is
    /// handed to the filter through something shared, an `Arc` or a `watch` channel.
    pub fn background(
        &mut self,
        name: impl Into<String>,
        task: impl Future<Output = Result<()>> + Send + 'static,
    ) {
        self.tasks.push(Task {
            name: name.into(),
            future: Box::pin(task),
        });
    }

    pub(super) fn into_made_with(self) -> MadeWith {
        MadeWith {
            files: self.files.into_read(),
            upstreams: self.upstreams,
            tasks: match self.tasks.is_empty() {
                true => None,
                false => Some(Arc::new(Tasks::new(self.tasks))),
            },
        }
    }
}

impl fmt::Debug for Build<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Build")
            .field("files", &self.files)
            .field("upstreams", &self.upstreams)
            .finish_non_exhaustive()
    }
}

/// What a filter took when it was made.
#[derive(Clone, Debug)]
pub(super) struct MadeWith {
    files: Vec<FileRead>,
    upstreams: Vec<String>,
    pub(super) tasks: Option<Arc<Tasks>>,
}

impl MadeWith {
    /// Whether the filter would be made of the same: its files are unchanged, and the upstreams it
    /// calls are still there.
    pub(super) fn is_still_in(&self, config: &Config) -> bool {
        self.files.iter().all(FileRead::is_unchanged)
            && self.upstreams.iter().all(|name| is_upstream(config, name))
    }
}

fn upstreams(config: &Config) -> impl Iterator<Item = &str> {
    let routes = config.http_routes.iter();
    routes.map(|route| route.upstream.name.as_str())
}

fn is_upstream(config: &Config, name: &str) -> bool {
    upstreams(config).any(|known| known == name)
}
