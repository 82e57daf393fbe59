use usmp::wire::{
    Challenge, Frame, Hello, HelloAck, HelloRetry, MAX_FRAME, MAX_PAYLOAD, SessionOk, StreamDecode, Utack,
    decode_stream, emit,
};

/// Every parser of the wire on any bytes: none panics, the datagram's and the stream's agree, and what parses is written back
/// to the same bytes.
pub fn frames(bytes: &[u8]) {
    let mut out = [0; MAX_FRAME];
    if let Ok(frame) = Frame::parse(bytes) {
        let header = frame.header();
        assert!(frame.payload().len() <= MAX_PAYLOAD, "a payload of {} bytes", frame.payload().len());
        let length = emit(header.frame_type, header.seq, frame.payload(), &mut out).expect("a frame fits");
        assert_eq!(&out[..length], bytes, "written back");
        assert_eq!(decode_stream(bytes), Ok(StreamDecode::Frame(bytes.len())), "the stream's view");
        for payload in [
            Hello::parse(&frame).ok().map(|hello| hello.emit(&mut out)),
            Challenge::parse(&frame).ok().map(|challenge| challenge.emit(header.seq, &mut out)),
            HelloAck::parse(&frame).ok().map(|ack| ack.emit(&mut out)),
            SessionOk::parse(&frame).ok().map(|ok| ok.emit(header.seq, &mut out)),
            HelloRetry::parse(&frame).ok().map(|retry| retry.emit(header.seq, &mut out)),
        ]
        .into_iter()
        .flatten()
        {
            assert_eq!(payload.map(|length| length == bytes.len()), Ok(true), "the length written back");
        }
    }
    match decode_stream(bytes) {
        Ok(StreamDecode::NeedMore(total)) => {
            assert!(total > bytes.len() && total <= MAX_FRAME, "asks for {total} bytes at {}", bytes.len());
        }
        Ok(StreamDecode::Frame(length)) => {
            assert!(Frame::parse(&bytes[..length]).is_ok(), "the datagram's view of the same frame");
        }
        Err(_) => {}
    }
    if let Some(utack) = Utack::parse(bytes) {
        let written = utack.emit();
        assert_eq!(&bytes[..written.len()], &*written, "written back");
    }
}
