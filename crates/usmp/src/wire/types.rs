/// What a frame is (WIRE.md section 2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are those of the specification")]
pub enum FrameType {
    Hello,
    Challenge,
    HelloAck,
    SessionOk,
    Data,
    Ping,
    Pong,
    Bye,
    DataFrag,
    HelloRetry,
    Rekey,
    Error,
    /// A code that no release defines.
    Unknown(u8),
}

impl FrameType {
    /// The code in the header.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::Challenge => 2,
            Self::HelloAck => 3,
            Self::SessionOk => 4,
            Self::Data => 5,
            Self::Ping => 6,
            Self::Pong => 7,
            Self::Bye => 8,
            Self::DataFrag => 9,
            Self::HelloRetry => 10,
            Self::Rekey => 11,
            Self::Error => 255,
            Self::Unknown(code) => code,
        }
    }

    /// Whether frames of this type are sealed.
    #[must_use]
    pub const fn is_sealed(self) -> bool {
        matches!(self, Self::Data | Self::Ping | Self::Pong | Self::Bye | Self::DataFrag | Self::Rekey)
    }

    /// Whether frames of this type belong to the handshake.
    #[must_use]
    pub const fn is_handshake(self) -> bool {
        matches!(self, Self::Hello | Self::Challenge | Self::HelloAck | Self::SessionOk | Self::HelloRetry)
    }
}

impl From<u8> for FrameType {
    fn from(code: u8) -> Self {
        Self::from_code(code)
    }
}

impl FrameType {
    /// The type that a header's code stands for.
    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Hello,
            2 => Self::Challenge,
            3 => Self::HelloAck,
            4 => Self::SessionOk,
            5 => Self::Data,
            6 => Self::Ping,
            7 => Self::Pong,
            8 => Self::Bye,
            9 => Self::DataFrag,
            10 => Self::HelloRetry,
            11 => Self::Rekey,
            255 => Self::Error,
            code => Self::Unknown(code),
        }
    }
}
