"""Computes derived-keys.json beside this file: an implementation of its own of the derivation that
`sluice_store::derived_psk` documents. Needs nothing but Python's standard library."""

import hashlib
import hmac
import json
import pathlib

SALT = b"sluice-derived-psk-v1"


def derive(root: bytes, epoch: int, device: bytes) -> bytes:
    prk = hmac.new(SALT, root, hashlib.sha256).digest()
    info = epoch.to_bytes(4, "big") + device
    return hmac.new(prk, info + b"\x01", hashlib.sha256).digest()


CASES = [
    (bytes(range(32)), 1, "02a1b2c3d4e5"),
    (bytes(range(32)), 2, "02a1b2c3d4e5"),
    (bytes(range(32)), 1, "02a1b2c3d4e6"),
    (b"\xff" * 32, 0xFFFFFFFF, "ffffffffffff"),
    (hashlib.sha256(b"a tenant's root").digest(), 7, "000000000000"),
]

if __name__ == "__main__":
    vectors = [
        {"root": root.hex(), "key_epoch": epoch, "device": device, "psk": derive(root, epoch, bytes.fromhex(device)).hex()}
        for root, epoch, device in CASES
    ]
    path = pathlib.Path(__file__).with_name("derived-keys.json")
    path.write_text(json.dumps(vectors, indent=2) + "\n")
