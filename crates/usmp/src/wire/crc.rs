//! CRC-16/MODBUS without tables.
//!
//! The generator x^16 + x^15 + x^2 + 1 is (x + 1)(x^15 + x + 1). Modulo x + 1 a polynomial is the parity of its bits. Modulo
//! q = x^15 + x + 1 the rule x^15 = x + 1 squares to x^30 = x^2 + 1, x^60 = x^4 + 1 and x^120 = x^8 + 1, so that moving a
//! remainder past 15 bytes takes a few shifts, and so does making it small at the end. The two remainders together are the CRC.
//! That is faster than eight tables are on a server, whose cache it leaves alone, and a microcontroller keeps its flash.
//!
//! As everywhere in this CRC bits are mirrored: the lowest bit of the first byte has the highest power. A remainder of 120 bits
//! has the power 119 - i at bit i.

/// The generator without its highest power, mirrored.
const GENERATOR: u16 = 0xA001;

/// Bytes of a block: 120 bits.
const BLOCK: usize = 15;

/// The two bytes before a message that put the initial value 0xFFFF into the register.
const BEFORE: u16 = {
    let mut register = 0xFFFF_u16;
    let mut bit = 0_u8;
    while bit < 16 {
        register = if register >> 15 == 1 { (register ^ GENERATOR) << 1 | 1 } else { register << 1 };
        bit = bit.wrapping_add(1);
    }
    register
};

/// What has been read: modulo q in 120 bits, 64 of them in `low` and 56 in `high`, and words whose parity is the message's.
struct Remainder {
    low: u64,
    high: u64,
    parity: u64,
}

impl Remainder {
    const fn new() -> Self {
        Self { low: 0, high: (BEFORE as u64) << 40, parity: BEFORE as u64 }
    }

    /// Times x^120 = x^8 + 1, plus the block.
    fn push_block(&mut self, block: &[u8; BLOCK]) {
        let &[b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11, b12, b13, b14] = block;
        let low = u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]);
        let high = u64::from_le_bytes([b8, b9, b10, b11, b12, b13, b14, 0]);
        // What times x^8 carries over bit 0 stands for 120 and more, and is taken times x^8 + 1 again.
        let over = self.low & 0xFF;
        let carried = over << 48 ^ over << 40;
        (self.low, self.high) = (
            (self.low >> 8 | self.high << 56) ^ self.low ^ low,
            (self.high >> 8) ^ self.high ^ high ^ carried,
        );
        self.parity ^= low ^ high;
    }

    /// Times x^(8n), plus the n bytes, fewer than a block.
    fn push_short(&mut self, bytes: &[u8]) {
        let mut word = [0; 16];
        let mut bits = 0_u32;
        for (to, from) in word.iter_mut().zip(bytes) {
            *to = *from;
            bits = bits.saturating_add(8);
        }
        let word = u128::from_le_bytes(word);
        let remainder = u128::from(self.low) | u128::from(self.high) << 64;
        let shifted = remainder.unbounded_shr(bits);
        let over = remainder ^ shifted.unbounded_shl(bits);
        let at = 120_u32.saturating_sub(bits);
        let next = shifted ^ (word ^ over).unbounded_shl(at) ^ over.unbounded_shl(at.saturating_sub(8));
        self.low = next as u64;
        self.high = (next >> 64) as u64;
        self.parity ^= word as u64 ^ (word >> 64) as u64;
    }

    /// Times x^16, modulo the generator.
    const fn finish(self) -> u16 {
        // 120 bits to 60, to 30, to 15: the upper half times x^60 = x^4 + 1, x^30 = x^2 + 1, x^15 = x + 1.
        let upper = self.low & ((1 << 60) - 1);
        let over = upper & 0b1111;
        let q60 = (self.low >> 60 | self.high << 4) ^ upper ^ upper >> 4 ^ over << 56 ^ over << 52;

        let upper = (q60 & ((1 << 30) - 1)) as u32;
        let over = upper & 0b11;
        let q30 = (q60 >> 30) as u32 ^ upper ^ upper >> 2 ^ over << 28 ^ over << 26;

        let upper = q30 & ((1 << 15) - 1);
        let over = upper & 0b1;
        let q15 = q30 >> 15 ^ upper ^ upper >> 1 ^ over << 14 ^ over << 13;

        // x^16 = x^2 + x.
        let once = times_x(q15);
        let q15 = once ^ times_x(once);
        // Two polynomials below x^16 have this remainder and differ by q; the CRC is the one with the message's parity.
        let crc = q15 << 1;
        let wrong = (crc.count_ones() ^ self.parity.count_ones()) & 1;
        (if wrong == 1 { crc ^ Q } else { crc }) as u16
    }
}

/// q = x^15 + x + 1, with the power 15 - i at bit i.
const Q: u32 = 0xC001;

/// Times x modulo q, of a remainder with the power 14 - i at bit i.
const fn times_x(q15: u32) -> u32 {
    let over = q15 & 1;
    q15 >> 1 ^ over << 14 ^ over << 13
}

/// CRC-16/MODBUS over the parts, one after the other (WIRE.md section 2.1). Catches noise; authenticates nothing.
#[must_use]
pub fn crc16(parts: &[&[u8]]) -> u16 {
    let mut remainder = Remainder::new();
    for part in parts {
        let (blocks, rest) = part.as_chunks::<BLOCK>();
        for block in blocks {
            remainder.push_block(block);
        }
        remainder.push_short(rest);
    }
    remainder.finish()
}
