//! Plain-loop versions of the kernels, for tests. Sums are f64.

use super::Window;

/// Runs `f` over all (image, output pixel, kernel index, input pixel) of a window, without padding.
pub fn pairs(
    w: &Window,
    n: usize,
    input: [usize; 2],
    output: [usize; 2],
    mut f: impl FnMut(usize, usize, usize, usize),
) {
    for i in 0..n {
        for oh in 0..output[0] {
            for ow in 0..output[1] {
                for kh in 0..w.kernel[0] {
                    for kw in 0..w.kernel[1] {
                        let h = (oh * w.stride[0] + kh * w.dilation[0]).wrapping_sub(w.pads[0]);
                        let v = (ow * w.stride[1] + kw * w.dilation[1]).wrapping_sub(w.pads[1]);
                        if h < input[0] && v < input[1] {
                            f(i, oh * output[1] + ow, kh * w.kernel[1] + kw, h * input[1] + v);
                        }
                    }
                }
            }
        }
    }
}

/// Channels-last convolution.
pub struct Conv<'a> {
    pub window: &'a Window,
    pub groups: usize,
    pub channels: [usize; 2],
    pub input: [usize; 2],
    pub weight: &'a [f32],
}

impl Conv<'_> {
    fn each(&self, n: usize, mut f: impl FnMut(usize, usize, f64)) {
        let [c, o] = self.channels;
        let (cg, og) = (c / self.groups, o / self.groups);
        let out = self.window.output(self.input, false).unwrap();
        let (pi, po, taps) = (self.input[0] * self.input[1], out[0] * out[1], self.window.taps());
        pairs(self.window, n, self.input, out, |i, to, tap, from| {
            for oc in 0..o {
                for ic in 0..cg {
                    let x = (i * pi + from) * c + oc / og * cg + ic;
                    let y = (i * po + to) * o + oc;
                    f(x, y, f64::from(self.weight[(oc * cg + ic) * taps + tap]));
                }
            }
        });
    }

    pub fn forward(&self, x: &[f32], n: usize, bias: Option<&[f32]>) -> Vec<f32> {
        let out = self.window.output(self.input, false).unwrap();
        let o = self.channels[1];
        let mut y: Vec<f64> =
            (0..n * out[0] * out[1] * o).map(|i| bias.map_or(0.0, |b| f64::from(b[i % o]))).collect();
        self.each(n, |from, to, w| y[to] += w * f64::from(x[from]));
        y.into_iter().map(|v| v as f32).collect()
    }

    pub fn input_grad(&self, dy: &[f32], n: usize) -> Vec<f32> {
        let mut dx = vec![0f64; n * self.input[0] * self.input[1] * self.channels[0]];
        self.each(n, |from, to, w| dx[from] += w * f64::from(dy[to]));
        dx.into_iter().map(|v| v as f32).collect()
    }
}

/// Reproducible values in [-1, 1).
pub fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        (s >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..8).for_each(|_| _ = next());
    (0..len).map(|_| next()).collect()
}

/// The largest difference, relative to the largest entry of `b` (at least 1e-3).
pub fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    a.iter()
        .zip(b)
        .map(|(a, b)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() })
        .fold(0.0, f32::max)
        / scale
}
