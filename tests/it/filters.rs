//! Filters through a running gateway, as those who embed it write them: what they may do, and what
//! they cannot break.

mod builtin_access;
mod builtin_headers;
mod builtin_paths;
mod builtin_rate_limit;
mod closures;
mod configured;
mod core;
mod failures;
mod outbound;
mod phases;
mod tcp;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use harbr_router::filter::{
    Context, End, Filter, Last, RequestHead, ResponseHead, Result, Verdict,
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::http1::Request;
use crate::support::{Gw, Origin, eventually, route};

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

/// The keys of a route with these filters, one line of YAML each.
fn filters(each: &[&str]) -> String {
    match each {
        [] => String::new(),
        each => format!("filters:\n  - {}\n", each.join("\n  - ")),
    }
}

/// A route `/` to these endpoints with these filters, believing `X-Forwarded-For`.
fn filtered(origins: &[&Origin], each: &[&str]) -> String {
    let urls: Vec<String> = origins.iter().map(|origin| origin.url()).collect();
    let keys = format!("retry_count: 1\nejection: false\n{}", filters(each));
    format!("trusted_proxies: [127.0.0.1]\n{}", route("/", &urls, &keys))
}

/// One endpoint that fails every request, and one that answers with what it was sent.
fn failing_and_echo() -> (Origin, Origin) {
    (Origin::status(503, "bad"), Origin::echo())
}

/// Requests until one was tried twice: its heads at the failing and at the good endpoint.
fn retried(gw: &Gw, bad: &Origin, good: &Origin, fields: &[(&str, &str)]) -> (Request, Request) {
    for _ in 0..4 {
        assert_eq!(gw.client().call("GET", "/a", fields, b"").status, 200);
        if let Some(first) = bad.heads().first() {
            let second = good.heads().last().cloned();
            return (first.clone(), second.expect("the good one answered"));
        }
    }
    panic!("the failing endpoint is never picked");
}
