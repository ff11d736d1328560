//! Convolution with frozen weights.

use std::sync::OnceLock;

use super::cpu::finish::Finish;
use super::dense::Dense;
use super::depthwise::Depthwise;
use super::plan::{Axis, Geometry};
use super::winograd::Winograd;
use super::{Bits, Precision, Window, pointwise};

/// Fused into a convolution: y = relu?(conv + bias + residual), and the mask of y > 0.
#[derive(Default)]
pub struct Epilogue<'a> {
    /// Added; in the layout of the output.
    pub residual: Option<&'a [f32]>,
    /// Whether negative values become 0.
    pub relu: bool,
    /// Receives the bits of y > 0: one row per image, bits in the output's order.
    pub mask: Option<&'a mut Bits>,
}

/// Fused into an input gradient: back through a ReLU and a factor per channel before the convolution, plus the
/// gradient from other readers. dx = (gradient * scale, 0 where the mask is not set) + residual.
#[derive(Clone, Copy, Default)]
pub struct Backward<'a> {
    /// By input channel.
    pub scale: Option<&'a [f32]>,
    /// One row per image, bits in the input's order.
    pub mask: Option<&'a Bits>,
    /// Added; in the layout of the input.
    pub residual: Option<&'a [f32]>,
}

/// A convolution with frozen weights, packed in reading order on first use of each direction and precision. Supports
/// any kernel, stride, dilation, padding and number of groups.
pub struct Conv2d {
    window: Window,
    groups: usize,
    channels: [usize; 2],
    input: [usize; 2],
    output: [usize; 2],
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    /// Indexed by precision.
    forward: [OnceLock<Engine>; 2],
    gradient: [OnceLock<Engine>; 2],
}

/// Fewest products per input for which bfloat16 repays rounding the inputs.
const FEWEST_PRODUCTS: usize = 48;

/// The algorithm of one direction.
enum Engine {
    Dense(Dense),
    /// Each output pixel reads the input pixel at the same position: a matrix product over the pixels of all images.
    Rows(Dense),
    Depthwise(Depthwise),
    Winograd(Winograd),
}

impl Engine {
    /// Whether masks can be fused: each vector's bits must be whole bytes. `channels`: output channels of a group.
    fn masks(&self, channels: usize) -> bool {
        let whole = match self {
            Self::Dense(_) | Self::Rows(_) | Self::Winograd(_) => channels.is_multiple_of(8),
            Self::Depthwise(d) => d.masks(),
        };
        whole && cfg!(target_endian = "little")
    }

    /// Runs on `n` images whose outputs have `pixels` pixels.
    ///
    /// # Safety
    /// The pointers in `to` are valid for `n` images, and nothing else accesses what is written during the call.
    unsafe fn run(&self, x: &[f32], n: usize, to: &Finish, pixels: usize) {
        if n == 0 {
            return;
        }
        // SAFETY: upheld by the caller.
        unsafe {
            match self {
                Self::Dense(d) => d.run(x, n, to, pixels),
                Self::Rows(d) => d.run_rows(x, n * pixels, to, pixels),
                Self::Winograd(w) => w.run(x, n, to),
                Self::Depthwise(d) => d.run(x, n, to),
            }
        }
    }
}

impl Conv2d {
    /// A convolution of images of `input` (`[h, w]`) pixels with `channels` (in, out). `weight` is (out, in / groups,
    /// kernel height, kernel width), row-major; `bias` has `out` entries.
    ///
    /// # Panics
    /// If the sizes are inconsistent or the kernel does not fit the padded input.
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
            forward: Default::default(),
            gradient: Default::default(),
        }
    }

    /// Pixels of the output: height, width.
    pub fn output(&self) -> [usize; 2] {
        self.output
    }

    /// Multiply-adds per image in the forward pass, without those on padding; the input gradient has as many.
    pub fn products(&self) -> usize {
        let axes = self.axes(true);
        let pairs = axes.map(|a| a.stretches.iter().map(|s| s.count * s.taps.len()).sum::<usize>());
        pairs[0] * pairs[1] * self.channels[1] * (self.channels[0] / self.groups)
    }

    /// `x`: (n, h, w, in). Writes `y`: (n, oh, ow, out).
    pub fn forward(&self, x: &[f32], n: usize, y: &mut [f32], epilogue: Epilogue) {
        self.forward_in(Precision::F32, x, n, y, epilogue);
    }

    /// [`Self::forward`] with products of this precision.
    pub fn forward_in(&self, precision: Precision, x: &[f32], n: usize, y: &mut [f32], epilogue: Epilogue) {
        let (pixels, o) = (self.output[0] * self.output[1], self.channels[1]);
        assert_eq!(x.len(), n * self.input[0] * self.input[1] * self.channels[0]);
        assert_eq!(y.len(), n * pixels * o);
        let Epilogue { residual, relu, mut mask } = epilogue;
        assert!(residual.is_none_or(|r| r.len() == y.len()));
        let fits = |m: &Bits| m.rows() == n && m.bits_per_row() == pixels * o;
        assert!(mask.as_deref().is_none_or(fits));
        let engine =
            self.forward[precision.on_processor() as usize].get_or_init(|| self.engine(true, precision));
        let fused = engine.masks(o / self.groups);
        let mut to = Finish { y: y.as_mut_ptr(), relu, ..Finish::default() };
        to.residual = residual.map_or(to.residual, <[f32]>::as_ptr);
        if fused {
            let bytes = |m: &mut Bits| m.words_mut().as_mut_ptr().cast::<u8>();
            to.mask = mask.take().map_or(to.mask, bytes);
        }
        // SAFETY: the lengths were asserted, and everything written is borrowed for this call.
        unsafe { engine.run(x, n, &to, pixels) };
        if let Some(m) = mask {
            pointwise::positive(y, m);
        }
    }

    /// `dy`: (n, oh, ow, out), the gradient of the output. Writes `dx`: (n, h, w, in).
    pub fn input_grad(&self, dy: &[f32], n: usize, dx: &mut [f32]) {
        self.input_grad_with(dy, n, dx, Backward::default());
    }

    /// [`Self::input_grad`] fused with the backward pass of what precedes the convolution.
    pub fn input_grad_with(&self, dy: &[f32], n: usize, dx: &mut [f32], backward: Backward) {
        self.input_grad_in(Precision::F32, dy, n, dx, backward);
    }

    /// [`Self::input_grad_with`] with products of this precision.
    pub fn input_grad_in(
        &self,
        precision: Precision,
        dy: &[f32],
        n: usize,
        dx: &mut [f32],
        backward: Backward,
    ) {
        let (pixels, c) = (self.input[0] * self.input[1], self.channels[0]);
        assert_eq!(dx.len(), n * pixels * c);
        assert_eq!(dy.len(), n * self.output[0] * self.output[1] * self.channels[1]);
        let Backward { scale, mask, residual } = backward;
        assert!(scale.is_none_or(|s| s.len() == c) && residual.is_none_or(|r| r.len() == dx.len()));
        assert!(mask.is_none_or(|m| m.rows() == n && m.bits_per_row() == pixels * c));
        let engine =
            self.gradient[precision.on_processor() as usize].get_or_init(|| self.engine(false, precision));
        let fused = engine.masks(c / self.groups);
        let mut to = Finish { y: dx.as_mut_ptr(), ..Finish::default() };
        if fused {
            to.scale = scale.map_or(to.scale, <[f32]>::as_ptr);
            to.keep = mask.map_or(to.keep, |m| m.words().as_ptr().cast());
            to.residual = residual.map_or(to.residual, <[f32]>::as_ptr);
        }
        // SAFETY: the lengths were asserted, and dx is borrowed for this call.
        unsafe { engine.run(dy, n, &to, pixels) };
        if !fused {
            match (scale, mask) {
                (Some(scale), _) => pointwise::affine_grad_in_place(dx, scale, mask),
                (None, Some(mask)) => pointwise::masked_in_place(dx, mask),
                (None, None) => {}
            }
            if let Some(residual) = residual {
                pointwise::add_in_place(dx, residual);
            }
        }
    }

    fn axes(&self, forward: bool) -> [Axis; 2] {
        let axis = if forward { Axis::forward } else { Axis::gradient };
        [0, 1].map(|a| axis(&self.window, a, self.input[a], self.output[a]))
    }

    fn geometry(&self, forward: bool, precision: Precision) -> Geometry {
        let (mut channels, mut sides) = (self.channels, [self.input, self.output]);
        if !forward {
            channels.reverse();
            sides.reverse();
        }
        let [input, output] = sides;
        Geometry { input, output, channels, groups: self.groups, axes: self.axes(forward), precision }
    }

    /// The weight from input channel `i` of the group to output channel `o`, at a kernel row and column.
    fn weight(&self, o: usize, i: usize, [h, w]: [usize; 2]) -> f32 {
        let [rows, columns] = self.window.kernel;
        self.weight[((o * (self.channels[0] / self.groups) + i) * rows + h) * columns + w]
    }

    fn engine(&self, forward: bool, precision: Precision) -> Engine {
        let geometry = self.geometry(forward, precision);
        let [in_group, out_group] = self.channels.map(|c| c / self.groups);
        if in_group == 1 && (out_group == 1 || self.groups >= 4) {
            self.depthwise(forward, geometry)
        } else if Winograd::applies_to(&self.window, self.groups, geometry.channels) {
            self.winograd(forward, geometry)
        } else {
            self.dense(forward, geometry)
        }
    }

    fn depthwise(&self, forward: bool, geometry: Geometry) -> Engine {
        let slots = geometry.axes.each_ref().map(|a| a.slots.clone());
        let weight = |o: usize, [h, w]: [usize; 2]| self.weight(o, 0, [slots[0][h], slots[1][w]]);
        let bias = self.bias.as_deref().filter(|_| forward);
        Engine::Depthwise(Depthwise::new(geometry, &self.window, forward, &weight, bias))
    }

    fn winograd(&self, forward: bool, geometry: Geometry) -> Engine {
        let [top, left, ..] = self.window.pads;
        Engine::Winograd(if forward {
            let at = |o, i, h, w| self.weight(o, i, [h, w]);
            Winograd::new(geometry, [top, left], &at, self.bias.as_deref())
        } else {
            // the gradient is a convolution with the rotated kernel and paddings complemented to 2
            let turned = |o, i, h, w| self.weight(i, o, [2 - h, 2 - w]);
            Winograd::new(geometry, [2 - top, 2 - left], &turned, None)
        })
    }

    fn dense(&self, forward: bool, mut geometry: Geometry) -> Engine {
        let slots = geometry.axes.each_ref().map(|a| a.slots.clone());
        let out_group = self.channels[1] / self.groups;
        let weight = |g: usize, to: usize, [h, w]: [usize; 2], from: usize| {
            let (o, i) = if forward { (to, from) } else { (from, to) };
            self.weight(g * out_group + o, i, [slots[0][h], slots[1][w]])
        };
        let bias = self.bias.as_deref().filter(|_| forward);
        // rounding reads all inputs once more, which must pay off
        let inputs = geometry.input[0] * geometry.input[1] * geometry.channels[0];
        if geometry.precision == Precision::Bf16 && self.products() < FEWEST_PRODUCTS * inputs {
            geometry.precision = Precision::F32;
        }
        if self.window != Window::new([1, 1]) {
            return Engine::Dense(Dense::new(geometry, &weight, bias));
        }
        let axes = [0, 1].map(|a| Axis::forward(&self.window, a, 1, 1));
        Engine::Rows(Dense::new(Geometry { input: [1, 1], output: [1, 1], axes, ..geometry }, &weight, bias))
    }
}
