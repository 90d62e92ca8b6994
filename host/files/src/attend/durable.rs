//! The thread that waits for the disk, so that nobody else must.

use staffetta_bulk::Wake;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

/// What must be on the disk before the next thing may be done.
#[derive(Debug)]
pub(crate) enum Flush {
    /// These files and folders (fsync(2)).
    Each(Vec<OwnedFd>),
    /// All of the file system that this is on (syncfs(2)): for many at once it costs less.
    Whole(OwnedFd),
}

impl Flush {
    /// Nothing is to be waited for.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Flush::Each(files) => files.is_empty(),
            Flush::Whole(_) => false,
        }
    }
}

/// How something is made durable: [`flush`], and whatever an observer does around it.
pub(crate) type Flusher = Arc<dyn Fn(&Flush) -> io::Result<()> + Send + Sync>;

/// Makes it durable. A file's owner, mode and times are, too.
///
/// # Errors
/// Of the disk: what was written may be lost.
pub(crate) fn flush(what: &Flush) -> io::Result<()> {
    match what {
        Flush::Each(files) => files.iter().try_for_each(|file| Ok(rustix::fs::fsync(file)?)),
        Flush::Whole(root) => Ok(rustix::fs::syncfs(root)?),
    }
}

/// Does one job after the other. The thread ends with the last job after this is dropped.
#[derive(Debug)]
pub(super) struct Helper {
    jobs: Sender<(u64, Flush)>,
    reports: Receiver<(u64, io::Result<()>)>,
    /// The number of the last job.
    last: u64,
    /// What came of it, where nothing had to be done.
    at_once: Option<io::Result<()>>,
}

impl Helper {
    pub(super) fn start(flusher: Flusher, wake: Wake) -> io::Result<Self> {
        let (jobs, todo) = mpsc::channel::<(u64, Flush)>();
        let (done, reports) = mpsc::channel();
        std::thread::Builder::new().name("files-sync".to_owned()).spawn(move || {
            for (number, what) in todo {
                if done.send((number, flusher(&what))).is_err() {
                    return;
                }
                wake();
            }
        })?;
        Ok(Self { jobs, reports, last: 0, at_once: None })
    }

    pub(super) fn begin(&mut self, what: Flush) {
        self.last += 1;
        self.at_once = None;
        if what.is_empty() {
            self.at_once = Some(Ok(()));
            return;
        }
        // The thread lives as long as its channel.
        let _ = self.jobs.send((self.last, what));
    }

    /// The job could not even begin.
    pub(super) fn fail(&mut self, error: io::Error) {
        self.last += 1;
        self.at_once = Some(Err(error));
    }

    /// What came of the last job, once it is done; of earlier ones nobody asks any more.
    pub(super) fn report(&mut self) -> Option<io::Result<()>> {
        if let Some(result) = self.at_once.take() {
            return Some(result);
        }
        self.reports.try_iter().find(|(number, _)| *number == self.last).map(|(_, result)| result)
    }
}
