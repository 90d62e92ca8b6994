//! Compiled forms on disk. They are native code: only what this host wrote itself is ever used, and
//! any doubt means to compile again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac};

use crate::hex;

const KEY_FILE: &str = "key";
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 32;
/// Longest entry that is read.
const ENTRY_BYTES_MAX: u64 = 300 << 20;

/// A private folder of compiled forms, each with a keyed hash over its name and content.
pub(crate) struct Cache {
    dir: PathBuf,
    key: hmac::Key,
    compatibility: String,
}

impl Cache {
    /// Opens the folder, making it and its key if need be. `compatibility` names the engine.
    pub(crate) fn open(dir: &Path, compatibility: &str) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let meta = fs::symlink_metadata(dir)?;
        // SAFETY: the call has no preconditions.
        let me = unsafe { libc::geteuid() };
        if !meta.is_dir() || meta.uid() != me {
            return Err(io::Error::other(format!("{} is not a folder of ours", dir.display())));
        }
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        let key = key(dir)?;
        Ok(Self { dir: dir.to_path_buf(), key, compatibility: compatibility.to_string() })
    }

    /// The compiled form of a component, if it is there and beyond doubt.
    pub(crate) fn get(&self, component: &[u8]) -> Option<Vec<u8>> {
        let name = self.name(component);
        let mut entry = Vec::new();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(self.dir.join(&name))
            .ok()?;
        file.take(ENTRY_BYTES_MAX).read_to_end(&mut entry).ok()?;
        let genuine = entry.split_at_checked(TAG_BYTES).is_some_and(|(tag, compiled)| {
            hmac::verify(&self.key, &tagged(&name, compiled), tag).is_ok()
        });
        if !genuine {
            self.remove(component);
            return None;
        }
        Some(entry.split_off(TAG_BYTES))
    }

    /// Keeps a compiled form.
    pub(crate) fn put(&self, component: &[u8], compiled: &[u8]) -> io::Result<()> {
        let name = self.name(component);
        let tag = hmac::sign(&self.key, &tagged(&name, compiled));
        write_whole(&self.dir, &name, &[tag.as_ref(), compiled])
    }

    /// Forgets a compiled form.
    pub(crate) fn remove(&self, component: &[u8]) {
        // What cannot be removed fails its check again the next time.
        let _ = fs::remove_file(self.dir.join(self.name(component)));
    }

    fn name(&self, component: &[u8]) -> String {
        let hash = digest::digest(&digest::SHA256, component);
        format!("{}-{}.bin", hex::encode(hash.as_ref()), self.compatibility)
    }
}

/// What the keyed hash is over: a file cannot stand in for another.
fn tagged(name: &str, compiled: &[u8]) -> Vec<u8> {
    [name.as_bytes(), b"\0", compiled].concat()
}

/// The key of this folder, made at the first use.
fn key(dir: &Path) -> io::Result<hmac::Key> {
    let path = dir.join(KEY_FILE);
    let mut bytes = Vec::new();
    match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path) {
        Ok(file) => {
            let private = file.metadata()?.mode() & 0o077 == 0;
            file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes)?;
            // A key that others could read protects nothing: entries under it are worthless.
            if private && bytes.len() == KEY_BYTES {
                return Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut fresh = [0; KEY_BYTES];
    let no_random = |_| io::Error::other("the kernel gives no random numbers");
    SystemRandom::new().fill(&mut fresh).map_err(no_random)?;
    write_whole(dir, KEY_FILE, &[&fresh])?;
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &fresh))
}

/// Writes a file of mode 0600 whole or not at all.
fn write_whole(dir: &Path, name: &str, parts: &[&[u8]]) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}.{}", std::process::id()));
    let _ = fs::remove_file(&temporary);
    let written = (|| {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        for part in parts {
            file.write_all(part)?;
        }
        file.sync_all()?;
        fs::rename(&temporary, dir.join(name))
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written?;
    File::open(dir)?.sync_all()
}
