use core::marker::PhantomData;

use super::handshake::{Established, ServerProof};
use crate::crypto::Provider;
use crate::keys::{Role, SessionKeys, rekey};
use crate::seal::{OpenFrameError, Opened, open_frame, seal_frame};
use crate::wire::FrameType;
use crate::{Secret, SessionId};

/// The last sequence number that may be sent (WIRE.md section 7).
const LAST_SEQ: u32 = 0xFFFF_FFFE;

/// Keys and the sending counter of an open session; what both transports have in common.
pub(super) struct Session<P> {
    keys: SessionKeys,
    session_id: SessionId,
    next_seq: u32,
    _proof: ServerProof,
    provider: PhantomData<fn() -> P>,
}

impl<P: Provider> Session<P> {
    pub(super) fn new(established: Established) -> Self {
        let Established { keys, session_id, proof } = established;
        Self { keys, session_id, next_seq: 0, _proof: proof, provider: PhantomData }
    }

    pub(super) const fn session_id(&self) -> SessionId {
        self.session_id
    }

    /// Burns the next sequence number; `None` when all are used up.
    pub(super) const fn take_seq(&mut self) -> Option<u32> {
        let seq = self.next_seq;
        if seq > LAST_SEQ {
            return None;
        }
        self.next_seq = seq.saturating_add(1);
        Some(seq)
    }

    pub(super) fn seal(
        &self,
        frame_type: FrameType,
        seq: u32,
        plaintext: &[u8],
        out: &mut [u8],
    ) -> Option<usize> {
        seal_frame::<P>(&self.keys.c2s, self.session_id, frame_type, seq, plaintext, out).ok()
    }

    pub(super) fn open<'a>(&self, frame: &'a mut [u8]) -> Result<Opened<'a>, OpenFrameError> {
        open_frame::<P>(&self.keys.s2c, self.session_id, frame)
    }

    pub(super) fn open_under<'a>(
        &self,
        key: &Secret<32>,
        frame: &'a mut [u8],
    ) -> Result<Opened<'a>, OpenFrameError> {
        open_frame::<P>(key, self.session_id, frame)
    }

    /// The key that opens our frames, and so keys the UTACKs for them.
    pub(super) const fn sending_key(&self) -> &Secret<32> {
        &self.keys.c2s
    }

    /// The key that opens the server's frames, and so keys our UTACKs.
    pub(super) const fn receiving_key(&self) -> &Secret<32> {
        &self.keys.s2c
    }

    /// The keys that a REKEY leads to.
    pub(super) fn keys_after(&self, initiator: Role, salt: &[u8; 32]) -> SessionKeys {
        rekey::<P>(&self.keys, initiator, salt, self.session_id)
    }

    /// Goes on under new keys and returns the old ones. The sending counter starts at 0 on TCP. On UDP it starts at
    /// max(0, M - 63), M the highest number sent: a Python receiver acknowledges and discards what is further below
    /// (WIRE.md section 9, "black hole").
    pub(super) const fn switch(&mut self, keys: SessionKeys, first_seq: FirstSeq) -> SessionKeys {
        self.next_seq = match first_seq {
            FirstSeq::Zero => 0,
            FirstSeq::NearHighest => self.next_seq.saturating_sub(64),
        };
        core::mem::replace(&mut self.keys, keys)
    }
}

/// Where the sending counter starts after a REKEY.
#[derive(Debug, Clone, Copy)]
pub(super) enum FirstSeq {
    Zero,
    NearHighest,
}

/// What the application or the server asked for and has not gone out yet, other than a message.
#[derive(Debug, Default)]
pub(super) struct Duties {
    /// PONGs owed.
    pub(super) pongs: u8,
    pub(super) ping: bool,
    pub(super) rekey: Option<Secret<32>>,
    pub(super) bye: bool,
}

/// How many PONGs may be owed; a server that sends more than 8 control frames a second is at fault (WIRE.md section 12, rule 7).
const MOST_PONGS: u8 = 8;

impl Duties {
    /// Notes a PING; false when too many are unanswered.
    pub(super) const fn owe_pong(&mut self) -> bool {
        if self.pongs >= MOST_PONGS {
            return false;
        }
        self.pongs = self.pongs.saturating_add(1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoCrypto;

    impl Provider for NoCrypto {
        type KeyPair = ();
        fn key_pair(_: &Secret<32>) {}
        fn public_key((): &()) -> [u8; 32] {
            [0; 32]
        }
        fn agree((): &(), _: &[u8; 32]) -> Result<Secret<32>, crate::crypto::LowOrderPoint> {
            Ok(Secret::zeroed())
        }
        fn seal(_: &Secret<32>, _: &[u8; 12], _: &[u8], _: &mut [u8]) -> [u8; 16] {
            [0; 16]
        }
        fn open(
            _: &Secret<32>,
            _: &[u8; 12],
            _: &[u8],
            _: &mut [u8],
            _: &[u8; 16],
        ) -> Result<(), crate::crypto::OpenError> {
            Ok(())
        }
        fn hmac_sha256(_: &[u8], _: &[&[u8]]) -> [u8; 32] {
            [0; 32]
        }
        fn hkdf_sha256(_: &[u8], _: &[u8], _: &[&[u8]], _: &mut [u8]) {}
    }

    fn session(next_seq: u32) -> Session<NoCrypto> {
        use super::super::config::{HandshakeNumbers, Psk};
        use super::super::handshake::AwaitChallenge;
        use crate::wire::{Challenge, SessionOk};

        let psk = Psk::new(&[0; 16]).expect("16 bytes are enough");
        let hello = AwaitChallenge::<NoCrypto>::new(
            crate::DeviceId([0; 6]),
            psk,
            &Secret::zeroed(),
            HandshakeNumbers::Counted,
        );
        let challenge = Challenge { nonce: [0; 32], public_key: [0; 32] };
        let ack = hello
            .handle_challenge(&challenge)
            .map_err(|(_, error)| error)
            .expect("nothing is of low order here");
        let ok = SessionOk { session_id: SessionId([0; 16]), mac: [0; 32] };
        let established = ack.handle_session_ok(&ok).map_err(drop).expect("every proof is all zero here");
        Session { next_seq, ..Session::new(established) }
    }

    #[test]
    fn last_sequence_number_is_used_and_none_after_it() {
        let mut session = session(LAST_SEQ);
        assert_eq!(session.take_seq(), Some(0xFFFF_FFFE));
        assert_eq!(session.take_seq(), None);
        assert_eq!(session.take_seq(), None);
    }

    #[test]
    fn counter_after_rekey_stays_within_63_of_the_highest_sent_on_udp() {
        for (sent, first) in [(1, 0), (7, 0), (64, 0), (65, 1), (101, 37)] {
            let mut session = session(sent);
            let keys = session.keys_after(Role::Device, &[0; 32]);
            session.switch(keys, FirstSeq::NearHighest);
            assert_eq!(session.take_seq(), Some(first), "{sent} numbers sent, highest {}", sent - 1);
        }
        let mut session = session(101);
        let keys = session.keys_after(Role::Device, &[0; 32]);
        session.switch(keys, FirstSeq::Zero);
        assert_eq!(session.take_seq(), Some(0), "TCP");
    }
}
