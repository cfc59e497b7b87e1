//! `headers`: sets, adds and removes headers of requests and responses.
//!
//! Invariants: framing headers are refused at load; what a template makes is a valid value or is
//! not sent, and a `set` without a value leaves none of the client's in its place.
//!
//! On a request, what the gateway does not write itself is changed in the request phase: once, for
//! every try, and seen by the filters behind. What the gateway writes for each try (`Host`, `Via`,
//! `Forwarded`, `X-Forwarded-*`) is changed after it did, so that the filter has the last word.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use http::header::{EXPECT, HOST};
use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;

use super::field_names::{WRITTEN_FOR_EACH_TRY, header_name, remove_twins};
use super::template::Template;
use crate::filter::{
    BadSetting, Context, Filter, Phases, RequestHead, ResponseHead, Result, Verdict,
};
use crate::wire::http1::is_authority;

/// Settings of `headers`. Values may hold `${client_ip}`, `${request_id}`, `${route}`, `${host}` and
/// `${client_cert_…}` (`subject`, `san`, `sha256`);
/// `$${` stands for `${` itself.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Settings {
    /// What changes on the way to the endpoint.
    request: Changes,
    /// What changes on the way to the client.
    response: Changes,
}

/// Headers to change: first `remove`, then `set`, then `add`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Changes {
    /// Name and value; replaces what is there.
    set: BTreeMap<String, String>,
    /// Name and value; one more line beside what is there.
    add: BTreeMap<String, String>,
    /// Names.
    remove: Vec<String>,
}

/// The filter.
#[derive(Debug)]
pub(super) struct Headers {
    request: Vec<Edit>,
    /// On the head of each try.
    upstream: Vec<Edit>,
    response: Vec<Edit>,
}

pub(super) fn make(settings: Settings) -> Result<Headers> {
    let request = settings.request.edits("request")?;
    let adds_or_removes_host =
        |edit: &Edit| edit.name == HOST && !matches!(edit.change, Change::Set(_));
    if request.iter().any(adds_or_removes_host) {
        let message = "`Host` can be set, but neither added nor removed";
        return Err(BadSetting::new("request", message).into());
    }
    for edit in &request {
        edit.refuse_useless()?;
    }
    let (upstream, request) = request
        .into_iter()
        .partition(|edit| WRITTEN_FOR_EACH_TRY.contains(&edit.name));
    Ok(Headers {
        request,
        upstream,
        response: settings.response.edits("response")?,
    })
}

#[async_trait]
impl Filter for Headers {
    fn phases(&self) -> Phases {
        let for_edits = |edits: &Vec<Edit>, phase| match edits.is_empty() {
            true => Phases::NONE,
            false => phase,
        };
        for_edits(&self.request, Phases::REQUEST)
            | for_edits(&self.upstream, Phases::UPSTREAM_REQUEST)
            | for_edits(&self.response, Phases::RESPONSE)
    }

    async fn request(&self, cx: &mut Context<'_>) -> Result<Verdict> {
        used(&self.request, cx);
        for edit in &self.request {
            let value = edit.value(cx);
            let mut head = cx.request_mut();
            edit.apply(value, &mut head)?;
            edit.apply_to_twins(&self.request, &mut head)?;
        }
        Ok(Verdict::Continue)
    }

    fn upstream_request(&self, cx: &mut Context<'_>, head: &mut RequestHead<'_>) -> Result<()> {
        used(&self.upstream, cx);
        for edit in &self.upstream {
            edit.apply(edit.value(cx), head)?;
            edit.apply_to_twins(&self.upstream, head)?;
        }
        Ok(())
    }

    fn response(&self, cx: &mut Context<'_>, head: &mut ResponseHead<'_>) -> Result<()> {
        used(&self.response, cx);
        for edit in &self.response {
            edit.apply(edit.value(cx), head)?;
        }
        Ok(())
    }
}

/// A phase that `phases` leaves out since nothing is set for it.
fn used(edits: &[Edit], cx: &mut Context<'_>) {
    if edits.is_empty() {
        cx.take_no_part();
    }
}

impl Changes {
    /// In the order in which they are done.
    fn edits(self, side: &str) -> Result<Vec<Edit>> {
        let mut edits = Vec::new();
        let mut seen = BTreeSet::new();
        for text in self.remove {
            let name =
                header_name(&text).map_err(|why| BadSetting::new(format!("{side}.remove"), why))?;
            seen.insert(name.to_string());
            edits.push(Edit {
                name,
                change: Change::Remove,
            });
        }
        let set = self
            .set
            .into_iter()
            .map(|(name, value)| ("set", name, value));
        let add = self
            .add
            .into_iter()
            .map(|(name, value)| ("add", name, value));
        for (verb, text, value) in set.chain(add) {
            let wrong = |why| BadSetting::new(format!("{side}.{verb}.{text}"), why);
            let name = header_name(&text).map_err(wrong)?;
            let template = Template::parse(&value).map_err(wrong)?;
            // `add` beside `remove` replaces; `set` beside anything says two things at once.
            if verb == "set" && !seen.insert(name.to_string()) {
                return Err(wrong("is named twice".into()).into());
            }
            let change = match verb {
                "set" => Change::Set(template),
                _ => Change::Add(template),
            };
            edits.push(Edit { name, change });
        }
        Ok(edits)
    }
}

/// One change of one header.
#[derive(Debug)]
struct Edit {
    name: HeaderName,
    change: Change,
}

#[derive(Debug)]
enum Change {
    Remove,
    Set(Template),
    Add(Template),
}

impl Edit {
    /// Refuses a change of a request that its endpoint could only refuse.
    fn refuse_useless(&self) -> Result<()> {
        let (Change::Set(template) | Change::Add(template)) = &self.change else {
            return Ok(());
        };
        let key = |verb| format!("request.{verb}.{}", self.name);
        let verb = match &self.change {
            Change::Add(_) => "add",
            Change::Set(_) | Change::Remove => "set",
        };
        if self.name == HOST && !is_authority(&template.sample()) {
            let wrong = BadSetting::new(key(verb), "is not a host with or without a port");
            return Err(wrong.hint("for example `app.internal:8080`").into());
        }
        if self.name == EXPECT {
            let message = "only the client can wait for `100 Continue`";
            return Err(BadSetting::new(key(verb), message)
                .hint("it can be removed")
                .into());
        }
        Ok(())
    }

    fn value(&self, cx: &mut Context<'_>) -> Option<HeaderValue> {
        match &self.change {
            Change::Remove => None,
            Change::Set(template) | Change::Add(template) => template.value(cx),
        }
    }

    fn apply(&self, value: Option<HeaderValue>, head: &mut impl Head) -> Result<()> {
        match (&self.change, value) {
            (Change::Set(_), Some(value)) => head.set(self.name.clone(), value),
            (Change::Add(_), Some(value)) => head.add(self.name.clone(), value),
            (Change::Remove | Change::Set(_), None) => head.remove(&self.name),
            (Change::Add(_), None) | (Change::Remove, Some(_)) => Ok(()),
        }
    }

    /// What is set or removed is so under every name that stands for it, but for those that the
    /// settings name themselves.
    fn apply_to_twins(&self, all: &[Edit], head: &mut RequestHead<'_>) -> Result<()> {
        let named = |name: &HeaderName| all.iter().any(|edit| edit.name == *name);
        match self.change {
            Change::Remove | Change::Set(_) => remove_twins(head, &self.name, named),
            Change::Add(_) => Ok(()),
        }
    }
}

/// What heads of requests and responses have in common.
trait Head {
    fn set(&mut self, name: HeaderName, value: HeaderValue) -> Result<()>;
    fn add(&mut self, name: HeaderName, value: HeaderValue) -> Result<()>;
    fn remove(&mut self, name: &HeaderName) -> Result<()>;
}

macro_rules! head {
    ($head:ident) => {
        impl Head for $head<'_> {
            fn set(&mut self, name: HeaderName, value: HeaderValue) -> Result<()> {
                $head::set(self, name, value)
            }

            fn add(&mut self, name: HeaderName, value: HeaderValue) -> Result<()> {
                $head::add(self, name, value)
            }

            fn remove(&mut self, name: &HeaderName) -> Result<()> {
                $head::remove(self, name)
            }
        }
    };
}

head!(RequestHead);
head!(ResponseHead);

#[cfg(test)]
mod tests;
