//! A disk that can be filled: folders on a small file system in memory, in a mount namespace that
//! nobody else sees.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Name of the file that fills a disk.
const BALLAST: &str = "ballast";

/// Mounts one file system for each folder and holds them until it is told to end.
const HOLD: &str = "for folder; do mount -t tmpfs -o size=\"$SIZE\" small \"$folder\" || exit 1; \
                    done; echo mounted; read -r end";

/// The file systems; they go with this value.
pub(crate) struct SmallDisks {
    holder: Child,
    folders: Vec<PathBuf>,
    /// Where in each folder the file goes that fills the disk.
    corner: &'static str,
}

impl SmallDisks {
    /// Puts each folder on a file system of `kib` KiB; what fills one goes into a corner of it.
    pub(crate) fn mount(folders: Vec<PathBuf>, corner: &'static str, kib: u64) -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", HOLD, "sh"]);
        command.args(&folders).env("SIZE", format!("{kib}k"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn().context("cannot run unshare (util-linux)")?;
        let mut said = String::new();
        let output = holder.stdout.take().context("the holder of the disks has no output")?;
        let read = BufReader::new(output).read_line(&mut said);
        let disks = Self { holder, folders, corner };
        read.context("cannot read what the holder of the disks says")?;
        ensure!(said.trim() == "mounted", "cannot mount small file systems, see above");
        Ok(disks)
    }

    /// What runs a program where the disks are.
    pub(crate) fn launcher(&self) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--mount=/proc/{}/ns/mnt", self.holder.id())]
    }

    /// Where a folder that is on such a disk is seen from outside.
    pub(crate) fn seen(&self, folder: &Path) -> Option<PathBuf> {
        self.folders.iter().any(|own| own == folder).then(|| self.inside(folder))
    }

    /// Writes until there is no room on a disk, counted in the order of the folders; returns the
    /// bytes written.
    pub(crate) fn fill(&self, index: usize) -> Result<u64> {
        let path = self.ballast(index);
        let shown = path.display().to_string();
        let mut file = File::create(&path).with_context(|| format!("cannot make {shown}"))?;
        let mut bytes = 0;
        // The last bytes of room fit no larger piece.
        for piece in [vec![0; 4_096], vec![0; 1]] {
            loop {
                match file.write(&piece) {
                    Ok(written) => bytes += u64::try_from(written).unwrap_or(0),
                    Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => break,
                    Err(error) => {
                        return Err(error).with_context(|| format!("cannot fill {shown}"));
                    }
                }
            }
        }
        Ok(bytes)
    }

    /// Makes room again.
    pub(crate) fn free(&self, index: usize) -> Result<()> {
        let path = self.ballast(index);
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    fn ballast(&self, index: usize) -> PathBuf {
        self.inside(&self.folders[index]).join(self.corner).join(BALLAST)
    }

    fn inside(&self, folder: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(folder.strip_prefix("/").unwrap_or(folder))
    }
}

impl Drop for SmallDisks {
    fn drop(&mut self) {
        // Its end of input is the order to end; processes in the namespace keep the disks alive.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}
