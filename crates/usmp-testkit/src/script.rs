//! A server spelt out from the primitives, frame by frame: no state machine, no opinion. For tests that need one exact frame.

use std::marker::PhantomData;

use usmp::crypto::{Provider, RustCrypto};
use usmp::wire::{Challenge, Frame, FrameType, Hello, HelloAck, HelloRetry, MAX_FRAME, SessionOk, Utack};
use usmp::{
    DeviceId, Role, Secret, SessionId, SessionKeys, client_proof, open_frame, rekey, seal_frame,
    server_proof, session_keys,
};

/// One session from the server's side.
#[derive(Debug)]
pub struct ScriptedServer<P = RustCrypto> {
    psk: Vec<u8>,
    private: Secret<32>,
    nonce: [u8; 32],
    session_id: SessionId,
    hello: Option<Hello>,
    keys: Option<SessionKeys>,
    provider: PhantomData<fn() -> P>,
}

/// A frame that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedFrame {
    /// Its type.
    pub frame_type: FrameType,
    /// Its sequence number.
    pub seq: u32,
    /// Its plaintext.
    pub plaintext: Vec<u8>,
}

fn written(write: impl FnOnce(&mut [u8]) -> usize) -> Vec<u8> {
    let mut out = vec![0; MAX_FRAME];
    let length = write(&mut out);
    out.truncate(length);
    out
}

impl<P: Provider> ScriptedServer<P> {
    /// A server with this key; everything random about it follows from `seed`.
    #[must_use]
    pub fn new(psk: &[u8], seed: u8) -> Self {
        Self::with_secrets(
            psk,
            Secret::new([seed.wrapping_add(1); 32]),
            [seed.wrapping_add(2); 32],
            SessionId([seed.wrapping_add(3); 16]),
        )
    }

    /// A server whose random values are given.
    #[must_use]
    pub fn with_secrets(psk: &[u8], private: Secret<32>, nonce: [u8; 32], session_id: SessionId) -> Self {
        Self { psk: psk.to_vec(), private, nonce, session_id, hello: None, keys: None, provider: PhantomData }
    }

    /// The device id of the HELLO that was read.
    #[must_use]
    pub fn device_id(&self) -> Option<DeviceId> {
        self.hello.map(|hello| hello.device_id)
    }

    /// The session's name.
    #[must_use]
    pub const fn session_id(&self) -> SessionId {
        self.session_id
    }

    /// The keys, once CHALLENGE was made.
    ///
    /// # Panics
    ///
    /// Before.
    #[must_use]
    pub fn keys(&self) -> &SessionKeys {
        self.keys.as_ref().expect("the keys exist after CHALLENGE")
    }

    /// A HELLO_RETRY with this cookie.
    #[must_use]
    pub fn hello_retry(&self, cookie: [u8; 16]) -> Vec<u8> {
        written(|out| HelloRetry { cookie }.emit(0, out).expect("a frame fits"))
    }

    /// Reads a HELLO and answers with CHALLENGE.
    ///
    /// # Panics
    ///
    /// When the frame is no HELLO.
    pub fn challenge(&mut self, hello: &[u8]) -> Vec<u8> {
        let frame = Frame::parse(hello).expect("a frame");
        let hello = Hello::parse(&frame).expect("a HELLO");
        let public_key = P::x25519_public(&self.private);
        let shared = P::x25519(&self.private, &hello.public_key).expect("not of low order");
        self.keys = Some(session_keys::<P>(&shared, &self.nonce, &hello.public_key, &public_key));
        self.hello = Some(hello);
        written(|out| Challenge { nonce: self.nonce, public_key }.emit(0, out).expect("a frame fits"))
    }

    /// Reads a HELLO_ACK and answers with SESSION_OK, or nothing when the proof is wrong.
    ///
    /// # Panics
    ///
    /// When the frame is no HELLO_ACK, or no HELLO came before.
    #[must_use]
    pub fn session_ok(&self, hello_ack: &[u8]) -> Option<Vec<u8>> {
        let frame = Frame::parse(hello_ack).expect("a frame");
        let ack = HelloAck::parse(&frame).expect("a HELLO_ACK");
        let hello = self.hello.expect("HELLO comes first");
        let pub_s = P::x25519_public(&self.private);
        let expected = client_proof::<P>(&self.psk, &self.nonce, hello.device_id, &hello.public_key, &pub_s);
        if ack.mac != expected {
            return None;
        }
        let mac = server_proof::<P>(&self.psk, &self.nonce, self.session_id, &hello.public_key, &pub_s);
        Some(written(|out| {
            SessionOk { session_id: self.session_id, mac }.emit(0, out).expect("a frame fits")
        }))
    }

    /// A sealed frame to the device.
    #[must_use]
    pub fn seal(&self, frame_type: FrameType, seq: u32, plaintext: &[u8]) -> Vec<u8> {
        written(|out| {
            seal_frame::<P>(&self.keys().s2c, self.session_id, frame_type, seq, plaintext, out)
                .expect("a frame fits")
        })
    }

    /// Opens a frame of the device.
    ///
    /// # Panics
    ///
    /// When it does not open.
    #[must_use]
    pub fn open(&self, frame: &[u8]) -> OpenedFrame {
        self.try_open(frame).expect("the frame opens under the device's key")
    }

    /// Opens a frame of the device, if it opens.
    #[must_use]
    pub fn try_open(&self, frame: &[u8]) -> Option<OpenedFrame> {
        let mut frame = frame.to_vec();
        Frame::parse(&frame).ok()?;
        let opened = open_frame::<P>(&self.keys().c2s, self.session_id, &mut frame).ok()?;
        Some(OpenedFrame {
            frame_type: opened.frame_type,
            seq: opened.seq,
            plaintext: opened.plaintext.to_vec(),
        })
    }

    /// The UTACK for a frame of the device, plain or with a MAC as its type wants.
    ///
    /// # Panics
    ///
    /// When it is no frame.
    #[must_use]
    pub fn utack(&self, frame: &[u8]) -> Vec<u8> {
        let header = Frame::parse(frame).expect("a frame").header();
        let utack = if header.frame_type.is_sealed() {
            Utack::sealed::<P>(&self.keys().c2s, header.frame_type, header.seq)
        } else {
            Utack::plain(header.frame_type, header.seq)
        };
        utack.emit().to_vec()
    }

    /// The UTACK that the device owes for a frame of ours.
    ///
    /// # Panics
    ///
    /// When it is no frame.
    #[must_use]
    pub fn expected_utack(&self, frame: &[u8]) -> Vec<u8> {
        let header = Frame::parse(frame).expect("a frame").header();
        let utack = if header.frame_type.is_sealed() {
            Utack::sealed::<P>(&self.keys().s2c, header.frame_type, header.seq)
        } else {
            Utack::plain(header.frame_type, header.seq)
        };
        utack.emit().to_vec()
    }

    /// Goes on under the keys that a REKEY leads to.
    pub fn switch_keys(&mut self, initiator: Role, salt: &[u8; 32]) {
        self.keys = Some(rekey::<P>(self.keys(), initiator, salt, self.session_id));
    }
}
