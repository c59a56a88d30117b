//! A file being received, written by a thread of its own.
//!
//! It is called `name.part` until it is complete and its hash is right; only then it gets its name.
//! It never takes the place of another file: where there is one, ` (1)` is added, and so on. What is
//! not completed is removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, ensure};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::file_name;
use crate::hash::{FileHash, Hasher};

/// How many pieces wait to be written, each at most one read of the connection (64 KiB). A slow disk
/// slows the sender.
const WAITING: usize = 16;

/// The most files of one name.
const MAX_NUMBER: u32 = 9_999;

/// A file that is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// The hash of what is on the disk.
    pub hash: FileHash,
    /// The sender gave the hash too.
    pub verified: bool,
}

/// See the [module](self). When it is dropped, the file is removed.
pub struct FileStore {
    jobs: mpsc::Sender<Job>,
    writer: JoinHandle<anyhow::Result<StoredFile>>,
}

enum Job {
    Write { offset: u64, bytes: Bytes },
    Finish { total: u64, expected: Option<FileHash> },
}

impl FileStore {
    /// Makes an empty file in `folder`, for a name that somebody else chose.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn create(folder: &Path, wanted: &str) -> anyhow::Result<Self> {
        let part = PartFile::create(folder, file_name::safe(wanted))?;
        let (jobs, queue) = mpsc::channel(WAITING);
        Ok(Self { jobs, writer: spawn_blocking(move || part.work(queue)) })
    }

    /// Writes at a place. Bytes may come in any order, and again.
    ///
    /// # Errors
    /// What an earlier write met with; the file is removed.
    pub async fn write(&mut self, offset: u64, bytes: Bytes) -> anyhow::Result<()> {
        match self.jobs.send(Job::Write { offset, bytes }).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.failure().await),
        }
    }

    /// All is written: the file has `total` bytes. Gives it its name, if its hash is `expected` or
    /// nothing is.
    ///
    /// # Errors
    /// What a write met with; bytes are missing; the hash is another. The file is removed.
    pub async fn finish(mut self, total: u64, expected: Option<FileHash>) -> anyhow::Result<StoredFile> {
        match self.jobs.send(Job::Finish { total, expected }).await {
            Ok(()) => self.writer.await?,
            Err(_) => Err(self.failure().await),
        }
    }

    /// Removes the file.
    pub async fn discard(self) {
        drop(self.jobs);
        // It ends with an error, which is what is wanted.
        let _ = self.writer.await;
    }

    async fn failure(&mut self) -> anyhow::Error {
        match (&mut self.writer).await {
            Ok(Err(error)) => error,
            Ok(Ok(_)) => anyhow!("the file is complete already"),
            Err(error) => error.into(),
        }
    }
}

struct PartFile {
    file: File,
    path: PathBuf,
    folder: PathBuf,
    name: String,
    /// Where the file's cursor is.
    at: u64,
    hasher: Hasher,
    /// How much of the beginning is hashed.
    hashed: u64,
    /// Bytes that were hashed have changed since.
    stale: bool,
}

impl PartFile {
    fn create(folder: &Path, name: String) -> anyhow::Result<Self> {
        let (path, file) = new_file(folder, &format!("{name}.part"), true)?;
        let (folder, hasher) = (folder.to_owned(), Hasher::default());
        Ok(Self { file, path, folder, name, at: 0, hasher, hashed: 0, stale: false })
    }

    fn work(mut self, mut queue: mpsc::Receiver<Job>) -> anyhow::Result<StoredFile> {
        while let Some(job) = queue.blocking_recv() {
            match job {
                Job::Write { offset, bytes } => {
                    self.write(offset, &bytes)
                        .with_context(|| format!("cannot write {}", self.path.display()))?;
                }
                Job::Finish { total, expected } => return self.finish(total, expected),
            }
        }
        Err(anyhow!("abandoned"))
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if offset != self.at {
            self.file.seek(SeekFrom::Start(offset))?;
        }
        self.file.write_all(bytes)?;
        self.at = offset + bytes.len() as u64;
        if offset == self.hashed {
            self.hasher.update(bytes);
            self.hashed = self.at;
        } else if offset < self.hashed {
            self.stale = true;
        }
        Ok(())
    }

    fn finish(mut self, total: u64, expected: Option<FileHash>) -> anyhow::Result<StoredFile> {
        let len = self.file.metadata()?.len();
        ensure!(len >= total, "the file has {total} bytes, and only {len} came");
        // What came for places behind the end does not belong to the message (RFC 4975 §7.3.1).
        self.file.set_len(total)?;
        let hash = if self.stale || self.hashed != total {
            self.hash_again()?
        } else {
            self.hasher.clone().finish()
        };
        if let Some(expected) = expected {
            ensure!(hash == expected, "the file's SHA-256 is {hash}; its sender says {expected}");
        }
        self.file.sync_all()?;
        // An empty file of ours, which the real one replaces: so no other is ever overwritten.
        let (path, _) = new_file(&self.folder, &self.name, false)?;
        if let Err(error) = fs::rename(&self.path, &path) {
            let _ = fs::remove_file(&path);
            return Err(error).with_context(|| format!("cannot rename to {}", path.display()));
        }
        self.path.clear();
        Ok(StoredFile { path, size: total, hash, verified: expected.is_some() })
    }

    fn hash_again(&mut self) -> io::Result<FileHash> {
        let mut hasher = Hasher::default();
        let mut piece = vec![0; 64 * 1024];
        self.file.seek(SeekFrom::Start(0))?;
        loop {
            match self.file.read(&mut piece)? {
                0 => return Ok(hasher.finish()),
                len => hasher.update(&piece[..len]),
            }
        }
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A file that was not there before, under the first free of the numbered names.
fn new_file(folder: &Path, name: &str, read: bool) -> anyhow::Result<(PathBuf, File)> {
    for number in 0..=MAX_NUMBER {
        let path = folder.join(file_name::numbered(name, number));
        match OpenOptions::new().read(read).write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot make {}", path.display())),
        }
    }
    Err(anyhow!("there are {MAX_NUMBER} files called {name} in {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn hash(content: &[u8]) -> FileHash {
        let mut hasher = Hasher::default();
        hasher.update(content);
        hasher.finish()
    }

    #[tokio::test]
    async fn pieces_land_at_their_offsets_and_the_last_ones_count() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = FileStore::create(folder.path(), "../x.bin").unwrap();
        for (offset, bytes) in [(4, "efgh"), (0, "abXX"), (2, "cd"), (8, "beyond")] {
            store.write(offset, Bytes::from(bytes)).await.unwrap();
        }
        let stored = store.finish(8, Some(hash(b"abcdefgh"))).await.unwrap();
        assert_eq!(stored.path, folder.path().join("x.bin"));
        assert!(stored.verified);
        assert_eq!(fs::read(stored.path).unwrap(), b"abcdefgh");
        assert_eq!(files(folder.path()), ["x.bin"]);
    }

    #[tokio::test]
    async fn no_file_is_overwritten_and_no_link_followed() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(folder.path().join("a.txt"), "old").unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(outside.path().join("target"), folder.path().join("a (1).txt")).unwrap();
        #[cfg(not(unix))]
        fs::write(folder.path().join("a (1).txt"), "old").unwrap();
        let mut store = FileStore::create(folder.path(), "a.txt").unwrap();
        store.write(0, Bytes::from("new")).await.unwrap();
        let stored = store.finish(3, None).await.unwrap();
        assert_eq!(stored.path, folder.path().join("a (2).txt"));
        assert!(!stored.verified);
        assert_eq!(fs::read(folder.path().join("a.txt")).unwrap(), b"old");
        assert!(files(outside.path()).is_empty());
    }

    #[tokio::test]
    async fn what_is_wrong_or_incomplete_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let store = async |total, expected| {
            let mut store = FileStore::create(folder.path(), "a.txt").unwrap();
            store.write(0, Bytes::from("abc")).await.unwrap();
            store.finish(total, expected).await
        };
        let error = store(3, Some(hash(b"abd"))).await.unwrap_err();
        assert!(error.to_string().contains("SHA-256"), "{error}");
        let error = store(4, None).await.unwrap_err();
        assert!(error.to_string().contains("only 3 came"), "{error}");
        FileStore::create(folder.path(), "a.txt").unwrap().discard().await;
        assert!(files(folder.path()).is_empty());
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(FileStore::create(&folder.path().join("missing"), "a").is_err());
    }
}
