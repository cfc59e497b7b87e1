//! What an explanation is made of, for requests and sessions alike.

use std::fmt::Write as _;

use crate::config::{Balance, EndpointSpec, HashOn, UpstreamSpec};

/// A few lines of text.
pub(crate) struct Explained {
    pub text: String,
    /// Whether there is a route.
    pub found: bool,
}

pub(super) fn describe_upstream(text: &mut String, spec: &UpstreamSpec) {
    let endpoints: Vec<String> = spec.endpoints.iter().map(endpoint).collect();
    let balance = match &spec.balance {
        Balance::RoundRobin => "round_robin".to_string(),
        Balance::LeastRequests => "least_requests".to_string(),
        Balance::Random => "random".to_string(),
        Balance::Hash(on) => format!("hash on {}", hashed(on)),
        Balance::Custom {
            name,
            hash_on: Some(on),
        } => format!("{name} on {}", hashed(on)),
        Balance::Custom { name, .. } => name.clone(),
    };
    line(
        text,
        "upstream",
        format!("{}: {balance} over {}", spec.name, endpoints.join(", ")),
    );
    if let Some(most) = spec.max_connections {
        let wait = spec.queue_timeout;
        line(
            text,
            "limit",
            format!("{most} at once, others wait up to {wait:?}, then 503"),
        );
    }
}

fn hashed(on: &HashOn) -> String {
    match on {
        HashOn::ClientIp => "client_ip".to_string(),
        HashOn::Path => "path".to_string(),
        HashOn::Header(name) => format!("header:{name}"),
        HashOn::Cookie(name) => format!("cookie:{name}"),
    }
}

fn endpoint(spec: &EndpointSpec) -> String {
    let mut text = spec.url.label.clone();
    if spec.weight.as_u32() != 1 {
        let _ = write!(text, " (weight {})", spec.weight.as_u32());
    }
    if spec.backup {
        text.push_str(" (backup)");
    }
    text
}

pub(super) fn line(text: &mut String, name: &str, value: impl AsRef<str>) {
    let _ = writeln!(text, "  {name:<10} {}", value.as_ref());
}

/// What `retry_count` does not count.
pub(super) const MOVE: &str =
    "and one uncounted after a failed connect, if there is another endpoint";
