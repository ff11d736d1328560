//! From planes of samples to pixels: upsampling as libjpeg's "fancy" one, colours as libjpeg and Pillow convert them.

use super::frame::Component;

/// How a file's components are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    Grey,
    Rgb,
    YCbCr,
    /// Inverted, as Adobe's programs write it and Pillow assumes of every file.
    Cmyk,
    /// As above, its first three as YCbCr.
    Ycck,
}

/// The pixels of `size` (height, width), interleaved: grey, or RGB.
pub fn assemble(components: &[Component], [height, width]: [usize; 2], colours: Colours) -> Vec<u8> {
    if colours == Colours::Grey {
        let component = &components[0];
        return (0..height).flat_map(|y| &component.row(y)[..width]).copied().collect();
    }
    let mut out = vec![0; height * width * 3];
    // wide enough for whole groups of samples beyond the right edge
    let mut rows: Vec<Vec<u8>> = components.iter().map(|c| vec![0; c.width * c.across]).collect();
    let mut sums = Vec::new();
    for (y, pixels) in out.chunks_exact_mut(width * 3).enumerate() {
        for (component, row) in components.iter().zip(&mut rows) {
            upsample(component, y, row, &mut sums);
        }
        convert(&rows, colours, pixels);
    }
    out
}

/// Row `y` of the image from a component's samples.
fn upsample(component: &Component, y: usize, out: &mut [u8], sums: &mut Vec<u16>) {
    let width = component.width;
    let near = &component.row(y / component.down)[..width];
    // the row on the other side of the pixel, for the weights 3/4 and 1/4; the image's edge repeats
    let far = || {
        let at = y / component.down;
        let other =
            if y.is_multiple_of(2) { at.saturating_sub(1) } else { (at + 1).min(component.height - 1) };
        &component.row(other)[..width]
    };
    match (component.across, component.down) {
        (1, 1) => out.copy_from_slice(near),
        (2, 1) if width > 2 => across(near, out),
        (1, 2) => {
            let bias = if y.is_multiple_of(2) { 1 } else { 2 };
            for ((out, &a), &b) in out.iter_mut().zip(near).zip(far()) {
                *out = ((u16::from(a) * 3 + u16::from(b) + bias) >> 2) as u8;
            }
        }
        (2, 2) if width > 2 => {
            sums.clear();
            sums.extend(near.iter().zip(far()).map(|(&a, &b)| u16::from(a) * 3 + u16::from(b)));
            both_ways(sums, out);
        }
        (across, _) => {
            for (out, &value) in out.chunks_exact_mut(across).zip(near) {
                out.fill(value);
            }
        }
    }
}

/// Twice as wide: 3/4 of the nearer sample and 1/4 of the further one, rounded up and down in turn.
fn across(row: &[u8], out: &mut [u8]) {
    let last = row.len() - 1;
    let value = |i: usize| u16::from(row[i]);
    for (i, pair) in out.chunks_exact_mut(2).enumerate() {
        let left = value(i.saturating_sub(1));
        let right = value((i + 1).min(last));
        let this = value(i) * 3;
        pair[0] = ((this + left + 1) >> 2) as u8;
        pair[1] = ((this + right + 2) >> 2) as u8;
    }
    (out[0], out[2 * last + 1]) = (row[0], row[last]);
}

/// As [`across`], of sums of two rows with the weights 3 and 1.
fn both_ways(sums: &[u16], out: &mut [u8]) {
    let last = sums.len() - 1;
    for ((three, pair), _) in sums.windows(3).zip(out[2..].chunks_exact_mut(2)).zip(1..last) {
        let this = three[1] * 3;
        pair[0] = ((this + three[0] + 8) >> 4) as u8;
        pair[1] = ((this + three[2] + 7) >> 4) as u8;
    }
    out[0] = ((sums[0] * 4 + 8) >> 4) as u8;
    out[1] = ((sums[0] * 3 + sums[1] + 7) >> 4) as u8;
    out[2 * last] = ((sums[last] * 3 + sums[last - 1] + 8) >> 4) as u8;
    out[2 * last + 1] = ((sums[last] * 4 + 7) >> 4) as u8;
}

/// One row of full-width samples as RGB.
fn convert(rows: &[Vec<u8>], colours: Colours, out: &mut [u8]) {
    let width = out.len() / 3;
    let row = |c: usize| &rows[c][..width];
    let three = row(0).iter().zip(row(1)).zip(row(2)).zip(out.chunks_exact_mut(3));
    match colours {
        Colours::Grey | Colours::Rgb => {
            for (((&r, &g), &b), out) in three {
                out.copy_from_slice(&[r, g, b]);
            }
        }
        Colours::YCbCr => {
            for (((&y, &cb), &cr), out) in three {
                out.copy_from_slice(&rgb(y, cb, cr));
            }
        }
        Colours::Cmyk => {
            for ((((&c, &m), &y), out), &k) in three.zip(row(3)) {
                out.copy_from_slice(&[c, m, y].map(|ink| without_black(ink, k)));
            }
        }
        Colours::Ycck => {
            for ((((&y, &cb), &cr), out), &k) in three.zip(row(3)) {
                out.copy_from_slice(&rgb(y, cb, cr).map(|light| without_black(255 - light, k)));
            }
        }
    }
}

/// libjpeg's YCbCr: 16 bits of fraction, red and blue rounded, green rounded once.
#[inline(always)]
fn rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = y + ((91_881 * cr + 32_768) >> 16);
    let green = y + ((-22_554 * cb - 46_802 * cr + 32_768) >> 16);
    let blue = y + ((116_130 * cb + 32_768) >> 16);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}

/// Pillow's CMYK to RGB: of inverted ink and black `k`.
#[inline(always)]
fn without_black(ink: u8, k: u8) -> u8 {
    let (ink, k) = (255 - i32::from(ink), i32::from(k));
    let product = ink * k + 128;
    (k - ((product + (product >> 8)) >> 8)).clamp(0, 255) as u8
}
