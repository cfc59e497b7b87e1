//! `rate_limit`: so many requests for each client, and no more.
//!
//! The counting is in `buckets`. Invariant: a request is charged once, however often it is tried.
//!
//! Clients are distinguished by their address, IPv6 ones by its first 64 bits: a customer has a
//! network of that size at the least, and all of its addresses. With `key: header:NAME` it is the
//! header's value; a client chooses it, so limit only by what was checked before. Requests without
//! the header, or with several of it, share one bucket, and so do clients whose address is not
//! known.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use schemars::JsonSchema;
use serde::Deserialize;

use super::buckets::{Buckets, Rate, Taken};
use crate::error::Reason;
use crate::filter::{BadSetting, Context, Filter, Phases, Response, ResponseHead, Result, Verdict};

/// Settings of `rate_limit`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// For each client in `per_secs`.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    requests: u64,
    /// Seconds.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 86_400))]
    per_secs: u64,
    /// How many may come at once after a pause; as many as `requests` unless it says otherwise.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    burst: Option<u64>,
    /// What distinguishes clients: `client_ip` or `header:NAME`.
    #[serde(default = "client_ip")]
    key: String,
    /// Clients that are remembered, the others share their places: about 100 bytes each.
    #[serde(default = "many")]
    #[schemars(range(min = 1, max = 10_000_000))]
    max_keys: u64,
}

fn one() -> u64 {
    1
}

fn client_ip() -> String {
    "client_ip".to_owned()
}

fn many() -> u64 {
    100_000
}

/// The filter.
#[derive(Debug)]
pub(super) struct RateLimit {
    buckets: Buckets,
    key: Key,
    burst: u64,
    /// What the buckets' times count from.
    since: Instant,
}

pub(super) fn make(settings: Settings) -> Result<RateLimit> {
    let within = |key: &str, value: u64, most: u64| match (1..=most).contains(&value) {
        true => Ok(value),
        false => {
            let message = format!("must be 1 to {most}, not {value}");
            Err(BadSetting::new(key, message))
        }
    };
    let requests = within("requests", settings.requests, 1_000_000_000)?;
    let per_secs = within("per_secs", settings.per_secs, 86_400)?;
    let burst = within("burst", settings.burst.unwrap_or(requests), 1_000_000_000)?;
    let max_keys = within("max_keys", settings.max_keys, 10_000_000)?;
    let rate = Rate {
        requests,
        per_secs,
        burst,
    };
    Ok(RateLimit {
        buckets: Buckets::new(rate, max_keys as usize),
        key: Key::parse(&settings.key)?,
        burst,
        since: Instant::now(),
    })
}

#[async_trait]
impl Filter for RateLimit {
    fn phases(&self) -> Phases {
        Phases::REQUEST | Phases::RESPONSE
    }

    async fn request(&self, cx: &mut Context<'_>) -> Result<Verdict> {
        let key = self.key.of(cx.client_ip(), &cx.request().headers);
        let taken = self.buckets.take(key, self.since.elapsed());
        let quota = Quota::new(self.burst, taken);
        let shown = match cx.extensions().get::<Quota>() {
            Some(other) => quota.tighter(*other),
            None => quota,
        };
        cx.extensions_mut().insert(shown);
        let Some(wait) = taken.wait else {
            return Ok(Verdict::Continue);
        };
        let mut response = Response::refusal(Reason::RateLimited)
            .header(header::RETRY_AFTER, HeaderValue::from(whole_secs(wait)));
        for (name, value) in quota.headers() {
            response = response.header(name, value);
        }
        Ok(Verdict::Respond(response))
    }

    fn response(&self, cx: &mut Context<'_>, head: &mut ResponseHead<'_>) -> Result<()> {
        let Some(quota) = cx.extensions().get::<Quota>() else {
            return Ok(());
        };
        for (name, value) in quota.headers() {
            head.set(name, value)?;
        }
        Ok(())
    }
}

/// What distinguishes clients.
#[derive(Debug)]
enum Key {
    ClientIp,
    /// By two hashes of its value, with random keys: a value may be long, and what is kept of it
    /// must not be.
    Header(HeaderName, [RandomState; 2]),
}

impl Key {
    fn parse(text: &str) -> Result<Key> {
        if text == "client_ip" {
            return Ok(Key::ClientIp);
        }
        let name = text.strip_prefix("header:");
        match name.map(|name| HeaderName::from_bytes(name.as_bytes())) {
            Some(Ok(name)) => Ok(Key::Header(name, [RandomState::new(), RandomState::new()])),
            _ => {
                let message = format!("`{}` does not tell clients apart", text.escape_debug());
                let wrong = BadSetting::new("key", message);
                Err(wrong.hint("`client_ip` or `header:NAME`").into())
            }
        }
    }

    fn of(&self, client: Option<IpAddr>, headers: &HeaderMap) -> u128 {
        match self {
            Key::ClientIp => match client.map(|ip| ip.to_canonical()) {
                Some(IpAddr::V4(ip)) => ip.to_ipv6_mapped().to_bits(),
                Some(IpAddr::V6(ip)) => ip.to_bits() & !u128::from(u64::MAX),
                // No address of either family makes it.
                None => u128::MAX,
            },
            Key::Header(name, hashes) => {
                let mut lines = headers.get_all(name).iter();
                let value = match (lines.next(), lines.next()) {
                    (Some(line), None) => Some(line.as_bytes()),
                    _ => None,
                };
                let [high, low] = hashes.each_ref().map(|hash| hash.hash_one(value));
                u128::from(high) << 64 | u128::from(low)
            }
        }
    }
}

/// What the response says of the limit, as of draft-ietf-httpapi-ratelimit-headers-06: how many a
/// full bucket holds, how many are left, and in how many seconds it is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Quota {
    limit: u64,
    remaining: u64,
    reset_secs: u64,
}

impl Quota {
    fn new(limit: u64, taken: Taken) -> Quota {
        Quota {
            limit,
            remaining: taken.remaining,
            reset_secs: whole_secs(taken.full_in),
        }
    }

    /// Of two limits the one that is nearer.
    fn tighter(self, other: Quota) -> Quota {
        match other.remaining < self.remaining {
            true => other,
            false => self,
        }
    }

    fn headers(self) -> [(HeaderName, HeaderValue); 3] {
        [
            (LIMIT, self.limit.into()),
            (REMAINING, self.remaining.into()),
            (RESET, self.reset_secs.into()),
        ]
    }
}

fn whole_secs(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

#[cfg(test)]
mod tests {
    use super::super::fixture::{Bed, refused, settings, wrong};
    use super::*;

    fn limit(yaml: &str) -> RateLimit {
        make(settings(yaml)).unwrap()
    }

    async fn bed(client: &str, header: &str) -> Bed {
        let lines: Vec<&str> = ["Host: a"].into_iter().chain(header.lines()).collect();
        let mut bed = Bed::get("/", &lines).await;
        bed.client = client.parse().ok();
        bed
    }

    async fn comes_in(filter: &RateLimit, client: &str, header: &str) -> bool {
        let verdict = bed(client, header).await.request(filter).await.unwrap();
        matches!(verdict, Verdict::Continue)
    }

    #[tokio::test]
    async fn each_address_has_its_own_bucket() {
        let filter = limit("{requests: 1, per_secs: 3600}");
        for (client, expected) in [
            ("192.0.2.1", true),
            ("192.0.2.1", false),
            ("::ffff:192.0.2.1", false),
            ("192.0.2.2", true),
            ("2001:db8:0:1::1", true),
            ("2001:db8:0:1:ffff::2", false),
            ("2001:db8:0:2::1", true),
            ("::1", true),
            ("unknown", true),
            ("unknown", false),
            ("255.255.255.255", true),
            ("ffff:ffff:ffff:ffff::1", true),
        ] {
            assert_eq!(comes_in(&filter, client, "").await, expected, "{client}");
        }
    }

    #[tokio::test]
    async fn or_each_value_of_a_header() {
        let filter = limit("{requests: 1, per_secs: 3600, key: 'header:X-Key'}");
        for (header, expected) in [
            ("X-Key: a", true),
            ("x-key: a", false),
            ("X-Key: b", true),
            ("", true),
            ("", false),
            ("X-Key: a\nX-Key: c", false),
            ("X-Key: c", true),
        ] {
            assert_eq!(
                comes_in(&filter, "192.0.2.1", header).await,
                expected,
                "{header}"
            );
        }
    }

    #[tokio::test]
    async fn accepted_and_refused_responses_tell_the_quota() {
        let filter = limit("{requests: 2, per_secs: 3600, burst: 1}");
        let mut accepted = bed("192.0.2.1", "").await;
        accepted.passes(&filter).await;
        let head = accepted.response(&filter, &[("RateLimit-Limit", "the endpoint's")]);
        assert_eq!(head.headers["ratelimit-limit"], "1");
        assert_eq!(head.headers["ratelimit-remaining"], "0");
        assert_eq!(head.headers["ratelimit-reset"], "1800");
        assert!(!head.headers.contains_key("retry-after"));

        let answer = bed("192.0.2.1", "").await.answer(&filter).await;
        assert_eq!((answer.reason, answer.status), (Reason::RateLimited, None));
        assert_eq!(answer.headers["retry-after"], "1800");
        assert_eq!(answer.headers["ratelimit-limit"], "1");
        assert_eq!(answer.headers["ratelimit-remaining"], "0");
        assert_eq!(answer.headers["ratelimit-reset"], "1800");
    }

    #[tokio::test]
    async fn of_two_limits_the_nearer_one_is_told() {
        let (far, near) = (
            limit("{requests: 100}"),
            limit("{requests: 5, per_secs: 60}"),
        );
        for (first, second) in [(&far, &near), (&near, &far)] {
            let mut bed = bed("192.0.2.9", "").await;
            bed.passes(first).await;
            bed.passes(second).await;
            for filter in [first, second] {
                let head = bed.response(filter, &[]);
                assert_eq!(head.headers["ratelimit-limit"], "5");
            }
        }
    }

    #[test]
    fn seconds_are_rounded_up() {
        assert_eq!(whole_secs(Duration::from_nanos(1)), 1);
        assert_eq!(whole_secs(Duration::from_secs(1)), 1);
        assert_eq!(whole_secs(Duration::from_millis(1001)), 2);
    }

    #[test]
    fn wrong_settings_are_refused() {
        for (yaml, part) in [
            ("{requests: 0}", "requests: must be 1 to 1000000000, not 0"),
            (
                "{requests: 1, per_secs: 0}",
                "per_secs: must be 1 to 86400, not 0",
            ),
            ("{requests: 1, burst: 0}", "burst: must be 1"),
            ("{requests: 1, max_keys: 0}", "max_keys: must be 1"),
            (
                "{requests: 1, max_keys: 99999999}",
                "max_keys: must be 1 to 10000000",
            ),
            (
                "{requests: 1, key: ip}",
                "key: `ip` does not tell clients apart (`client_ip`",
            ),
            ("{requests: 1, key: 'header:'}", "key:"),
            ("{requests: 1, key: 'header:a b'}", "key:"),
        ] {
            let error = wrong(make(settings(yaml)));
            assert!(error.contains(part), "{yaml}: {error}");
        }
        for (yaml, part) in [
            ("{}", "missing field `requests`"),
            ("{requests: 1, per_sec: 1}", "unknown field `per_sec`"),
            ("{requests: -1}", "integer `-1`"),
            ("{requests: 1.5}", "invalid type"),
        ] {
            let error = refused::<Settings>(yaml);
            assert!(error.contains(part), "{yaml}: {error}");
        }
    }
}
