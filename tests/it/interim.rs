//! Interim responses (1xx): they pass, and cost nobody the connection.

use std::time::Duration;

use crate::support::{Client, Gw, Next, Origin};

/// A PUT whose client waits for `100 Continue`; what the final answer is.
fn put_after_100(client: &mut Client, target: &str) -> crate::support::Response {
    let body = "0123456789";
    client.send(format!(
        "PUT {target} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    assert_eq!(client.response().map(|r| r.status), Ok(100), "{target}");
    client.send(body);
    client.response().expect("the final answer")
}

#[test]
fn twenty_uploads_that_each_wait_for_100_take_one_connection() {
    let origin = Origin::echo();
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    for nth in 0..20 {
        let answer = put_after_100(&mut client, &format!("/{nth}"));
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json()["body"], "0123456789");
        assert_eq!(answer.headers.first("connection"), Some("keep-alive"));
    }
    assert_eq!((origin.connections(), origin.requests()), (1, 20));
}

#[test]
fn hints_while_the_upload_runs_leave_the_connection_open() {
    let origin = Origin::serve(|request, conn| {
        conn.send("HTTP/1.1 102 Processing\r\n\r\n")?;
        conn.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")?;
        let body = conn.body()?;
        conn.answer_json(request, &body)
    });
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    for _ in 0..3 {
        client.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
        assert_eq!(client.response().map(|r| r.status), Ok(102));
        let hints = client.response().expect("hints");
        assert_eq!(hints.status, 103);
        assert!(hints.headers.has("link") && !hints.headers.has("connection"));
        client.send("3\r\ndef\r\n0\r\n\r\n");
        let answer = client.response().expect("the final answer");
        assert_eq!(answer.json()["body"], "abcdef");
        assert!(!answer.closes());
    }
    client.request("GET", "/", &[], b"");
    for status in [102, 103, 200] {
        assert_eq!(client.response().map(|r| r.status), Ok(status));
    }
}

#[test]
fn a_final_answer_before_the_body_still_ends_the_connection() {
    let origin = Origin::serve(|request, conn| {
        if request.target == "/hinted" {
            conn.send("HTTP/1.1 103 Early Hints\r\n\r\n")?;
        }
        let status = match request.target.as_str() {
            "/417" => 417,
            _ => 401,
        };
        conn.answer(status, &[], b"no")?;
        Ok(Next::Close)
    });
    let gw = Gw::route(&[origin.url()], "timeout_ms: 500\n");
    for (target, status) in [("/417", 417), ("/401", 401), ("/hinted", 401)] {
        let mut client = gw.client();
        client.send(format!(
            "PUT {target} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        ));
        let mut answer = client.response().expect("an answer");
        if answer.status == 103 {
            answer = client.response().expect("a final answer");
        }
        assert_eq!((answer.status, answer.text()), (status, "no".to_owned()));
        assert!(
            answer.closes(),
            "{target}: what follows may be the body or not"
        );
        assert!(client.is_closed_within(Duration::from_secs(10)), "{target}");
    }
}

#[test]
fn a_client_of_http_1_0_gets_no_interim_response() {
    let origin = Origin::serve(|request, conn| {
        conn.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n")?;
        let body = conn.body()?;
        conn.answer_json(request, &body)
    });
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    for connection in ["keep-alive", "close"] {
        client.send(format!(
            "PUT / HTTP/1.0\r\nHost: x\r\nExpect: 100-continue\r\nConnection: {connection}\r\n\
             Content-Length: 2\r\n\r\nhi"
        ));
        let answer = client.response().expect("the final answer alone");
        assert_eq!((answer.status, &answer.json()["body"]), (200, &"hi".into()));
        assert_eq!(answer.headers.first("connection"), Some(connection));
    }
    assert!(client.is_closed_within(Duration::from_secs(2)));
}

#[test]
fn curl_keeps_its_connection_over_uploads_that_wait_for_100() {
    let origin = Origin::echo();
    let gw = Gw::route(&[origin.url()], "");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("part");
    std::fs::write(&file, vec![b'p'; 5000]).unwrap();
    let mut curl = std::process::Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "30"])
        .args(["--header", "Expect: 100-continue"])
        .args(["--expect100-timeout", "30"])
        .args([
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code} %{num_connects}\n",
        ]);
    for nth in 0..3 {
        curl.arg("--upload-file").arg(&file);
        curl.arg(format!("http://{}/{nth}", gw.addr()));
    }
    // One output for each URL, or the others go to ours.
    curl.args(["--output", "/dev/null", "--output", "/dev/null"]);
    let ran = curl.output().expect("curl is installed");
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    let said = String::from_utf8(ran.stdout).unwrap();
    assert_eq!(said, "200 1\n200 0\n200 0\n");
    assert_eq!(origin.requests_with("PUT"), 3);
}
