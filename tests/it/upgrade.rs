//! One process after another on the same sockets: `-u`, and everything that can go wrong with it.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::binary::program;
use crate::support::daemon::{is_root, lasting_port};
use crate::support::load::{Stopping, under_load};
use crate::support::{
    Background, Binary, Client, Origin, client, eventually, loaded, route, route_entry, timed,
};

const SOON: Duration = Duration::from_secs(15);

/// A route whose health check hangs: a successor is not ready for two seconds.
fn held_up(origin: &Origin, silent: &Origin) -> String {
    let check = "health_check: {path: /, timeout_ms: 60000}\n";
    let slow = route_entry("/slow", &[silent.url()], check);
    format!("routes:\n{}{slow}", route_entry("/", &[origin.url()], ""))
}

/// Accepts, and never says a word.
fn silent() -> Origin {
    Origin::serve(|_, conn| conn.until_closed().map(|()| crate::support::Next::Close))
}

/// As Redis does to PING.
fn pong() -> Origin {
    Origin::raw(|conn| {
        while !conn.next_bytes()?.is_empty() {
            conn.send("+PONG\r\n")?;
        }
        Ok(())
    })
}

/// Routes on listeners of their own, all to one endpoint.
fn redis_on(ports: &[u16], origin: &Origin) -> String {
    let mut text = format!(
        "tcp_proxy: {{enabled: true, listen_addr: \"127.0.0.1:{}\", connection_pooling: false}}\n\
         upstreams: {{cache: {{upstream: \"redis://{}\"}}}}\nroutes:\n",
        lasting_port(),
        origin.addr()
    );
    for port in ports {
        text.push_str(&format!(
            "  cache{port}: {{upstream: cache, is_tcp: true, db_type: redis, tcp_listen_port: {port}}}\n"
        ));
    }
    text
}

/// Different ports that nobody listens on.
fn ports<const N: usize>() -> [u16; N] {
    let mut held = Vec::new();
    while held.len() < N {
        let port = lasting_port();
        held.extend(TcpListener::bind(("127.0.0.1", port)));
    }
    std::array::from_fn(|nth| held[nth].local_addr().unwrap().port())
}

/// One PING on a connection of its own; an error says at which step it failed.
fn ping(port: u16) -> Result<(), String> {
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream =
        TcpStream::connect_timeout(&addr, SOON).map_err(|e| format!("connect: {e}"))?;
    stream.set_read_timeout(Some(SOON)).unwrap();
    ping_on(&mut stream)
}

fn ping_on(stream: &mut TcpStream) -> Result<(), String> {
    let mut answer = [0; 7];
    stream
        .write_all(b"PING\r\n")
        .and_then(|()| stream.read_exact(&mut answer))
        .map_err(|e| format!("ping: {e}"))?;
    match &answer == b"+PONG\r\n" {
        true => Ok(()),
        false => Err(format!("{answer:?}")),
    }
}

#[track_caller]
fn ended_well(mut old: Binary) {
    let status = old.ended_within(SOON);
    let said = old.said();
    assert_eq!(status.and_then(|s| s.code()), Some(0), "{said}");
    assert!(said.contains("drained"), "{said}");
}

#[test]
fn two_hundred_listeners_go_over_while_clients_connect() {
    let _turn = loaded();
    let (web, cache) = (Origin::ok("ok"), pong());
    let ports = ports::<200>();
    let keys = redis_on(&ports, &cache) + &route_entry("/", &[web.url()], "");
    let old = Binary::start(&keys);
    for port in ports {
        ping(port).unwrap();
    }
    let mut session = TcpStream::connect(("127.0.0.1", ports[0])).unwrap();
    session.set_read_timeout(Some(SOON)).unwrap();
    ping_on(&mut session).unwrap();
    let (stop, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let new = thread::scope(|scope| {
        for from in [0, 100] {
            let (stop, sent, ports) = (&stop, &sent, &ports);
            scope.spawn(move || {
                for port in ports[from..].iter().cycle() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    ping(*port).unwrap();
                    sent.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(2));
                }
            });
        }
        let _stopping = Stopping(&stop);
        under_load(old.addr(), &web, || {
            let new = old.beside(&["-u"]).serving();
            old.says("listeners closed");
            let before = sent.load(Ordering::Relaxed);
            eventually(SOON, "both go round once more", || {
                sent.load(Ordering::Relaxed) > before + 400
            });
            new
        })
    });
    assert!(
        new.said().contains("upgrade: 201 sockets"),
        "{}",
        new.said()
    );
    for _ in 0..3 {
        ping_on(&mut session).expect("a session stays where it is");
    }
    drop(session);
    ended_well(old);
    for port in ports {
        ping(port).unwrap();
    }
}

#[test]
fn listeners_go_over_as_reloads_left_them_and_by_the_new_configuration() {
    let (web, cache) = (Origin::ok("ok"), pong());
    let entry = route_entry("/", &[web.url()], "");
    let [first, second, third] = ports();
    let keys = |ports: &[u16]| redis_on(ports, &cache) + &entry;
    let old = Binary::start(&keys(&[first]));
    ping(first).unwrap();
    old.rewrite(&keys(&[second]));
    old.signal(Signal::SIGHUP);
    eventually(SOON, "it is reloaded", || ping(second).is_ok());
    eventually(SOON, "the first is closed", || ping(first).is_err());
    let new = under_load(old.addr(), &web, || {
        let new = old.beside(&["-u"]).serving();
        ping(second).unwrap();
        new
    });
    ended_well(old);
    ping(second).unwrap();
    assert!(ping(first).is_err(), "a closed one does not come back");
    new.rewrite(&keys(&[third]));
    let newest = under_load(new.addr(), &web, || new.beside(&["-u"]).serving());
    ping(third).unwrap();
    ended_well(new);
    assert!(ping(second).is_err(), "what is not wanted is closed");
    assert_eq!(newest.client().get("/").text(), "ok");
}

#[test]
fn a_successor_that_cannot_start_changes_nothing_and_says_why() {
    let origin = Origin::ok("ok");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    let good = route("/", &[origin.url()], "");
    let mut old = Binary::start(&good);
    under_load(old.addr(), &origin, || {
        old.rewrite("nonsense: true\n");
        let mut wrong = old.beside(&["-u"]);
        assert_eq!(wrong.ended_within(SOON).unwrap().code(), Some(78));
        assert!(wrong.said().contains("nonsense"), "{}", wrong.said());
        old.rewrite(&format!("admin: {{listen_addr: \"{port}\"}}\n{good}"));
        let mut taken = old.beside(&["-u"]);
        assert_eq!(taken.ended_within(SOON).unwrap().code(), Some(1));
        let said = taken.said();
        assert!(
            said.contains(&port) && said.contains("admin.listen_addr"),
            "{said}"
        );
        old.says("upgrade failed, this process goes on");
        let said = old.said();
        let why = said.lines().find(|l| l.contains("upgrade failed")).unwrap();
        assert!(why.contains("admin.listen_addr"), "{why}");
    });
    assert_eq!(old.ended_within(Duration::ZERO), None);
    assert!(!old.said().contains("draining"), "{}", old.said());
    // And the way is free for one that can.
    old.rewrite(&good);
    let new = old.beside(&["-u"]).serving();
    ended_well(old);
    assert_eq!(new.client().get("/").text(), "ok");
}

#[test]
fn a_successor_that_is_killed_half_way_changes_nothing() {
    let (origin, silent) = (Origin::ok("ok"), silent());
    let keys = held_up(&origin, &silent);
    let old = Binary::start(&keys);
    under_load(old.addr(), &origin, || {
        let mut new = old.beside(&["-u"]);
        new.says("sockets come from process");
        let refused = client::get(old.addr(), "/").text();
        assert_eq!(refused, "ok");
        assert!(!new.said().contains("listening"), "{}", new.said());
        new.signal(Signal::SIGKILL);
        assert!(new.ended_within(SOON).is_some());
        old.says("upgrade failed, this process goes on");
    });
    assert!(!old.said().contains("draining"), "{}", old.said());
    let new = under_load(old.addr(), &origin, || old.beside(&["-u"]).serving());
    ended_well(old);
    assert_eq!(new.client().get("/").text(), "ok");
}

#[test]
fn while_one_upgrade_is_under_way_there_is_no_other_and_no_reload() {
    let (origin, silent) = (Origin::ok("ok"), silent());
    let old = Binary::start(&held_up(&origin, &silent));
    let first = old.beside(&["-u"]);
    first.says("sockets come from process");
    let mut second = old.beside(&["-u"]);
    assert_eq!(second.ended_within(SOON).unwrap().code(), Some(1));
    let said = second.said();
    assert!(said.contains("another upgrade is under way"), "{said}");
    old.signal(Signal::SIGHUP);
    old.says("an upgrade is under way: reload again");
    let first = first.serving();
    ended_well(old);
    assert_eq!(first.client().get("/").text(), "ok");
}

#[test]
fn a_successor_goes_on_alone_when_the_old_one_dies_half_way() {
    let (origin, silent) = (Origin::ok("ok"), silent());
    let old = Binary::start(&held_up(&origin, &silent));
    let new = old.beside(&["-u"]);
    new.says("sockets come from process");
    old.signal(Signal::SIGKILL);
    let new = new.serving();
    assert_eq!(new.client().get("/").text(), "ok");
    assert!(new.said().contains("going on without it"), "{}", new.said());
    // It can be replaced as any other.
    let newest = new.beside(&["-u"]).serving();
    ended_well(new);
    assert_eq!(newest.client().get("/").text(), "ok");
}

#[test]
fn strangers_and_half_messages_on_the_socket_change_nothing() {
    let origin = Origin::ok("ok");
    let old = Binary::start(&route("/", &[origin.url()], ""));
    let path = old.folder().join("gateway.sock");
    old.says("] serving");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut kept = Vec::new();
    for words in [
        &b""[..],
        b"\0",
        b"\0\0\0\x20{\"hello\":",
        b"\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0\0\x07\"ready\"",
    ] {
        let mut stranger = UnixStream::connect(&path).unwrap();
        stranger.write_all(words).unwrap();
        kept.push(stranger);
    }
    let mut other = UnixStream::connect(&path).unwrap();
    other.set_read_timeout(Some(SOON)).unwrap();
    say(&mut other, r#"{"hello":{"version":999,"pid":1}}"#);
    let answer = hear(&mut other);
    assert!(
        answer.contains("refused") && answer.contains("version"),
        "{answer}"
    );
    // Those that said too little are still there, and hold nobody up.
    let new = under_load(old.addr(), &origin, || old.beside(&["-u"]).serving());
    ended_well(old);
    assert_eq!(new.client().get("/").text(), "ok");
}

#[test]
fn a_successor_that_says_go_on_and_never_serves_changes_nothing() {
    let origin = Origin::ok("ok");
    let mut old = Binary::start(&route("/", &[origin.url()], ""));
    old.says("] serving");
    let mut liar = UnixStream::connect(old.folder().join("gateway.sock")).unwrap();
    liar.set_read_timeout(Some(SOON)).unwrap();
    say(&mut liar, r#"{"hello":{"version":1,"pid":1}}"#);
    assert!(hear(&mut liar).contains("sockets"));
    assert!(hear(&mut liar).contains("listening"));
    say(&mut liar, r#""ready""#);
    assert_eq!(hear(&mut liar), r#""go""#);
    let went = Instant::now();
    let answer = under_load(old.addr(), &origin, || hear(&mut liar));
    assert!(answer.contains("refused"), "{answer}");
    assert!((9..13).contains(&went.elapsed().as_secs()), "{answer}");
    old.says("upgrade failed, this process goes on");
    // Too late.
    say(&mut liar, r#""serving""#);
    assert_eq!(old.client().get("/").text(), "ok");
    assert_eq!(old.ended_within(Duration::ZERO), None);
    let new = old.beside(&["-u"]).serving();
    ended_well(old);
    assert_eq!(new.client().get("/").text(), "ok");
}

#[test]
fn a_watched_file_that_changes_during_an_upgrade_is_reloaded_when_it_has_failed() {
    let origin = Origin::ok("ok");
    let keys = |path: &str| {
        let routes = route(path, &[origin.url()], "");
        format!("server: {{watch_config: true}}\n{routes}")
    };
    let old = Binary::start(&keys("/a"));
    let other = Binary::start(&keys("/a"));
    old.says("] serving");
    let mut liar = UnixStream::connect(old.folder().join("gateway.sock")).unwrap();
    liar.set_read_timeout(Some(SOON)).unwrap();
    say(&mut liar, r#"{"hello":{"version":1,"pid":1}}"#);
    assert!(hear(&mut liar).contains("sockets"));
    old.rewrite(&keys("/b"));
    // Another gateway sees two changes meanwhile: more than one period goes by.
    for path in ["/b", "/c"] {
        other.rewrite(&keys(path));
        eventually(SOON, "it is reloaded", || {
            other.client().get(path).status == 200
        });
    }
    assert_eq!(old.client().get("/b").status, 404, "not now");
    drop(liar);
    old.says("upgrade failed, this process goes on");
    eventually(SOON, "it is reloaded", || {
        old.client().get("/b").status == 200
    });
    assert!(!old.said().contains("reload refused"), "{}", old.said());
}

/// Sends one message as a successor would.
fn say(stream: &mut UnixStream, message: &str) {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    // It may have been closed by who has heard enough.
    let _ = stream.write_all(&[&length[..], message.as_bytes()].concat());
}

/// The next message of the process that runs.
fn hear(stream: &mut UnixStream) -> String {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut message = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut message).unwrap();
    String::from_utf8(message).unwrap()
}

#[test]
fn more_strangers_than_it_talks_to_at_once_are_turned_away() {
    let origin = Origin::ok("ok");
    let old = Binary::start(&route("/", &[origin.url()], ""));
    let path = old.folder().join("gateway.sock");
    old.says("] serving");
    let silent: Vec<_> = (0..8)
        .map(|_| UnixStream::connect(&path).unwrap())
        .collect();
    let mut new = old.beside(&["-u"]);
    assert_eq!(new.ended_within(SOON).unwrap().code(), Some(1));
    assert!(new.said().contains("too many"), "{}", new.said());
    drop(silent);
    let new = old.beside(&["-u"]).serving();
    ended_well(old);
    assert_eq!(new.client().get("/").text(), "ok");
}

#[test]
fn a_process_of_another_user_gets_nothing() {
    if !is_root() {
        // Nobody else can start one.
        return;
    }
    let origin = Origin::ok("ok");
    let mut old = Binary::start(&route("/", &[origin.url()], ""));
    old.says("] serving");
    let (folder, sock) = (old.folder(), old.folder().join("gateway.sock"));
    let open = |path: &std::path::Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    open(folder, 0o755);
    open(&folder.join("config.yml"), 0o644);
    // Where everybody may start it: the folder it was built in may be its owner's alone.
    let lent = folder.join("harbr-router");
    fs::copy(program().get_program(), &lent).unwrap();
    let foreign = || {
        let mut command = Command::new(&lent);
        command.uid(65_534).gid(65_534);
        old.beside_as(command, &["-u"])
    };
    for (mode, why) in [(0o600, "Permission denied"), (0o666, "another user")] {
        open(&sock, mode);
        let mut stranger = foreign();
        assert_eq!(stranger.ended_within(SOON).unwrap().code(), Some(1));
        assert!(stranger.said().contains(why), "{}", stranger.said());
    }
    // The gateway knows who asks, whoever asks.
    assert!(
        !old.said().contains("asks for the sockets"),
        "{}",
        old.said()
    );
    assert_eq!(old.ended_within(Duration::ZERO), None);
    assert_eq!(old.client().get("/").text(), "ok");
}

#[test]
fn with_nothing_running_it_starts_normally_and_says_so() {
    let origin = Origin::ok("ok");
    let mut crashed = Binary::start(&route("/", &[origin.url()], ""));
    crashed.says("] serving");
    crashed.signal(Signal::SIGKILL);
    assert!(crashed.ended_within(SOON).is_some());
    let sock = crashed.folder().join("gateway.sock");
    assert!(sock.exists(), "a crash leaves it");
    let first = crashed.beside(&["-u"]).serving();
    assert!(
        first.said().contains("starting normally"),
        "{}",
        first.said()
    );
    assert_eq!(first.client().get("/").text(), "ok");
    let mut second = first.beside(&["-u"]).serving();
    ended_well(first);
    // Left over once more, and this time nobody asks for an upgrade.
    second.signal(Signal::SIGKILL);
    assert!(second.ended_within(SOON).is_some());
    assert!(sock.exists());
    let plain = second.beside(&[]).serving();
    let last = plain.beside(&["-u"]).serving();
    ended_well(plain);
    assert_eq!(last.client().get("/").text(), "ok");
}

#[test]
fn a_download_and_a_kept_connection_end_in_order_on_the_old_process() {
    let _turn = timed();
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let origin = Origin::serve(move |request, conn| {
        if request.target == "/quick" {
            return conn.answer(200, &[], b"quick");
        }
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n")?;
        conn.send([b'x'; 100_000])?;
        // Also when the sender is gone: the test is over then.
        let _ = released.lock().unwrap().recv();
        conn.send([b'y'; 100_000])?;
        Ok(crate::support::Next::Keep)
    });
    let mut old = Binary::start(&route("/", &[origin.url()], ""));
    let mut kept = old.client();
    assert_eq!(kept.get("/quick").text(), "quick");
    let mut download = old.client();
    download.request("GET", "/long", &[], b"");
    let (_, framing) = download.head().unwrap();
    let new = old.beside(&["-u"]).serving();
    old.says("listeners closed");
    let told = kept.get("/quick");
    assert!(told.closes(), "{:?}", told.headers);
    // Its linger is over, and it waits for the download only.
    let lingered = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < lingered {
        assert_eq!(new.client().get("/quick").text(), "quick");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(old.ended_within(Duration::ZERO), None);
    release.send(()).unwrap();
    assert_eq!(download.body(framing).unwrap().len, 200_000);
    let done = Instant::now();
    drop(download);
    assert_eq!(old.ended_within(SOON).unwrap().code(), Some(0));
    assert!(
        done.elapsed() < Duration::from_secs(2),
        "{:?}",
        done.elapsed()
    );
}

#[test]
fn a_session_that_outlasts_the_drain_is_told_of_the_hand_over() {
    let (web, cache) = (Origin::ok("ok"), pong());
    let [port] = ports();
    let server = "server:\n  access_log: access.log\n  drain_timeout_secs: 1\n";
    let keys = redis_on(&[port], &cache) + &route_entry("/", &[web.url()], "");
    let mut old = Binary::start(&format!("{server}{keys}"));
    let mut session = TcpStream::connect(("127.0.0.1", port)).unwrap();
    session.set_read_timeout(Some(SOON)).unwrap();
    ping_on(&mut session).unwrap();
    let _new = old.beside(&["-u"]).serving();
    ping_on(&mut session).unwrap();
    assert_eq!(old.ended_within(SOON).unwrap().code(), Some(0));
    let mut rest = Vec::new();
    session.read_to_end(&mut rest).unwrap();
    let log = fs::read_to_string(old.folder().join("access.log")).unwrap();
    assert!(log.contains(r#""reason":"handed_over""#), "{log}");
    assert!(!log.contains(r#""reason":"drained""#), "{log}");
}

#[test]
fn quit_waits_for_a_successor_and_goes_on_without_one() {
    let origin = Origin::ok("ok");
    let mut old = Binary::start(&route("/", &[origin.url()], ""));
    old.says("] serving");
    old.signal(Signal::SIGQUIT);
    old.says("waiting for a successor");
    old.says("no successor came");
    assert_eq!(old.ended_within(Duration::ZERO), None);
    assert_eq!(old.client().get("/").text(), "ok");
    old.signal(Signal::SIGQUIT);
    let new = under_load(old.addr(), &origin, || old.beside(&["-u"]).serving());
    ended_well(old);
    // As those do who send it after the new one was started.
    new.signal(Signal::SIGQUIT);
    assert_eq!(new.client().get("/").text(), "ok");
}

#[test]
fn a_process_that_is_to_end_takes_part_in_no_upgrade() {
    let origin = Origin::ok("ok");
    let held = silent();
    let keys = format!(
        "routes:\n{}{}",
        route_entry("/", &[origin.url()], ""),
        route_entry("/held", &[held.url()], "")
    );
    let old = Binary::start(&keys);
    let mut client = old.client();
    client.request("GET", "/held", &[], b"");
    eventually(SOON, "it is there", || held.requests() == 1);
    old.signal(Signal::SIGTERM);
    old.says("listeners closed");
    let new = old.beside(&["-u"]).serving();
    assert!(new.said().contains("starting normally"), "{}", new.said());
    assert_eq!(new.client().get("/").text(), "ok");
    let mut old = old;
    assert_eq!(old.ended_within(Duration::ZERO), None, "it still drains");
    // And leaves the socket to whoever has it by then.
    drop(client);
    assert!(old.ended_within(SOON).is_some());
    let newest = new.beside(&["-u"]).serving();
    ended_well(new);
    assert_eq!(newest.client().get("/").text(), "ok");
}

#[test]
fn a_daemon_is_replaced_and_its_pid_file_names_the_new_one() {
    let origin = Origin::ok("ok");
    let routes = route("/", &[origin.url()], "");
    let users = match is_root() {
        true => &["", "  user: nobody\n"][..],
        false => &[""],
    };
    for user in users {
        let daemon = Background::start(user, &routes);
        for _ in 0..3 {
            let before = daemon.pid();
            let output = under_load(daemon.addr(), &origin, || daemon.launch_with(&["-u"]));
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            assert_ne!(daemon.pid(), before, "{user}");
            eventually(SOON, "the old one ends", || {
                crate::support::background::gone(before)
            });
            assert_eq!(daemon.client().get("/").text(), "ok");
        }
        let second = daemon.launch();
        assert_eq!(second.status.code(), Some(1), "it holds the pid file");
        let text = String::from_utf8_lossy(&second.stderr).into_owned();
        assert!(text.contains(&daemon.pid().to_string()), "{text}");
        daemon.stop();
        assert_eq!(daemon.text("gateway.pid"), "");
        assert!(Client::try_connect(daemon.addr()).is_err());
    }
}
