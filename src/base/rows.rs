//! Subsampling of rows.

/// At most `most` of the rows `0..count`, evenly spread, ascending.
pub fn evenly(count: usize, most: usize) -> impl Iterator<Item = usize> {
    let n = most.min(count);
    (0..n).map(move |i| i * count / n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_evenly_spread() {
        assert_eq!(evenly(10, 4).collect::<Vec<_>>(), [0, 2, 5, 7]);
        assert_eq!(evenly(3, 9).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(evenly(0, 4).count() + evenly(4, 0).count(), 0);
    }
}
