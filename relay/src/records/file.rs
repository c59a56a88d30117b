//! A file of JSON lines.
//!
//! The file is opened for appending, and opened again when its name leads to another file or to none, which is looked at
//! before each write: so whoever rotates it may move it at any time, and `copytruncate` does as well.
//!
//! A line is written whole or not at all: where a write ends within one (the disk is full), the file is cut back to the
//! line's begin, and the line is written again later. Where it cannot be cut, or where the relay was killed in the middle
//! of a write, the next line begins on a line of its own, and the torn one stays: it is no JSON.
//!
//! With `fsync`, a record counts as written once the disk has it under the file's name: a file that was made is of no use
//! after a crash unless its directory is on the disk too.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::record::SessionRecord;
use super::writer::{Sink, Taken};
use crate::config::RecordFile;

/// The permissions of a new file, less what the process' umask takes: users' names and addresses are not everybody's.
const MODE: u32 = 0o640;

/// The file.
#[derive(Debug)]
pub(super) struct FileSink {
    path: PathBuf,
    fsync: bool,
    open: Option<Open>,
    /// The last line is not whole.
    torn: bool,
    /// What is written at once.
    buffer: Vec<u8>,
    /// The file was made, and the disk may not know its name.
    is_new: bool,
    /// Brings a directory to the disk.
    sync_directory: fn(&Path) -> io::Result<()>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Device and inode.
    id: (u64, u64),
    /// It has a length; no device or pipe.
    is_regular: bool,
}

impl FileSink {
    /// Opens the file.
    pub(super) fn open(settings: &RecordFile) -> io::Result<Self> {
        let mut sink = Self {
            path: settings.path.clone(),
            fsync: settings.fsync,
            open: None,
            torn: false,
            buffer: Vec::new(),
            is_new: false,
            sync_directory,
        };
        sink.ready()?;
        Ok(sink)
    }

    /// The file that the name leads to now.
    fn ready(&mut self) -> io::Result<Open> {
        if let Some(open) = self.open.take()
            && fs::metadata(&self.path).is_ok_and(|there| (there.dev(), there.ino()) == open.id)
        {
            return Ok(open);
        }
        let mut file = self.open_or_create()?;
        let there = file.metadata()?;
        let is_regular = there.is_file();
        if is_regular {
            self.torn = there.len() > 0 && {
                let mut last = [0];
                file.seek(SeekFrom::End(-1))?;
                file.read_exact(&mut last)?;
                last != *b"\n"
            };
        }
        Ok(Open { file, id: (there.dev(), there.ino()), is_regular })
    }

    fn open_or_create(&mut self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).append(true);
        match options.open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Somebody else may make it meanwhile.
                let file = options.create(true).mode(MODE).open(&self.path)?;
                self.is_new = true;
                Ok(file)
            }
            opened => opened,
        }
    }

    /// Brings what was written to the disk, and the name of a new file.
    fn sync(&mut self, file: &File) -> io::Result<()> {
        file.sync_data()?;
        if self.is_new {
            (self.sync_directory)(directory(&self.path))?;
            self.is_new = false;
        }
        Ok(())
    }

    fn append(&mut self, batch: &[Arc<SessionRecord>]) -> Taken {
        let mut open = match self.ready() {
            Ok(open) => open,
            Err(error) => return Taken::failed(0, &error),
        };
        self.buffer.clear();
        if self.torn {
            self.buffer.push(b'\n');
        }
        let begin = self.buffer.len();
        let mut ends = Vec::with_capacity(batch.len());
        for record in batch {
            self.buffer.extend_from_slice(record.to_json().as_bytes());
            self.buffer.push(b'\n');
            ends.push(self.buffer.len());
        }
        let (written, result) = write_all(&mut open.file, &self.buffer);
        let records = ends.partition_point(|end| *end <= written);
        let whole = records.checked_sub(1).map_or(begin.min(written), |last| ends[last]);
        self.torn = match written - whole {
            0 => self.torn && written == 0,
            part => !cut_back(&open, part),
        };
        if self.fsync
            && records > 0
            && let Err(error) = self.sync(&open.file)
        {
            // What the disk has of it is not known: it is written again. What cannot be cut off stands there twice.
            let _ = !self.torn && cut_back(&open, whole - begin);
            return Taken::failed(0, &error);
        }
        match result {
            Ok(()) => {
                self.open = Some(open);
                Taken::all(batch)
            }
            // It is opened again for the next attempt.
            Err(error) => Taken::failed(records, &error),
        }
    }
}

/// The directory that a file is in; of a bare name it is the one that this process is in.
fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    match File::open(directory)?.sync_all() {
        // Some file systems know no such thing (EINVAL), and need none.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

/// Writes as much as can be written: how many bytes that is, and why not all.
fn write_all(file: &mut File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// Takes the last bytes off the file; `false`: they stay.
fn cut_back(open: &Open, bytes: usize) -> bool {
    let Ok(there) = open.file.metadata() else { return false };
    let length = there.len().checked_sub(bytes as u64);
    open.is_regular && length.is_some_and(|length| open.file.set_len(length).is_ok())
}

impl Sink for FileSink {
    async fn open(&mut self) -> Result<(), String> {
        self.open = None;
        let opened = self.ready();
        self.open = Some(opened.map_err(|error| format!("{}: {error}", self.path.display()))?);
        Ok(())
    }

    async fn write(&mut self, batch: &[Arc<SessionRecord>]) -> Taken {
        self.append(batch)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::super::record::tests::ended;
    use super::super::writer::Failure;
    use super::*;

    fn sink(path: &Path, fsync: bool) -> FileSink {
        FileSink::open(&RecordFile { path: path.into(), fsync }).unwrap()
    }

    fn ids(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| {
                let value: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
                value["session"].as_str().unwrap_or("torn").to_owned()
            })
            .collect()
    }

    #[test]
    fn lines_are_appended_to_what_is_there_and_a_torn_one_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.jsonl");
        sink(&path, false).append(&[ended("a"), ended("b")]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o137, 0, "not everybody's");
        sink(&path, false).append(&[ended("c")]);
        assert_eq!(ids(&path), ["a", "b", "c"]);
        // As if it had been killed.
        fs::write(&path, "{\"session\":\"to").unwrap();
        let mut again = sink(&path, false);
        again.append(&[ended("d")]);
        again.append(&[ended("e")]);
        assert_eq!(ids(&path), ["torn", "d", "e"]);
    }

    #[test]
    fn a_file_that_was_moved_or_emptied_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("s.jsonl"), dir.path().join("s.jsonl.1"));
        let mut sink = sink(&path, true);
        sink.append(&[ended("a")]);
        fs::rename(&path, &old).unwrap();
        sink.append(&[ended("b")]);
        assert_eq!((ids(&old), ids(&path)), (vec!["a".to_owned()], vec!["b".to_owned()]));
        // copytruncate
        File::create(&path).unwrap();
        sink.append(&[ended("c")]);
        assert_eq!(ids(&path), ["c"]);
        fs::remove_dir_all(dir.path()).unwrap();
        assert_eq!(sink.append(&[ended("d")]).records, 0);
        fs::create_dir(dir.path()).unwrap();
        assert_eq!(sink.append(&[ended("d")]).records, 1);
        assert_eq!(ids(&path), ["d"]);
    }

    #[test]
    fn what_a_full_disk_refuses_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.jsonl");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut sink = sink(&path, false);
        let taken = sink.append(&[ended("a")]);
        assert!(matches!(taken, Taken { records: 0, failure: Some(Failure::Away(_)) }), "{taken:?}");
        fs::remove_file(&path).unwrap();
        assert_eq!(sink.append(&[ended("a")]).records, 1);
        assert_eq!(ids(&path), ["a"]);
    }

    #[test]
    fn with_fsync_only_what_the_disk_has_is_taken() {
        // It takes every byte, and has no disk.
        let path = Path::new("/dev/null");
        assert_eq!(sink(path, false).append(&[ended("a")]).records, 1);
        let taken = sink(path, true).append(&[ended("a")]);
        assert!(matches!(taken, Taken { records: 0, failure: Some(Failure::Away(_)) }), "{taken:?}");
    }

    #[test]
    fn with_fsync_a_new_file_is_written_once_the_disk_knows_its_name() {
        thread_local! {
            static SYNCED: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
        }
        fn fails(_: &Path) -> io::Result<()> {
            Err(io::ErrorKind::Other.into())
        }
        fn noted(directory: &Path) -> io::Result<()> {
            SYNCED.with_borrow_mut(|synced| synced.push(directory.to_owned()));
            sync_directory(directory)
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.jsonl");
        let mut sink = FileSink { sync_directory: fails, ..sink(&path, true) };
        let taken = sink.append(&[ended("a")]);
        assert!(matches!(taken, Taken { records: 0, failure: Some(Failure::Away(_)) }), "{taken:?}");
        // It is tried again, though the file is there by now; once is enough.
        sink.sync_directory = noted;
        assert_eq!(sink.append(&[ended("a")]).records, 1);
        assert_eq!(sink.append(&[ended("b")]).records, 1);
        assert_eq!(SYNCED.take(), [dir.path()]);
        assert_eq!(ids(&path), ["a", "b"]);
        // After it was moved away there is a new one.
        fs::rename(&path, dir.path().join("s.jsonl.1")).unwrap();
        assert_eq!(sink.append(&[ended("c")]).records, 1);
        assert_eq!(SYNCED.take(), [dir.path()]);

        // One that was there needs nothing; nor does one that need not be on the disk.
        let mut there = FileSink { sync_directory: fails, ..self::sink(&path, true) };
        assert_eq!(there.append(&[ended("d")]).records, 1);
        let mut lazy = FileSink { sync_directory: fails, ..self::sink(&dir.path().join("t.jsonl"), false) };
        assert_eq!(lazy.append(&[ended("e")]).records, 1);
        assert_eq!(directory(Path::new("s.jsonl")), Path::new("."));
    }
}
