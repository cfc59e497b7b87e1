//! Balancers that come from outside: `balance:` with a name of the embedder's.
//!
//! Foreign code takes part in a pick here. Invariants: it sees only endpoints that may be picked,
//! and never none; one that panics or returns an index beside them costs a warning, once for each
//! upstream, and the pick goes on in turns.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use super::endpoint::{Endpoint, EndpointId};
use crate::config::{BALANCE_WORDS, Balance, BalancerRef, Config, Problem, Problems, UpstreamSpec};
use crate::error::Error;

/// Chooses among endpoints: what `balance: name` means when it was registered under that name.
///
/// One value serves every upstream that names it, and stays over reloads. It is asked for each try
/// of a request and each session, so it must not wait; with `max_connections` the queue stands
/// still meanwhile.
pub trait Balancer: Send + Sync + 'static {
    /// The index of one of `candidates`, which are never empty: those that are healthy, have room
    /// and were not tried yet, in the order of the configuration.
    fn pick(&self, candidates: &[Candidate<'_>], wish: &Wish<'_>) -> usize;
}

/// An endpoint that may be picked.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// `host:port` as configured; a name with several addresses is there several times.
    pub label: &'a str,
    /// The resolved address that it is known by; a host with both families has a second one.
    pub addr: SocketAddr,
    /// 1 to 1000.
    pub weight: u32,
    /// Requests or sessions that it has now.
    pub in_flight: usize,
}

/// Whom the endpoint is for.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The upstream's name, or the key of its route.
    pub upstream: &'a str,
    /// FNV-1a (64 bits) of what `hash_on` names: of the 4 or 16 bytes of an address, of the bytes
    /// of a path, header or cookie; the same in every gateway and version. `None` without
    /// `hash_on`, and when the request does not have it.
    pub hash: Option<u64>,
}

/// The balancers that `balance` may name beside the built-in words.
#[derive(Clone, Default)]
pub struct Balancers {
    by_name: BTreeMap<String, Arc<dyn Balancer>>,
}

impl Balancers {
    /// Registers one; another of this name is replaced.
    pub fn add(&mut self, name: impl Into<String>, balancer: impl Balancer) {
        self.by_name.insert(name.into(), Arc::new(balancer));
    }

    /// Refuses a configuration that names a balancer which nobody registered.
    ///
    /// # Errors
    /// Each such place, or a registered name that would never be asked because it is built in.
    pub fn check(&self, config: &Config) -> Result<(), Error> {
        if let Some(name) = self.by_name.keys().find(|name| !BalancerRef::can_be(name)) {
            let text = match BALANCE_WORDS.contains(&name.as_str()) {
                true => format!("a balancer cannot be called `{name}`: that one is built in"),
                false => format!("a balancer cannot be called `{name}`: that is no word"),
            };
            return Err(Error::config(text));
        }
        let known = || self.by_name.keys().map(String::as_str);
        let problems: Vec<Problem> = config
            .balancers
            .iter()
            .filter(|named| !self.by_name.contains_key(&named.name))
            .take(MAX_PROBLEMS)
            .map(|named| named.unknown(&config.file, known()))
            .collect();
        match problems.is_empty() {
            true => Ok(()),
            false => Err(Error::config(Problems::new(problems).to_string())),
        }
    }

    /// Lets a schema of the configuration take these names, too.
    pub fn add_to_schema(&self, schema: &mut Value) {
        match schema {
            Value::Object(map) => {
                if let Some(Value::Array(words)) = map.get_mut("balance").and_then(words_of) {
                    words.extend(self.by_name.keys().map(|name| Value::from(name.as_str())));
                }
                map.values_mut().for_each(|value| self.add_to_schema(value));
            }
            Value::Array(items) => items.iter_mut().for_each(|value| self.add_to_schema(value)),
            _ => {}
        }
    }

    /// What an upstream asks. `None`: its balance is built in.
    pub(super) fn of(&self, spec: &UpstreamSpec) -> Option<Arc<Custom>> {
        let Balance::Custom { name, .. } = &spec.balance else {
            return None;
        };
        Some(Arc::new(Custom {
            balancer: self.by_name.get(name)?.clone(),
            name: name.clone(),
            upstream: spec.name.clone(),
            warned: AtomicBool::new(false),
        }))
    }
}

/// The list of all words of `balance`: it begins with the default, where rules name some of them.
fn words_of(balance: &mut Value) -> Option<&mut Value> {
    let words = balance.get_mut("enum")?;
    let all = BALANCE_WORDS.iter().map(|word| Value::from(*word));
    words.as_array()?.iter().cloned().eq(all).then_some(words)
}

impl fmt::Debug for Balancers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_name.keys()).finish()
    }
}

/// How endpoints of one upstream are chosen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule<'a> {
    pub(super) balance: &'a Balance,
    pub(super) custom: Option<&'a Arc<Custom>>,
}

impl<'a> Rule<'a> {
    pub(super) fn new(balance: &'a Balance, custom: Option<&'a Arc<Custom>>) -> Rule<'a> {
        Rule { balance, custom }
    }
}

/// A balancer as one upstream uses it.
pub(super) struct Custom {
    name: String,
    upstream: String,
    balancer: Arc<dyn Balancer>,
    warned: AtomicBool,
}

impl Custom {
    /// The member it wants. `None`: nobody has room, or it gave no usable answer.
    pub(super) fn ask(
        &self,
        members: &[Arc<Endpoint>],
        hash: Option<u64>,
        avoid: &[EndpointId],
    ) -> Option<usize> {
        let having_room = || (0..members.len()).filter(|member| members[*member].has_room());
        let mut eligible: Vec<usize> = having_room()
            .filter(|member| !avoid.contains(&members[*member].id()))
            .collect();
        if eligible.is_empty() {
            // Nothing else is left: those that were tried already.
            eligible.extend(having_room());
        }
        let candidates: Vec<Candidate<'_>> = eligible
            .iter()
            .map(|member| Candidate {
                label: members[*member].label(),
                addr: members[*member].addr(),
                weight: members[*member].weight().as_u32(),
                in_flight: members[*member].in_flight(),
            })
            .collect();
        if candidates.is_empty() {
            return None;
        }
        let wish = Wish {
            upstream: &self.upstream,
            hash,
        };
        match catch_unwind(AssertUnwindSafe(|| self.balancer.pick(&candidates, &wish))) {
            Ok(nth) if nth < eligible.len() => Some(eligible[nth]),
            Ok(nth) => {
                let of = eligible.len();
                self.warn(format_args!("it chose number {nth} of {of}, from 0"));
                None
            }
            Err(_) => {
                self.warn(format_args!("it panicked"));
                None
            }
        }
    }

    fn warn(&self, what: fmt::Arguments<'_>) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            log::warn!(
                "balancer {} failed, round_robin takes its place whenever it does: {what}; \
                 upstream={}",
                self.name,
                self.upstream
            );
        }
    }
}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Problems that are reported.
const MAX_PROBLEMS: usize = 100;
