//! `{:?}` of anything that holds a secret shows none of it.

use usmp::crypto::{Provider, RustCrypto};
use usmp::wire::FrameType;
use usmp::{CookieSecrets, Secret, SessionId, SessionKeys, open_frame, seal_frame, session_keys};
use zeroize::ZeroizeOnDrop;

const PLANTED: u8 = 0xB7;

/// The planted byte in every form in which formatting could show a run of it.
fn assert_hidden(shown: &str) {
    for form in ["b7b7", "B7B7", "183, 183", "183,183", "0xb7", "0xB7", "183\n", "\u{b7}"] {
        assert!(!shown.contains(form), "shows {form}: {shown}");
    }
}

fn planted<const N: usize>() -> Secret<N> {
    Secret::new([PLANTED; N])
}

#[test]
fn secrets_keys_and_plaintexts_are_not_shown() {
    assert_hidden(&format!("{:?} {:#?} {:x?}", planted::<32>(), planted::<32>(), planted::<32>()));
    assert_hidden(&format!("{:?}", Some(planted::<64>())));
    let keys = SessionKeys { c2s: planted(), s2c: planted() };
    assert_hidden(&format!("{keys:?} {keys:#?} {keys:x?}"));
    let mut secrets = CookieSecrets::new(planted());
    assert_hidden(&format!("{secrets:?} {secrets:#?} {secrets:x?}"));
    secrets.rotate(planted());
    assert_hidden(&format!("{secrets:?} {secrets:#?} {secrets:x?}"));

    let mut frame = [0; 492];
    let session = SessionId([1; 16]);
    let key = planted();
    let length = seal_frame::<RustCrypto>(&key, session, FrameType::Rekey, 3, &[PLANTED; 32], &mut frame)
        .expect("fits");
    let opened = open_frame::<RustCrypto>(&key, session, &mut frame[..length]).expect("opens");
    assert_eq!(opened.plaintext, [PLANTED; 32]);
    assert_hidden(&format!("{opened:?} {opened:#?} {opened:x?}"));
}

#[test]
fn derived_keys_are_not_shown() {
    let shared =
        RustCrypto::x25519(&planted(), &RustCrypto::x25519_public(&planted())).expect("a good point");
    let keys = session_keys::<RustCrypto>(&shared, &[0; 32], &[1; 32], &[2; 32]);
    let shown = format!("{shared:?} {keys:?}");
    for secret in [&shared, &keys.c2s, &keys.s2c] {
        let start = &secret.expose()[..4];
        for form in [hex::encode(start), format!("{start:?}").trim_matches(['[', ']']).to_owned()] {
            assert!(!shown.contains(&form), "shows {form}: {shown}");
        }
    }
}

#[test]
fn secrets_are_wiped_when_dropped() {
    fn wiped<T: ZeroizeOnDrop>(_: &T) {}
    let keys = SessionKeys { c2s: planted(), s2c: planted() };
    wiped(&keys.c2s);
    wiped(&keys.s2c);
    assert!(core::mem::needs_drop::<SessionKeys>());
    assert!(core::mem::needs_drop::<CookieSecrets>());
}

#[test]
fn secrets_are_equal_only_when_every_byte_is() {
    let secret = planted::<32>();
    assert!(secret == secret.duplicate());
    for at in 0..32 {
        let mut other = secret.duplicate();
        other.expose_mut()[at] ^= 1;
        assert!(secret != other, "byte {at}");
    }
}
