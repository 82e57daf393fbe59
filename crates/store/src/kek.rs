use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::SecretKey;

/// Keys in one file, at most: the current one, and previous ones while values sealed under them are written anew.
const MAX_KEKS: usize = 3;
/// Largest key file worth reading.
const MAX_FILE_BYTES: u64 = 4096;
const SALT: &[u8] = b"sluice-store-kek-v1";

/// Public name of a key that seals: a one-way function of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyName(pub(crate) [u8; 8]);

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyName({self})")
    }
}

/// One key-encryption key, held as the HKDF-SHA256 pseudo-random key of it:
/// `PRK = HKDF-Extract(salt = "sluice-store-kek-v1", ikm = key)`.
struct Kek {
    id: KeyName,
    prk: SecretKey,
}

impl Kek {
    fn new(key: &SecretKey) -> Self {
        let (mut prk, expand) = Hkdf::<Sha256>::extract(Some(SALT), key.expose());
        let mut id = [0; 8];
        // Public: the name under which stored values refer to their key.
        expand.expand(b"key id", &mut id).expect("8 bytes are under the limit of HKDF");
        let kek = Self { id: KeyName(id), prk: SecretKey::new(prk.into()) };
        zeroize::Zeroize::zeroize(prk.as_mut_slice());
        kek
    }
}

/// The key-encryption keys of a deployment: one that seals, and others that open.
///
/// The one that seals is the one under which the store's identity is sealed, whatever the order in the file: processes are restarted
/// one after the other, and nothing may be written that some of them cannot read yet. The first key of the file comes into force by
/// [`Store::begin_rotation`](crate::Store::begin_rotation), when all processes have it. In a store that is new it is in force at once.
pub struct KekRing {
    /// In the order of the file, which is at least one.
    keys: Vec<Kek>,
    /// Index of the one that seals.
    in_force: AtomicUsize,
    source: PathBuf,
}

impl KekRing {
    /// A random key that lives only in this process, for stores in memory and tests.
    ///
    /// # Errors
    ///
    /// [`KekError::Randomness`].
    pub fn generate() -> Result<Self, KekError> {
        let key = SecretKey::generate().map_err(KekError::Randomness)?;
        Ok(Self::new(&key, &[]))
    }

    /// Takes keys from elsewhere than a file.
    #[must_use]
    pub fn new(current: &SecretKey, previous: &[SecretKey]) -> Self {
        let keys = std::iter::once(current).chain(previous).take(MAX_KEKS).map(Kek::new).collect();
        Self { keys, in_force: AtomicUsize::new(0), source: PathBuf::from("memory") }
    }

    /// Reads a key file: 32 raw bytes, or 1 to 3 lines of 64 hex digits, the newest key first.
    ///
    /// # Errors
    ///
    /// [`KekError`]; the text says what to do.
    pub fn load(path: &Path) -> Result<Self, KekError> {
        let file_error = |source| KekError::File { path: path.to_owned(), source };
        let length = std::fs::metadata(path).map_err(file_error)?.len();
        if length > MAX_FILE_BYTES {
            return Err(KekError::Format { path: path.to_owned() });
        }
        let content = Zeroizing::new(std::fs::read(path).map_err(file_error)?);
        let keys = parse(&content).ok_or_else(|| KekError::Format { path: path.to_owned() })?;
        for (index, key) in keys.iter().enumerate() {
            if key.expose().iter().all(|byte| Some(byte) == key.expose().first())
                || keys[..index].contains(key)
            {
                return Err(KekError::Weak { path: path.to_owned() });
            }
        }
        let keys = keys.iter().map(Kek::new).collect();
        Ok(Self { keys, in_force: AtomicUsize::new(0), source: path.to_owned() })
    }

    /// Makes a key file with one random key, as hex, readable by its owner alone; an existing file is left as it is.
    ///
    /// # Errors
    ///
    /// [`KekError::Exists`] when there is a file, [`KekError::File`] when it cannot be written.
    pub fn create_file(path: &Path) -> Result<(), KekError> {
        let key = SecretKey::generate().map_err(KekError::Randomness)?;
        let mut text = Zeroizing::new([0; 65]);
        hex::encode_to_slice(key.expose(), &mut text[..64]).expect("64 digits for 32 bytes");
        text[64] = b'\n';
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let written = options.open(path).and_then(|mut file| {
            file.write_all(text.as_slice())?;
            file.sync_all()
        });
        match written {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(KekError::Exists { path: path.to_owned() })
            }
            Err(source) => Err(KekError::File { path: path.to_owned(), source }),
        }
    }

    pub(crate) fn source(&self) -> &Path {
        &self.source
    }

    /// The key that seals now.
    pub(crate) fn current_id(&self) -> KeyName {
        self.keys.get(self.in_force.load(Ordering::Relaxed)).map_or(KeyName([0; 8]), |kek| kek.id)
    }

    /// The first key of the file: the one that is to seal.
    pub(crate) fn first_id(&self) -> KeyName {
        self.keys.first().map_or(KeyName([0; 8]), |kek| kek.id)
    }

    /// The names of all keys, in the order of the file.
    pub(crate) fn names(&self) -> impl Iterator<Item = KeyName> {
        self.keys.iter().map(|kek| kek.id)
    }

    /// From now on this one seals, if it is there; `true` when another one did before.
    pub(crate) fn seal_under(&self, id: KeyName) -> bool {
        let Some(index) = self.keys.iter().position(|kek| kek.id == id) else { return false };
        self.in_force.swap(index, Ordering::Relaxed) != index
    }

    /// A subkey: `HKDF-Expand(PRK, purpose || 0x00 || name parts, 32)`. The purposes hold no zero byte, and for one purpose
    /// the parts have fixed lengths except the last.
    pub(crate) fn subkey(&self, id: KeyName, purpose: &str, name: &[&[u8]]) -> Option<SecretKey> {
        let kek = self.keys.iter().find(|kek| kek.id == id)?;
        let expand = Hkdf::<Sha256>::from_prk(kek.prk.expose()).expect("32 bytes are a PRK of SHA-256");
        let mut info = vec![purpose.as_bytes(), &[0]];
        info.extend_from_slice(name);
        let mut subkey = SecretKey::new([0; 32]);
        expand.expand_multi_info(&info, subkey.expose_mut()).expect("32 bytes are under the limit of HKDF");
        Some(subkey)
    }
}

impl fmt::Debug for KekRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|kek| kek.id)).finish()
    }
}

fn parse(content: &[u8]) -> Option<Vec<SecretKey>> {
    if let Some(key) = SecretKey::from_slice(content) {
        return Some(vec![key]);
    }
    let mut keys = Vec::with_capacity(MAX_KEKS);
    for line in content.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()) {
        if keys.len() == MAX_KEKS {
            return None;
        }
        let mut key = SecretKey::new([0; 32]);
        hex::decode_to_slice(line, key.expose_mut()).ok()?;
        keys.push(key);
    }
    (!keys.is_empty()).then_some(keys)
}

/// Why there is no key-encryption key. No variant holds a byte of one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KekError {
    /// The file cannot be read or written.
    #[error("cannot use the key file {}: mount it readable for this user, or make one with `openssl rand -hex 32`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("{} is not a key file: it must hold 32 raw bytes, or 1 to 3 lines of 64 hex digits (`openssl rand -hex 32`)", path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// A key of one repeated byte, or the same key twice.
    #[error("{} holds a key that is no random key, or one key twice: make one with `openssl rand -hex 32`", path.display())]
    Weak {
        /// The file.
        path: PathBuf,
    },
    /// There is a file already; overwriting a key would lose everything sealed under it.
    #[error("{} exists already and is left as it is", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The operating system has no randomness.
    #[error("no randomness from the operating system")]
    Randomness(#[source] std::io::Error),
}

#[cfg(test)]
mod kek_tests {
    use super::*;

    fn file(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("kek");
        std::fs::write(&path, content).expect("writable");
        (folder, path)
    }

    const A: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const B: &str = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    #[test]
    fn raw_bytes_and_hex_lines_are_the_same_key() {
        let raw: Vec<u8> = (0..32).collect();
        let (_keep, raw_file) = file(&raw);
        let (_keep, hex_file) = file(format!("  {A}\r\n\n{B}\n").as_bytes());
        let (raw, hex) = (KekRing::load(&raw_file).expect("raw"), KekRing::load(&hex_file).expect("hex"));
        assert_eq!(raw.current_id(), hex.current_id());
        assert_eq!((raw.keys.len(), hex.keys.len()), (1, 2));
        assert_eq!(raw.subkey(raw.current_id(), "x", &[]), hex.subkey(raw.current_id(), "x", &[]));
        assert_ne!(raw.subkey(raw.current_id(), "x", &[]), raw.subkey(raw.current_id(), "y", &[]));
    }

    #[test]
    fn files_that_hold_no_key_are_refused_by_path() {
        let four = [A, B, A, B].join("\n");
        for content in
            [&b""[..], b"secret", &[7; 31], &[7; 33], &A.as_bytes()[..62], four.as_bytes(), &[b'a'; 5000]]
        {
            let (_keep, path) = file(content);
            let refused = KekRing::load(&path).expect_err("no key").to_string();
            assert!(refused.contains("kek") && refused.contains("openssl rand -hex 32"), "{refused}");
        }
        assert!(matches!(KekRing::load(Path::new("/nonexistent/kek")), Err(KekError::File { .. })));
    }

    #[test]
    fn an_empty_looking_or_doubled_key_is_refused() {
        for content in [vec![0; 32], format!("{A}\n{A}\n").into_bytes(), "00".repeat(32).into_bytes()] {
            let (_keep, path) = file(&content);
            assert!(matches!(KekRing::load(&path), Err(KekError::Weak { .. })));
        }
    }

    #[test]
    fn a_made_file_is_private_loads_and_is_never_overwritten() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("kek");
        KekRing::create_file(&path).expect("made");
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::PermissionsExt::mode(
                &std::fs::metadata(&path).expect("there").permissions(),
            );
            assert_eq!(mode & 0o777, 0o600);
        }
        let first = KekRing::load(&path).expect("loads").current_id();
        assert!(matches!(KekRing::create_file(&path), Err(KekError::Exists { .. })));
        assert_eq!(KekRing::load(&path).expect("loads").current_id(), first);
    }
}
