//! Noticing that configuration files changed.
//!
//! Files are looked at, not subscribed to: that works on every file system, and sees the symbolic links of
//! mounted config maps and secrets change their target.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// Time between two looks at the files. A change counts when two looks saw it, so that no file is read that is still being
/// written.
const LOOK: Duration = Duration::from_millis(200);

/// Looks after which a change counts although files go on changing: whoever writes one all the time keeps nobody else's changes
/// back.
const LOOKS: u32 = 10;

/// Folders inside folders that are looked at.
const DEPTH: usize = 8;

/// Watches files and folders.
#[derive(Debug)]
pub(crate) struct Watcher {
    paths: Vec<PathBuf>,
    seen: Vec<Look>,
}

/// A file as it was found; `None` if it could not be looked at.
type Look = (PathBuf, Option<Mark>);

/// Value that changes with a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Mark {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Watcher {
    /// Watches these from now on; folders with all that is in them.
    pub(crate) fn new(paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        let paths = paths.into_iter().map(Into::into).collect::<Vec<_>>();
        Self {
            seen: look(&paths),
            paths,
        }
    }

    /// Watches other files from now on. A change of a file that was watched before is not missed.
    pub(crate) fn watch(&mut self, paths: impl IntoIterator<Item = impl Into<PathBuf>>) {
        let new = Self::new(paths);
        self.seen
            .retain(|(path, _)| new.seen.iter().any(|(known, _)| known == path));
        for (path, mark) in new.seen {
            if !self.seen.iter().any(|(known, _)| *known == path) {
                self.seen.push((path, mark));
            }
        }
        self.seen.sort();
        self.paths = new.paths;
    }

    /// Waits until something is different from what it was when this was called last, and has stayed that way for
    /// a moment, or has been different for long.
    pub(crate) async fn changed(&mut self) {
        let mut last = None;
        let mut looks = 0;
        loop {
            tokio::time::sleep(LOOK).await;
            let now = look(&self.paths);
            if now == self.seen {
                last = None;
                looks = 0;
                continue;
            }
            looks += 1;
            if last.as_ref() == Some(&now) || looks >= LOOKS {
                self.seen = now;
                return;
            }
            last = Some(now);
        }
    }
}

/// Everything below these paths, in order.
fn look(paths: &[PathBuf]) -> Vec<Look> {
    let mut found = Vec::new();
    for path in paths {
        visit(path, DEPTH, &mut found);
    }
    found.sort();
    found.dedup();
    found
}

fn visit(path: &Path, depth: usize, found: &mut Vec<Look>) {
    let Ok(metadata) = fs::metadata(path) else {
        found.push((path.to_owned(), None));
        return;
    };
    if metadata.is_dir() {
        let entries =
            fs::read_dir(path).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
        for entry in entries.unwrap_or_default() {
            // `..data` and the folder that it points to are seen through the links beside them.
            let inner = entry.file_name().to_string_lossy().starts_with("..");
            if depth > 0 && !inner {
                visit(&entry.path(), depth - 1, found);
            }
        }
        return;
    }
    let mark = Mark {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    };
    found.push((path.to_owned(), Some(mark)));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tokio::time::{Instant, timeout};

    use super::*;

    /// A folder that goes away with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("reload-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    async fn notices(watcher: &mut Watcher) -> bool {
        timeout(Duration::from_secs(5), watcher.changed())
            .await
            .is_ok()
    }

    // Time is paused: a wait that nothing ends costs none.
    #[tokio::test(start_paused = true)]
    async fn a_change_is_noticed_once() {
        let folder = Folder::new("file");
        let file = folder.write("envoy.yaml", "a");
        let mut watcher = Watcher::new([&file]);
        assert!(!notices(&mut watcher).await);
        folder.write("envoy.yaml", "changed");
        let begun = Instant::now();
        assert!(notices(&mut watcher).await);
        assert!(begun.elapsed() < Duration::from_secs(1));
        assert!(!notices(&mut watcher).await);
        fs::remove_file(&file).unwrap();
        assert!(notices(&mut watcher).await);
        folder.write("envoy.yaml", "back");
        assert!(notices(&mut watcher).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_always_changes_keeps_no_other_back() {
        let folder = Folder::new("restless");
        let restless = folder.write("a.yaml", "");
        let mut watcher = Watcher::new([&folder.0]);
        let write = async {
            for size in 1.. {
                fs::write(&restless, "x".repeat(size)).unwrap();
                tokio::time::sleep(LOOK / 2).await;
            }
        };
        tokio::select! {
            () = write => {}
            noticed = async {
                folder.write("b.yaml", "changed");
                notices(&mut watcher).await
            } => assert!(noticed),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_mounted_folder_swaps_its_link() {
        let folder = Folder::new("map");
        folder.write("..1/a.yaml", "a");
        folder.write("..2/a.yaml", "a");
        symlink("..1", folder.0.join("..data")).unwrap();
        symlink("..data/a.yaml", folder.0.join("a.yaml")).unwrap();
        let mut whole = Watcher::new([&folder.0]);
        let mut one = Watcher::new([folder.0.join("a.yaml")]);
        assert!(!notices(&mut whole).await);
        symlink("..2", folder.0.join("..new")).unwrap();
        fs::rename(folder.0.join("..new"), folder.0.join("..data")).unwrap();
        assert!(notices(&mut whole).await);
        assert!(notices(&mut one).await);
        folder.write("b.yaml", "more");
        assert!(notices(&mut whole).await);
        assert!(!notices(&mut one).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_before_other_files_join_is_not_missed() {
        let folder = Folder::new("join");
        let file = folder.write("envoy.yaml", "a");
        let mut watcher = Watcher::new([&file]);
        folder.write("envoy.yaml", "changed");
        let certificate = folder.write("tls.crt", "c");
        watcher.watch([&file, &certificate]);
        assert!(notices(&mut watcher).await);
        assert!(!notices(&mut watcher).await);
        folder.write("tls.crt", "renewed");
        assert!(notices(&mut watcher).await);
    }
}
