//! `request_id`: one id for a request, on its way in and out.
//!
//! Invariant: an id is 1 to 128 visible ASCII characters, also one that a client chose, and stays
//! the same over all tries. [`RequestId::of`] is what `${request_id}` uses.

use std::sync::Arc;

use async_trait::async_trait;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, header};
use schemars::JsonSchema;
use serde::Deserialize;

use super::field_names::{WRITTEN_FOR_EACH_TRY, header_name, remove_twins};
use crate::filter::{BadSetting, Context, Filter, Phases, ResponseHead, Result, Verdict};

/// Settings of `request_id`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Settings {
    /// The header that carries the id to the endpoint and to the client.
    header: String,
    /// Whether an id that the client sends is kept, if it is 1 to 128 visible ASCII characters.
    trust: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            header: "X-Request-Id".to_owned(),
            trust: false,
        }
    }
}

/// The filter.
#[derive(Debug)]
pub(super) struct GiveRequestId {
    header: HeaderName,
    trust: bool,
}

pub(super) fn make(settings: Settings) -> Result<GiveRequestId> {
    let header = header_name(&settings.header).map_err(|why| BadSetting::new("header", why))?;
    if WRITTEN_FOR_EACH_TRY.contains(&header) || header == header::EXPECT {
        let message = format!("`{header}` is no place for an id");
        return Err(BadSetting::new("header", message)
            .hint("for example `X-Request-Id`")
            .into());
    }
    Ok(GiveRequestId {
        header,
        trust: settings.trust,
    })
}

#[async_trait]
impl Filter for GiveRequestId {
    fn phases(&self) -> Phases {
        Phases::REQUEST | Phases::RESPONSE
    }

    async fn request(&self, cx: &mut Context<'_>) -> Result<Verdict> {
        if self.trust
            && let Some(id) = RequestId::sent(&cx.request().headers, &self.header)
        {
            cx.extensions_mut().insert(id);
        }
        let value = RequestId::of(cx.extensions_mut()).value()?;
        let mut head = cx.request_mut();
        head.set(self.header.clone(), value)?;
        remove_twins(&mut head, &self.header, |_| false)?;
        Ok(Verdict::Continue)
    }

    fn response(&self, cx: &mut Context<'_>, head: &mut ResponseHead<'_>) -> Result<()> {
        let value = RequestId::of(cx.extensions_mut()).value()?;
        head.set(self.header.clone(), value)
    }
}

/// The id of a request, among its extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// The id of the request with these extensions; made now if it has none.
    pub fn of(extensions: &mut Extensions) -> RequestId {
        extensions
            .get_or_insert_with(|| RequestId(format!("{:032x}", rand::random::<u128>()).into()))
            .clone()
    }

    /// As it is sent in the header: 32 hexadecimal digits where the gateway made it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What a client sent, if it is one line and sane.
    fn sent(headers: &HeaderMap, name: &HeaderName) -> Option<RequestId> {
        let mut lines = headers.get_all(name).iter();
        let (line, None) = (lines.next()?, lines.next()) else {
            return None;
        };
        let id = line.to_str().ok()?;
        let sane = (1..=MAX_BYTES).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
        sane.then(|| RequestId(id.into()))
    }

    fn value(&self) -> Result<HeaderValue> {
        Ok(HeaderValue::from_str(&self.0)?)
    }
}

/// Of an id that a client chose; the access log takes as many.
const MAX_BYTES: usize = 128;

#[cfg(test)]
mod tests {
    use super::super::fixture::{Bed, refused, settings, wrong};
    use super::*;

    fn filter(yaml: &str) -> GiveRequestId {
        make(settings(yaml)).unwrap()
    }

    fn id(bed: &Bed) -> &str {
        bed.headers()["x-request-id"].to_str().unwrap()
    }

    #[tokio::test]
    async fn a_new_id_goes_up_and_down_and_stays_the_same() {
        let filter = filter("{}");
        let mut bed = Bed::get("/", &["Host: a", "X-Request-Id: mine"]).await;
        bed.passes(&filter).await;
        let given = id(&bed).to_owned();
        assert_eq!(given.len(), 32);
        assert!(given.bytes().all(|b| b.is_ascii_hexdigit()), "{given}");
        assert_eq!(bed.extensions.get::<RequestId>().unwrap().as_str(), given);
        let up = bed.upstream_request(&filter);
        assert_eq!(up.headers["x-request-id"], given);
        let down = bed.response(&filter, &[("X-Request-Id", "the endpoint's")]);
        assert_eq!(down.headers["x-request-id"], given);

        let mut other = Bed::get("/", &["Host: a"]).await;
        other.passes(&filter).await;
        assert_ne!(id(&other), given);
    }

    #[tokio::test]
    async fn a_trusted_clients_id_is_kept_if_it_is_sane() {
        let filter = filter("{trust: true}");
        let long = format!("X-Request-Id: {}", "a".repeat(128));
        for line in ["X-Request-Id: abc-1/2", &long] {
            let mut bed = Bed::get("/", &["Host: a", line]).await;
            bed.passes(&filter).await;
            assert_eq!(id(&bed), line.split_once(": ").unwrap().1);
        }
        let too_long = format!("X-Request-Id: {}", "a".repeat(129));
        for lines in [
            vec!["Host: a"],
            vec!["Host: a", "X-Request-Id:"],
            vec!["Host: a", "X-Request-Id: a b"],
            vec!["Host: a", "X-Request-Id: caf\u{e9}"],
            vec!["Host: a", "X-Request-Id: a", "X-Request-Id: b"],
            vec!["Host: a", &too_long],
        ] {
            let mut bed = Bed::get("/", &lines).await;
            bed.passes(&filter).await;
            assert_eq!(id(&bed).len(), 32, "{lines:?}");
            assert_eq!(bed.headers().get_all("x-request-id").iter().count(), 1);
        }
    }

    #[tokio::test]
    async fn another_header_may_carry_it() {
        let filter = filter("{header: X-Trace}");
        let mut bed = Bed::get("/", &["Host: a"]).await;
        bed.passes(&filter).await;
        assert!(bed.headers().contains_key("x-trace"));
        assert!(!bed.headers().contains_key("x-request-id"));
    }

    #[test]
    fn wrong_settings_are_refused() {
        for (yaml, part) in [
            ("{header: 'a b'}", "header: `a b` is not the name"),
            ("{header: Content-Length}", "belongs to the gateway"),
            ("{header: Host}", "no place for an id"),
            (
                "{header: X-Forwarded-For}",
                "`x-forwarded-for` is no place for an id (for",
            ),
            ("{header: Expect}", "no place for an id"),
        ] {
            let error = wrong(make(settings(yaml)));
            assert!(error.contains(part), "{yaml}: {error}");
        }
        assert!(refused::<Settings>("{trusted: true}").contains("unknown field"));
        assert!(refused::<Settings>("{trust: maybe}").contains("invalid type"));
    }
}
