use super::world::*;
use crate::{Control, Count, SendError};
use sluice_types::{DeviceEpoch, DeviceId, SessionId};

#[tokio::test]
async fn a_datagram_reaches_the_owner_and_the_answer_comes_back_to_the_flow() {
    let (mut a, mut b) = linked(&config()).await;
    let source = "[2001:db8::7]:40000".parse().unwrap();
    let to_b = a.peers.handle().sender(b.id).unwrap();
    to_b.try_datagram(3, source, b"up").unwrap();
    let got = b.wait_for("the datagram", |got| matches!(got, Got::Datagram { .. })).await;
    assert_eq!(got, Got::Datagram { from: a.id, flow: 3, source, bytes: b"up".to_vec() });

    to_b.try_handshake(3, source, b"proof").unwrap();
    let got = b.wait_for("the proof", |got| matches!(got, Got::Handshake { .. })).await;
    assert_eq!(got, Got::Handshake { from: a.id, flow: 3, source, bytes: b"proof".to_vec() });

    b.peers.handle().sender(a.id).unwrap().try_reply(3, source, b"down").unwrap();
    let got = a.wait_for("the answer", |got| matches!(got, Got::Reply { .. })).await;
    assert_eq!(got, Got::Reply { from: b.id, flow: 3, destination: source, bytes: b"down".to_vec() });
}

#[tokio::test]
async fn control_frames_of_every_kind_arrive_once_and_in_order() {
    let (a, mut b) = linked(&config()).await;
    let device = DeviceId::from_bytes([1, 2, 3, 4, 5, 6]);
    let session = SessionId::from_bytes([9; 16]);
    let mut sent = vec![
        Control::SlotMoved { slot: 5, owner: a.id, generation: 2 },
        Control::HandOver { slot: 6 },
        Control::CloseSession { device, session, epoch: DeviceEpoch(4), reason: 1 },
        Control::Revoked { position: 77, device },
        Control::Other { kind: 255, bytes: vec![0xcc; crate::MAX_PAYLOAD] },
    ];
    sent.extend((0..1_000).map(|slot| Control::HandOver { slot }));
    let to_b = a.peers.handle().sender(b.id).unwrap();
    for control in &sent {
        to_b.control(control.clone()).await.unwrap();
    }
    for control in sent {
        let got = b.wait_for("a control frame", |got| matches!(got, Got::Control { .. })).await;
        assert_eq!(got, Got::Control { from: a.id, control });
    }
    assert_eq!(b.count(Count::ControlReceived), 1_005);
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_to_the_caller() {
    let mut a = Pod::start(1, ring(7, &[]), config()).await;
    let nobody = TcpPort::closed().await;
    a.members.send_replace(vec![member(pod(2), &nobody)]);
    a.wait_for("the member", |got| matches!(got, Got::Changed(_))).await;
    eventually("a sender", || (a.peers.handle().sender(pod(2)).is_some(), ())).await;
    let sender = a.peers.handle().sender(pod(2)).unwrap();
    let source = "192.0.2.1:1".parse().unwrap();
    assert_eq!(sender.try_datagram(0, source, b"x"), Err(SendError::NoLink));
    assert_eq!(sender.try_datagram(0, source, &[0; crate::MAX_DATAGRAM + 1]), Err(SendError::Unfit));
    assert_eq!(sender.try_reply(0, source, b""), Err(SendError::Unfit));
    assert_eq!(sender.try_control(Control::HandOver { slot: 1 }), Err(SendError::NoLink));
    assert_eq!(sender.try_control(Control::Other { kind: 127, bytes: vec![] }), Err(SendError::Unfit));
    assert_eq!(a.count(Count::DatagramsUnsent), 3);
    assert!(a.peers.handle().sender(pod(3)).is_none(), "nobody listed that pod");
}

#[tokio::test]
async fn a_peer_whose_address_changes_is_found_again() {
    let (mut a, b) = linked(&config()).await;
    b.peers.stop().await;
    a.wait_for("the end", |got| *got == Got::Down(pod(2))).await;
    let b = Pod::start(2, ring(7, &[]), config()).await;
    list(&[&a, &b]);
    a.wait_up(2).await;
}

#[tokio::test]
async fn a_pod_that_is_not_listed_any_more_has_no_sender_once_its_link_ends() {
    let (mut a, b) = linked(&config()).await;
    a.members.send_replace(vec![a.member()]);
    let to_b = a.peers.handle().sender(b.id).unwrap();
    to_b.control(Control::HandOver { slot: 1 }).await.unwrap();
    b.peers.stop().await;
    a.wait_for("the end", |got| *got == Got::Down(pod(2))).await;
    eventually("no sender", || (a.peers.handle().sender(pod(2)).is_none(), ())).await;
}

/// An address that refuses.
struct TcpPort;

impl TcpPort {
    async fn closed() -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().to_string()
    }
}
