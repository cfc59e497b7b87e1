//! Who is asked for the addresses of a name.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

/// How long an answer is good for.
pub const REFRESH: Duration = Duration::from_secs(30);

/// Gives the addresses of a name.
#[async_trait]
pub trait Resolver: Send + Sync {
    /// An empty list counts as an error. IPv4 and IPv6 addresses are taken for two ways to the same
    /// servers, pair by pair; the family of the first address is tried first.
    async fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;

    /// How long an answer for `host` is good for. Less than 200 ms counts as that.
    fn refresh(&self, _host: &str) -> Duration {
        REFRESH
    }
}

/// The resolver of the operating system (`getaddrinfo` on a blocking thread). `localhost` and what
/// is below it are this machine in both families (RFC 6761, section 6.3), whatever the hosts file
/// names.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolver for SystemResolver {
    async fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let answer = tokio::net::lookup_host((host, port)).await;
        let answer = answer.map(Iterator::collect);
        match is_localhost(host) {
            true => Ok(with_loopback(answer.unwrap_or_default(), port)),
            false => answer,
        }
    }
}

fn is_localhost(host: &str) -> bool {
    let last = host.trim_end_matches('.').rsplit('.').next();
    last.is_some_and(|label| label.eq_ignore_ascii_case("localhost"))
}

/// Adds the family that is missing, behind the one that is there.
fn with_loopback(mut answer: Vec<SocketAddr>, port: u16) -> Vec<SocketAddr> {
    if !answer.iter().any(SocketAddr::is_ipv4) {
        answer.push((Ipv4Addr::LOCALHOST, port).into());
    }
    if !answer.iter().any(SocketAddr::is_ipv6) {
        answer.push((Ipv6Addr::LOCALHOST, port).into());
    }
    answer
}

/// Who is asked for which names: discoveries of the embedder's for theirs, the system for the rest.
#[derive(Default)]
pub struct Resolvers {
    by_suffix: Vec<(String, Arc<dyn Resolver>)>,
}

impl Resolvers {
    /// `resolver` is asked for `suffix` and, when that begins with a dot, for what ends with it.
    /// Case and a dot at the end do not matter; the longest suffix that fits decides.
    pub fn add(&mut self, suffix: &str, resolver: impl Resolver + 'static) {
        let suffix = plain(suffix);
        self.by_suffix.retain(|(other, _)| *other != suffix);
        self.by_suffix.push((suffix, Arc::new(resolver)));
    }

    fn of(&self, host: &str) -> &dyn Resolver {
        let host = plain(host);
        let fits = |suffix: &str| match suffix.starts_with('.') {
            true => host.ends_with(suffix),
            false => host == suffix,
        };
        let fitting = self.by_suffix.iter().filter(|(suffix, _)| fits(suffix));
        match fitting.max_by_key(|(suffix, _)| suffix.len()) {
            Some((_, resolver)) => resolver.as_ref(),
            None => &SystemResolver,
        }
    }
}

fn plain(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

#[async_trait]
impl Resolver for Resolvers {
    async fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        self.of(host).lookup(host, port).await
    }

    fn refresh(&self, host: &str) -> Duration {
        self.of(host).refresh(host)
    }
}
