/// Eight tables, so that eight bytes are taken per step; table `k` advances a byte by `k` further zero bytes.
const TABLES: [[u16; 256]; 8] = tables();

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time, where a wrong index stops the build")]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "evaluated at compile time, where an overflow stops the build"
)]
const fn tables() -> [[u16; 256]; 8] {
    let mut tables = [[0_u16; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u16;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xA001 } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = before >> 8 ^ tables[0][(before & 0xFF) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

#[expect(clippy::indexing_slicing, reason = "a table has an entry for every byte")]
const fn entry(table: &[u16; 256], byte: u8) -> u16 {
    table[byte as usize]
}

/// CRC-16/MODBUS over the parts, one after the other (WIRE.md section 2.1). Catches noise; authenticates nothing.
#[must_use]
pub fn crc16(parts: &[&[u8]]) -> u16 {
    let [t0, t1, t2, t3, t4, t5, t6, t7] = &TABLES;
    let mut crc = 0xFFFF_u16;
    for part in parts {
        let (blocks, rest) = part.as_chunks::<8>();
        for &[b0, b1, b2, b3, b4, b5, b6, b7] in blocks {
            let [low, high] = crc.to_le_bytes();
            crc = entry(t7, b0 ^ low)
                ^ entry(t6, b1 ^ high)
                ^ entry(t5, b2)
                ^ entry(t4, b3)
                ^ entry(t3, b4)
                ^ entry(t2, b5)
                ^ entry(t1, b6)
                ^ entry(t0, b7);
        }
        for &byte in rest {
            let [low, _] = crc.to_le_bytes();
            crc = crc >> 8 ^ entry(t0, low ^ byte);
        }
    }
    crc
}
