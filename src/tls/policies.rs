//! What a client is asked for, by the name that it asks for.
//!
//! A handshake comes before the request, so it must fit every route that the name can lead to: one
//! that all of them agree on, else `optional`, and the request is judged by its route.

use std::collections::HashMap;

use crate::config::{ClientCertPolicy, Config, HostPattern, Tls};

/// The policies of one configuration.
pub(super) struct Policies {
    exact: HashMap<String, ClientCertPolicy>,
    /// By the name below the star.
    wildcard: HashMap<String, ClientCertPolicy>,
    any: ClientCertPolicy,
}

impl Policies {
    pub(super) fn of(config: &Config, tls: &Tls) -> Policies {
        let otherwise = match &tls.client_auth {
            Some(auth) => auth.policy,
            None => ClientCertPolicy::None,
        };
        let of = |host: &dyn Fn(&HostPattern) -> bool| {
            let routes = config.http_routes.iter();
            let asked = routes.filter(|route| host(&route.key.host));
            together(asked.map(|route| route.client_auth)).unwrap_or(otherwise)
        };
        let mut policies = Policies {
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            any: of(&|host| *host == HostPattern::Any),
        };
        for route in &config.http_routes {
            match &route.key.host {
                HostPattern::Any => {}
                HostPattern::Exact(name) => {
                    let policy = of(&|host| leads(host, name));
                    policies.exact.insert(name.clone(), policy);
                }
                HostPattern::Wildcard(below) => {
                    let policy = of(&|host| leads(host, &format!("any.{below}")));
                    policies.wildcard.insert(below.clone(), policy);
                }
            }
        }
        policies
    }

    /// Each that some name has.
    pub(super) fn all(&self) -> Vec<ClientCertPolicy> {
        let named = self.exact.values().chain(self.wildcard.values()).copied();
        let mut all: Vec<_> = named.chain([self.any]).collect();
        all.sort();
        all.dedup();
        all
    }

    /// That of clients which ask for this name, or for none.
    pub(super) fn of_name(&self, name: Option<&str>) -> ClientCertPolicy {
        let Some(name) = name else {
            return self.any;
        };
        if let Some(policy) = self.exact.get(name) {
            return *policy;
        }
        let mut below = name;
        while let Some((_, rest)) = below.split_once('.') {
            if let Some(policy) = self.wildcard.get(rest) {
                return *policy;
            }
            below = rest;
        }
        self.any
    }
}

/// Whether requests for `name` can come to routes of this host.
fn leads(host: &HostPattern, name: &str) -> bool {
    match host {
        HostPattern::Any => true,
        HostPattern::Exact(exact) => exact == name,
        HostPattern::Wildcard(below) => name
            .strip_suffix(below.as_str())
            .is_some_and(|label| label.ends_with('.')),
    }
}

/// What fits all of them.
fn together(mut all: impl Iterator<Item = ClientCertPolicy>) -> Option<ClientCertPolicy> {
    let first = all.next()?;
    Some(match all.all(|other| other == first) {
        true => first,
        false => ClientCertPolicy::Optional,
    })
}
