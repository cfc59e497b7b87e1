//! What a route's filters would do to a request that is only described, for `explain`.
//!
//! The filters are the real ones, over a request that is only written down, so that what is
//! reported cannot differ from what is done. Invariant: a filter that is not of this crate is named
//! and never called, because its code may do anything.

use std::net::IpAddr;

use http::{Extensions, HeaderMap, HeaderName, header};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use tokio::io::AsyncWriteExt;

use super::catch_panic::{catch_panic, catch_panic_future};
use super::chain::{Chain, Normalise, Step, settled};
use super::registry::Author;
use super::{Attempt, Context, Filter, RequestHead, Response, ResponseHead, Verdict};

/// A request that is only written down.
#[derive(Clone, Debug)]
pub struct DryRunRequest<'a> {
    /// Request line and fields, to the empty line.
    pub head: String,
    /// The client's address (`--client`). `None`: not given; `ip_access` then decides nothing.
    pub client: Option<IpAddr>,
    /// The key of the matched route, as written.
    pub route: &'a str,
    /// The upstream's name, or the route's key where the upstream has none.
    pub upstream: &'a str,
    /// Path and query as matched.
    pub target: String,
    /// The prefix that was taken out of it.
    pub stripped: &'a str,
    /// Normalises a target that a filter chooses, as `merge_slashes` of the route says.
    pub normalise: Normalise,
}

/// What would become of it.
#[derive(Debug, Default)]
pub struct DryRun {
    /// For each filter that sees it, its name and what it does.
    pub steps: Vec<(String, String)>,
    /// The filter that answers it, and with what.
    pub answer: Option<Response>,
    /// A filter fails, and the request ends.
    pub failed: bool,
    /// Path and query after the last filter that was called, normalised.
    pub target: String,
    /// The `Host` that the filters choose.
    pub host: Option<String>,
}

impl Chain {
    /// Goes through the filters up to the first that answers.
    pub async fn dry_run(&self, written: DryRunRequest<'_>) -> Option<DryRun> {
        let mut session = session(&written.head).await?;
        let (mut target, mut extensions) = (written.target, Extensions::new());
        let mut attempt = Attempt::default();
        let mut cx = Context {
            session: &mut session,
            client: written.client,
            // The written head says in `X-Forwarded-Proto` what its client speaks.
            trusted: true,
            route: written.route,
            upstream: written.upstream,
            endpoint: None,
            tries: 0,
            target: &mut target,
            stripped: written.stripped,
            replaced: None,
            extensions: &mut extensions,
            attempt: &mut attempt,
            tls: None,
            idle: false,
        };
        let mut run = DryRun::default();
        for step in self.steps() {
            let does = does(step, &mut cx, written.normalise, &mut run).await;
            let name = match (&step.origin, step.author) {
                (Some(origin), Author::BuiltIn) => format!("{} {:?}", step.name, origin.settings),
                _ => step.name.to_string(),
            };
            run.steps.push((name, does));
            if run.answer.is_some() || run.failed {
                break;
            }
        }
        run.target = target;
        Some(run)
    }
}

async fn does(
    step: &Step<dyn Filter>,
    cx: &mut Context<'_>,
    normalise: Normalise,
    run: &mut DryRun,
) -> String {
    if step.author == Author::Embedder {
        return "a filter of this program's own: what it does is not known here".to_owned();
    }
    match (&*step.name, cx.client) {
        ("ip_access", None) => return "depends on the client: name one with --client".to_owned(),
        ("rate_limit", _) => return "lets this much through, and answers 429 to more".to_owned(),
        _ => {}
    }
    let (before, from) = (cx.request().headers.clone(), cx.target().to_owned());
    let verdict = catch_panic_future(|| step.filter.request(cx)).await;
    let verdict = verdict.and_then(|verdict| settled(cx, normalise).map(|()| verdict));
    match verdict {
        Ok(Verdict::Continue) => {}
        Ok(Verdict::Respond(_)) if &*step.name == "basic_auth" => {
            return "lets those in who log in, and answers 401 to others".to_owned();
        }
        Ok(Verdict::Respond(response)) => {
            run.answer = Some(response);
            return "answers".to_owned();
        }
        Err(error) => {
            run.failed = step.on_error == crate::config::OnError::Refuse;
            return format!("fails: {error}");
        }
    }
    let mut said = Vec::new();
    if cx.target() != from {
        said.push(format!("{from} becomes {}", cx.target()));
    }
    said.extend(changes(&before, &cx.request().headers));
    let mut head = cx.session.req_header().clone();
    let before = head.headers.clone();
    let sent = catch_panic(|| {
        step.filter
            .upstream_request(cx, &mut RequestHead::of_try(&mut head))
    });
    match sent {
        Ok(()) => said.extend(changes(&before, &head.headers)),
        Err(error) => said.push(format!("fails for each try: {error}")),
    }
    if head.headers.get(header::HOST) != before.get(header::HOST) {
        let host = head.headers.get(header::HOST);
        run.host = host.map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
    }
    if let Ok(mut answer) = ResponseHeader::build(200, None) {
        let seen = catch_panic(|| {
            step.filter
                .response(cx, &mut ResponseHead::new(&mut answer))
        });
        let changed = changes(&HeaderMap::new(), &answer.headers);
        if seen.is_ok() && !changed.is_empty() {
            said.push(format!("in the response {}", changed.join(", ")));
        }
    }
    match said.is_empty() {
        true => "lets it pass".to_owned(),
        false => said.join(", "),
    }
}

/// A session of Pingora's that has read `head`.
async fn session(head: &str) -> Option<Session> {
    let (mut client, server) = tokio::io::duplex(head.len().max(1));
    client.write_all(head.as_bytes()).await.ok()?;
    let mut session = Session::new_h1(Box::new(server));
    let read = session.as_downstream_mut().read_request().await;
    read.is_ok_and(|read| read).then_some(session)
}

fn changes(before: &HeaderMap, after: &HeaderMap) -> Vec<String> {
    let all = |fields: &HeaderMap, name: &HeaderName| -> Vec<_> {
        fields.get_all(name).iter().cloned().collect()
    };
    let set = after
        .keys()
        .filter(|name| all(before, name) != all(after, name));
    let set = set.map(|name| {
        let values = all(after, name);
        let values = values.iter().map(|value| match SECRET.contains(name) {
            true => "…".into(),
            false => String::from_utf8_lossy(value.as_bytes()),
        });
        format!("sets {name}: {}", values.collect::<Vec<_>>().join(", "))
    });
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    set.chain(gone.map(|name| format!("removes {name}")))
        .collect()
}

/// Fields whose values are not shown.
const SECRET: [HeaderName; 3] = [
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::COOKIE,
];
