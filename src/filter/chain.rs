//! The filters of one route, in order.
//!
//! Its own file because it is what `http/` and `tcp/` call. Invariants: a filter that fails or
//! panics costs its own request and nothing else; a phase that no filter takes part in costs one
//! look at an empty list. Made by `compile`, kept by a route.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use super::files::FileRead;
use super::{Filter, TcpFilter};
use crate::config::{FilterSpec, OnError, Settings};

/// The filters of an HTTP route.
#[derive(Clone, Debug)]
pub struct Chain {
    steps: Arc<[Step<dyn Filter>]>,
}

/// The filters of a TCP route.
#[derive(Clone, Debug)]
pub struct TcpChain {
    steps: Arc<[Step<dyn TcpFilter>]>,
}

/// One filter and its place in the configuration.
pub(super) struct Step<F: ?Sized> {
    pub(super) name: Arc<str>,
    pub(super) on_error: OnError,
    pub(super) filter: Arc<F>,
    /// `None`: it is in no configuration.
    pub(super) origin: Option<Origin>,
}

/// What a filter was made from.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) settings: Settings,
    pub(super) files: Vec<FileRead>,
}

impl Chain {
    pub(super) fn new(steps: Vec<Step<dyn Filter>>) -> Chain {
        Chain {
            steps: steps.into(),
        }
    }

    pub(super) fn steps(&self) -> &[Step<dyn Filter>] {
        &self.steps
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

impl TcpChain {
    pub(super) fn new(steps: Vec<Step<dyn TcpFilter>>) -> TcpChain {
        TcpChain {
            steps: steps.into(),
        }
    }

    pub(super) fn steps(&self) -> &[Step<dyn TcpFilter>] {
        &self.steps
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

impl Default for Chain {
    fn default() -> Chain {
        Chain::new(Vec::new())
    }
}

impl Default for TcpChain {
    fn default() -> TcpChain {
        TcpChain::new(Vec::new())
    }
}

impl<F: ?Sized> Step<F> {
    /// Whether it would be the same if it were made from `spec` now.
    pub(super) fn is_made_from(&self, spec: &FilterSpec) -> bool {
        self.origin.as_ref().is_some_and(|origin| {
            *self.name == *spec.kind
                && origin.settings == spec.settings
                && origin.files.iter().all(FileRead::is_unchanged)
        })
    }
}

impl<F: ?Sized> Clone for Step<F> {
    fn clone(&self) -> Self {
        Step {
            name: self.name.clone(),
            on_error: self.on_error,
            filter: self.filter.clone(),
            origin: self.origin.clone(),
        }
    }
}

impl<F: ?Sized> fmt::Debug for Step<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let said = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text.as_str(),
        _ => "something that is no text",
    };
    format!("it panicked: {said}")
}
