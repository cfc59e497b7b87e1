//! What `rewrite` does to requests and responses, and which settings it refuses.

use std::time::{Duration, Instant};

use super::super::fixture::{Bed, refused, settings, wrong};
use super::*;

async fn sent(yaml: &str, target: &str) -> String {
    let filter = make(settings(yaml)).unwrap();
    let mut bed = Bed::get(target, &["Host: a"]).await;
    bed.passes(&filter).await;
    bed.target
}

async fn answer(yaml: &str, target: &str) -> Response {
    let filter = make(settings(yaml)).unwrap();
    Bed::get(target, &["Host: a"]).await.answer(&filter).await
}

#[tokio::test]
async fn a_prefix_is_whole_segments_and_the_query_stays() {
    let v2 = "prefix: {from: /api, to: /v2/}";
    let root = "prefix: {from: /api/, to: /}";
    let under = "prefix: {from: /, to: /app}";
    for (yaml, target, expected) in [
        (v2, "/api", "/v2"),
        (v2, "/api/", "/v2/"),
        (v2, "/api/x?to=/api", "/v2/x?to=/api"),
        (v2, "/apix", "/apix"),
        (v2, "/x/api", "/x/api"),
        (v2, "/?/api", "/?/api"),
        (root, "/api", "/"),
        (root, "/api?a", "/?a"),
        (root, "/api/x", "/x"),
        (under, "/", "/app/"),
        (under, "/x", "/app/x"),
        (under, "*", "*"),
        // Where slashes are kept.
        (v2, "/api//x", "/v2//x"),
        (v2, "//api/x", "/v2/x"),
        (v2, "//api", "/v2"),
        (root, "//api//x", "//x"),
        (under, "//x", "/app//x"),
    ] {
        assert_eq!(sent(yaml, target).await, expected, "{yaml} {target}");
    }
}

#[tokio::test]
async fn an_expression_puts_its_groups_elsewhere() {
    let user = "regex: {match: '^/users/([^/]+)/(.*)$', to: /$2/of/$1}";
    let page = "regex: {match: '^/p/(.+)$', to: '/page.php?id=$1'}";
    for (yaml, target, expected) in [
        (user, "/users/ann/cart/1?q=$1", "/cart/1/of/ann?q=$1"),
        (user, "/user/ann", "/user/ann"),
        (page, "/p/7", "/page.php?id=7"),
        (page, "/p/7?x=1", "/page.php?id=7&x=1"),
        (page, "/p/7&admin=1;b+c", "/page.php?id=7%26admin=1%3Bb%2Bc"),
        ("regex: {match: _, to: '-$$1'}", "/a_b_c", "/a-$1b-$1c"),
        ("regex: {match: '(a)|(b)', to: 'x$1$10'}", "/b", "/x0"),
        (user, "//users/ann/cart", "/cart/of/ann"),
        (user, "/users/ann//cart", "//cart/of/ann"),
        (user, "//user/ann", "//user/ann"),
    ] {
        assert_eq!(sent(yaml, target).await, expected, "{yaml} {target}");
    }
}

#[tokio::test]
async fn captures_make_no_path_that_means_another() {
    for (yaml, target) in [
        ("regex: {match: '^/(.)-(.)', to: /$1$2}", "/.-./etc"),
        ("regex: {match: '-', to: ''}", "/%-2e%-2e/etc"),
        ("regex: {match: '-', to: ''}", "/a%-"),
        ("regex: {match: '-', to: ''}", "/.-.;x/etc"),
        ("regex: {match: '-', to: ''}", "/.-.%2Fetc"),
        (
            "regex: {match: x, to: xxxxxxxxxxxxxxxxxxxx}",
            &format!("/{}", "x".repeat(9000)),
        ),
    ] {
        let answer = answer(yaml, target).await;
        assert_eq!(answer.reason, Reason::BadRequest, "{yaml}");
        assert_eq!(answer.status, None);
    }
}

#[tokio::test]
async fn a_path_that_has_lost_its_slash_gets_one() {
    for (yaml, target, expected) in [
        ("regex: {match: '^/api', to: ''}", "/api", "/"),
        ("regex: {match: '^/api', to: ''}", "/api?a", "/?a"),
        ("regex: {match: '^/api', to: ''}", "/api/x", "/x"),
        ("regex: {match: '^/api/(.*)$', to: $1}", "/api/x/y", "/x/y"),
        (
            "regex: {match: '^/(.*)$', to: $1}",
            "/http://evil/x",
            "/http://evil/x",
        ),
        ("regex: {match: '/old', to: new}", "/old/a", "/new/a"),
        (
            "regex: {match: '^/p/(.*)$', to: '?id=$1'}",
            "/p/7",
            "/?id=7",
        ),
        (
            "prefix: {from: '/{a}', to: /caf\u{e9}}",
            "/%7Ba%7D/x",
            "/caf%C3%A9/x",
        ),
    ] {
        assert_eq!(sent(yaml, target).await, expected, "{yaml} {target}");
    }
}

#[tokio::test]
async fn a_redirect_leads_where_the_settings_say() {
    let there = "redirect: {to: 'https://example.org/new'}";
    for (yaml, target, status, location) in [
        (there, "/old", 308, "https://example.org/new"),
        (there, "/old?a=b&c", 308, "https://example.org/new?a=b&c"),
        (
            there,
            "/old?<a>\"\\",
            308,
            "https://example.org/new?%3Ca%3E%22%5C",
        ),
        (
            "redirect: {to: /new, status: 302}",
            "/evil.example/%0d%0aSet-Cookie:a",
            302,
            "/new",
        ),
        (
            "redirect: {to: /new, status: 303}",
            "//evil.example",
            303,
            "/new",
        ),
        (
            "redirect: {to: '/n?x=1', status: 301}",
            "/a?y=2",
            301,
            "/n?x=1",
        ),
        ("redirect: {to: '/n#x', status: 307}", "/a?y=2", 307, "/n#x"),
        ("redirect: {to: '/$1'}", "/a", 308, "/$1"),
        ("redirect: {to: '/$${host}x'}", "/a", 308, "/${host}x"),
        (
            "redirect: {to: 'https://${host}${path}${query}', status: 301}",
            "/old?a=b&c",
            301,
            "https://a/old?a=b&c",
        ),
    ] {
        let answer = answer(yaml, target).await;
        assert_eq!(answer.status.unwrap().as_u16(), status, "{yaml}");
        assert_eq!(answer.headers["location"], location, "{yaml} {target}");
        assert_eq!(answer.reason, Reason::Ok);
    }
}

#[tokio::test]
async fn a_query_cannot_end_the_line_of_a_location() {
    let filter = make(settings("redirect: {to: /new}")).unwrap();
    let mut bed = Bed::get("/a", &["Host: a"]).await;
    bed.target = "/a?b\r\nSet-Cookie: c\u{e9}#d".to_owned();
    let answer = bed.answer(&filter).await;
    assert_eq!(
        answer.headers["location"],
        "/new?b%0D%0ASet-Cookie:%20c%C3%A9%23d"
    );
}

#[tokio::test]
async fn an_expression_that_explodes_elsewhere_is_linear_here() {
    let filter = make(settings("regex: {match: '^/(a+)+$', to: /$1}")).unwrap();
    let target = format!("/{}!", "a".repeat(30_000));
    let mut bed = Bed::get(&target, &["Host: a"]).await;
    let started = Instant::now();
    bed.passes(&filter).await;
    // Backtracking would take 2 to the power of 30,000 steps.
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(bed.target, target);
}

#[test]
fn wrong_settings_are_refused() {
    for (yaml, part) in [
        ("{}", "exactly one of"),
        (
            "{prefix: {from: /a, to: /b}, redirect: {to: /c}}",
            "exactly one of",
        ),
        (
            "prefix: {from: api, to: /b}",
            "prefix.from: `api` is not a plain path",
        ),
        ("prefix: {from: /a//b, to: /b}", "prefix.from"),
        ("prefix: {from: /a/../b, to: /b}", "prefix.from"),
        ("prefix: {from: /a%2eb, to: /b}", "prefix.from"),
        ("prefix: {from: /a, to: '/b?c'}", "prefix.to"),
        ("prefix: {from: /a, to: \"/b\\r\\n\"}", "prefix.to"),
        (
            "regex: {match: '(a', to: /b}",
            "regex.match: `(a` is no regular expression: unclosed group",
        ),
        (
            "regex: {match: '(?:a{100}){100}{100}', to: /b}",
            "regex.match: is too big",
        ),
        (
            "regex: {match: '(a)', to: /$2}",
            "regex.to: there is no group $2: `match` has 1",
        ),
        ("regex: {match: '(a)', to: '/${1}'}", "neither a digit"),
        (
            "regex: {match: '^/old(.*)', to: 'https://new.example$1'}",
            "regex.to: `https://new.example$1` is a URL, and only a path is rewritten (a path",
        ),
        ("regex: {match: old, to: 'http://new.example/'}", "is a URL"),
        (
            "regex: {match: '^/a', to: b}",
            "regex.to: `b` does not begin with a slash (write `/b`",
        ),
        (
            "regex: {match: '^/a(.*)', to: 'b/$1'}",
            "does not begin with a slash",
        ),
        (
            "regex: {match: '^/a', to: '/b/../c'}",
            "regex.to: `/b/../c` has more than one reading",
        ),
        (
            "regex: {match: '^/a(.*)', to: '/%2e%2e/$1'}",
            "more than one reading",
        ),
        (
            "regex: {match: '^/a', to: '/b%zz'}",
            "more than one reading",
        ),
        ("regex: {match: a, to: '/b$'}", "neither a digit"),
        ("regex: {match: a, to: '/b c'}", "regex.to: holds a space"),
        (
            "redirect: {to: //evil.example}",
            "redirect.to: `//evil.example` is neither",
        ),
        ("redirect: {to: '/\\evil.example'}", "is neither"),
        ("redirect: {to: example.org}", "is neither"),
        ("redirect: {to: 'javascript:alert(1)'}", "is neither"),
        (
            "redirect: {to: 'https://good.example@evil.example'}",
            "is neither",
        ),
        ("redirect: {to: \"/a\\r\\nX: b\"}", "is neither"),
        (
            "redirect: {to: /a, status: 200}",
            "redirect.status: 200 is not a status of a redirect (301,",
        ),
    ] {
        let error = wrong(make(settings(yaml)));
        assert!(error.contains(part), "{yaml}: {error}");
        assert!(!error.contains('\n'), "{yaml}: {error}");
    }
    for (yaml, part) in [
        ("prefix: {from: /a}", "missing field `to`"),
        ("redirect: {to: /a, code: 301}", "unknown field `code`"),
        ("regexp: {}", "unknown field `regexp`"),
    ] {
        let error = refused::<Settings>(yaml);
        assert!(error.contains(part), "{yaml}: {error}");
    }
}
