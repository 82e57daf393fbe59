//! The server role, rule by rule (`docs/usmp/WIRE.md` sections 5 to 14), and the recordings.
#![cfg(feature = "rustcrypto")]

mod commit;
mod demux;
mod downlink;
mod fragments;
mod handover;
mod handshake_tcp;
mod handshake_udp;
mod liveness;
mod migration;
mod properties;
mod receive;
mod rekey;
mod rekey_deferred;
mod retry;
mod secrets;
mod support;
mod tcp;
mod vectors_handshake;
mod vectors_session;
mod vectors_sessions;
