//! `respond`: one fixed answer to every request, as for a maintenance page.
//!
//! Invariant: the answer is put together at load; a request costs a copy of handles.

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::filter::{BadSetting, Context, Filter, Phases, Response, Result, Verdict};

/// Settings of `respond`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Settings {
    /// From 200 to 599.
    #[schemars(range(min = 200, max = 599))]
    status: u16,
    body: String,
    content_type: String,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            status: 200,
            body: String::new(),
            content_type: "text/plain".to_owned(),
        }
    }
}

/// The filter.
#[derive(Debug)]
pub(super) struct Respond {
    status: StatusCode,
    body: Bytes,
    content_type: HeaderValue,
}

pub(super) fn make(settings: Settings) -> Result<Respond> {
    let status = match settings.status {
        status @ 200..=599 => StatusCode::from_u16(status)?,
        status => {
            let message = format!("must be 200 to 599, not {status}");
            return Err(BadSetting::new("status", message).into());
        }
    };
    let bodiless = matches!(
        status,
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
    );
    if bodiless && !settings.body.is_empty() {
        let message = format!("a response of {} has none", status.as_u16());
        return Err(BadSetting::new("body", message).into());
    }
    let content_type = HeaderValue::from_str(&settings.content_type)
        .ok()
        .filter(|_| !settings.content_type.trim().is_empty())
        .ok_or_else(|| {
            BadSetting::new("content_type", "is no value of the header `Content-Type`")
                .hint("for example `text/html`")
        })?;
    Ok(Respond {
        status,
        body: settings.body.into(),
        content_type,
    })
}

#[async_trait]
impl Filter for Respond {
    fn phases(&self) -> Phases {
        Phases::REQUEST
    }

    async fn request(&self, _cx: &mut Context<'_>) -> Result<Verdict> {
        let response = Response::new(self.status).body(self.body.clone());
        Ok(Verdict::Respond(match self.body.is_empty() {
            true => response,
            false => response.header(header::CONTENT_TYPE, self.content_type.clone()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Bed, refused, settings, wrong};
    use super::*;
    use crate::error::Reason;

    async fn answer(yaml: &str) -> Response {
        let filter = make(settings(yaml)).unwrap();
        assert_eq!(filter.phases(), Phases::REQUEST);
        Bed::get("/", &["Host: a"]).await.answer(&filter).await
    }

    #[tokio::test]
    async fn answers_what_was_written() {
        let plain = answer("{}").await;
        assert_eq!(plain.status, Some(StatusCode::OK));
        assert_eq!(plain.reason, Reason::Ok);
        assert!(plain.body.is_empty() && plain.headers.is_empty());

        let page = answer("{status: 503, body: <p>soon, content_type: text/html}").await;
        assert_eq!(page.status, Some(StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(page.reason, Reason::FilterRefused);
        assert_eq!(page.headers["content-type"], "text/html");
        assert_eq!(page.body, "<p>soon");

        assert_eq!(
            answer("{body: hi}").await.headers["content-type"],
            "text/plain"
        );
        assert_eq!(
            answer("{status: 204}").await.status,
            Some(StatusCode::NO_CONTENT)
        );
    }

    #[test]
    fn wrong_settings_are_refused() {
        for (yaml, part) in [
            ("{status: 100}", "status: must be 200 to 599, not 100"),
            ("{status: 600}", "must be 200 to 599"),
            ("{status: 204, body: x}", "body: a response of 204 has none"),
            ("{content_type: \"a\\nb\"}", "content_type: is no value"),
            ("{content_type: ''}", "content_type: is no value"),
        ] {
            let error = wrong(make(settings(yaml)));
            assert!(error.contains(part), "{yaml}: {error}");
        }
        assert!(refused::<Settings>("{code: 200}").contains("unknown field"));
        assert!(refused::<Settings>("{status: 70000}").contains("u16"));
    }
}
