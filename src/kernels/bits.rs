//! One bit per element: all that the backward pass of a ReLU needs, a thirty-second of the activation's size.

/// One bit per element of a batch of rows (images). Each row starts on a new word, so that rows can be gathered. Bit
/// `i` of a row is bit `i % 64` of its word `i / 64`; bits past the row's end are zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bits {
    rows: usize,
    bits_per_row: usize,
    words: Vec<u64>,
}

impl Bits {
    /// `rows` rows of `bits_per_row` bits, all zero.
    pub fn new(rows: usize, bits_per_row: usize) -> Self {
        Self { rows, bits_per_row, words: vec![0; rows * bits_per_row.div_ceil(64)] }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bits per row.
    pub fn bits_per_row(&self) -> usize {
        self.bits_per_row
    }

    /// Words per row.
    pub fn words_per_row(&self) -> usize {
        self.bits_per_row.div_ceil(64)
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.words.len() * 8
    }

    /// Bit `index` of row `row`.
    pub fn get(&self, row: usize, index: usize) -> bool {
        assert!(index < self.bits_per_row);
        self.row(row)[index / 64] >> (index % 64) & 1 != 0
    }

    /// The words of one row.
    pub fn row(&self, row: usize) -> &[u64] {
        let n = self.words_per_row();
        &self.words[row * n..(row + 1) * n]
    }

    /// All words.
    pub(super) fn words(&self) -> &[u64] {
        &self.words
    }

    /// All words.
    pub(super) fn words_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }

    /// Selects rows, in the given order.
    pub fn select(&self, rows: &[usize]) -> Self {
        let words = rows.iter().flat_map(|&r| self.row(r)).copied().collect();
        Self { rows: rows.len(), bits_per_row: self.bits_per_row, words }
    }

    /// Gathers rows, (index in `parts`, row of that part), from parts with the same row length.
    pub fn gather(parts: &[&Self], rows: &[(usize, usize)]) -> Self {
        let bits_per_row = parts.first().map_or(0, |p| p.bits_per_row);
        assert!(parts.iter().all(|p| p.bits_per_row == bits_per_row));
        let words = rows.iter().flat_map(|&(part, row)| parts[part].row(row)).copied().collect();
        Self { rows: rows.len(), bits_per_row, words }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_gathered_and_joined() {
        let mut b = Bits::new(3, 70);
        assert_eq!(b.bytes(), 3 * 16);
        b.words_mut()[2] = 5; // row 1, bits 0 and 2
        b.words_mut()[5] = 1 << 5; // row 2, bit 69
        let s = b.select(&[2, 1]);
        assert!(s.get(0, 69) && s.get(1, 0) && s.get(1, 2) && !s.get(1, 1));
        let c = Bits::gather(&[&s, &b], &[(0, 1), (1, 0), (1, 1), (1, 2)]);
        assert_eq!((c.rows(), c.bits_per_row()), (4, 70));
        assert_eq!(c.select(&[1, 2, 3]), b);
        assert_eq!(Bits::gather(&[], &[]).rows(), 0);
    }
}
