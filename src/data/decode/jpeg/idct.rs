//! The inverse cosine transform of libjpeg's `islow`, value for value: integers with 13 bits of fraction, columns first.

/// Position in the block, row by row, of each coefficient in the order of the file.
pub const ZIGZAG: [usize; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7,
    14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39,
    46, 53, 60, 61, 54, 47, 55, 62, 63,
];

const BITS: u32 = 13;
/// Bits of fraction that the columns' results keep.
const KEPT: u32 = 2;

/// Eight values, transformed at once: the compiler makes them vectors.
type Lanes = [i32; 8];

/// Coefficients (row by row) times `quantisation` as 8x8 samples.
pub fn block(coefficients: &[i16; 64], quantisation: &[u16; 64]) -> [[u8; 8]; 8] {
    if coefficients[1..].iter().all(|&c| c == 0) {
        let dc = i32::from(coefficients[0]).wrapping_mul(i32::from(quantisation[0]));
        let value = (dc.wrapping_add(4) >> 3).saturating_add(128).clamp(0, 255) as u8;
        return [[value; 8]; 8];
    }
    let mut rows: [Lanes; 8] = [[0; 8]; 8];
    for (y, row) in rows.iter_mut().enumerate() {
        for (x, value) in row.iter_mut().enumerate() {
            let at = y * 8 + x;
            *value = i32::from(coefficients[at]).wrapping_mul(i32::from(quantisation[at]));
        }
    }
    let columns = pass::<{ BITS - KEPT }>(&rows);
    let rows = pass::<{ BITS + KEPT + 3 }>(&transposed(&columns));
    transposed(&rows).map(|row| row.map(|value| value.saturating_add(128).clamp(0, 255) as u8))
}

fn transposed(rows: &[Lanes; 8]) -> [Lanes; 8] {
    let mut out = [[0; 8]; 8];
    for (y, row) in rows.iter().enumerate() {
        for (x, value) in row.iter().enumerate() {
            out[x][y] = *value;
        }
    }
    out
}

/// One-dimensional transform along the outer index, rounded to drop `SHIFT` bits. The constants are libjpeg's, rounded
/// to 13 bits; damaged files may overflow, hence the wrapping.
#[inline(always)]
fn pass<const SHIFT: u32>(rows: &[Lanes; 8]) -> [Lanes; 8] {
    let mut out = [[0; 8]; 8];
    for i in 0..8 {
        let v = |row: usize| rows[row][i];
        let add = |a: i32, b: i32| a.wrapping_add(b);
        let sub = |a: i32, b: i32| a.wrapping_sub(b);
        let mul = |a: i32, b: i32| a.wrapping_mul(b);

        let z1 = mul(add(v(2), v(6)), 4433);
        let t2 = sub(z1, mul(v(6), 15137));
        let t3 = add(z1, mul(v(2), 6270));
        let t0 = add(v(0), v(4)).wrapping_shl(BITS);
        let t1 = sub(v(0), v(4)).wrapping_shl(BITS);
        let even = [add(t0, t3), add(t1, t2), sub(t1, t2), sub(t0, t3)];

        let z5 = mul(add(add(v(7), v(3)), add(v(5), v(1))), 9633);
        let z1 = mul(add(v(7), v(1)), -7373);
        let z2 = mul(add(v(5), v(3)), -20995);
        let z3 = add(mul(add(v(7), v(3)), -16069), z5);
        let z4 = add(mul(add(v(5), v(1)), -3196), z5);
        let odd = [
            add(mul(v(1), 12299), add(z1, z4)),
            add(mul(v(3), 25172), add(z2, z3)),
            add(mul(v(5), 16819), add(z2, z4)),
            add(mul(v(7), 2446), add(z1, z3)),
        ];
        for k in 0..4 {
            let round = 1 << (SHIFT - 1);
            out[k][i] = add(add(even[k], odd[k]), round) >> SHIFT;
            out[7 - k][i] = add(sub(even[k], odd[k]), round) >> SHIFT;
        }
    }
    out
}
