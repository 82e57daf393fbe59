//! The AES-256 test cases of the GCM specification with a 96-bit nonce (13 to 16).

use usmp::Secret;
use usmp::crypto::{OpenError, Provider};

for_each_provider!(gcm_specification_cases_13_to_16, changed_input_does_not_open);

struct Case {
    key: &'static str,
    nonce: &'static str,
    aad: &'static str,
    plaintext: &'static str,
    ciphertext: &'static str,
    tag: &'static str,
}

const ZERO_KEY: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const KEY: &str = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308";
const CASES: [Case; 4] = [
    Case {
        key: ZERO_KEY,
        nonce: "000000000000000000000000",
        aad: "",
        plaintext: "",
        ciphertext: "",
        tag: "530f8afbc74536b9a963b4f1c4cb738b",
    },
    Case {
        key: ZERO_KEY,
        nonce: "000000000000000000000000",
        aad: "",
        plaintext: "00000000000000000000000000000000",
        ciphertext: "cea7403d4d606b6e074ec5d3baf39d18",
        tag: "d0d1c8a799996bf0265b98b5d48ab919",
    },
    Case {
        key: KEY,
        nonce: "cafebabefacedbaddecaf888",
        aad: "",
        plaintext: "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525\
                    b16aedf5aa0de657ba637b391aafd255",
        ciphertext: "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838\
                     c5f61e6393ba7a0abcc9f662898015ad",
        tag: "b094dac5d93471bdec1a502270e3cc6c",
    },
    Case {
        key: KEY,
        nonce: "cafebabefacedbaddecaf888",
        aad: "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        plaintext: "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525\
                    b16aedf5aa0de657ba637b39",
        ciphertext: "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838\
                     c5f61e6393ba7a0abcc9f662",
        tag: "76fc6ece0f4e1768cddf8853bb2d551b",
    },
];

fn decode(text: &str) -> Vec<u8> {
    hex::decode(text).expect("hex digits")
}

fn array<const N: usize>(text: &str) -> [u8; N] {
    decode(text).try_into().expect("this many bytes")
}

fn gcm_specification_cases_13_to_16<P: Provider>() {
    for case in &CASES {
        let (key, nonce, aad) = (Secret::new(array(case.key)), array(case.nonce), decode(case.aad));
        let mut text = decode(case.plaintext);
        let tag = P::seal(&key, &nonce, &aad, &mut text);
        assert_eq!((hex::encode(&text), hex::encode(tag)), (case.ciphertext.to_owned(), case.tag.to_owned()));
        assert_eq!(P::open(&key, &nonce, &aad, &mut text, &tag), Ok(()));
        assert_eq!(hex::encode(&text), case.plaintext);
    }
}

fn changed_input_does_not_open<P: Provider>() {
    let case = &CASES[3];
    let (key, nonce, aad) = (Secret::new(array(case.key)), array(case.nonce), decode(case.aad));
    let (ciphertext, tag) = (decode(case.ciphertext), array(case.tag));
    let open = |key: &Secret<32>, nonce: &[u8; 12], aad: &[u8], ciphertext: &[u8], tag: &[u8; 16]| {
        P::open(key, nonce, aad, &mut ciphertext.to_vec(), tag)
    };
    assert_eq!(open(&key, &nonce, &aad, &ciphertext, &tag), Ok(()));
    let mut other = key.duplicate();
    other.expose_mut()[31] ^= 1;
    assert_eq!(open(&other, &nonce, &aad, &ciphertext, &tag), Err(OpenError), "key");
    let flip = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 0x80;
        bytes
    };
    for at in 0..12 {
        let nonce = flip(&nonce, at).try_into().expect("12 bytes");
        assert_eq!(open(&key, &nonce, &aad, &ciphertext, &tag), Err(OpenError), "nonce byte {at}");
    }
    for at in 0..aad.len() {
        assert_eq!(
            open(&key, &nonce, &flip(&aad, at), &ciphertext, &tag),
            Err(OpenError),
            "additional byte {at}"
        );
    }
    for at in 0..ciphertext.len() {
        assert_eq!(
            open(&key, &nonce, &aad, &flip(&ciphertext, at), &tag),
            Err(OpenError),
            "ciphertext byte {at}"
        );
    }
    for at in 0..16 {
        let tag = flip(&tag, at).try_into().expect("16 bytes");
        assert_eq!(open(&key, &nonce, &aad, &ciphertext, &tag), Err(OpenError), "tag byte {at}");
    }
    assert_eq!(open(&key, &nonce, &aad[1..], &ciphertext, &tag), Err(OpenError), "shorter additional data");
    assert_eq!(open(&key, &nonce, &aad, &ciphertext[1..], &tag), Err(OpenError), "shorter ciphertext");
}
