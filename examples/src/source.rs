//! A file to be sent, read ahead by a thread of its own.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::hash::{FileHash, Hasher};

/// How much is read at once: 64 KiB, what the endpoint asks for at most.
const PIECE: usize = 64 * 1024;

/// How many pieces are read ahead. With [`PIECE`] this bounds the memory of a file being sent.
const AHEAD: usize = 8;

/// What is known of a file before it is sent.
#[derive(Clone, Debug)]
pub struct FileFacts {
    /// Where it is.
    pub path: PathBuf,
    /// Its name, without folders.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its hash.
    pub hash: FileHash,
}

/// The content of a file, from its beginning.
pub struct FileSource {
    pieces: mpsc::Receiver<Bytes>,
    reader: JoinHandle<io::Result<FileHash>>,
    rest: Bytes,
}

impl FileFacts {
    /// Reads the whole file for its hash, which has to be known before its first byte is sent.
    ///
    /// # Errors
    /// It cannot be read, or is no regular file.
    pub async fn gather(path: &Path) -> anyhow::Result<Self> {
        let path = path.to_owned();
        let context = format!("cannot read {}", path.display());
        spawn_blocking(move || {
            let mut file = File::open(&path)?;
            ensure!(file.metadata()?.is_file(), "it is no regular file");
            let mut hasher = Hasher::default();
            let size = each_piece(&mut file, u64::MAX, |piece| {
                hasher.update(&piece);
                true
            })?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok(Self { path, name, size, hash: hasher.finish() })
        })
        .await?
        .context(context)
    }
}

impl FileSource {
    /// Begins to read: `facts.size` bytes, whatever the file has become in the meantime.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(facts: &FileFacts) -> io::Result<Self> {
        let mut file = File::open(&facts.path)?;
        let size = facts.size;
        let (sender, pieces) = mpsc::channel(AHEAD);
        let reader = spawn_blocking(move || {
            let mut hasher = Hasher::default();
            each_piece(&mut file, size, |piece| {
                hasher.update(&piece);
                sender.blocking_send(piece).is_ok()
            })?;
            Ok(hasher.finish())
        });
        Ok(Self { pieces, reader, rest: Bytes::new() })
    }

    /// The next bytes, at most `max` and at least one. `None`: there are no more.
    pub async fn next(&mut self, max: usize) -> Option<Bytes> {
        if self.rest.is_empty() {
            self.rest = self.pieces.recv().await?;
        }
        Some(self.rest.split_to(max.min(self.rest.len())))
    }

    /// The hash of all that was read. To be called after the end.
    ///
    /// # Errors
    /// What ended the reading early.
    pub async fn finish(self) -> anyhow::Result<FileHash> {
        drop(self.pieces);
        Ok(self.reader.await??)
    }
}

/// Reads up to `size` bytes, as long as `take` wants more; gives how many they were.
fn each_piece(file: &mut File, size: u64, mut take: impl FnMut(Bytes) -> bool) -> io::Result<u64> {
    let mut read = 0;
    while read < size {
        let want = usize::try_from(size - read).unwrap_or(PIECE).min(PIECE);
        let mut piece = BytesMut::zeroed(want);
        let len = file.read(&mut piece)?;
        if len == 0 {
            break;
        }
        read += len as u64;
        piece.truncate(len);
        if !take(piece.freeze()) {
            break;
        }
    }
    Ok(read)
}
