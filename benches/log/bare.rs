//! The least that anybody could do to make records durable: allocated files, written one after the other, a sync for each group.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::subject::Syncs;

/// The log's own limits of a group.
const GROUP_BYTES_MAX: usize = 4 << 20;
const GROUP_RECORDS_MAX: usize = 256;

const PAGE: [u8; 4096] = [0; 4096];

/// How files are prepared, one ahead of its use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// `fallocate`.
    Allocated,
    /// Written with zeroes and synced.
    Zeroed,
}

/// Files of one length; the next one is prepared while one is in use.
#[derive(Debug)]
pub struct Files {
    prepared: Receiver<io::Result<File>>,
    /// Dropped behind the receiver: that ends it.
    _preparing: Joined,
    active: File,
    offset: u64,
    len: u64,
    syncs: Arc<Syncs>,
}

impl Files {
    /// Prepares the first one.
    pub fn open(dir: &Path, len: u64, ahead: Ahead, syncs: Arc<Syncs>) -> Result<Files, Box<dyn std::error::Error>> {
        // A rendezvous: the one that is handed over next waits here.
        let (hand_over, prepared) = mpsc::sync_channel(0);
        let dir = dir.to_owned();
        let preparing = std::thread::spawn(move || {
            for number in 0.. {
                if hand_over.send(prepare(&dir.join(number.to_string()), len, ahead)).is_err() {
                    break;
                }
            }
        });
        let active = prepared.recv()??;
        Ok(Files { prepared, _preparing: Joined(Some(preparing)), active, offset: 0, len, syncs })
    }

    /// Makes some records of the same length durable. Those that do not fit go to the next file.
    pub fn commit(&mut self, mut records: &[Bytes]) -> io::Result<()> {
        while let Some(record) = records.first() {
            let room = (self.len - self.offset) as usize / record.len();
            if room == 0 {
                self.active = self.prepared.recv().map_err(io::Error::other)??;
                self.offset = 0;
                continue;
            }
            let (now, later) = records.split_at(room.min(records.len()));
            self.write(now)?;
            let began = Instant::now();
            self.active.sync_data()?;
            self.syncs.add(began.elapsed(), now.len());
            records = later;
        }
        Ok(())
    }

    fn write(&mut self, records: &[Bytes]) -> io::Result<()> {
        if let [record] = records {
            self.active.write_all_at(record, self.offset)?;
            self.offset += record.len() as u64;
            return Ok(());
        }
        let mut parts: Vec<IoSlice<'_>> = records.iter().map(|record| IoSlice::new(record)).collect();
        let mut parts = &mut parts[..];
        while !parts.is_empty() {
            let written = rustix::io::pwritev(&self.active, parts, self.offset)?;
            self.offset += written as u64;
            IoSlice::advance_slices(&mut parts, written);
        }
        Ok(())
    }
}

/// A thread that is waited for: it must not make files in a directory that is being deleted.
#[derive(Debug)]
struct Joined(Option<JoinHandle<()>>);

impl Drop for Joined {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            let _ = thread.join();
        }
    }
}

fn prepare(path: &Path, len: u64, ahead: Ahead) -> io::Result<File> {
    let file = OpenOptions::new().create_new(true).read(true).write(true).open(path)?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, len)?;
    if ahead == Ahead::Zeroed {
        // Page by page: of larger pieces the kernel makes larger units, and counts all of a unit as written when a record touches it.
        for offset in (0..len).step_by(PAGE.len()) {
            file.write_all_at(&PAGE[..PAGE.len().min((len - offset) as usize)], offset)?;
        }
        file.sync_data()?;
    }
    Ok(file)
}

struct Job {
    record: Bytes,
    done: oneshot::Sender<()>,
}

/// Group commit and nothing else: a thread takes what has gathered, writes it, syncs once, answers.
#[derive(Debug)]
pub struct Group {
    queue: Sender<Job>,
    thread: JoinHandle<io::Result<()>>,
}

impl Group {
    /// Starts the thread.
    pub fn start(mut files: Files) -> Group {
        let (queue, jobs) = mpsc::channel::<Job>();
        let thread = std::thread::spawn(move || {
            while let Ok(first) = jobs.recv() {
                let mut bytes = first.record.len();
                let (mut records, mut waiting) = (vec![first.record], vec![first.done]);
                while bytes < GROUP_BYTES_MAX && records.len() < GROUP_RECORDS_MAX {
                    let Ok(job) = jobs.try_recv() else { break };
                    bytes += job.record.len();
                    records.push(job.record);
                    waiting.push(job.done);
                }
                files.commit(&records)?;
                for done in waiting {
                    let _ = done.send(());
                }
            }
            Ok(())
        });
        Group { queue, thread }
    }

    /// Returns when the record is durable, or will never be: then [`Group::close`] says why.
    pub async fn append(&self, record: Bytes) -> Result<(), oneshot::error::RecvError> {
        let (done, answer) = oneshot::channel();
        let _ = self.queue.send(Job { record, done });
        answer.await
    }

    /// Ends the thread.
    pub fn close(self) -> io::Result<()> {
        drop(self.queue);
        self.thread.join().expect("the thread does not panic")
    }
}
