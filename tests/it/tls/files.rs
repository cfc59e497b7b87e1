//! What `--test` says of certificate files.

use std::path::Path;
use std::process::Command;

use super::section;
use crate::support::authority::{Authority, Issued};
use crate::support::binary::{config, config_file, run};

fn checked(certificates: &[&Issued], keys: &str) -> (Option<i32>, String) {
    let routes = "routes:\n  /: {upstream: \"http://127.0.0.1:1\"}\n";
    checked_text(&(section(certificates, keys) + routes))
}

fn checked_text(keys: &str) -> (Option<i32>, String) {
    let (_folder, file) = config_file(&config("127.0.0.1:0", keys));
    let output = run(&["-c", file.to_str().unwrap(), "-t"]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), stderr)
}

fn named(cert: &Path, key: &Path) -> Issued {
    Issued {
        cert: cert.to_owned(),
        key: key.to_owned(),
    }
}

#[test]
fn what_cannot_be_served_is_refused_by_line_with_what_to_do() {
    let authority = Authority::new();
    let good = authority.server("a", &["a.test"]);
    let other = authority.server("b", &["b.test"]);
    let write = |name: &str, text: &[u8]| {
        let path = authority.file(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let pem = std::fs::read_to_string(&good.cert).unwrap();
    let cut = write("cut.pem", &pem.as_bytes()[..pem.len() / 2]);
    let bent = write("bent.pem", pem.replacen("MI", "!!", 1).as_bytes());
    let empty = write("empty.pem", b"");
    let der = write("der.pem", &good.der());
    let hollow = write(
        "hollow.pem",
        b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
    );
    let locked = authority.file("locked.key");
    let status = Command::new("openssl")
        .args(["pkey", "-aes256", "-passout", "pass:x", "-in"])
        .arg(&good.key)
        .arg("-out")
        .arg(&locked)
        .status()
        .expect("openssl is installed");
    assert!(status.success());
    let missing = authority.file("missing.pem");
    for (issued, key, says) in [
        (named(&missing, &good.key), "cert", "there is no such file"),
        (named(&good.cert, &missing), "key", "there is no such file"),
        (named(&cut, &good.key), "cert", "a block has no END line"),
        (named(&bent, &good.key), "cert", "a block is not Base64"),
        (named(&empty, &good.key), "cert", "the file is empty"),
        (named(&der, &good.key), "cert", "it is DER"),
        (named(&hollow, &good.key), "cert", "is no certificate"),
        (
            named(&good.key, &good.key),
            "cert",
            "it holds a private key",
        ),
        (
            named(&good.cert, &good.cert),
            "key",
            "it holds certificates",
        ),
        (named(&good.cert, &locked), "key", "encrypted"),
        (named(&good.cert, &other.key), "key", "is not the key of"),
    ] {
        let (code, said) = checked(&[&other, &issued], "");
        assert_eq!(code, Some(78), "{says}: {said}");
        assert!(
            said.contains(&format!("tls.certificates[1].{key}: ")),
            "{says}: {said}"
        );
        assert!(said.contains(says), "{says}: {said}");
        assert!(said.contains("config.yml:7:"), "{says}: {said}");
        assert!(!said.contains("PRIVATE KEY-----\n"), "{said}");
    }
    // All of them at once.
    let (_, said) = checked(&[&named(&missing, &missing), &named(&cut, &missing)], "");
    assert_eq!(said.matches("there is no such file").count(), 3, "{said}");
    for (keys, says) in [
        (format!("client_ca: {missing:?}"), "tls.client_ca: "),
        (format!("client_ca: {:?}", good.key), "tls.client_ca: "),
        (
            format!(
                "client_ca: {:?}\nclient_crl: {:?}",
                authority.ca(),
                good.cert
            ),
            "tls.client_crl: ",
        ),
    ] {
        let (code, said) = checked(&[&good], &keys);
        assert_eq!(code, Some(78), "{says}");
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn what_is_probably_wrong_is_a_warning_and_served() {
    let authority = Authority::new();
    let good = authority.server("a", &["a.test", "*.a.test"]);
    let old = authority.expired("old", &["old.test"]);
    let nameless = authority.server("nameless", &[]);
    let next = authority.issue("next", &["next.test"], |params| {
        params.not_before = rcgen::date_time_ymd(2090, 1, 1);
        params.not_after = rcgen::date_time_ymd(2091, 1, 1);
    });
    for (issued, says) in [
        (&old, "expired on "),
        (&next, "is not valid before "),
        (&nameless, "has no subjectAltName"),
    ] {
        let (code, said) = checked(&[&good, issued], "");
        assert_eq!(code, Some(0), "{said}");
        let line = said
            .lines()
            .find(|line| line.contains(says))
            .unwrap_or_else(|| panic!("{said}"));
        assert!(
            line.starts_with("warning: ") && line.contains("tls.certificates[1].cert"),
            "{line}"
        );
    }
    let chained = authority.file("chained.pem");
    let [own, ca, other] =
        [&good.cert, &authority.ca(), &old.cert].map(|path| std::fs::read_to_string(path).unwrap());
    std::fs::write(&chained, own.clone() + &ca).unwrap();
    let (code, said) = checked(&[&named(&chained, &good.key)], "");
    assert_eq!((code, said.as_str()), (Some(0), ""));
    std::fs::write(&chained, own + &other).unwrap();
    let (code, said) = checked(&[&named(&chained, &good.key)], "");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("is not that of the issuer"), "{said}");
    let to = "{upstream: \"http://127.0.0.1:1\"}";
    let hosts = [
        "a.test/",
        "x.a.test/",
        "\"*.a.test/\"",
        "b.test/",
        "b.test/x",
    ];
    let routes: String = hosts.map(|host| format!("  {host}: {to}\n")).concat();
    let (code, said) = checked_text(&format!("{}routes:\n{routes}", section(&[&good], "")));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("routes.b.test/: no certificate"), "{said}");
}

#[test]
fn keys_that_need_each_other_say_so() {
    let authority = Authority::new();
    let good = authority.server("a", &["a.test"]);
    let certificates = format!("certificates: [{}]", good.entry());
    let route = "routes: {/: {upstream: \"http://127.0.0.1:1\"}}\n";
    let closed = "routes: {/: {upstream: \"http://127.0.0.1:1\", client_auth: required}}\n";
    for (keys, says) in [
        (
            format!("tls: {{}}\n{route}"),
            "the key `certificates` is missing",
        ),
        (
            format!("tls: {{certificates: []}}\n{route}"),
            "must be a list of certificates, not an empty list",
        ),
        (
            format!("tls: {{certificates: [{{cert: a.pem}}]}}\n{route}"),
            "the key `key` is missing",
        ),
        (
            format!("tls: {{{certificates}, min_version: \"1.1\"}}\n{route}"),
            "`1.1` is not a value of `min_version`",
        ),
        (
            format!("tls: {{{certificates}, min_version: 1.2}}\n{route}"),
            "`1.2` without quotes is a number (write `min_version: \"1.2\"`)",
        ),
        (
            format!("tls: {{{certificates}, client_auth: optional}}\n{route}"),
            "needs `client_ca`",
        ),
        (
            format!("tls: {{{certificates}, redirect_http: true}}\n{route}"),
            "there is no HTTPS listener to redirect to",
        ),
        (
            format!("tls: {{{certificates}}}\n{closed}"),
            "needs `tls.client_ca`",
        ),
        (closed.to_owned(), "needs `tls.client_ca`"),
        (
            format!(
                "tls: {{{certificates}, listen_addr: \"127.0.0.1:1\"}}\nadmin: {{listen_addr: \"127.0.0.1:1\"}}\n{route}"
            ),
            "127.0.0.1:1 is taken by",
        ),
    ] {
        let (code, said) = checked_text(&keys);
        assert_eq!(code, Some(78), "{keys}{said}");
        assert!(said.contains(says), "{keys}{said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{keys}{said}");
    }
}
