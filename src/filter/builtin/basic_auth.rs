//! `basic_auth`: a user and a password before anything else happens (RFC 7617).
//!
//! Invariants: a password is checked on a thread for blocking work, so many at once and no more; a
//! name that no user has costs as much time as one that a user has; no password is kept, only a
//! keyed hash of one that was right.
//!
//! `Authorization` goes on to the endpoint, as with nginx and Envoy; `headers` with
//! `remove: [Authorization]` behind this filter keeps it here.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hmac::{Hmac, Mac};
use http::{HeaderValue, header};
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::Sha256;
use tokio::sync::Semaphore;

use super::credentials::Credentials;
use super::users::Users;
use crate::error::Reason;
use crate::filter::{BadSetting, Context, Files, Filter, Phases, Response, Result, Verdict};

/// Settings of `basic_auth`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// Lines of `user:hash` with bcrypt (`htpasswd -B`) or argon2id hashes, beside the configuration
    /// when the path is relative. Read again by a reload.
    users_file: String,
    /// What the client shows to its user.
    #[serde(default = "realm")]
    realm: String,
}

fn realm() -> String {
    "harbr-router".to_owned()
}

/// The filter.
pub(super) struct BasicAuth {
    users: Arc<Users>,
    /// Of each user, a keyed hash of the last name and password that were right.
    verified: Box<[Mutex<Option<Tag>>]>,
    /// With a random key, made anew with the filter.
    mac: Hmac<Sha256>,
    challenge: HeaderValue,
    /// Passwords that are checked at once.
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
}

type Tag = [u8; 32];

/// Nothing that is secret.
impl fmt::Debug for BasicAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BasicAuth")
            .field("users", &self.users)
            .finish_non_exhaustive()
    }
}

pub(super) fn make(settings: Settings, files: &mut Files<'_>) -> Result<BasicAuth> {
    let realm = &settings.realm;
    let plain = |c: char| (c.is_ascii_graphic() || c == ' ') && c != '"' && c != '\\';
    if realm.is_empty() || !realm.chars().all(plain) {
        let message = "must be plain text in ASCII, without quotes and backslashes";
        return Err(BadSetting::new("realm", message).into());
    }
    let text = files
        .read_text(&settings.users_file)
        .map_err(|why| BadSetting::new("users_file", why))?;
    let users = Users::parse(&text, &settings.users_file)
        .map_err(|why| BadSetting::new("users_file", why))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(BasicAuth {
        verified: (0..users.len()).map(|_| Mutex::new(None)).collect(),
        users: Arc::new(users),
        mac: Hmac::new_from_slice(&rand::random::<[u8; 32]>())?,
        challenge: HeaderValue::from_str(&format!("Basic realm=\"{realm}\", charset=\"UTF-8\""))?,
        slots: Arc::new(Semaphore::new((cores / 2).max(1))),
        waiting: AtomicUsize::new(0),
    })
}

#[async_trait]
impl Filter for BasicAuth {
    fn phases(&self) -> Phases {
        Phases::REQUEST
    }

    async fn request(&self, cx: &mut Context<'_>) -> Result<Verdict> {
        let Some(credentials) = Credentials::of(&cx.request().headers) else {
            return Ok(self.unauthorized());
        };
        match self.check(credentials).await? {
            Checked::Right(user) => {
                cx.extensions_mut().insert(user);
                Ok(Verdict::Continue)
            }
            Checked::Wrong => Ok(self.unauthorized()),
            Checked::TooMany => Ok(Verdict::Respond(Response::refusal(
                Reason::TooManyConnections,
            ))),
        }
    }
}

/// Who a request comes from, among its extensions: the name in the file of users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User(Arc<str>);

impl User {
    /// The name as the file of users has it, without password and settings.
    pub fn name(&self) -> &str {
        &self.0
    }
}

enum Checked {
    Right(User),
    Wrong,
    /// As many as may wait for their turn do.
    TooMany,
}

impl BasicAuth {
    fn unauthorized(&self) -> Verdict {
        let response = Response::refusal(Reason::Unauthorized);
        Verdict::Respond(response.header(header::WWW_AUTHENTICATE, self.challenge.clone()))
    }

    async fn check(&self, credentials: Credentials) -> Result<Checked> {
        let known = self.users.find(&credentials.user);
        let tag = self.tag(&[&credentials.user, &credentials.password]);
        let right = |number| Checked::Right(User(self.users.account(number).name.clone()));
        if let Some(number) = known.filter(|number| self.was_right(*number, &tag)) {
            return Ok(right(number));
        }
        let Some(_turn) = Turn::wait_in(&self.waiting) else {
            return Ok(Checked::TooMany);
        };
        let slot = tokio::time::timeout(MAX_WAIT, self.slots.clone().acquire_owned());
        let Ok(slot) = slot.await else {
            return Ok(Checked::TooMany);
        };
        let slot = slot?;
        let number = known.unwrap_or_else(|| self.stand_in(&credentials.user));
        let hash = self.users.account(number).hash.clone();
        let is_right = tokio::task::spawn_blocking(move || {
            // Held until the work is done, also when its request has ended.
            let _slot = slot;
            hash.is_of(&credentials.password)
        });
        match (is_right.await?, known) {
            (true, Some(number)) => {
                self.remember(number, tag);
                Ok(right(number))
            }
            _ => Ok(Checked::Wrong),
        }
    }

    /// The user whose hash is checked for a name that no user has: always the same one for the same
    /// name, so that it takes as long as if a user had it.
    fn stand_in(&self, user: &str) -> usize {
        let tag = self.tag(&[user]);
        usize::from(tag[0]) << 8 | usize::from(tag[1])
    }

    fn was_right(&self, number: usize, tag: &Tag) -> bool {
        let last = self.verified[number]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        last.as_ref() == Some(tag)
    }

    fn remember(&self, number: usize, tag: Tag) {
        let mut last = self.verified[number]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last = Some(tag);
    }

    /// Whoever finds two texts of one tag has found the key; comparing tags reveals nothing of it.
    fn tag(&self, texts: &[&str]) -> Tag {
        let mut mac = self.mac.clone();
        for text in texts {
            // No text holds a NUL.
            mac.update(text.as_bytes());
            mac.update(&[0]);
        }
        mac.finalize().into_bytes().into()
    }
}

/// A slot among the requests that wait for a check, given back by Drop.
struct Turn<'a>(&'a AtomicUsize);

impl<'a> Turn<'a> {
    fn wait_in(waiting: &'a AtomicUsize) -> Option<Turn<'a>> {
        let before = waiting.fetch_add(1, Ordering::Relaxed);
        let turn = Turn(waiting);
        (before < MAX_WAITING).then_some(turn)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Requests that wait for their password to be checked, and for how long.
const MAX_WAITING: usize = 256;
const MAX_WAIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
