//! One scan: the blocks that it codes, baseline or progressive (ITU-T T.81, annexes F and G).

use super::{
    bits::{Bits, Huffman},
    damage::Damage,
    frame::{Component, Frame},
    idct::{self, ZIGZAG},
    tables::{Chosen, Tables},
};

/// What the header of a scan says.
pub struct Scan {
    /// Of each component its index in the frame, and its tables for the first and the other coefficients.
    parts: Vec<(usize, [usize; 2])>,
    /// First and last coefficient in the order of the file.
    band: [usize; 2],
    /// Lowest bit that earlier scans have read, and that this one reads.
    high: u8,
    low: u8,
}

impl Scan {
    /// From the content of a start-of-scan segment.
    pub fn parse(segment: &[u8], frame: &Frame) -> Result<Self, Damage> {
        let (count, rest) = segment.split_first().ok_or(Damage::Header)?;
        let count = usize::from(*count);
        let (parts, [start, end, bits]) = rest.split_last_chunk::<3>().ok_or(Damage::Header)?;
        if !(1..=4).contains(&count) || parts.len() != 2 * count {
            return Err(Damage::Header);
        }
        let mut scan = Self {
            parts: Vec::new(),
            band: [usize::from(*start), usize::from(*end)],
            high: bits >> 4,
            low: bits & 15,
        };
        for part in parts.chunks_exact(2) {
            let index = frame.components.iter().position(|c| c.id == part[0]).ok_or(Damage::Header)?;
            let tables = [usize::from(part[1] >> 4), usize::from(part[1] & 15)];
            if tables.iter().any(|&t| t > 3) || scan.parts.iter().any(|p| p.0 == index) {
                return Err(Damage::Header);
            }
            scan.parts.push((index, tables));
        }
        let valid = if frame.progressive {
            let [start, end] = scan.band;
            let one_band = if start == 0 { end == 0 } else { end >= start && end < 64 && count == 1 };
            one_band && scan.low < 14 && (scan.high == 0 || scan.high == scan.low + 1)
        } else {
            // some encoders leave the band of a baseline file zero, which readers pass over
            scan.band = [0, 63];
            (scan.high, scan.low) = (0, 0);
            true
        };
        if valid { Ok(scan) } else { Err(Damage::Header) }
    }

    /// Notes what this scan adds to what is known of its components, which must be the next thing to know.
    fn register(&self, frame: &mut Frame, tables: &Tables) -> Result<(), Damage> {
        for (index, _) in &self.parts {
            let c = &mut frame.components[*index];
            let before = (self.high > 0).then_some(self.high);
            for low in &mut c.precision[self.band[0]..=self.band[1]] {
                if *low != before {
                    return Err(Damage::Order);
                }
                *low = Some(self.low);
            }
            c.predicted = 0;
            if c.quantisation.is_none() {
                c.quantisation = Some(tables.quantisation[c.table].ok_or(Damage::Table)?);
            }
        }
        Ok(())
    }

    /// Decodes the scan, whose entropy-coded data begin at `at`. Returns the position of the marker behind them.
    pub fn decode(
        &self,
        frame: &mut Frame,
        tables: &Tables,
        data: &[u8],
        at: usize,
    ) -> Result<usize, Damage> {
        self.register(frame, tables)?;
        let mut reader = Reader { bits: Bits::new(data, at), skip: 0, scan: self, block: [0; 64] };
        let mut left =
            Restarts { interval: tables.restart_interval, left: tables.restart_interval, number: 0 };
        if let [(index, huffman)] = self.parts[..] {
            let [across, down] = frame.components[index].own_blocks;
            let huffman = tables.chosen(huffman);
            for y in 0..down {
                for x in 0..across {
                    left.before_unit(&mut reader, frame)?;
                    reader.read(&mut frame.components[index], [x, y], huffman, frame.progressive)?;
                }
            }
        } else {
            let parts: Vec<_> = self.parts.iter().map(|&(index, t)| (index, tables.chosen(t))).collect();
            for unit in 0..frame.units[0] * frame.units[1] {
                let [x, y] = [unit % frame.units[0], unit / frame.units[0]];
                left.before_unit(&mut reader, frame)?;
                for &(index, huffman) in &parts {
                    let [h, v] = frame.components[index].sampling;
                    for i in 0..h * v {
                        let at = [x * h + i % h, y * v + i / h];
                        reader.read(&mut frame.components[index], at, huffman, frame.progressive)?;
                    }
                }
            }
        }
        // a run of empty blocks that goes beyond the last one
        if reader.skip > 0 {
            return Err(Damage::Surplus);
        }
        reader.bits.end()
    }
}

/// Counts the units up to the next restart marker.
struct Restarts {
    interval: u32,
    left: u32,
    number: u8,
}

impl Restarts {
    fn before_unit(&mut self, reader: &mut Reader<'_>, frame: &mut Frame) -> Result<(), Damage> {
        if self.interval == 0 {
            return Ok(());
        }
        if self.left == 0 {
            if reader.skip > 0 {
                return Err(Damage::Surplus);
            }
            reader.bits.restart(self.number)?;
            frame.components.iter_mut().for_each(|c| c.predicted = 0);
            self.number = (self.number + 1) % 8;
            self.left = self.interval;
        }
        self.left -= 1;
        Ok(())
    }
}

struct Reader<'a> {
    bits: Bits<'a>,
    /// Blocks still to come in which this band has nothing (new).
    skip: u32,
    scan: &'a Scan,
    block: [i16; 64],
}

impl Reader<'_> {
    fn read(
        &mut self,
        c: &mut Component,
        at: [usize; 2],
        tables: Chosen,
        progressive: bool,
    ) -> Result<(), Damage> {
        if !progressive {
            self.baseline(c, tables)?;
            let quantisation = c.quantisation.as_ref().ok_or(Damage::Table)?;
            let samples = idct::block(&self.block, quantisation);
            c.store(at, &samples);
            return Ok(());
        }
        let start = (at[1] * c.stride_blocks + at[0]) * 64;
        let block = c.coefficients[start..].first_chunk_mut::<64>().ok_or(Damage::Header)?;
        match (self.scan.band[0], self.scan.high) {
            (0, 0) => {
                let (_, difference) = self.bits.symbol_and_value(tables[0].ok_or(Damage::Table)?)?;
                c.predicted = c.predicted.wrapping_add(difference);
                block[0] = (c.predicted << self.scan.low) as i16;
                Ok(())
            }
            (0, _) => {
                block[0] |= (self.bits.take(1)? << self.scan.low) as i16;
                Ok(())
            }
            (_, 0) => self.band_first(block, tables[1].ok_or(Damage::Table)?),
            _ => self.band_again(block, tables[1].ok_or(Damage::Table)?),
        }
    }

    /// All coefficients of a block.
    fn baseline(&mut self, c: &mut Component, tables: Chosen) -> Result<(), Damage> {
        let [Some(first), Some(others)] = tables else { return Err(Damage::Table) };
        self.block = [0; 64];
        let (_, difference) = self.bits.symbol_and_value(first)?;
        c.predicted = c.predicted.wrapping_add(difference);
        self.block[0] = c.predicted as i16;
        let mut k = 1;
        while k < 64 {
            let (symbol, value) = self.bits.symbol_and_value(others)?;
            let run = usize::from(symbol >> 4);
            if symbol & 15 == 0 {
                if run != 15 {
                    break;
                }
                k += 16;
                continue;
            }
            k += run;
            *self.block.get_mut(*ZIGZAG.get(k).ok_or(Damage::Code)?).ok_or(Damage::Code)? = value as i16;
            k += 1;
        }
        // a run of zeros beyond the block's end
        if k > 64 { Err(Damage::Code) } else { Ok(()) }
    }

    /// A band's coefficients for the first time.
    fn band_first(&mut self, block: &mut [i16; 64], table: &Huffman) -> Result<(), Damage> {
        if self.skip > 0 {
            self.skip -= 1;
            return Ok(());
        }
        let [mut k, end] = self.scan.band;
        while k <= end {
            let (symbol, value) = self.bits.symbol_and_value(table)?;
            let run = u32::from(symbol >> 4);
            match (symbol & 15, run) {
                (0, 15) => k += 16,
                (0, _) => {
                    self.skip = (1 << run) - 1 + self.bits.take(run)?;
                    break;
                }
                _ => {
                    k += run as usize;
                    if k > end {
                        return Err(Damage::Code);
                    }
                    block[ZIGZAG[k]] = (value << self.scan.low) as i16;
                    k += 1;
                }
            }
        }
        if k > end + 1 { Err(Damage::Code) } else { Ok(()) }
    }

    /// One more bit of a band's coefficients.
    fn band_again(&mut self, block: &mut [i16; 64], table: &Huffman) -> Result<(), Damage> {
        let [mut k, end] = self.scan.band;
        let bit = 1i16 << self.scan.low;
        if self.skip == 0 {
            while k <= end {
                let symbol = self.bits.symbol(table)?;
                let mut run = u32::from(symbol >> 4);
                let mut new = 0;
                match symbol & 15 {
                    0 if run < 15 => {
                        self.skip = (1 << run) + self.bits.take(run)?;
                        break;
                    }
                    0 => {}
                    1 => new = if self.bits.take(1)? == 1 { bit } else { -bit },
                    _ => return Err(Damage::Code),
                }
                // known coefficients on the way get their bit; of the others `run` are passed over
                while k <= end {
                    let value = &mut block[ZIGZAG[k]];
                    if *value != 0 {
                        refine(value, bit, &mut self.bits)?;
                    } else if run == 0 {
                        *value = new;
                        break;
                    } else {
                        run -= 1;
                    }
                    k += 1;
                }
                if k > end && (new != 0 || run > 0) {
                    return Err(Damage::Code);
                }
                k += 1;
            }
        }
        if self.skip > 0 {
            for &at in &ZIGZAG[k..=end] {
                if block[at] != 0 {
                    refine(&mut block[at], bit, &mut self.bits)?;
                }
            }
            self.skip -= 1;
        }
        Ok(())
    }
}

/// Reads a known coefficient's next bit.
fn refine(value: &mut i16, bit: i16, bits: &mut Bits<'_>) -> Result<(), Damage> {
    if bits.take(1)? == 1 && *value & bit == 0 {
        *value = value.wrapping_add(if *value > 0 { bit } else { -bit });
    }
    Ok(())
}
