//! RFC 7748 (X25519), RFC 4231 (HMAC-SHA-256) and RFC 5869 (HKDF-SHA-256).

use usmp::Secret;
use usmp::crypto::{LowOrderPoint, Provider};

for_each_provider!(
    rfc_7748_scalar_multiplications,
    rfc_7748_iterations,
    rfc_7748_diffie_hellman,
    low_order_points_are_refused,
    non_canonical_points_are_reduced,
    rfc_4231,
    rfc_5869,
    hkdf_beyond_255_blocks_gives_zeros,
);

fn decode(text: &str) -> Vec<u8> {
    hex::decode(text).expect("hex digits")
}

fn point(text: &str) -> [u8; 32] {
    decode(text).try_into().expect("32 bytes")
}

/// Section 5.2.
fn rfc_7748_scalar_multiplications<P: Provider>() {
    for (scalar, u, expected) in [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ] {
        let shared = P::x25519(&Secret::new(point(scalar)), &point(u)).expect("a good point");
        assert_eq!(hex::encode(shared.expose()), expected);
    }
}

/// Section 5.2, after one and after 1000 iterations.
fn rfc_7748_iterations<P: Provider>() {
    let mut u = point("0900000000000000000000000000000000000000000000000000000000000000");
    let mut k = u;
    for round in 1..=1000 {
        let next = *P::x25519(&Secret::new(k), &u).expect("a good point").expose();
        (k, u) = (next, k);
        if round == 1 {
            assert_eq!(hex::encode(k), "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079");
        }
    }
    assert_eq!(hex::encode(k), "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51");
}

/// Section 6.1.
fn rfc_7748_diffie_hellman<P: Provider>() {
    let alice = Secret::new(point("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"));
    let bob = Secret::new(point("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"));
    let (alice_public, bob_public) = (P::x25519_public(&alice), P::x25519_public(&bob));
    assert_eq!(hex::encode(alice_public), "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
    assert_eq!(hex::encode(bob_public), "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
    let shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742";
    assert_eq!(hex::encode(P::x25519(&alice, &bob_public).expect("a good point").expose()), shared);
    assert_eq!(hex::encode(P::x25519(&bob, &alice_public).expect("a good point").expose()), shared);
    // One prepared key serves for its public key and for every exchange.
    let pair = P::key_pair(&alice);
    for _ in 0..2 {
        assert_eq!(P::public_key(&pair), alice_public);
        assert_eq!(hex::encode(P::agree(&pair, &bob_public).expect("a good point").expose()), shared);
    }
}

/// Points of order 1, 2, 4 and 8, canonical and not, with and without the top bit.
fn low_order_points_are_refused<P: Provider>() {
    let points = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ];
    for text in points {
        for top in [0, 0x80] {
            let mut public = point(text);
            public[31] |= top;
            let result = P::x25519(&Secret::new([0x42; 32]), &public).map(drop);
            assert_eq!(result, Err(LowOrderPoint), "{} gives {result:?}", hex::encode(public));
        }
    }
}

/// Section 5: the top bit is masked, and values from 2^255 - 19 up are taken modulo that.
fn non_canonical_points_are_reduced<P: Provider>() {
    let private = Secret::new([0x42; 32]);
    let mut two_plus_p = point("efffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f");
    let mut two = [0; 32];
    two[0] = 2;
    let expected = P::x25519(&private, &two).expect("a good point");
    assert!(P::x25519(&private, &two_plus_p) == Ok(expected.duplicate()));
    two_plus_p[31] |= 0x80;
    assert!(P::x25519(&private, &two_plus_p) == Ok(expected.duplicate()));
    two[31] |= 0x80;
    assert!(P::x25519(&private, &two) == Ok(expected));
}

fn rfc_4231<P: Provider>() {
    let long = "Test Using Larger Than Block-Size Key - Hash Key First";
    let longer = "This is a test using a larger than block-size key and a larger than block-size data. The key needs to be \
                  hashed before being used by the HMAC algorithm.";
    let cases: [(Vec<u8>, &[u8], &str); 7] = [
        (vec![0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (
            b"Jefe".to_vec(),
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (vec![0xaa; 20], &[0xdd; 50], "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
        ((1..=25).collect(), &[0xcd; 50], "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
        (vec![0x0c; 20], b"Test With Truncation", "a3b6167473100ee06e0c796c2955552b"),
        (
            vec![0xaa; 131],
            long.as_bytes(),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
        (
            vec![0xaa; 131],
            longer.as_bytes(),
            "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
        ),
    ];
    for (key, data, expected) in cases {
        for cut in 0..=data.len() {
            let mac = P::hmac_sha256(&key, &[&data[..cut], &data[cut..]]);
            assert_eq!(hex::encode(&mac[..expected.len() / 2]), expected, "cut at {cut}");
        }
    }
}

/// Appendix A, the cases with SHA-256.
fn rfc_5869<P: Provider>() {
    for (ikm, salt, info, expected) in [
        (
            vec![0x0b_u8; 22],
            (0x00..=0x0c_u8).collect::<Vec<_>>(),
            (0xf0..=0xf9_u8).collect::<Vec<_>>(),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            (0x00..=0x4f).collect(),
            (0x60..=0xaf).collect(),
            (0xb0..=0xff).collect(),
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09\
             da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            vec![0x0b; 22],
            vec![],
            vec![],
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ] {
        let mut okm = vec![0; expected.len() / 2];
        let (head, tail) = info.split_at(info.len() / 2);
        P::hkdf_sha256(&salt, &ikm, &[head, tail], &mut okm);
        assert_eq!(hex::encode(okm), expected);
    }
}

fn hkdf_beyond_255_blocks_gives_zeros<P: Provider>() {
    let mut longest = vec![0; 255 * 32];
    P::hkdf_sha256(&[1], &[2], &[&[3]], &mut longest);
    assert!(longest[255 * 32 - 32..].iter().any(|byte| *byte != 0));
    let mut too_long = vec![9; 255 * 32 + 1];
    P::hkdf_sha256(&[1], &[2], &[&[3]], &mut too_long);
    assert!(too_long.iter().all(|byte| *byte == 0));
}
