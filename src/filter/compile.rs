//! From a configuration to its filters: each route's chain, or everything that is wrong with them.
//!
//! Start, reload and `--test` all come through here. Invariant: a filter whose type, settings and
//! files are those it was made from is kept, with its state.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::build::Build;
use super::chain::{Chain, Origin, Step};
use super::registry::{Author, Make, Registry};
use super::tcp_chain::TcpChain;
use super::{Filter, TcpFilter};
use crate::config::{Config, FilterSpec, OnError, Problem, Problems, Wrong, did_you_mean};
use crate::error::Error;

/// The chains of a snapshot, by the route's key.
#[derive(Clone, Debug, Default)]
pub struct Chains {
    http: BTreeMap<String, Chain>,
    tcp: BTreeMap<String, TcpChain>,
}

impl Chains {
    /// The chain of an HTTP route; empty where there is none.
    pub fn http(&self, route: &str) -> Chain {
        self.http.get(route).cloned().unwrap_or_default()
    }

    /// The chain of a TCP route; empty where there is none.
    pub fn tcp(&self, route: &str) -> TcpChain {
        self.tcp.get(route).cloned().unwrap_or_default()
    }

    /// Begins the background tasks that have not begun: these chains are in force.
    pub fn start_tasks(&self, runtime: &Handle) {
        for chain in self.http.values() {
            chain
                .steps()
                .iter()
                .for_each(|step| step.start_tasks(runtime));
        }
        for chain in self.tcp.values() {
            chain
                .steps()
                .iter()
                .for_each(|step| step.start_tasks(runtime));
        }
    }
}

impl Registry {
    /// Makes the filters of `config`, keeping those of `previous` that are the same.
    ///
    /// # Errors
    /// Every entry that names an unknown type, or whose settings are wrong.
    pub fn compile(&self, config: &Config, previous: Option<&Chains>) -> Result<Chains, Error> {
        let mut work = Work {
            registry: self,
            config,
            problems: Vec::new(),
            dropped: 0,
        };
        let mut chains = Chains::default();
        for route in &config.http_routes {
            let before = previous.and_then(|chains| chains.http.get(&route.key.text));
            let mut steps = everywhere(&self.every_http);
            let kept = before.map_or(&[][..], Chain::steps);
            work.add(&mut steps, kept, &route.filters, Work::http);
            if !steps.is_empty() {
                chains
                    .http
                    .insert(route.key.text.clone(), Chain::new(steps));
            }
        }
        for route in &config.tcp_routes {
            let before = previous.and_then(|chains| chains.tcp.get(&route.name));
            let mut steps = everywhere(&self.every_tcp);
            let kept = before.map_or(&[][..], TcpChain::steps);
            work.add(&mut steps, kept, &route.filters, Work::tcp);
            if !steps.is_empty() {
                chains.tcp.insert(route.name.clone(), TcpChain::new(steps));
            }
        }
        work.finish().map(|()| chains)
    }
}

fn everywhere<F: ?Sized>(every: &[(Arc<str>, Arc<F>)]) -> Vec<Step<F>> {
    let step = |(name, filter): &(Arc<str>, Arc<F>)| Step {
        name: name.clone(),
        on_error: OnError::Refuse,
        filter: filter.clone(),
        author: Author::Embedder,
        origin: None,
    };
    every.iter().map(step).collect()
}

type Made<F> = Result<Arc<F>, Vec<Problem>>;

struct Work<'a> {
    registry: &'a Registry,
    config: &'a Config,
    problems: Vec<Problem>,
    dropped: usize,
}

impl Work<'_> {
    /// Adds a step for each entry: the one of before where it is the same, else a new one.
    fn add<F: ?Sized>(
        &mut self,
        steps: &mut Vec<Step<F>>,
        before: &[Step<F>],
        specs: &[FilterSpec],
        make: fn(&Self, &FilterSpec, &mut Build<'_>) -> Made<F>,
    ) {
        let mut left: Vec<&Step<F>> = before.iter().collect();
        for spec in specs {
            let same = left
                .iter()
                .position(|step| step.is_made_from(spec, self.config));
            if let Some(same) = same.map(|nth| left.remove(nth)) {
                steps.push(Step {
                    on_error: spec.on_error,
                    ..same.clone()
                });
                continue;
            }
            let mut build = Build::new(self.config, self.registry.outbound.as_deref());
            match make(self, spec, &mut build) {
                Ok(filter) => steps.push(Step {
                    name: Arc::from(spec.kind.as_str()),
                    on_error: spec.on_error,
                    filter,
                    author: self
                        .registry
                        .kinds
                        .get(&spec.kind)
                        .map_or(Author::Embedder, |k| k.author),
                    origin: Some(Origin {
                        settings: spec.settings.clone(),
                        with: build.into_made_with(),
                    }),
                }),
                Err(problems) => self.note(problems),
            }
        }
    }

    fn http(&self, spec: &FilterSpec, build: &mut Build<'_>) -> Made<dyn Filter> {
        match self.registry.kinds.get(&spec.kind).map(|kind| &kind.make) {
            Some(Make::Http(make)) => make(spec, &self.config.file, build),
            Some(Make::Tcp(_)) => Err(self.other_side(spec, "TCP", "HTTP")),
            None => Err(self.unknown(spec, |make| matches!(make, Make::Http(_)))),
        }
    }

    fn tcp(&self, spec: &FilterSpec, build: &mut Build<'_>) -> Made<dyn TcpFilter> {
        match self.registry.kinds.get(&spec.kind).map(|kind| &kind.make) {
            Some(Make::Tcp(make)) => make(spec, &self.config.file, build),
            Some(Make::Http(_)) => Err(self.other_side(spec, "HTTP", "TCP")),
            None => Err(self.unknown(spec, |make| matches!(make, Make::Tcp(_)))),
        }
    }

    fn other_side(&self, spec: &FilterSpec, its: &str, here: &str) -> Vec<Problem> {
        let wrong = Wrong {
            message: format!(
                "`{}` is a filter of {its} routes, and this route is {here}",
                spec.kind
            ),
            hint: None,
        };
        vec![spec.problem_of_type(&self.config.file, wrong)]
    }

    fn unknown(&self, spec: &FilterSpec, fits: fn(&Make) -> bool) -> Vec<Problem> {
        let kinds = self.registry.kinds.iter();
        let known: Vec<&str> = kinds
            .filter(|(_, kind)| fits(&kind.make))
            .map(|(name, _)| name.as_str())
            .collect();
        let guess = match self.problems.len() < MAX_GUESSES {
            true => did_you_mean(&spec.kind, known.iter().copied()),
            false => None,
        };
        let all = match known.is_empty() {
            true => "none is registered for this kind of route".to_owned(),
            false => format!("known types: {}", known.join(", ")),
        };
        let hint = match guess {
            Some(guess) => format!("{guess} {all}"),
            None => all,
        };
        let wrong = Wrong {
            message: format!("unknown filter type `{}`", spec.kind),
            hint: Some(hint),
        };
        vec![spec.problem_of_type(&self.config.file, wrong)]
    }

    fn note(&mut self, problems: Vec<Problem>) {
        for problem in problems {
            match self.problems.len() < MAX_PROBLEMS {
                true => self.problems.push(problem),
                false => self.dropped += 1,
            }
        }
    }

    fn finish(self) -> Result<(), Error> {
        if self.problems.is_empty() {
            return Ok(());
        }
        let mut text = Problems::new(self.problems).to_string();
        if self.dropped > 0 {
            text.push_str(&format!("\nand {} more problems", self.dropped));
        }
        Err(Error::config(text))
    }
}

/// Problems that are kept; the rest is counted.
const MAX_PROBLEMS: usize = 1000;
/// Problems after which nothing is searched for what was meant.
const MAX_GUESSES: usize = 100;
