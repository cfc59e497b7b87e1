//! Noticing that files have another content: the configuration (`server.watch_config`), and the
//! certificates that it names.
//!
//! A file changes in many ways: written in place, replaced by rename, or behind a symlink that is
//! swapped, as Kubernetes does with a ConfigMap. Looking at what the path leads to, once a second,
//! sees all of them and needs nothing of the system. Invariants: a reload is asked for once for
//! each content; a content that is still changing is waited for; the content in force asks for
//! nothing.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::config::tree::MAX_BYTES;

/// What was seen of the file last.
#[derive(Default)]
pub(super) struct Watch {
    seen: Option<Mark>,
    /// What was reported last: not reported again.
    reported: Option<Content>,
}

/// What changes when a file does (inode(7)); `None` in its place: there is no file.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Mark(Option<[i64; 6]>);

/// `None`: the file cannot be read.
type Content = Option<Vec<u8>>;

impl Watch {
    /// Whether `file` has a content that is neither `in_force` nor reported before. Blocks,
    /// also for as long as the file changes, at most [`LONGEST`].
    pub(super) fn changed(&mut self, file: &Path, in_force: &[u8]) -> bool {
        let mut mark = Mark::of(file);
        if self.seen == Some(mark) {
            return false;
        }
        for _ in 0..LONGEST.as_millis() / SETTLED.as_millis() {
            std::thread::sleep(SETTLED);
            let before = std::mem::replace(&mut mark, Mark::of(file));
            if before == mark {
                break;
            }
        }
        self.seen = Some(mark);
        let content = read(file);
        if content.as_deref() == Some(in_force) {
            self.reported = None;
            return false;
        }
        let is_new = self.reported.as_ref() != Some(&content);
        self.reported = Some(content);
        is_new
    }
}

impl Mark {
    fn of(file: &Path) -> Mark {
        Mark(fs::metadata(file).ok().map(|metadata| {
            [
                metadata.ino() as i64,
                metadata.size() as i64,
                metadata.mtime(),
                metadata.mtime_nsec(),
                metadata.ctime(),
                metadata.ctime_nsec(),
            ]
        }))
    }
}

/// What was seen of several files that belong together.
#[derive(Default)]
pub(super) struct FilesWatch {
    /// As they were when they were last reported.
    reported: Option<Vec<Mark>>,
    /// As they were at the last look.
    seen: Vec<Mark>,
}

impl FilesWatch {
    /// Whether `files` changed since they were last reported, and have been left alone since the last
    /// look: a certificate and its key are written one after the other. The first look reports them,
    /// because they may have changed since they were read.
    pub(super) fn changed(&mut self, files: &[&Path]) -> bool {
        let now: Vec<Mark> = files.iter().map(|file| Mark::of(file)).collect();
        let is_settled = self.seen == now;
        self.seen = now;
        if !is_settled || self.reported.as_ref() == Some(&self.seen) {
            return false;
        }
        self.reported = Some(self.seen.clone());
        true
    }
}

fn read(file: &Path) -> Content {
    let mut content = Vec::new();
    // What is longer is refused; then one byte more is enough to tell it apart.
    let open = File::open(file).ok()?;
    let most = MAX_BYTES as u64 + 1;
    open.take(most).read_to_end(&mut content).ok()?;
    Some(content)
}

/// How often the file is looked at.
pub(super) const PERIOD: Duration = Duration::from_secs(1);
/// How long it must be left alone to be taken for whole.
const SETTLED: Duration = Duration::from_millis(200);
/// How long that is waited for.
const LONGEST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_is_told_of_once_and_the_one_in_force_never() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("a.yml");
        let mut watch = Watch::default();
        fs::write(&file, "one").unwrap();
        assert!(!watch.changed(&file, b"one"), "it is in force");
        fs::write(&file, "two").unwrap();
        assert!(watch.changed(&file, b"one"));
        assert!(!watch.changed(&file, b"one"), "it was refused");
        fs::write(&file, "two").unwrap();
        assert!(!watch.changed(&file, b"one"), "touched only");
        fs::remove_file(&file).unwrap();
        assert!(watch.changed(&file, b"one"), "gone");
        assert!(!watch.changed(&file, b"one"));
        fs::write(&file, "one").unwrap();
        assert!(!watch.changed(&file, b"one"), "back");
        fs::write(&file, "two").unwrap();
        assert!(
            watch.changed(&file, b"one"),
            "refused once, and wanted anew"
        );
    }

    #[test]
    fn a_change_before_the_first_look_is_seen() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("a.yml");
        fs::write(&file, "two").unwrap();
        assert!(Watch::default().changed(&file, b"one"));
    }

    #[test]
    fn files_are_reported_when_they_are_left_alone() {
        let folder = tempfile::TempDir::new().unwrap();
        let (cert, key) = (folder.path().join("a.pem"), folder.path().join("a.key"));
        let mut watch = FilesWatch::default();
        let files = [cert.as_path(), key.as_path()];
        fs::write(&cert, "one").unwrap();
        fs::write(&key, "one").unwrap();
        assert!(!watch.changed(&files));
        assert!(watch.changed(&files), "they may have changed before");
        assert!(!watch.changed(&files));
        fs::write(&cert, "two!").unwrap();
        assert!(!watch.changed(&files), "its key may follow");
        fs::write(&key, "two!").unwrap();
        assert!(!watch.changed(&files));
        assert!(watch.changed(&files));
        assert!(!watch.changed(&files));
        assert!(!watch.changed(&[cert.as_path()]));
        assert!(watch.changed(&[cert.as_path()]), "others now");
    }

    #[test]
    fn a_swapped_symlink_is_a_change() {
        let folder = tempfile::TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (version, text) in [("v1", "one"), ("v2", "two")] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("a.yml"), text).unwrap();
        }
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, at(name)).unwrap();
        link("v1", "..data");
        link("..data/a.yml", "a.yml");
        let mut watch = Watch::default();
        assert!(!watch.changed(&at("a.yml"), b"one"));
        link("v2", "..tmp");
        fs::rename(at("..tmp"), at("..data")).unwrap();
        assert!(watch.changed(&at("a.yml"), b"one"));
    }
}
