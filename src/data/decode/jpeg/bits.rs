//! Entropy-coded data: a reader of bits that knows where the data ends, and Huffman tables.

use super::damage::Damage;

/// Bits of one scan, up to the next marker. Stuffed zero bytes are left out.
pub struct Bits<'a> {
    data: &'a [u8],
    /// Position of the next byte to load.
    at: usize,
    /// The next `count` bits at the top, zeros below them.
    buffer: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    pub fn new(data: &'a [u8], at: usize) -> Self {
        Self { data, at, buffer: 0, count: 0 }
    }

    /// Loads bytes until more than 32 bits are held or a marker or the end of the file is reached.
    #[inline(always)]
    fn fill(&mut self) {
        if self.count > 32 {
            return;
        }
        if let Some(four) = self.data.get(self.at..self.at + 4) {
            let word = u32::from_be_bytes([four[0], four[1], four[2], four[3]]);
            // no byte is 0xff: no byte of the complement is zero
            if (!word).wrapping_sub(0x0101_0101) & word & 0x8080_8080 == 0 {
                self.buffer |= u64::from(word) << (32 - self.count);
                self.count += 32;
                self.at += 4;
                return;
            }
        }
        self.fill_by_bytes();
    }

    #[cold]
    fn fill_by_bytes(&mut self) {
        while self.count <= 32 {
            let (byte, step) = match (self.data.get(self.at), self.data.get(self.at + 1)) {
                (Some(0xff), Some(0)) => (0xff, 2),
                (Some(0xff), _) | (None, _) => return,
                (Some(byte), _) => (*byte, 1),
            };
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
            self.at += step;
        }
    }

    /// Drops `count` bits, at most 32.
    #[inline(always)]
    fn drop(&mut self, count: u32) -> Result<(), Damage> {
        if count > self.count {
            return Err(self.at_end());
        }
        self.buffer <<= count;
        self.count -= count;
        Ok(())
    }

    #[cold]
    fn at_end(&self) -> Damage {
        if self.at >= self.data.len() { Damage::Cut } else { Damage::Lacks }
    }

    /// The next `count` bits, at most 16.
    #[inline(always)]
    pub fn take(&mut self, count: u32) -> Result<u32, Damage> {
        if count == 0 {
            return Ok(0);
        }
        self.fill();
        let value = (self.buffer >> (64 - count)) as u32;
        self.drop(count)?;
        Ok(value)
    }

    /// The next symbol, and behind it as many bits of a signed value as its lower four bits say (ITU-T T.81, F.2.2).
    #[inline(always)]
    pub fn symbol_and_value(&mut self, table: &Huffman) -> Result<(u8, i32), Damage> {
        self.fill();
        let (symbol, length) = table.find((self.buffer >> 48) as u16)?;
        let size = u32::from(symbol & 15);
        if size == 0 {
            self.drop(length)?;
            return Ok((symbol, 0));
        }
        let raw = ((self.buffer << length) >> (64 - size)) as i32;
        self.drop(length + size)?;
        // values whose first bit is 0 are negative
        let negative = (raw >> (size - 1)) ^ 1;
        Ok((symbol, raw + negative * (1 - (1 << size))))
    }

    /// The next symbol.
    #[inline(always)]
    pub fn symbol(&mut self, table: &Huffman) -> Result<u8, Damage> {
        self.fill();
        let (symbol, length) = table.find((self.buffer >> 48) as u16)?;
        self.drop(length)?;
        Ok(symbol)
    }

    /// Ends a run of entropy-coded data. Returns the position of the marker that follows.
    pub fn end(&mut self) -> Result<usize, Damage> {
        let unread = self.count / 8;
        let mut at = self.at;
        // a file whose data was damaged in the middle ends too early or too late: a few stray bytes are no damage
        while !matches!((self.data.get(at), self.data.get(at + 1)), (Some(0xff), Some(1..))) {
            at += 1;
            if at >= self.data.len() {
                return Err(Damage::Cut);
            }
            if at - self.at + unread as usize > STRAY {
                return Err(Damage::Surplus);
            }
        }
        if unread as usize > STRAY {
            return Err(Damage::Surplus);
        }
        Ok(at)
    }

    /// Passes over the restart marker with the number `wanted`, which must be next.
    pub fn restart(&mut self, wanted: u8) -> Result<(), Damage> {
        let mut at = self.end()?;
        while self.data.get(at + 1) == Some(&0xff) {
            at += 1;
        }
        if self.data.get(at + 1) != Some(&(0xd0 + wanted)) {
            return Err(Damage::Lacks);
        }
        *self = Self::new(self.data, at + 2);
        Ok(())
    }
}

/// Bytes that may stand between the entropy-coded data and the next marker.
const STRAY: usize = 8;

/// Bits that the table of short codes looks at.
const SHORT: u32 = 9;

/// A Huffman table.
#[derive(Clone)]
pub struct Huffman {
    /// For every pattern of `SHORT` bits the symbol and the length of the code that it begins with; length 0: longer.
    short: Vec<(u8, u8)>,
    /// By length: one more than the largest code of that length, aligned to 16 bits; codes grow with their length.
    ends: [u32; 17],
    /// By length: what to add to a code for its symbol's position.
    offsets: [i32; 17],
    symbols: Vec<u8>,
}

impl Huffman {
    /// From the number of codes of each length 1 to 16, and the symbols in the order of the codes.
    pub fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut table = Self {
            short: vec![(0, 0); 1 << SHORT],
            ends: [0; 17],
            offsets: [0; 17],
            symbols: symbols.to_vec(),
        };
        let (mut code, mut at) = (0u32, 0usize);
        for length in 1..=16u32 {
            table.offsets[length as usize] = at as i32 - code as i32;
            for _ in 0..counts[length as usize - 1] {
                // the code of ones alone is reserved, but encoders use it
                if code >= 1 << length {
                    return None;
                }
                if length <= SHORT {
                    let first = (code << (SHORT - length)) as usize;
                    table.short[first..first + (1 << (SHORT - length))]
                        .fill((*symbols.get(at)?, length as u8));
                }
                code += 1;
                at += 1;
            }
            table.ends[length as usize] = code << (16 - length);
            code <<= 1;
        }
        (at == symbols.len()).then_some(table)
    }

    /// The symbol whose code begins `pattern`, and the length of that code.
    #[inline(always)]
    fn find(&self, pattern: u16) -> Result<(u8, u32), Damage> {
        let (symbol, length) = self.short[usize::from(pattern >> (16 - SHORT))];
        if length > 0 {
            return Ok((symbol, u32::from(length)));
        }
        self.find_long(pattern)
    }

    #[cold]
    fn find_long(&self, pattern: u16) -> Result<(u8, u32), Damage> {
        let length = (SHORT + 1..=16).find(|&l| u32::from(pattern) < self.ends[l as usize]);
        let length = length.ok_or(Damage::Code)?;
        let code = i32::from(pattern) >> (16 - length);
        let at = usize::try_from(code + self.offsets[length as usize]).map_err(|_| Damage::Code)?;
        self.symbols.get(at).map(|&symbol| (symbol, length)).ok_or(Damage::Code)
    }
}
