//! The key that says which node this is, and the randomness for all that is made once.
//!
//! The identity is a key of its own and not the machine id: clones of a machine share that.

use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::private_file::{self, PrivateFileError};

/// A PKCS#8 document of an Ed25519 key is 85 bytes long; other tools write a few more.
const KEY_FILE_BYTES_MAX: u64 = 1024;

/// An Ed25519 key pair: of a node, or of a vendor who signs licenses.
pub struct Identity {
    pair: Ed25519KeyPair,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// Its content.
    #[error(
        "{path} is not an Ed25519 key in PKCS#8 (restore it from a backup; a new key needs a \
             new license)"
    )]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// The kernel.
    #[error("the kernel gives no random numbers (is getrandom(2) blocked by a sandbox?)")]
    NoRandomness,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.public_hex())
    }
}

impl Identity {
    /// Makes a key and keeps it in a new file.
    ///
    /// # Errors
    /// When the file exists or cannot be made.
    pub fn create(path: &Path) -> Result<Identity, IdentityError> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .map_err(|_| IdentityError::NoRandomness)?;
        private_file::create(path, document.as_ref())?;
        Identity::of_pkcs8(document.as_ref(), path)
    }

    /// Reads the key.
    ///
    /// # Errors
    /// When the file is missing, open to others, or no key.
    pub fn load(path: &Path) -> Result<Identity, IdentityError> {
        let document = private_file::read(path, KEY_FILE_BYTES_MAX)?;
        Identity::of_pkcs8(&document, path)
    }

    /// Reads the key, or makes one where there is none.
    ///
    /// # Errors
    /// As of [`Identity::load`] and [`Identity::create`].
    pub fn load_or_create(path: &Path) -> Result<Identity, IdentityError> {
        if path.exists() { Identity::load(path) } else { Identity::create(path) }
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        let mut key = [0; 32];
        key.copy_from_slice(self.pair.public_key().as_ref());
        key
    }

    /// The public key in hex.
    #[must_use]
    pub fn public_hex(&self) -> String {
        hex(&self.public())
    }

    /// Ed25519 signature of `message`.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(message).as_ref());
        signature
    }

    fn of_pkcs8(document: &[u8], path: &Path) -> Result<Identity, IdentityError> {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(document)
            .map(|pair| Identity { pair })
            .map_err(|_| IdentityError::NotAKey { path: path.to_owned() })
    }
}

/// True when `signature` of `message` was made with the private half of `public`.
#[must_use]
pub fn is_signed_by(public: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, public)
        .verify(message, signature)
        .is_ok()
}

/// Random bytes of the kernel.
///
/// # Errors
/// When the kernel gives none.
pub fn random<const N: usize>() -> Result<[u8; N], IdentityError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| IdentityError::NoRandomness)?;
    Ok(bytes)
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity");
        let made = Identity::load_or_create(&path).unwrap();
        let found = Identity::load_or_create(&path).unwrap();
        assert_eq!(made.public_hex(), found.public_hex());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
        let signature = made.sign(b"text");
        assert!(is_signed_by(&found.public(), b"text", &signature));
        assert!(!is_signed_by(&found.public(), b"texT", &signature));
        let again = Identity::create(&path).expect_err("exists").to_string();
        assert!(again.contains("exists already and is not overwritten"), "{again}");
    }

    #[test]
    fn what_is_no_key_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity");
        let said = || Identity::load(&path).expect_err("refused").to_string();
        assert!(said().contains("cannot read"));
        private_file::create(&path, b"not a key").unwrap();
        assert!(said().contains("is not an Ed25519 key in PKCS#8"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o604)).unwrap();
        assert!(said().contains("is open to others (mode 0604): run `chmod 600"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, vec![0; 5000]).unwrap();
        assert!(said().contains("is 5000 bytes long, at most 1024"));
    }

    #[test]
    fn randomness_differs() {
        assert_ne!(random::<32>().unwrap(), random::<32>().unwrap());
        assert_eq!(hex(&[0, 0xab, 0x10]), "00ab10");
    }
}
