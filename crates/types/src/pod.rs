use crate::hex_id::hex_id;

hex_id! {
    /// Names one running edge process among its peers: random, drawn anew at each start, so that a restarted pod is never taken
    /// for the one before it.
    PodId,
    /// The 16 bytes as they stand in ledger records and peer frames.
    PodIdError, "not a pod id: write 32 hex digits"
}
