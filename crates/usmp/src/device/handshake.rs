use core::marker::PhantomData;

use subtle::ConstantTimeEq as _;

use super::config::{HandshakeNumbers, Psk};
use crate::crypto::{LowOrderPoint, Provider};
use crate::keys::{SessionKeys, client_proof, server_proof, session_keys};
use crate::wire::{Challenge, FrameType, Hello, HelloAck, HelloRetry, SessionOk};
use crate::{DeviceId, Secret, SessionId};

/// HELLO went out; CHALLENGE, or HELLO_RETRY before it, is to come.
pub(super) struct AwaitChallenge<P: Provider> {
    psk: Psk,
    pair: P::KeyPair,
    hello: Hello,
    numbers: HandshakeNumbers,
}

impl<P: Provider> AwaitChallenge<P> {
    pub(super) fn new(
        device_id: DeviceId,
        psk: Psk,
        private: &Secret<32>,
        numbers: HandshakeNumbers,
    ) -> Self {
        let pair = P::key_pair(private);
        let hello = Hello { seq: 0, device_id, public_key: P::public_key(&pair), cookie: None };
        Self { psk, pair, hello, numbers }
    }

    pub(super) const fn seq(&self) -> u32 {
        self.hello.seq
    }

    pub(super) fn emit(&self, out: &mut [u8]) -> Option<usize> {
        self.hello.emit(out).ok()
    }

    /// Whether HELLO_RETRY was answered; a second one has no place.
    pub(super) const fn has_cookie(&self) -> bool {
        self.hello.cookie.is_some()
    }

    pub(super) const fn handle_retry(&mut self, retry: &HelloRetry) {
        self.hello.cookie = Some(retry.cookie);
        self.hello.seq = match self.numbers {
            HandshakeNumbers::Counted => 1,
            HandshakeNumbers::Zero => 0,
        };
    }

    /// Answers a CHALLENGE. A public key of low order gives the state back: on UDP anybody may have sent it.
    #[expect(
        clippy::result_large_err,
        reason = "the state goes back to its owner, and there is no heap to put it on"
    )]
    pub(super) fn handle_challenge(
        self,
        challenge: &Challenge,
    ) -> Result<AwaitSessionOk<P>, (Self, LowOrderPoint)> {
        let shared = match P::agree(&self.pair, &challenge.public_key) {
            Ok(shared) => shared,
            Err(error) => return Err((self, error)),
        };
        let Challenge { nonce, public_key: pub_s } = challenge;
        let pub_c = self.hello.public_key;
        let ack = HelloAck {
            seq: match self.numbers {
                HandshakeNumbers::Counted => 2,
                HandshakeNumbers::Zero => 0,
            },
            mac: client_proof::<P>(self.psk.expose(), nonce, self.hello.device_id, &pub_c, pub_s),
        };
        let keys = session_keys::<P>(&shared, nonce, &pub_c, pub_s);
        Ok(AwaitSessionOk {
            psk: self.psk,
            ack,
            keys,
            nonce: *nonce,
            pub_c,
            pub_s: *pub_s,
            provider: PhantomData,
        })
    }
}

/// HELLO_ACK went out; SESSION_OK is to come.
pub(super) struct AwaitSessionOk<P> {
    psk: Psk,
    ack: HelloAck,
    keys: SessionKeys,
    nonce: [u8; 32],
    pub_c: [u8; 32],
    pub_s: [u8; 32],
    provider: PhantomData<fn() -> P>,
}

impl<P: Provider> AwaitSessionOk<P> {
    pub(super) const FRAME: FrameType = FrameType::HelloAck;

    pub(super) const fn seq(&self) -> u32 {
        self.ack.seq
    }

    pub(super) fn emit(&self, out: &mut [u8]) -> Option<usize> {
        self.ack.emit(out).ok()
    }

    /// Checks the server's proof in constant time. A wrong one gives the state back: on UDP anybody may have sent it.
    #[expect(
        clippy::result_large_err,
        reason = "the state goes back to its owner, and there is no heap to put it on"
    )]
    pub(super) fn handle_session_ok(self, ok: &SessionOk) -> Result<Established, Self> {
        let expected =
            server_proof::<P>(self.psk.expose(), &self.nonce, ok.session_id, &self.pub_c, &self.pub_s);
        if !bool::from(expected.ct_eq(&ok.mac)) {
            return Err(self);
        }
        Ok(Established { keys: self.keys, session_id: ok.session_id, proof: ServerProof(()) })
    }
}

/// The server proved that it has the key. Made in one place; a session cannot be built without it.
#[derive(Debug)]
pub(super) struct ServerProof(());

/// What a handshake leads to.
#[derive(Debug)]
pub(super) struct Established {
    pub(super) keys: SessionKeys,
    pub(super) session_id: SessionId,
    pub(super) proof: ServerProof,
}
