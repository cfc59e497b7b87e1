//! A filter type with settings from YAML, and the whole command line around it (`-t`, `-d`, …).
//!
//! ```yaml
//! filters:
//!   - type: api_key
//!     header: X-Api-Key
//!     keys: {k-123: orders, k-456: billing}
//! ```
//!
//! `cargo run --example custom_filter -- -c config.yml`; `… -- -t` reports every mistake in the
//! settings with line and column, `… -- schema` knows them.

use std::collections::HashMap;
use std::process::ExitCode;

use async_trait::async_trait;
use harbr_router::filter::{Context, End, Filter, Phases, RequestHead, Response, Result, Verdict};
use harbr_router::{Reason, cli};
use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;

/// What may stand beside `type: api_key`. Unknown keys are errors.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default = "default_header")]
    header: String,
    /// Who has which key.
    keys: HashMap<String, String>,
}

fn default_header() -> String {
    "x-api-key".to_owned()
}

/// Lets in who has a key, and says to the upstream who that is.
struct ApiKey {
    header: HeaderName,
    keys: HashMap<String, HeaderValue>,
}

/// Kept with the request, from one phase to the next.
#[derive(Clone)]
struct Caller(HeaderValue);

impl ApiKey {
    /// Called at start and at a reload that changed the settings. An error refuses both.
    fn new(settings: Settings) -> Result<ApiKey> {
        let keys = settings.keys.into_iter();
        Ok(ApiKey {
            header: settings.header.parse()?,
            keys: keys
                .map(|(key, name)| Ok((key, name.parse()?)))
                .collect::<Result<_>>()?,
        })
    }
}

#[async_trait]
impl Filter for ApiKey {
    fn phases(&self) -> Phases {
        Phases::REQUEST | Phases::UPSTREAM_REQUEST | Phases::LOG
    }

    async fn request(&self, cx: &mut Context<'_>) -> Result<Verdict> {
        let key = cx.request().headers.get(&self.header);
        let key = key.and_then(|key| key.to_str().ok());
        let Some(name) = key.and_then(|key| self.keys.get(key)).cloned() else {
            return Ok(Verdict::Respond(Response::refusal(Reason::Unauthorized)));
        };
        cx.extensions_mut().insert(Caller(name));
        Ok(Verdict::Continue)
    }

    fn upstream_request(&self, cx: &mut Context<'_>, head: &mut RequestHead<'_>) -> Result<()> {
        head.remove(&self.header)?;
        if let Some(Caller(name)) = cx.extensions().get() {
            head.set("x-caller", name)?;
        }
        Ok(())
    }

    fn log(&self, cx: &mut Context<'_>, end: &End) {
        let caller = cx.extensions().get().map(|Caller(name)| name);
        log::info!("{caller:?} got {} in {:?}", end.status, end.duration);
    }
}

fn main() -> ExitCode {
    cli::main_with(|gateway| gateway.filter("api_key", ApiKey::new))
}
