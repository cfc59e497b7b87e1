//! `basic_auth`: a user and a password before anything else happens (RFC 7617).
//!
//! Invariants: a password is checked on a thread for blocking work, so many at once and no more; a
//! name that nobody has costs as much time as one that somebody has; no password is kept, only a
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
pub struct Settings {
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
    /// Keyed with what nobody knows.
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
            // Held until the work is done, also when nobody waits for it any more.
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

    /// Whose hash is checked for a name that nobody has: always the same one for the same name, so
    /// that it takes as long as if somebody had it.
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

/// A place among those that wait, given back by Drop.
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
mod tests {
    use std::path::Path;

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::super::fixture::{Bed, refused, settings, wrong};
    use super::*;

    fn folder(users: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("users"), users).unwrap();
        folder
    }

    fn made(yaml: &str, folder: &Path) -> Result<BasicAuth> {
        let config = folder.join("config.yml");
        make(settings(yaml), &mut Files::beside(&config))
    }

    fn auth() -> BasicAuth {
        let hash = |password| bcrypt::hash(password, 4).unwrap();
        let users = format!("ann:{}\nbob:{}\n", hash("secret"), hash("pass:word \u{fc}"));
        made("{users_file: users}", folder(&users).path()).unwrap()
    }

    fn basic(text: &[u8]) -> String {
        format!("Authorization: Basic {}", STANDARD.encode(text))
    }

    async fn bed(authorization: &str) -> Bed {
        let lines: Vec<&str> = ["Host: a"]
            .into_iter()
            .chain(authorization.lines())
            .collect();
        Bed::get("/", &lines).await
    }

    #[tokio::test]
    async fn the_right_password_comes_in_under_its_name() {
        let filter = auth();
        for (text, name) in [
            ("ann:secret", "ann"),
            ("bob:pass:word \u{fc}", "bob"),
            ("ann:secret", "ann"),
        ] {
            let mut bed = bed(&basic(text.as_bytes())).await;
            bed.passes(&filter).await;
            assert_eq!(bed.extensions.get::<User>().unwrap().name(), name);
            assert!(bed.headers().contains_key("authorization"), "it goes on");
        }
        let scheme = basic(b"ann:secret").replace("Basic ", "bASIC   ");
        bed(&scheme).await.passes(&filter).await;
    }

    #[tokio::test]
    async fn anything_else_is_asked_for_a_password() {
        let filter = auth();
        let huge = basic(&[b'a'; 48 << 10]);
        let long = basic(format!("ann:{}", "x".repeat(4000)).as_bytes());
        let good = basic(b"ann:secret");
        for authorization in [
            "".to_owned(),
            basic(b"ann:wrong"),
            basic(b"ann:"),
            basic(b"ann:secret "),
            basic(b"ann:pass:word \xc3\xbc"),
            basic(b"eve:secret"),
            basic(b":secret"),
            basic(b":"),
            basic(b"annsecret"),
            basic(b""),
            basic(b"ann:secret\0"),
            basic(b"ann\0:secret"),
            basic(b"ann:sec\xffret"),
            basic(b"ann\r\n:secret"),
            "Authorization: Basic".to_owned(),
            "Authorization: Basic ".to_owned(),
            "Authorization: Basic !!!!".to_owned(),
            "Authorization: Basic YW5uOnNlY3JldA".to_owned(),
            "Authorization: Bearer YW5uOnNlY3JldA==".to_owned(),
            "Authorization: BasicYW5uOnNlY3JldA==".to_owned(),
            "Authorization: \u{e9}".to_owned(),
            format!("{good}\n{good}"),
            huge,
            long,
        ] {
            let mut bed = bed(&authorization).await;
            let answer = bed.answer(&filter).await;
            assert_eq!((answer.reason, answer.status), (Reason::Unauthorized, None));
            let challenge = "Basic realm=\"harbr-router\", charset=\"UTF-8\"";
            assert_eq!(answer.headers["www-authenticate"], challenge);
            assert!(bed.extensions.get::<User>().is_none(), "{authorization}");
        }
    }

    #[tokio::test]
    async fn only_what_was_right_is_remembered_and_not_in_clear() {
        let filter = auth();
        let tag = filter.tag(&["ann", "secret"]);
        bed(&basic(b"ann:wrong")).await.answer(&filter).await;
        assert!(!filter.was_right(0, &tag) && filter.verified[0].lock().unwrap().is_none());
        bed(&basic(b"ann:secret")).await.passes(&filter).await;
        assert!(filter.was_right(0, &tag));
        assert!(
            !filter.was_right(0, &auth().tag(&["ann", "secret"])),
            "another key"
        );
        assert_ne!(tag, filter.tag(&["anns", "ecret"]));
        // With no slot left, what is remembered still comes in, and what is wrong waits.
        filter.slots.close();
        bed(&basic(b"ann:secret")).await.passes(&filter).await;
        assert!(
            bed(&basic(b"ann:wrong"))
                .await
                .request(&filter)
                .await
                .is_err()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_too_long_or_are_too_many_are_sent_away() {
        let filter = auth();
        let _all = filter
            .slots
            .acquire_many(filter.slots.available_permits() as u32)
            .await;
        let answer = bed(&basic(b"ann:secret")).await.answer(&filter).await;
        assert_eq!(answer.reason, Reason::TooManyConnections);
        assert_eq!(filter.waiting.load(Ordering::Relaxed), 0);
        filter.waiting.store(MAX_WAITING, Ordering::Relaxed);
        let answer = bed(&basic(b"ann:secret")).await.answer(&filter).await;
        assert_eq!(answer.reason, Reason::TooManyConnections);
        assert_eq!(filter.waiting.load(Ordering::Relaxed), MAX_WAITING);
    }

    #[tokio::test]
    async fn a_name_that_nobody_has_is_checked_against_somebodys_hash() {
        let filter = auth();
        assert_eq!(filter.stand_in("eve"), filter.stand_in("eve"));
        let numbers: Vec<usize> = (0..64)
            .map(|n| filter.stand_in(&format!("eve{n}")) % 2)
            .collect();
        assert!(
            numbers.contains(&0) && numbers.contains(&1),
            "all kinds of hashes serve"
        );
        filter.slots.close();
        assert!(
            bed(&basic(b"eve:secret"))
                .await
                .request(&filter)
                .await
                .is_err(),
            "it took a slot"
        );
    }

    #[test]
    fn wrong_settings_are_refused() {
        let good = format!("ann:{}", bcrypt::hash("x", 4).unwrap());
        for (yaml, users, part) in [
            ("{users_file: nowhere}", good.as_str(), "users_file: "),
            (
                "{users_file: users}",
                "\nann:$apr1$a$b",
                "users_file: users: line 2: `ann`: MD5",
            ),
            (
                "{users_file: users}",
                "",
                "users_file: users: holds no user",
            ),
            (
                "{users_file: users, realm: 'a\"b'}",
                &good,
                "realm: must be plain",
            ),
            (
                "{users_file: users, realm: ''}",
                &good,
                "realm: must be plain",
            ),
            (
                "{users_file: users, realm: \"a\\nb\"}",
                &good,
                "realm: must be plain",
            ),
        ] {
            let error = wrong(made(yaml, folder(users).path()));
            assert!(error.contains(part), "{yaml}: {error}");
        }
        assert!(refused::<Settings>("{}").contains("missing field `users_file`"));
        assert!(refused::<Settings>("{users_file: a, relm: b}").contains("unknown field"));
    }
}
