//! Filters through a running gateway, as those who embed it write them.
//!
//! Its own module because filters are user code: what they may do, and what they cannot break.

mod configured;
mod core;
mod failures;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use harbr_router::filter::{
    Context, End, Filter, Last, RequestHead, ResponseHead, Result, Verdict,
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::eventually;

/// What filters saw, in order.
#[derive(Clone, Debug, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Everything, once `count` things were seen: the log phase comes after the response.
    #[track_caller]
    fn wait_for(&self, count: usize) -> Vec<String> {
        let within = std::time::Duration::from_secs(5);
        eventually(within, "filters see more", || self.all().len() >= count);
        self.all()
    }
}

#[derive(Deserialize, JsonSchema)]
struct Named {
    name: String,
}

/// Notes each phase. With a body, that its last part came.
struct Noting {
    name: String,
    seen: Seen,
}

impl Noting {
    fn note(&self, phase: &str) {
        self.seen.note(format!("{} {phase}", self.name));
    }

    fn note_last(&self, phase: &str, last: Last) {
        if last == Last::Yes {
            self.note(phase);
        }
    }
}

#[async_trait]
impl Filter for Noting {
    async fn request(&self, _cx: &mut Context<'_>) -> Result<Verdict> {
        self.note("request");
        Ok(Verdict::Continue)
    }

    fn request_body(
        &self,
        _cx: &mut Context<'_>,
        _body: &mut Option<Bytes>,
        last: Last,
    ) -> Result<()> {
        self.note_last("request_body", last);
        Ok(())
    }

    fn upstream_request(&self, _cx: &mut Context<'_>, _head: &mut RequestHead<'_>) -> Result<()> {
        self.note("upstream_request");
        Ok(())
    }

    fn response(&self, _cx: &mut Context<'_>, head: &mut ResponseHead<'_>) -> Result<()> {
        self.note(&format!("response {}", head.status().as_u16()));
        Ok(())
    }

    fn response_body(
        &self,
        _cx: &mut Context<'_>,
        _body: &mut Option<Bytes>,
        last: Last,
    ) -> Result<()> {
        self.note_last("response_body", last);
        Ok(())
    }

    fn log(&self, _cx: &mut Context<'_>, end: &End) {
        self.note(&format!("log {} {}", end.status, end.reason));
    }
}
