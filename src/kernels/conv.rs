//! Convolution with frozen weights.

use std::sync::OnceLock;

use super::dense::{After, Dense, Geometry};
use super::depthwise::Depthwise;
use super::plan::Axis;
use super::winograd::Winograd;
use super::{Bits, Window, pointwise};

/// What is done to a convolution's result on its way to memory: y = relu?(conv + bias + residual), mask of y > 0.
#[derive(Default)]
pub struct Epilogue<'a> {
    /// Added; laid out as the output.
    pub residual: Option<&'a [f32]>,
    /// Cut below zero.
    pub relu: bool,
    /// Set to the bits of y > 0: a row for each image, bits in the output's order.
    pub mask: Option<&'a mut Bits>,
}

/// A convolution whose weights are frozen: they are packed once, in the order in which they are read, for each
/// direction when it is first asked for. Any kernel, stride, dilation, padding and number of groups.
pub struct Conv2d {
    window: Window,
    groups: usize,
    channels: [usize; 2],
    input: [usize; 2],
    output: [usize; 2],
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    forward: OnceLock<Engine>,
    gradient: OnceLock<Engine>,
}

/// How one direction is computed.
enum Engine {
    Dense(Dense),
    /// Each output pixel reads one input pixel of the same place: a product of matrices, whose rows are all pixels of
    /// all images.
    Rows(Dense),
    Depthwise(Depthwise),
    Winograd(Winograd),
}

impl Conv2d {
    /// A convolution of images of `input` (`[h, w]`) pixels with `channels` (in, out). `weight` is (out, in / groups,
    /// kernel height, kernel width), row-major; `bias` has `out` entries.
    ///
    /// # Panics
    /// Where the sizes contradict each other, or the kernel does not fit the padded input.
    pub fn new(
        window: Window,
        groups: usize,
        channels: [usize; 2],
        input: [usize; 2],
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Self {
        let output = window.output(input, false).expect("a kernel that fits the padded input");
        assert!(groups > 0 && channels.iter().all(|c| *c > 0 && c % groups == 0), "channels in whole groups");
        assert_eq!(weight.len(), channels[1] * (channels[0] / groups) * window.taps());
        assert!(bias.is_none_or(|b| b.len() == channels[1]));
        Self {
            window,
            groups,
            channels,
            input,
            output,
            weight: weight.to_vec(),
            bias: bias.map(<[f32]>::to_vec),
            forward: OnceLock::new(),
            gradient: OnceLock::new(),
        }
    }

    /// Pixels of the output: height, width.
    pub fn output(&self) -> [usize; 2] {
        self.output
    }

    /// Multiply-adds of one image: the forward pass's, padding not counted; the input gradient has as many.
    pub fn products(&self) -> usize {
        let axes = self.axes(true);
        let pairs = axes.map(|a| a.stretches.iter().map(|s| s.count * s.taps.len()).sum::<usize>());
        pairs[0] * pairs[1] * self.channels[1] * (self.channels[0] / self.groups)
    }

    /// `x`: (n, h, w, in). Writes `y`: (n, oh, ow, out).
    pub fn forward(&self, x: &[f32], n: usize, y: &mut [f32], epilogue: Epilogue) {
        let pixels = self.output[0] * self.output[1];
        assert_eq!(x.len(), n * self.input[0] * self.input[1] * self.channels[0]);
        assert_eq!(y.len(), n * pixels * self.channels[1]);
        let Epilogue { residual, relu, mut mask } = epilogue;
        if let Some(m) = &mask {
            assert_eq!((m.rows(), m.bits_per_row()), (n, pixels * self.channels[1]));
        }
        let engine = self.forward.get_or_init(|| self.engine(true));
        // whole bytes of the mask are written beside the values; where a byte would be shared, it is made afterwards
        let fused = (self.channels[1] / self.groups).is_multiple_of(8) && cfg!(target_endian = "little");
        let beside = match (engine, &mut mask) {
            (Engine::Dense(_) | Engine::Rows(_) | Engine::Winograd(_), Some(m)) if fused => {
                Some((m.words_mut(), pixels))
            }
            _ => None,
        };
        let done = beside.is_some();
        match engine {
            Engine::Dense(d) => d.run(x, n, y, After { residual, relu, mask: beside }),
            Engine::Rows(d) => d.run(x, n * pixels, y, After { residual, relu, mask: beside }),
            Engine::Winograd(w) => w.run(x, n, y, After { residual, relu, mask: beside }),
            Engine::Depthwise(d) => d.run(x, n, y, After { residual, relu, mask: None }),
        }
        if let (Some(m), false) = (mask, done) {
            pointwise::positive(y, m);
        }
    }

    /// `dy`: (n, oh, ow, out), the gradient of the output. Writes `dx`: (n, h, w, in).
    pub fn input_grad(&self, dy: &[f32], n: usize, dx: &mut [f32]) {
        assert_eq!(dx.len(), n * self.input[0] * self.input[1] * self.channels[0]);
        assert_eq!(dy.len(), n * self.output[0] * self.output[1] * self.channels[1]);
        match self.gradient.get_or_init(|| self.engine(false)) {
            Engine::Dense(d) => d.run(dy, n, dx, After::default()),
            Engine::Rows(d) => d.run(dy, n * self.input[0] * self.input[1], dx, After::default()),
            Engine::Winograd(w) => w.run(dy, n, dx, After::default()),
            Engine::Depthwise(d) => d.run(dy, n, dx, After::default()),
        }
    }

    fn axes(&self, forward: bool) -> [Axis; 2] {
        let axis = if forward { Axis::forward } else { Axis::gradient };
        [0, 1].map(|a| axis(&self.window, a, self.input[a], self.output[a]))
    }

    fn engine(&self, forward: bool) -> Engine {
        let axes = self.axes(forward);
        let slots = axes.clone().map(|a| a.slots);
        let [in_group, out_group] = self.channels.map(|c| c / self.groups);
        let [kh, kw] = self.window.kernel;
        // (output channel, input channel within its group, slots)
        let weight = |o: usize, i: usize, s: [usize; 2]| {
            self.weight[((o * in_group + i) * kh + slots[0][s[0]]) * kw + slots[1][s[1]]]
        };
        let bias = self.bias.as_deref().filter(|_| forward);
        let (from, to) = if forward { (self.input, self.output) } else { (self.output, self.input) };
        if in_group == 1 && (out_group == 1 || self.groups >= 4) {
            let weight = |o: usize, s: [usize; 2]| weight(o, 0, s);
            return Engine::Depthwise(Depthwise::new(
                from,
                to,
                self.groups,
                out_group,
                axes,
                forward,
                &weight,
                bias,
            ));
        }
        let mut channels = self.channels;
        if !forward {
            channels.reverse();
        }
        if Winograd::serves(&self.window, self.groups, channels) {
            let at =
                |o: usize, i: usize, h: usize, w: usize| self.weight[((o * in_group + i) * 3 + h) * 3 + w];
            let [top, left, ..] = self.window.pads;
            let winograd = if forward {
                Winograd::new(from, to, channels, [top, left], &at, bias)
            } else {
                // the gradient is the convolution with the kernel turned round and the padding filled up to 2
                let turned = |o, i, h, w| at(i, o, 2 - h, 2 - w);
                Winograd::new(from, to, channels, [2 - top, 2 - left], &turned, None)
            };
            return Engine::Winograd(winograd);
        }
        let weight = |g: usize, to: usize, s: [usize; 2], from: usize| {
            let (o, i) = if forward { (to, from) } else { (from, to) };
            weight(g * out_group + o, i, s)
        };
        let rows = self.window == Window::new([1, 1]);
        if rows {
            let axes = [0, 1].map(|a| Axis::forward(&self.window, a, 1, 1));
            let geometry = Geometry { input: [1, 1], output: [1, 1], channels, groups: self.groups, axes };
            return Engine::Rows(Dense::new(geometry, &weight, bias));
        }
        Engine::Dense(Dense::new(
            Geometry { input: from, output: to, channels, groups: self.groups, axes },
            &weight,
            bias,
        ))
    }
}
