//! The program in the background and under a supervisor: `-d`, pid file, logs, account, systemd.

use std::ffi::OsStr;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};

use crate::support::background::{gone, read_to_the_end};
use crate::support::binary::{config, config_file, program, run};
use crate::support::daemon::is_root;
use crate::support::nginx::free_addr;
use crate::support::{Background, Binary, Client, Origin, eventually, route, route_entry};

const SOON: Duration = Duration::from_secs(10);

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn nowhere() -> String {
    route("/", &["http://127.0.0.1:9".to_owned()], "")
}

/// How often something is done: `make soak` has more time.
fn times(usually: u32, in_a_soak: u32) -> u32 {
    match std::env::var_os("SOAK") {
        Some(_) => in_a_soak,
        None => usually,
    }
}

/// The line `key` of `/proc/<pid>/status`.
fn status(pid: Pid, key: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = status.lines().find_map(|line| line.strip_prefix(key));
    value
        .unwrap()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn a_bad_config_is_told_on_the_terminal_with_its_exit_code_and_starts_nothing() {
    let background = Background::prepare("", "routes: {}\nmax_conections: 1\n");
    let output = background.launch();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("max_conections: is not a key"), "{said}");
    let name = background.file("config.yml");
    let called = Path::new(name.parent().unwrap().file_name().unwrap()).join("config.yml:");
    assert!(
        said.starts_with(called.to_str().unwrap()),
        "as asked for: {said}"
    );
    assert!(!background.file("gateway.pid").exists());
    assert!(!background.file("gateway.log").exists());
}

#[test]
fn what_fails_after_the_fork_is_told_on_the_terminal_too() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    let background = Background::prepare(
        "",
        &format!("admin: {{listen_addr: \"{port}\"}}\n{}", nowhere()),
    );
    let output = background.launch();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    assert!(
        said.contains("admin.listen_addr") && said.contains(&port),
        "{said}"
    );
    assert!(!background.file("gateway.pid").exists());
    // The first listener was bound and is free again.
    TcpListener::bind(background.addr()).unwrap();
}

#[test]
fn the_first_request_after_it_is_served_every_time() {
    let origin = Origin::ok("ok");
    for _ in 0..times(20, 50) {
        let background = Background::start("", &route("/", &[origin.url()], ""));
        assert_eq!(background.client().get("/").text(), "ok");
    }
}

#[test]
fn a_daemon_leaves_terminal_session_and_folder_and_finds_its_files_all_the_same() {
    let origin = Origin::ok("ok");
    let background = Background::start("", &route("/a", &[origin.url()], ""));
    let pid = background.pid();
    let leads = |path: &str| fs::read_link(format!("/proc/{pid}/{path}")).unwrap();
    assert_eq!(leads("cwd"), Path::new("/"));
    assert_eq!(leads("fd/0"), Path::new("/dev/null"));
    let log = background.file("gateway.log").canonicalize().unwrap();
    assert_eq!([leads("fd/1"), leads("fd/2")], [log.clone(), log]);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let (session, terminal) = (fields[3], fields[4]);
    assert_eq!((session, terminal), (&*pid.to_string(), "0"));
    // Named relative to a folder that it has left.
    background.rewrite("", &route("/b", &[origin.url()], ""));
    background.signal(Signal::SIGHUP);
    eventually(SOON, "the new route is served", || {
        background.client().get("/b").status == 200
    });
    assert_eq!(background.client().get("/a").status, 404);
    background.stop();
    assert!(background.text("gateway.log").contains("reloaded"));
}

#[test]
fn the_pid_file_names_the_daemon_and_goes_with_it() {
    let background = Background::start("", &nowhere());
    let pid = background.pid();
    assert!(!gone(pid));
    background.stop();
    assert!(!background.file("gateway.pid").exists());
}

#[test]
fn a_daemon_needs_no_key_for_its_files() {
    let origin = Origin::ok("ok");
    let folder = tempfile::TempDir::new().unwrap();
    let stem = format!("it-{}", std::process::id());
    let file = folder.path().join(format!("{stem}.yml"));
    let addr = free_addr();
    let text = config(&addr.to_string(), &route("/", &[origin.url()], ""));
    fs::write(&file, text).unwrap();
    let mut command = program();
    command.arg("-d").arg("-c").arg(&file);
    command.env("XDG_RUNTIME_DIR", folder.path());
    let output = read_to_the_end(command);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(Client::connect(addr).get("/").text(), "ok");
    let [run, log] = match is_root() {
        true => ["/run", "/var/log"].map(PathBuf::from),
        false => [(); 2].map(|()| folder.path().to_owned()),
    };
    let pid_file = run.join(format!("harbr-router-{stem}.pid"));
    let pid: i32 = fs::read_to_string(&pid_file)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    eventually(SOON, "it ends", || gone(Pid::from_raw(pid)));
    assert!(!pid_file.exists());
    let log = log.join(format!("harbr-router-{stem}.log"));
    assert!(fs::read_to_string(&log).unwrap().contains("drained"));
    fs::remove_file(&log).unwrap();
}

#[test]
fn warnings_of_the_configuration_are_on_the_terminal_and_in_the_log() {
    let unused = "upstreams: {spare: {upstream: \"http://127.0.0.1:9\"}}\n";
    let background = Background::start("", &format!("{unused}{}", nowhere()));
    let told = || {
        let log = background.text("gateway.log");
        log.matches("no route uses this upstream").count()
    };
    assert_eq!(told(), 1, "{}", background.text("gateway.log"));
    let output = background.launch_with(&["-u"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("no route uses this upstream"), "{said}");
    assert_eq!(told(), 2, "{}", background.text("gateway.log"));
}

#[test]
fn a_second_daemon_is_refused_and_the_first_one_goes_on() {
    let origin = Origin::ok("ok");
    let background = Background::start("", &route("/", &[origin.url()], ""));
    let pid = background.pid();
    let output = background.launch();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains(&format!("process {pid}")), "{said}");
    assert!(said.contains("gateway.pid"), "{said}");
    assert_eq!(background.pid(), pid);
    assert_eq!(background.client().get("/").text(), "ok");
}

#[test]
fn a_pid_file_that_a_killed_daemon_left_is_replaced() {
    let background = Background::start("", &nowhere());
    let killed = background.pid();
    background.signal(Signal::SIGKILL);
    eventually(SOON, "it is gone", || gone(killed));
    assert_eq!(background.pid(), killed, "it could not clean up");
    let output = background.launch();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_ne!(background.pid(), killed);
    // One with the pid of somebody who lives and holds nothing is stale as well.
    background.stop();
    fs::write(background.file("gateway.pid"), "1\n").unwrap();
    assert_eq!(background.launch().status.code(), Some(0));
    assert_ne!(background.pid(), Pid::from_raw(1));
}

#[test]
fn a_pid_file_that_names_a_successor_is_left_to_it() {
    let background = Background::start("", &nowhere());
    let pid = background.pid();
    fs::write(background.file("gateway.pid"), "1\n").unwrap();
    kill(pid, Signal::SIGTERM).unwrap();
    eventually(SOON, "it ends", || gone(pid));
    assert_eq!(background.text("gateway.pid"), "1\n");
}

#[test]
fn the_pid_file_stays_with_the_last_of_many_upgrades() {
    let background = Background::start("", &nowhere());
    for _ in 0..times(5, 50) {
        let old = background.pid();
        let output = background.launch_with(&["-u"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let new = background.pid();
        assert_ne!(new, old);
        // Idle, the old one may end before the new one has said that it serves.
        eventually(SOON, "the old one is gone", || gone(old));
        assert_eq!(background.pid(), new);
    }
    background.stop();
    assert!(!background.file("gateway.pid").exists());
}

#[test]
fn in_the_foreground_there_is_a_pid_file_only_when_it_is_asked_for() {
    let mut with = Binary::start(&format!("server: {{pid_file: here.pid}}\n{}", nowhere()));
    let file = with.folder().join("here.pid");
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        format!("{}\n", with.pid())
    );
    with.signal(Signal::SIGTERM);
    assert_eq!(with.ended_within(SOON).unwrap().code(), Some(0));
    assert!(!file.exists());
    let without = Binary::start(&nowhere());
    let names = fs::read_dir(without.folder()).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    let is_pid_file = |name: &OsStr| Path::new(name).extension() == Some(OsStr::new("pid"));
    assert!(!names.iter().any(|name| is_pid_file(name)), "{names:?}");
    assert!(!names.is_empty());
}

#[test]
fn usr1_opens_both_logs_again_and_no_line_is_lost() {
    let origin = Origin::ok("ok");
    let background = Background::start(
        "  access_log: access.log\n",
        &route("/", &[origin.url()], ""),
    );
    let rounds = 5;
    for round in 0..rounds {
        for request in 0..10 {
            let target = format!("/{round}-{request}");
            assert_eq!(background.client().get(&target).text(), "ok");
        }
        for log in ["access.log", "gateway.log"] {
            let rotated = background.file(&format!("{log}.{round}"));
            fs::rename(background.file(log), rotated).unwrap();
        }
        background.signal(Signal::SIGUSR1);
        eventually(SOON, "both are there again", || {
            background.file("access.log").exists()
                && background.text("gateway.log").contains("opened again")
        });
    }
    background.client().get("/last");
    background.stop();
    let rotated = (0..rounds).map(|round| background.text(&format!("access.log.{round}")));
    let all: String = rotated.chain([background.text("access.log")]).collect();
    for round in 0..rounds {
        for request in 0..10 {
            let target = format!("\"/{round}-{request}\"");
            assert_eq!(all.matches(&target).count(), 1, "{target} in {all}");
        }
    }
    assert!(background.text("access.log").contains("\"/last\""));
    assert!(background.text("gateway.log").contains("drained"));
}

#[test]
fn a_panic_message_would_follow_the_log_to_its_new_file() {
    let background = Background::start("", &nowhere());
    let pid = background.pid();
    fs::rename(background.file("gateway.log"), background.file("old.log")).unwrap();
    background.signal(Signal::SIGUSR1);
    eventually(SOON, "stderr leads to the new file", || {
        let stderr = fs::read_link(format!("/proc/{pid}/fd/2")).unwrap();
        stderr.ends_with("gateway.log")
    });
}

#[test]
fn a_changed_file_is_reloaded_when_it_is_watched() {
    let origin = Origin::ok("ok");
    let keys = |path: &str| route(path, &[origin.url()], "");
    let watch = "server: {watch_config: true}\n";
    let binary = Binary::start(&format!("{watch}{}", keys("/a")));
    let serves = |path: &str| binary.client().get(path).status == 200;
    let refusals = || binary.said().matches("reload refused").count();
    binary.rewrite(&format!("{watch}{}", keys("/b")));
    eventually(SOON, "/b is served", || serves("/b"));
    // Half of it, then nothing, then all.
    let file = binary.folder().join("config.yml");
    let whole = fs::read_to_string(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    eventually(SOON, "half a file is refused", || refusals() == 1);
    assert!(serves("/b"));
    fs::remove_file(&file).unwrap();
    eventually(SOON, "no file is refused", || refusals() == 2);
    assert!(serves("/b"));
    binary.rewrite(&format!("{watch}{}", keys("/c")));
    eventually(SOON, "/c is served", || serves("/c"));
    assert_eq!(refusals(), 2, "each is told once");
    // Replaced by rename, as editors do; watching ends with it.
    let new = binary.folder().join("new");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(
        &new,
        text.replace("watch_config: true", "watch_config: false")
            .replace("/c", "/d"),
    )
    .unwrap();
    fs::rename(&new, &file).unwrap();
    eventually(SOON, "/d is served", || serves("/d"));
    binary.rewrite(&keys("/e"));
    binary.signal(Signal::SIGHUP);
    eventually(SOON, "/e is served", || serves("/e"));
}

#[test]
fn the_swap_of_a_config_map_is_seen() {
    let origin = Origin::ok("ok");
    let (_folder, file) = config_file("");
    let folder = file.parent().unwrap();
    fs::remove_file(&file).unwrap();
    let addr = free_addr();
    let version = |name: &str, path: &str| {
        let keys = format!(
            "server: {{watch_config: true, upgrade_sock: a.sock}}\n{}",
            route(path, &[origin.url()], "")
        );
        fs::create_dir(folder.join(name)).unwrap();
        fs::write(
            folder.join(name).join("config.yml"),
            config(&addr.to_string(), &keys),
        )
        .unwrap();
    };
    version("..1", "/a");
    symlink("..1", folder.join("..data")).unwrap();
    symlink("..data/config.yml", &file).unwrap();
    let mut child = program().arg("-c").arg(&file).spawn().unwrap();
    eventually(SOON, "it serves", || {
        std::net::TcpStream::connect(addr).is_ok()
    });
    assert_eq!(Client::connect(addr).get("/a").status, 200);
    version("..2", "/b");
    symlink("..2", folder.join("..tmp")).unwrap();
    fs::rename(folder.join("..tmp"), folder.join("..data")).unwrap();
    fs::remove_dir_all(folder.join("..1")).unwrap();
    eventually(SOON, "/b is served", || {
        Client::connect(addr).get("/b").status == 200
    });
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn an_unwatched_file_is_left_alone() {
    let origin = Origin::ok("ok");
    let binary = Binary::start(&route("/a", &[origin.url()], ""));
    binary.rewrite(&route("/b", &[origin.url()], ""));
    // The watched one of another gateway is taken over meanwhile: more than one period went by.
    let watch = "server: {watch_config: true}\n";
    let watched = Binary::start(&format!("{watch}{}", route("/a", &[origin.url()], "")));
    for path in ["/b", "/c"] {
        watched.rewrite(&format!("{watch}{}", route(path, &[origin.url()], "")));
        eventually(SOON, "it is served", || {
            watched.client().get(path).status == 200
        });
    }
    assert_eq!(binary.client().get("/a").status, 200);
    assert_eq!(binary.client().get("/b").status, 404);
}

#[test]
fn an_unknown_account_is_a_problem_of_the_configuration() {
    for key in ["user", "group"] {
        let keys = format!("server: {{{key}: no-such-name}}\n{}", nowhere());
        let (_folder, file) = config_file(&config("127.0.0.1:0", &keys));
        for verb in [&["-t"][..], &[], &["-d"]] {
            let output = run(&[verb, &["-c", file.to_str().unwrap()]].concat());
            assert_eq!(output.status.code(), Some(78), "{output:?}");
            let said = text(&output.stderr);
            assert!(said.contains(&format!("server.{key}: ")), "{said}");
            assert!(said.contains("no-such-name"), "{said}");
        }
    }
}

#[test]
fn the_test_of_a_configuration_tells_of_logs_that_cannot_be_opened_and_makes_none() {
    let test = |server: &str| {
        let keys = format!("server: {{{server}}}\n{}", nowhere());
        let (folder, file) = config_file(&config("127.0.0.1:0", &keys));
        let output = run(&["-t", "-c", file.to_str().unwrap()]);
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 1, "the configuration only");
        (output.status.code(), text(&output.stderr))
    };
    for good in [
        "log_file: a.log, access_log: b.log",
        "access_log: stdout",
        "access_log: /dev/null",
    ] {
        assert_eq!(test(good), (Some(0), String::new()), "{good}");
    }
    for key in ["log_file", "access_log"] {
        for path in ["none/a.log", "config.yml/a.log", "."] {
            let (code, said) = test(&format!("{key}: {path}"));
            assert_eq!(code, Some(78), "{said}");
            assert!(said.contains(&format!("server.{key}: ")), "{said}");
        }
    }
    let (_, said) = test("log_file: none/a.log, access_log: none/b.log");
    assert!(said.contains("a.log") && said.contains("b.log"), "{said}");
}

#[test]
fn root_binds_and_opens_and_then_becomes_the_user() {
    if !is_root() {
        return only_root_can_change_its_account();
    }
    let nobody = User::from_name("nobody").unwrap().unwrap();
    let origin = Origin::ok("ok");
    let port = free_low_port();
    let keys = format!(
        "admin: {{listen_addr: \"127.0.0.1:{port}\"}}\n{}",
        route("/", &[origin.url()], "")
    );
    let server = "  user: nobody\n  access_log: access.log\n";
    let background = Background::start(server, &keys);
    let pid = background.pid();
    let (uid, gid) = (nobody.uid, nobody.gid);
    assert_eq!(status(pid, "Uid:"), [&*uid.to_string(); 4].join(" "));
    assert_eq!(status(pid, "Gid:"), [&*gid.to_string(); 4].join(" "));
    assert!(!status(pid, "Groups:").split(' ').any(|group| group == "0"));
    assert_eq!(status(pid, "CapEff:"), "0000000000000000");
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    for task in tasks {
        let task = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        assert!(task.contains(&format!("\nUid:\t{uid}\t{uid}\t")), "{task}");
    }
    assert_eq!(background.client().get("/").text(), "ok");
    let admin = SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!(Client::connect(admin).get("/readyz").status, 200);
    background.stop();
    assert_eq!(
        background.text("gateway.pid"),
        "",
        "the folder is root's: emptied"
    );
    assert!(background.text("access.log").contains("\"/\""));
    // What it left is stale.
    assert_eq!(background.launch().status.code(), Some(0));
    background.stop();
    background.rewrite("  user: nobody\n  group: daemon\n", &keys);
    assert_eq!(background.launch().status.code(), Some(0));
    let pid = background.pid();
    let daemon = nix::unistd::Group::from_name("daemon").unwrap().unwrap();
    assert_eq!(status(pid, "Uid:"), [&*uid.to_string(); 4].join(" "));
    assert_eq!(status(pid, "Gid:"), [&*daemon.gid.to_string(); 4].join(" "));
    only_root_can_change_its_account();
}

fn only_root_can_change_its_account() {
    let keys = format!(
        "server: {{user: daemon, upgrade_sock: a.sock}}\n{}",
        nowhere()
    );
    let (folder, file) = config_file(&config("127.0.0.1:0", &keys));
    let mut command = program();
    if is_root() {
        let nobody = User::from_name("nobody").unwrap().unwrap();
        // Where an ordinary account may come.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.path(), open).unwrap();
        let copy = folder.path().join("program");
        if fs::hard_link(program().get_program(), &copy).is_err() {
            fs::copy(program().get_program(), &copy).unwrap();
        }
        command = std::process::Command::new(copy);
        command.uid(nobody.uid.as_raw()).gid(nobody.gid.as_raw());
    }
    command.arg("-c").arg(&file);
    let output = read_to_the_end(command);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("only root can change its account"), "{said}");
    let mut check = program();
    check.arg("-t").arg("-c").arg(&file);
    assert_eq!(read_to_the_end(check).status.code(), Some(0));
}

/// A port that only root may bind.
fn free_low_port() -> u16 {
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let start = 600 + u16::try_from(std::process::id() % 300).unwrap();
    (start..1024).find(free).expect("one of so many is free")
}

#[test]
fn the_service_manager_hears_how_it_goes() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("notify");
    let abstract_name = format!("harbr-test-{}", std::process::id());
    let by_name = std::os::unix::net::SocketAddr::from_abstract_name(&abstract_name).unwrap();
    let sockets = [
        (
            path.as_os_str().to_owned(),
            UnixDatagram::bind(&path).unwrap(),
        ),
        (
            format!("@{abstract_name}").into(),
            UnixDatagram::bind_addr(&by_name).unwrap(),
        ),
    ];
    for (name, manager) in sockets {
        manager.set_read_timeout(Some(SOON)).unwrap();
        let hear = || {
            let mut state = [0; 256];
            let length = manager.recv(&mut state).expect("a word in time");
            text(&state[..length])
        };
        let origin = Origin::ok("ok");
        let keys = route("/", &[origin.url()], "");
        let mut binary = Binary::start_in(&keys, &[("NOTIFY_SOCKET", &name)]);
        assert_eq!(hear(), "READY=1");
        for wrong in [false, true] {
            if wrong {
                binary.rewrite("routes: {}\n");
            }
            binary.signal(Signal::SIGHUP);
            let reloading = hear();
            let micros = reloading
                .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
                .unwrap();
            assert!(micros.parse::<u64>().unwrap() > 0, "{reloading}");
            assert_eq!(hear(), "READY=1");
        }
        binary.signal(Signal::SIGTERM);
        assert_eq!(hear(), "STOPPING=1");
        assert_eq!(binary.ended_within(SOON).unwrap().code(), Some(0));
    }
    // Where nobody listens it runs all the same.
    drop(folder);
    let deaf = Binary::start_in(&nowhere(), &[("NOTIFY_SOCKET", OsStr::new("/nonexistent"))]);
    assert_eq!(deaf.client().get("/").status, 502);
}

#[test]
fn reloads_cost_no_memory() {
    let origin = Origin::ok("ok");
    let admin = free_addr();
    let keys = |nth: u32| {
        let entries: String = (0..50)
            .map(|n| {
                route_entry(
                    &format!("/{n}"),
                    &[origin.url()],
                    &format!("timeout_ms: {}\n", 1000 + nth),
                )
            })
            .collect();
        format!("admin: {{listen_addr: \"{admin}\"}}\nroutes:\n{entries}")
    };
    let binary = Binary::start(&keys(0));
    let reload = |nth: u32| {
        binary.rewrite(&keys(nth));
        let answer = Client::connect(admin).call("POST", "/reload", &[("Host", "localhost")], b"");
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(binary.client().get("/1").status, 200);
    };
    (1..=10).for_each(reload);
    let after_ten = binary.resident_kib();
    (11..=times(100, 1000)).for_each(reload);
    let in_the_end = binary.resident_kib();
    println!("{after_ten} KiB after 10 reloads, {in_the_end} KiB in the end");
    assert!(
        in_the_end * 10 <= after_ten * 11,
        "{after_ten} KiB after 10, {in_the_end} KiB in the end"
    );
}
