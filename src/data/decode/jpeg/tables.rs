//! Quantisation and Huffman tables.

use super::{bits::Huffman, damage::Damage, idct::ZIGZAG};

/// Huffman tables of a part of a scan, for the first and the other coefficients.
pub type Chosen<'t> = [Option<&'t Huffman>; 2];

/// Tables that apply to the scans that follow.
#[derive(Default)]
pub struct Tables {
    /// Row by row.
    pub quantisation: [Option<[u16; 64]>; 4],
    first: [Option<Huffman>; 4],
    others: [Option<Huffman>; 4],
    pub restart_interval: u32,
}

impl Tables {
    /// The tables that a part of a scan names.
    pub fn chosen(&self, [first, others]: [usize; 2]) -> Chosen<'_> {
        [self.first[first].as_ref(), self.others[others].as_ref()]
    }

    /// Quantisation tables (DQT).
    pub fn quantise(&mut self, mut segment: &[u8]) -> Result<(), Damage> {
        while let [kind, rest @ ..] = segment {
            let size = if kind >> 4 == 0 { 1 } else { 2 };
            let (values, rest) = rest.split_at_checked(64 * size).ok_or(Damage::Header)?;
            let table = self.quantisation.get_mut(usize::from(kind & 15)).ok_or(Damage::Header)?;
            let mut by_row = [0; 64];
            for (value, at) in values.chunks_exact(size).zip(ZIGZAG) {
                by_row[at] = value.iter().fold(0, |all, &byte| all << 8 | u16::from(byte));
            }
            *table = Some(by_row);
            segment = rest;
        }
        Ok(())
    }

    /// Huffman tables (DHT).
    pub fn code(&mut self, mut segment: &[u8]) -> Result<(), Damage> {
        while let [kind, rest @ ..] = segment {
            let (counts, rest) = rest.split_first_chunk::<16>().ok_or(Damage::Header)?;
            let symbols = counts.iter().map(|&n| usize::from(n)).sum();
            let (symbols, rest) = rest.split_at_checked(symbols).ok_or(Damage::Header)?;
            let tables = match kind >> 4 {
                0 => &mut self.first,
                1 => &mut self.others,
                _ => return Err(Damage::Header),
            };
            // differences of the first coefficient have at most 15 bits
            if kind >> 4 == 0 && symbols.iter().any(|&s| s > 15) {
                return Err(Damage::Header);
            }
            let table = tables.get_mut(usize::from(kind & 15)).ok_or(Damage::Header)?;
            *table = Some(Huffman::new(counts, symbols).ok_or(Damage::Header)?);
            segment = rest;
        }
        Ok(())
    }
}
