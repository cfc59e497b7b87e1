//! What `basic_auth` does to requests and responses, and which settings it refuses.

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
