use crate::hex_id::hex_id;

hex_id! {
    /// The 16 bytes that name a session; the first 8 are visible in every sealed frame (WIRE.md section 6).
    SessionId,
    /// The 16 bytes as they stand in SESSION_OK.
    SessionIdError, "not a session id: write 32 hex digits"
}

impl SessionId {
    /// The 8 bytes that every sealed frame shows.
    #[must_use]
    pub fn prefix(&self) -> [u8; 8] {
        self.0.first_chunk().copied().unwrap_or_default()
    }
}
