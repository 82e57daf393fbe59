//! Project Wycheproof, the part that fits the trait: AES-256-GCM with 96-bit nonces and 128-bit tags, X25519, HMAC-SHA-256,
//! HKDF-SHA-256. The counts are pinned, so that no case is skipped silently.

use usmp::Secret;
use usmp::crypto::{LowOrderPoint, OpenError, Provider};
use wycheproof::{TestResult, aead, hkdf, mac, xdh};

for_each_provider!(aes_256_gcm, x25519, hmac_sha256, hkdf_sha256);

fn aes_256_gcm<P: Provider>() {
    let (mut valid, mut invalid) = (0, 0);
    let set = aead::TestSet::load(aead::TestName::AesGcm).expect("the vectors load");
    for group in set.test_groups {
        if (group.key_size, group.nonce_size, group.tag_size) != (256, 96, 128) {
            continue;
        }
        for case in group.tests {
            let key = Secret::new(case.key.to_vec().try_into().expect("32 bytes"));
            let nonce = case.nonce.to_vec().try_into().expect("12 bytes");
            let tag = case.tag.to_vec().try_into().expect("16 bytes");
            let mut text = case.ct.to_vec();
            let opened = P::open(&key, &nonce, &case.aad, &mut text, &tag);
            if case.result == TestResult::Valid {
                valid += 1;
                assert_eq!(opened, Ok(()), "{case:?}");
                assert_eq!(text, case.pt.to_vec(), "{case:?}");
                assert_eq!(P::seal(&key, &nonce, &case.aad, &mut text), tag, "{case:?}");
                assert_eq!(text, case.ct.to_vec(), "{case:?}");
            } else {
                invalid += 1;
                assert_eq!(opened, Err(OpenError), "{case:?}");
            }
        }
    }
    assert_eq!((valid, invalid), (39, 27));
}

fn x25519<P: Provider>() {
    let (mut agreed, mut low_order) = (0, 0);
    let set = xdh::TestSet::load(xdh::TestName::X25519).expect("the vectors load");
    for case in set.test_groups.into_iter().flat_map(|group| group.tests) {
        let private = Secret::new(case.private_key.to_vec().try_into().expect("32 bytes"));
        let public = case.public_key.to_vec().try_into().expect("32 bytes");
        let shared = P::x25519(&private, &public);
        if case.shared_secret.iter().all(|byte| *byte == 0) {
            low_order += 1;
            assert_eq!(shared, Err(LowOrderPoint), "{case:?}");
        } else {
            agreed += 1;
            assert_eq!(shared.expect("a good point").expose().as_slice(), &*case.shared_secret, "{case:?}");
        }
    }
    assert_eq!((agreed, low_order), (487, 31));
}

fn hmac_sha256<P: Provider>() {
    let (mut valid, mut invalid) = (0, 0);
    let set = mac::TestSet::load(mac::TestName::HmacSha256).expect("the vectors load");
    for group in set.test_groups {
        for case in group.tests {
            let mac = P::hmac_sha256(&case.key, &[&case.msg]);
            let fits = mac[..group.tag_size / 8] == *case.tag;
            assert_eq!(fits, case.result == TestResult::Valid, "{case:?}");
            if fits {
                valid += 1;
            } else {
                invalid += 1;
            }
        }
    }
    assert_eq!((valid, invalid), (66, 108));
}

fn hkdf_sha256<P: Provider>() {
    let (mut valid, mut too_long) = (0, 0);
    let set = hkdf::TestSet::load(hkdf::TestName::HkdfSha256).expect("the vectors load");
    for case in set.test_groups.into_iter().flat_map(|group| group.tests) {
        let mut okm = vec![1; case.size];
        P::hkdf_sha256(&case.salt, &case.ikm, &[&case.info], &mut okm);
        if case.result.must_fail() {
            too_long += 1;
            assert!(case.size > 255 * 32, "{case:?}");
            assert!(okm.iter().all(|byte| *byte == 0), "{case:?}");
        } else {
            valid += 1;
            assert_eq!(okm, case.okm.to_vec(), "{case:?}");
        }
    }
    assert_eq!((valid, too_long), (83, 3));
}
