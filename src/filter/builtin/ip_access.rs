//! `ip_access`: lets clients in by their address.
//!
//! Invariants: `deny` wins; an address that came as an IPv4-mapped IPv6 one (RFC 4291, section
//! 2.5.5.2) is its IPv4 one, in settings and in requests; a client that is not known is on no list.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use async_trait::async_trait;
use ipnet::{IpNet, Ipv4Net};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::error::Reason;
use crate::filter::{BadSetting, Context, Filter, Phases, Response, Result, Verdict};

/// Settings of `ip_access`: networks such as `10.0.0.0/8` and `fd00::/8`, or single addresses.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Settings {
    /// Who may come in; everyone when empty.
    allow: Vec<String>,
    /// Who may not, allowed or not.
    deny: Vec<String>,
}

/// The filter.
#[derive(Debug)]
pub(super) struct IpAccess {
    /// `None`: everyone.
    allow: Option<Networks>,
    deny: Networks,
}

pub(super) fn make(settings: Settings) -> Result<IpAccess> {
    let deny = Networks::parse("deny", &settings.deny)?;
    if settings.allow.is_empty() {
        return Ok(IpAccess { allow: None, deny });
    }
    let allow = Networks::parse("allow", &settings.allow)?;
    if allow.are_within(&deny) {
        let wrong = BadSetting::new("deny", "holds all of `allow`, so that nobody comes in");
        return Err(wrong.hint("`deny` wins; leave out one of the two").into());
    }
    Ok(IpAccess {
        allow: Some(allow),
        deny,
    })
}

#[async_trait]
impl Filter for IpAccess {
    fn phases(&self) -> Phases {
        Phases::REQUEST
    }

    async fn request(&self, cx: &mut Context<'_>) -> Result<Verdict> {
        let client = cx.client_ip().map(|ip| ip.to_canonical());
        let is_in = |networks: &Networks| match client {
            Some(ip) => networks.contain(ip),
            None => networks.are_everyone(),
        };
        let allowed = match (&self.allow, client) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(allow), Some(_)) => is_in(allow),
        };
        Ok(match allowed && !is_in(&self.deny) {
            true => Verdict::Continue,
            false => Verdict::Respond(Response::refusal(Reason::FilterRefused)),
        })
    }
}

/// Ranges of addresses, first and last, in order and apart from each other: one binary search,
/// however long a list is.
#[derive(Debug, Default)]
struct Networks {
    v4: Vec<(Ipv4Addr, Ipv4Addr)>,
    v6: Vec<(Ipv6Addr, Ipv6Addr)>,
}

impl Networks {
    fn parse(key: &str, texts: &[String]) -> Result<Networks> {
        let networks = texts.iter().map(|text| {
            network(text).ok_or_else(|| {
                BadSetting::new(key, format!("`{}` is not a network", text.escape_debug()))
                    .hint("for example `10.0.0.0/8` or `\"fd00::/8\"`")
            })
        });
        let networks: Vec<IpNet> = networks.collect::<std::result::Result<_, _>>()?;
        let mut ranges = Networks::default();
        for network in IpNet::aggregate(&networks) {
            match network {
                IpNet::V4(net) => ranges.v4.push((net.network(), net.broadcast())),
                IpNet::V6(net) => ranges.v6.push((net.network(), net.broadcast())),
            }
        }
        ranges.v4.sort_unstable();
        ranges.v6.sort_unstable();
        Ok(ranges)
    }

    fn are_everyone(&self) -> bool {
        self.v4 == [(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST)]
            && self.v6 == [(Ipv6Addr::UNSPECIFIED, Ipv6Addr::from_bits(u128::MAX))]
    }

    fn are_within(&self, other: &Networks) -> bool {
        fn each<A: Ord + Copy>(ranges: &[(A, A)], others: &[(A, A)]) -> bool {
            let covers = |(first, last): &(A, A), (a, b): &(A, A)| first <= a && b <= last;
            ranges
                .iter()
                .all(|range| others.iter().any(|other| covers(other, range)))
        }
        each(&self.v4, &other.v4) && each(&self.v6, &other.v6)
    }

    fn contain(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => within(&self.v4, ip),
            IpAddr::V6(ip) => within(&self.v6, ip),
        }
    }
}

fn within<A: Ord + Copy>(ranges: &[(A, A)], ip: A) -> bool {
    let behind = ranges.partition_point(|(first, _)| *first <= ip);
    behind > 0 && ranges[behind - 1].1 >= ip
}

fn network(text: &str) -> Option<IpNet> {
    let network: IpNet = match text.parse() {
        Ok(network) => network,
        Err(_) => text.parse::<IpAddr>().ok()?.into(),
    };
    let mapped = |net: ipnet::Ipv6Net| {
        let bits = net.prefix_len().checked_sub(96)?;
        Ipv4Net::new(net.addr().to_ipv4_mapped()?, bits).ok()
    };
    Some(match network {
        IpNet::V6(net) => mapped(net).map_or(IpNet::V6(net), IpNet::V4).trunc(),
        net => net.trunc(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Bed, refused, settings, wrong};
    use super::*;

    async fn is_let_in(yaml: &str, client: &str) -> bool {
        let filter = make(settings(yaml)).unwrap();
        let mut bed = Bed::get("/", &["Host: a"]).await;
        bed.client = client.parse().ok();
        match bed.request(&filter).await.unwrap() {
            Verdict::Continue => true,
            Verdict::Respond(response) => {
                assert_eq!(response.reason, Reason::FilterRefused);
                assert_eq!(response.status, None);
                false
            }
        }
    }

    #[tokio::test]
    async fn only_who_is_allowed_and_not_denied_comes_in() {
        let both = "{allow: [10.0.0.0/8, 192.0.2.7, 'fd00::/8'], deny: [10.6.0.0/16, 'fd00::6']}";
        for (yaml, client, expected) in [
            ("{}", "203.0.113.1", true),
            ("{}", "2001:db8::1", true),
            (both, "10.1.2.3", true),
            (both, "10.255.255.255", true),
            (both, "11.0.0.0", false),
            (both, "9.255.255.255", false),
            (both, "10.6.0.0", false),
            (both, "10.6.255.255", false),
            (both, "10.7.0.0", true),
            (both, "192.0.2.7", true),
            (both, "192.0.2.8", false),
            (both, "fd12::1", true),
            (both, "fd00::6", false),
            (both, "2001:db8::1", false),
            ("{deny: [10.0.0.0/8]}", "10.0.0.1", false),
            ("{deny: [10.0.0.0/8]}", "11.0.0.1", true),
            ("{deny: [0.0.0.0/0]}", "1.2.3.4", false),
            ("{deny: [0.0.0.0/0]}", "2001:db8::1", true),
            ("{allow: ['::/0']}", "1.2.3.4", false),
            ("{allow: ['::/0']}", "2001:db8::1", true),
        ] {
            assert_eq!(is_let_in(yaml, client).await, expected, "{yaml} {client}");
        }
    }

    #[tokio::test]
    async fn who_is_not_known_is_on_no_list() {
        for (yaml, expected) in [
            ("{}", true),
            ("{allow: ['0.0.0.0/0', '::/0']}", false),
            ("{allow: [127.0.0.0/8], deny: [10.0.0.0/8]}", false),
            ("{deny: [10.0.0.0/8]}", true),
            ("{deny: ['0.0.0.0/0']}", true),
            ("{deny: ['0.0.0.0/0', '::/0']}", false),
            ("{deny: ['0.0.0.0/1', '128.0.0.0/1', '::/0']}", false),
        ] {
            assert_eq!(is_let_in(yaml, "unknown").await, expected, "{yaml}");
        }
    }

    #[tokio::test]
    async fn a_mapped_address_is_its_ipv4_one() {
        for (yaml, client, expected) in [
            ("{allow: [10.0.0.0/8]}", "::ffff:10.0.0.1", true),
            ("{deny: [10.0.0.0/8]}", "::ffff:10.0.0.1", false),
            ("{deny: ['::ffff:10.0.0.0/104']}", "10.0.0.1", false),
            ("{allow: ['::ffff:10.0.0.1']}", "10.0.0.1", true),
            ("{allow: ['::ffff:10.0.0.1']}", "10.0.0.2", false),
        ] {
            assert_eq!(is_let_in(yaml, client).await, expected, "{yaml} {client}");
        }
    }

    #[test]
    fn overlapping_networks_become_ranges_apart_from_each_other() {
        let texts = [
            "10.1.0.0/16",
            "10.0.0.0/8",
            "10.0.0.1",
            "9.0.0.0/8",
            "10.200.0.7/32",
        ];
        let networks = Networks::parse("allow", &texts.map(str::to_owned)).unwrap();
        assert!(networks.v4.windows(2).all(|pair| pair[0].1 < pair[1].0));
        assert!(networks.contain("10.0.0.2".parse().unwrap()));
        assert!(networks.contain("10.255.0.2".parse().unwrap()));
        assert!(!networks.contain("8.0.0.2".parse().unwrap()));
    }

    #[test]
    fn wrong_settings_are_refused() {
        for (yaml, part) in [
            (
                "{allow: [10.0.0.0/33]}",
                "allow: `10.0.0.0/33` is not a network (for example",
            ),
            (
                "{deny: [10.0.0.1, example.org]}",
                "deny: `example.org` is not a network",
            ),
            ("{deny: ['']}", "deny: `` is not a network"),
            (
                "{allow: [10.1.0.0/16, 'fd00::1'], deny: [10.0.0.0/8, 'fd00::/8']}",
                "deny: holds all of `allow`, so that nobody comes in",
            ),
            (
                "{allow: [10.0.0.1], deny: ['0.0.0.0/0']}",
                "nobody comes in",
            ),
            ("{allow: [10.0.0]}", "is not a network"),
        ] {
            let error = wrong(make(settings(yaml)));
            assert!(error.contains(part), "{yaml}: {error}");
        }
        assert!(refused::<Settings>("{alow: []}").contains("unknown field"));
        assert!(refused::<Settings>("{allow: 10.0.0.0/8}").contains("invalid type"));
    }
}
