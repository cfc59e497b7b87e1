//! Starting, stopping, exit codes and signals.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use harbr_router::server::Gateway;
use nix::sys::signal::Signal;

use crate::support::binary::{config, config_file, run};
use crate::support::{Binary, Gw, Next, Origin, client, eventually, route, timed};

#[test]
fn two_gateways_live_in_one_process_and_leave_no_port_behind() {
    let (a, b) = (Origin::ok("a"), Origin::ok("b"));
    let first = Gw::route(&[a.url()], "");
    let second = Gw::route(&[b.url()], "");
    assert_eq!(
        (first.get("/").text(), second.get("/").text()),
        ("a".into(), "b".into())
    );
    second.get("/");
    let requests = |gw: &Gw| gw.metrics().sum("harbr_http_requests_total", &[]);
    eventually(Duration::from_secs(5), "each counts its own", || {
        (requests(&first), requests(&second)) == (1.0, 2.0)
    });
    let ports = [first.addr(), first.admin_addr()];
    first.stop();
    for port in ports {
        // A program forked by another test holds every socket until it has started.
        eventually(Duration::from_secs(2), "it accepts no more", || {
            TcpStream::connect(port).is_err()
        });
        eventually(Duration::from_secs(2), "it is bound no more", || {
            TcpListener::bind(port).is_ok()
        });
    }
    assert_eq!(second.get("/").text(), "b", "the other one goes on");
    let again = Gw::route(&[a.url()], "");
    assert_eq!(again.get("/").text(), "a");
}

#[test]
fn dropping_it_stops_it_too() {
    let origin = Origin::ok("ok");
    let gw = Gw::route(&[origin.url()], "");
    let addr = gw.addr();
    assert_eq!(gw.get("/").text(), "ok");
    drop(gw);
    assert!(TcpStream::connect(addr).is_err());
    eventually(
        Duration::from_secs(5),
        "pooled connections are closed",
        || origin.open_connections() == 0,
    );
}

#[test]
fn an_idle_gateway_stops_at_once_and_a_busy_one_when_its_requests_are_done() {
    let _turn = timed();
    let origin = Origin::serve(|request, conn| {
        if request.target == "/slow" {
            std::thread::sleep(Duration::from_millis(800));
        }
        conn.answer(200, &[], b"whole")
    });
    let text = route("/", &[origin.url()], "");
    let server = "server:\n  drain_timeout_secs: 20\n";
    let idle = Gw::start(format!("{server}{text}"));
    let start = Instant::now();
    idle.stop();
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    let busy = Gw::start(format!("{server}{text}"));
    let addr = busy.addr();
    let mut client = busy.client();
    client.request("GET", "/slow", &[], b"");
    eventually(Duration::from_secs(5), "it is there", || {
        origin.requests() == 1
    });
    let start = Instant::now();
    let stopping = std::thread::spawn(move || busy.stop());
    let response = client.response().unwrap();
    assert_eq!(
        (response.status, response.text()),
        (200, "whole".to_owned())
    );
    assert!(response.closes(), "{:?}", response.headers);
    stopping.join().unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn a_drain_delay_serves_on_while_it_says_not_ready() {
    let origin = Origin::ok("ok");
    let text = route("/", &[origin.url()], "");
    let server = "server:\n  drain_delay_secs: 1\n  drain_timeout_secs: 1\n";
    let gw = Gw::start(format!("{server}{text}"));
    let (addr, admin) = (gw.addr(), gw.admin_addr());
    assert_eq!(client::get(admin, "/readyz").status, 200);
    let stopping = std::thread::spawn(move || gw.stop());
    eventually(Duration::from_millis(900), "it says not ready", || {
        client::get(admin, "/readyz").status == 503
    });
    assert_eq!(client::get(addr, "/").text(), "ok");
    assert_eq!(client::get(admin, "/livez").status, 200);
    stopping.join().unwrap();
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn a_request_that_does_not_end_is_cut_when_the_drain_is_over() {
    let _turn = timed();
    let origin = Origin::serve(|_, conn| conn.until_closed().map(|()| Next::Close));
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    client.request("GET", "/", &[], b"");
    eventually(Duration::from_secs(5), "it is there", || {
        origin.requests() == 1
    });
    let start = Instant::now();
    gw.stop();
    let took = start.elapsed();
    assert!((900..4000).contains(&took.as_millis()), "{took:?}");
    eventually(Duration::from_secs(5), "the endpoint is let go", || {
        origin.open_connections() == 0
    });
}

#[test]
fn a_taken_port_is_an_error_that_names_the_port_and_the_key() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    let routes = route("/", &["http://127.0.0.1:9".to_owned()], "");
    for (text, key) in [
        (config(&port, &routes), "listen_addr"),
        (
            config(
                "127.0.0.1:0",
                &format!("admin: {{listen_addr: \"{port}\"}}\n{routes}"),
            ),
            "admin.listen_addr",
        ),
    ] {
        let config = harbr_router::config::parse(&text, Path::new("config.yml"))
            .unwrap_or_else(|problems| panic!("{problems}"));
        let start = Instant::now();
        let Err(error) = Gateway::new(config).spawn() else {
            panic!("it started on a taken port");
        };
        assert!(error.is_bind(), "{error}");
        let said = error.to_string();
        assert!(said.contains(&port) && said.contains(key), "{said}");
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}

#[test]
fn a_good_config_passes_the_test_and_binds_nothing() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    let routes = route("/", &["http://nobody.invalid:80".to_owned()], "");
    let (_folder, file) = config_file(&config(&port, &routes));
    for flag in ["-t", "--test"] {
        let output = run(&["-c", file.to_str().unwrap(), flag]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains("configuration ok: 1 http routes, 0 tcp routes, 1 listeners"),
            "{said}"
        );
    }
}

#[test]
fn a_wrong_config_starts_nothing_and_prints_every_problem() {
    let text = "listen_addr: 127.0.0.1:0\nglobal_timeout_ms: 0\nmax_conections: 5\nroutes:\n  /a: {upstream: \"http://x\", retry_count: 21}\n";
    let (_folder, file) = config_file(text);
    for extra in [&[][..], &["-t"]] {
        let args = [&["-c", file.to_str().unwrap()], extra].concat();
        let output = run(&args);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        for part in [
            "config.yml:2:",
            "config.yml:3:",
            "config.yml:5:",
            "max_connections",
            "retry_count",
        ] {
            assert!(said.contains(part), "{part} in {said}");
        }
        assert!(said.contains("did you mean"), "{said}");
    }
    let missing = run(&["-c", "/nonexistent/config.yml"]);
    assert_eq!(missing.status.code(), Some(78), "{missing:?}");
    let said = String::from_utf8_lossy(&missing.stderr);
    assert!(said.contains("/nonexistent/config.yml"), "{said}");
}

#[test]
fn a_taken_port_ends_the_program_at_once() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    let routes = route("/", &["http://127.0.0.1:9".to_owned()], "");
    let (_folder, file) = config_file(&config(&port, &routes));
    let start = Instant::now();
    let output = run(&["-c", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains(&port) && said.contains("listen_addr"),
        "{said}"
    );
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn wrong_usage_exits_2_and_help_and_version_exit_0() {
    assert_eq!(run(&["--no-such-flag"]).status.code(), Some(2));
    assert_eq!(run(&["no-such-verb"]).status.code(), Some(2));
    let version = run(&["-V"]);
    assert_eq!(version.status.code(), Some(0));
    let said = String::from_utf8_lossy(&version.stdout).into_owned();
    assert!(said.contains(env!("CARGO_PKG_VERSION")), "{said}");
    let help = run(&["-h"]);
    assert_eq!(help.status.code(), Some(0));
    let said = String::from_utf8_lossy(&help.stdout).into_owned();
    for word in [
        "--test",
        "--daemon",
        "--upgrade",
        "explain",
        "schema",
        "demo",
    ] {
        assert!(said.contains(word), "{word} in {said}");
    }
}

#[test]
fn term_and_int_end_an_idle_program_within_200_ms() {
    let _turn = timed();
    let origin = Origin::ok("ok");
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut binary = Binary::start(&route("/", &[origin.url()], ""));
        assert_eq!(binary.client().get("/").text(), "ok");
        let start = Instant::now();
        binary.signal(signal);
        let status = binary
            .ended_within(Duration::from_secs(5))
            .expect("it ends");
        let took = start.elapsed();
        assert_eq!(status.code(), Some(0), "{signal}");
        assert!(took < Duration::from_millis(200), "{signal}: {took:?}");
    }
}

#[test]
fn term_lets_a_download_of_five_seconds_complete_and_then_ends_at_once() {
    let _turn = timed();
    let body: Vec<u8> = (0..250_000_u32).map(|n| (n % 251) as u8).collect();
    let sent = body.clone();
    let origin = Origin::serve(move |_, conn| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", sent.len());
        conn.send(head)?;
        for part in sent.chunks(5000) {
            std::thread::sleep(Duration::from_millis(100));
            conn.send(part)?;
        }
        Ok(Next::Keep)
    });
    let keys = route("/", &[origin.url()], "");
    let mut binary = Binary::start(&format!("server: {{drain_timeout_secs: 60}}\n{keys}"));
    let mut client = binary.client();
    client.request("GET", "/", &[], b"");
    let (_, framing) = client.head().unwrap();
    let begun = Instant::now();
    binary.signal(Signal::SIGTERM);
    let received = client.body(framing).unwrap();
    let end = Instant::now();
    assert!(end - begun > Duration::from_secs(4), "{:?}", end - begun);
    assert_eq!(received.bytes, body);
    // The client stays: nobody waits for it any more.
    let status = binary
        .ended_within(Duration::from_secs(5))
        .expect("it ends");
    let took = end.elapsed();
    assert_eq!(status.code(), Some(0));
    assert!(
        took < Duration::from_millis(500),
        "{took:?} after the last byte"
    );
    let said = binary.said();
    assert!(
        said.contains("drained") && !said.contains("cut off"),
        "{said}"
    );
    assert!(client.is_closed_within(Duration::from_secs(1)));
}

#[test]
fn term_lets_a_running_request_finish_and_takes_no_new_connection() {
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let origin = Origin::serve(move |_, conn| {
        // Also when the sender is gone: the test is over then.
        let _ = released.lock().unwrap().recv();
        conn.answer(200, &[], b"whole")
    });
    let mut binary = Binary::start(&route("/", &[origin.url()], ""));
    let mut client = binary.client();
    client.request("GET", "/", &[], b"");
    eventually(Duration::from_secs(5), "it is there", || {
        origin.requests() == 1
    });
    binary.signal(Signal::SIGTERM);
    eventually(Duration::from_secs(5), "the port is closed", || {
        TcpStream::connect(binary.addr()).is_err()
    });
    assert_eq!(
        binary.ended_within(Duration::ZERO),
        None,
        "it waits for the request"
    );
    release.send(()).unwrap();
    let response = client.response().unwrap();
    assert_eq!(
        (response.status, response.text()),
        (200, "whole".to_owned())
    );
    assert!(response.closes(), "{:?}", response.headers);
    drop(client);
    let status = binary
        .ended_within(Duration::from_secs(5))
        .expect("it ends");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_second_term_ends_it_at_once() {
    let origin = Origin::serve(|_, conn| conn.until_closed().map(|()| Next::Close));
    let mut binary = Binary::start(&route("/", &[origin.url()], ""));
    let mut client = binary.client();
    client.request("GET", "/", &[], b"");
    eventually(Duration::from_secs(5), "it is there", || {
        origin.requests() == 1
    });
    binary.signal(Signal::SIGTERM);
    eventually(Duration::from_secs(5), "it drains", || {
        TcpStream::connect(binary.addr()).is_err()
    });
    binary.signal(Signal::SIGTERM);
    assert!(binary.ended_within(Duration::from_secs(2)).is_some());
}
