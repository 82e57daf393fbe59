//! Keys from files, and fresh ones.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sluice_types::{Psk, PskFormat};
use zeroize::Zeroizing;

/// More than the longest key in its longest form; what is longer is another file.
const MAX_FILE_BYTES: u64 = 4096;

/// How a fresh key is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyForm {
    /// 32 random bytes.
    Bytes,
    /// 43 base64url characters of 32 random bytes; the characters are the key, as Arduino sketches carry it.
    Text,
}

/// Makes a key with 256 bits of randomness.
pub(crate) fn fresh_key(form: KeyForm) -> Result<Psk> {
    let mut random = Zeroizing::new([0; 32]);
    getrandom::fill(random.as_mut_slice()).context("the system gives no random bytes")?;
    match form {
        KeyForm::Bytes => Ok(Psk::new(random.as_slice())?),
        KeyForm::Text => Ok(Psk::new(Zeroizing::new(URL_SAFE_NO_PAD.encode(random.as_slice())).as_bytes())?),
    }
}

/// Reads a key from a file, or from standard input for `-`.
pub(crate) fn read_key(path: &Path, format: PskFormat) -> Result<Psk> {
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_FILE_BYTES as usize));
    if path == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(MAX_FILE_BYTES)
            .read_to_end(&mut text)
            .context("cannot read standard input")?;
    } else {
        let file = std::fs::File::open(path)
            .with_context(|| format!("cannot open the key file {}", path.display()))?;
        file.take(MAX_FILE_BYTES)
            .read_to_end(&mut text)
            .with_context(|| format!("cannot read {}", path.display()))?;
    }
    Psk::parse(&text, format).with_context(|| match path.to_str() {
        Some("-") => "the key on standard input is not taken".to_owned(),
        _ => format!("the key in {} is not taken", path.display()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_keys_have_the_form_their_device_takes() {
        assert_eq!(fresh_key(KeyForm::Bytes).expect("random").expose().len(), 32);
        let text = fresh_key(KeyForm::Text).expect("random");
        assert_eq!(text.expose().len(), 43);
        assert!(text.expose().iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)));
        assert_ne!(fresh_key(KeyForm::Text).expect("random"), text, "two keys are never the same");
    }

    #[test]
    fn a_missing_or_wrong_key_file_is_named_in_the_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key.hex");
        let missing = format!("{:#}", read_key(&path, PskFormat::Hex).expect_err("no file"));
        assert!(missing.contains("key.hex"), "{missing}");
        std::fs::write(&path, "abc").expect("written");
        let wrong = format!("{:#}", read_key(&path, PskFormat::Hex).expect_err("not hex"));
        assert!(wrong.contains("key.hex") && wrong.contains("not hex"), "{wrong}");
    }
}
