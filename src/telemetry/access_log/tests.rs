//! The access log with real files, pipes and full disks.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::error::Reason;

const SOON: Duration = Duration::from_secs(20);

fn counter() -> IntCounter {
    IntCounter::new("dropped", "dropped").unwrap()
}

fn number(log: &AccessLog, number: u64) {
    log.log(&Record {
        bytes_in: number,
        path: b"/some/path",
        ..Record::new("127.0.0.1:80", Reason::Ok)
    });
}

fn numbers(text: &str) -> Vec<u64> {
    let number = |line: &str| -> u64 {
        let value: Value = serde_json::from_str(line).unwrap();
        value["bytes_in"].as_u64().unwrap()
    };
    text.lines().map(number).collect()
}

fn pipe(folder: &TempDir) -> (PathBuf, File) {
    let path = folder.path().join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    // Open for both, so that neither side waits for the other to open it.
    let reader = OpenOptions::new().read(true).write(true).open(&path);
    (path, reader.unwrap())
}

#[test]
fn records_arrive_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let dropped = counter();
    let log = AccessLog::file(&path, dropped.clone()).unwrap();
    assert!(log.is_on());
    number(&log, 0);
    log.start().unwrap();
    log.start().unwrap();
    for at in 1..100_000 {
        number(&log, at);
        if at % 10_000 == 0 {
            assert!(log.flush(SOON));
        }
    }
    drop(log);
    let text = fs::read_to_string(&path).unwrap();
    assert!(numbers(&text).into_iter().eq(0..100_000));
    assert_eq!(dropped.get(), 0);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o137, 0, "{mode:o}");
}

#[test]
fn many_threads_write_whole_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let log = AccessLog::file(&path, counter()).unwrap();
    log.start().unwrap();
    thread::scope(|scope| {
        for thread in 0..4 {
            let log = &log;
            scope.spawn(move || (0..1000).for_each(|at| number(log, thread * 1000 + at)));
        }
    });
    assert!(log.flush(SOON));
    let mut written = numbers(&fs::read_to_string(&path).unwrap());
    written.sort_unstable();
    assert!(written.into_iter().eq(0..4000));
}

#[test]
fn a_line_appears_without_a_flush() {
    let folder = tempfile::tempdir().unwrap();
    let (path, reader) = pipe(&folder);
    let log = AccessLog::file(&path, counter()).unwrap();
    log.start().unwrap();
    number(&log, 7);
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).unwrap();
    assert_eq!(numbers(&line), [7]);
}

#[test]
fn drops_and_counts_while_the_writer_is_stuck() {
    let folder = tempfile::tempdir().unwrap();
    let (path, reader) = pipe(&folder);
    let dropped = counter();
    let log = AccessLog::file(&path, dropped.clone()).unwrap();
    log.start().unwrap();
    let total = 200_000;
    (0..total).for_each(|at| number(&log, at));
    let lost = dropped.get();
    assert!(lost > 0 && lost < total, "{lost}");
    assert!(!log.flush(Duration::from_millis(20)), "nobody reads yet");

    let mut lines = BufReader::new(reader).lines();
    let mut last = None;
    for _ in 0..total - lost {
        let at = numbers(&lines.next().unwrap().unwrap())[0];
        assert!(last < Some(at), "{at} after {last:?}");
        last = Some(at);
    }
    assert!(log.flush(SOON));
    number(&log, total);
    assert_eq!(numbers(&lines.next().unwrap().unwrap()), [total]);
    assert_eq!(dropped.get(), lost);
}

#[test]
fn gives_up_on_a_stuck_writer_when_closed() {
    let folder = tempfile::tempdir().unwrap();
    let (path, reader) = pipe(&folder);
    let mut log = AccessLog::file(&path, counter()).unwrap();
    log.start().unwrap();
    (0..10_000).for_each(|at| number(&log, at));
    let started = Instant::now();
    log.close(Duration::from_millis(50));
    assert!(started.elapsed() >= Duration::from_millis(50));
    assert!(started.elapsed() < SOON);
    drop(reader);
}

#[test]
fn writes_to_the_new_file_after_a_rotation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let rotated = folder.path().join("access.log.1");
    let log = AccessLog::file(&path, counter()).unwrap();
    log.start().unwrap();
    number(&log, 1);
    assert!(log.flush(SOON));
    fs::rename(&path, &rotated).unwrap();
    number(&log, 2);
    assert!(log.flush(SOON));
    log.reopen();
    number(&log, 3);
    assert!(log.flush(SOON));
    assert_eq!(numbers(&fs::read_to_string(&rotated).unwrap()), [1, 2]);
    assert_eq!(numbers(&fs::read_to_string(&path).unwrap()), [3]);

    // The name leads nowhere now: the old file is kept.
    fs::rename(&path, &rotated).unwrap();
    fs::create_dir(&path).unwrap();
    log.reopen();
    number(&log, 4);
    assert!(log.flush(SOON));
    assert_eq!(numbers(&fs::read_to_string(&rotated).unwrap()), [3, 4]);
}

#[test]
fn counts_what_a_full_disk_refuses() {
    let dropped = counter();
    let log = AccessLog::file(Path::new("/dev/full"), dropped.clone()).unwrap();
    log.start().unwrap();
    (0..5).for_each(|at| number(&log, at));
    assert!(log.flush(SOON));
    assert_eq!(dropped.get(), 5);
    number(&log, 5);
    assert!(log.flush(SOON));
    assert_eq!(dropped.get(), 6);
}

#[test]
fn a_line_that_was_cut_is_not_continued_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let (path, reader) = pipe(&folder);
    let dropped = counter();
    let log = AccessLog::file(&path, dropped.clone()).unwrap();
    log.start().unwrap();
    let total = 10_000;
    (0..total).for_each(|at| number(&log, at));
    assert!(!log.flush(Duration::from_millis(20)), "the pipe is full");
    // The writer's call ends after a part of a line, the next one fails.
    drop(reader);
    assert!(log.flush(SOON));
    let reader = OpenOptions::new().read(true).write(true).open(&path);
    number(&log, total);

    let (mut whole, mut cut) = (0, 0);
    for line in BufReader::new(reader.unwrap()).lines() {
        match serde_json::from_str::<Value>(&line.unwrap()) {
            Ok(value) if value["bytes_in"] == total => break,
            Ok(_) => whole += 1,
            Err(_) => cut += 1,
        }
    }
    assert_eq!(cut, 1);
    assert_eq!(whole + dropped.get(), total);
}

#[test]
fn a_log_that_is_off_keeps_nothing() {
    let log = AccessLog::off();
    assert!(!log.is_on());
    log.start().unwrap();
    number(&log, 1);
    log.reopen();
    assert!(log.flush(Duration::ZERO));
}

#[test]
fn a_log_that_never_started_counts_what_it_had() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let dropped = counter();
    let log = AccessLog::file(&path, dropped.clone()).unwrap();
    (0..3).for_each(|at| number(&log, at));
    drop(log);
    assert_eq!(dropped.get(), 3);
    assert_eq!(fs::read_to_string(&path).unwrap(), "");
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    assert!(AccessLog::file(folder.path(), counter()).is_err());
}
