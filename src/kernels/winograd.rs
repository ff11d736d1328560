//! Winograd's F(4x4, 3x3): a 3x3 convolution of stride 1 with a quarter of the products. Tiles of 6x6 inputs are
//! transformed to 36 points, each point is a matrix product (tiles by channels), and the results are transformed to
//! 4x4 outputs.
//!
//! Rounding errors are about five times those of direct sums: see [`transform`](super::cpu::transform).

use std::ops::Range;

use rayon::prelude::*;

use super::cpu::Isa;
use super::cpu::bf16;
use super::cpu::finish::Finish;
use super::cpu::micro;
use super::cpu::product::{Multiply, Product, multiply_for};
use super::cpu::transform::{self, In, OUTPUTS, Out, POINTS, transforms};
use super::dense::Line;
use super::plan::Geometry;
use super::{Precision, SharedPtr, Window, buffers::Scratch};

/// Number of matrices.
const ALL: usize = POINTS * POINTS;
/// Approximate inputs per block of the sum.
const BLOCK_SUM: usize = 256;
/// Padding floats between two matrices, so that they do not map to the same cache sets.
const GAP: usize = 16;
/// With fewer blocks than this, the stages run one after the other, each parallelised on its own.
const FEW_BLOCKS: usize = 16;

/// A packed 3x3 product.
pub(super) struct Winograd {
    isa: Isa,
    precision: Precision,
    input: [usize; 2],
    output: [usize; 2],
    channels: [usize; 2],
    /// Floats per row of the transformed inputs: the number of channels, or half of it for pairs.
    row: usize,
    /// Padding above and left.
    pads: [usize; 2],
    /// Tiles per image along each axis.
    tiles: [usize; 2],
    /// Rows per tile of the product.
    mr: usize,
    /// Panels: (first channel, vectors, product).
    panels: Vec<(usize, usize, Multiply)>,
    /// (point, panel, input, lane).
    weights: Vec<Line>,
    bias: Vec<f32>,
    zeros: Vec<f32>,
}

impl Winograd {
    /// Whether the method applies: 3x3, stride and dilation 1, channels in whole vectors.
    pub fn applies_to(window: &Window, groups: usize, channels: [usize; 2]) -> bool {
        let lanes = micro::lanes(Isa::get());
        let whole = |c: &usize| c.is_multiple_of(lanes);
        let plain = Window { pads: window.pads, ..Window::new([3, 3]) };
        *window == plain && window.pads.iter().all(|p| *p <= 2) && groups == 1 && channels.iter().all(whole)
    }

    /// `pads`: above and left. `weight` takes (output channel, input channel, row, column).
    pub fn new(
        geometry: Geometry,
        pads: [usize; 2],
        weight: &(dyn Fn(usize, usize, usize, usize) -> f32 + Sync),
        bias: Option<&[f32]>,
    ) -> Self {
        let Geometry { input, output, channels, precision, .. } = geometry;
        let isa = Isa::get();
        let lanes = micro::lanes(isa);
        let [from, to] = channels;
        let inputs = precision.inputs();
        let row = from / inputs; // channels are whole vectors
        let mut panels = Vec::new();
        let mut first = 0;
        for nv in micro::panels(to / lanes) {
            panels.push((first, nv, multiply_for(isa, precision, nv)));
            first += nv * lanes;
        }
        let mut weights = vec![Line([0.0; 16]); (ALL * row * to).div_ceil(16)];
        let shared = SharedPtr(weights.as_mut_ptr().cast::<f32>());
        let transformed = |o: usize, i: usize| {
            let rows = [0, 1, 2].map(|h| transform::weights([0, 1, 2].map(|w| weight(o, i, h, w).into())));
            let column = |w: usize| transform::weights([rows[0][w], rows[1][w], rows[2][w]]);
            std::array::from_fn::<_, POINTS, _>(column)
        };
        (0..row).into_par_iter().for_each(|i| {
            for &(first, nv, _) in &panels {
                for o in first..first + nv * lanes {
                    let one = transformed(o, i * inputs);
                    let other = (inputs > 1).then(|| transformed(o, i * inputs + 1));
                    for at in 0..ALL {
                        let (h, w) = (at / POINTS, at % POINTS);
                        let v = one[w][h] as f32;
                        let v = other.map_or(v, |other| bf16::pair(v, other[w][h] as f32));
                        let panel = at * row * to + first * row;
                        // SAFETY: point, panel, input and lane are in range of the 36 * row * to floats, and each `i`
                        // belongs to one thread.
                        unsafe { *shared.get().add(panel + i * nv * lanes + o - first) = v };
                    }
                }
            }
        });
        Self {
            isa,
            precision,
            input,
            output,
            channels,
            row,
            pads,
            tiles: output.map(|o| o.div_ceil(OUTPUTS)),
            mr: micro::rows(isa),
            panels,
            weights,
            bias: bias.map_or_else(|| vec![0.0; to], <[f32]>::to_vec),
            zeros: vec![0.0; from],
        }
    }

    /// `x`: `n` input images; `finish`: the outputs.
    ///
    /// # Safety
    /// The pointers in `finish` are valid for `n` images, and nothing else accesses what is written during the call.
    pub unsafe fn run(&self, x: &[f32], n: usize, finish: &Finish) {
        assert_eq!(x.len(), n * self.input[0] * self.input[1] * self.channels[0]);
        let mask_row = (self.output[0] * self.output[1] * self.channels[1]).div_ceil(64) * 8;
        let count = n * self.tiles[0] * self.tiles[1];
        // more weights need more tiles to share a pass over them
        let block: usize = match self.weights.len() {
            0..16_384 => 24, // 1 MiB
            16_384..65_536 => 48,
            _ => 96,
        };
        let block = block.next_multiple_of(self.mr);
        let blocks = count.div_ceil(block);
        let range = |b: usize| b * block..((b + 1) * block).min(count);
        if blocks >= FEW_BLOCKS {
            (0..blocks).into_par_iter().for_each_init(
                || Matrices::new(block, [self.row, self.channels[1]]),
                |scratch, b| {
                    let points = scratch.points();
                    self.transform_in(x, range(b), 0, &points);
                    for point in 0..ALL {
                        self.multiply(point, 0..self.panels.len(), 0..range(b).len(), &points);
                    }
                    self.transform_out(range(b), 0, &points, mask_row, finish);
                },
            );
            return;
        }
        let mut scratch = Matrices::new(count.next_multiple_of(self.mr), [self.row, self.channels[1]]);
        let points = scratch.points();
        let small = 4 * self.mr;
        let parts = count.div_ceil(small);
        let part = |p: usize| p * small..((p + 1) * small).min(count);
        (0..parts).into_par_iter().for_each(|p| self.transform_in(x, part(p), part(p).start, &points));
        let blocks = count.div_ceil(2 * block);
        let block = count.div_ceil(blocks).next_multiple_of(self.mr);
        let range = |b: usize| (b * block).min(count)..((b + 1) * block).min(count);
        let shares = self.panels.len().min(4);
        (0..ALL * blocks * shares).into_par_iter().for_each(|task| {
            let (share, rest) = (task % shares, task / shares);
            let panels = share * self.panels.len() / shares..(share + 1) * self.panels.len() / shares;
            self.multiply(rest / blocks, panels, range(rest % blocks), &points);
        });
        (0..parts).into_par_iter().for_each(|p| {
            self.transform_out(part(p), part(p).start, &points, mask_row, finish);
        });
    }

    /// Image, first row and first column of a tile's outputs.
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        let per_image = self.tiles[0] * self.tiles[1];
        let (image, at) = (tile / per_image, tile % per_image);
        (image, at / self.tiles[1] * OUTPUTS, at % self.tiles[1] * OUTPUTS)
    }

    /// Transforms tiles to points; the first becomes row `row` of the matrices.
    fn transform_in(&self, x: &[f32], tiles: Range<usize>, row: usize, points: &Points) {
        let c = self.channels[0];
        let transform = transforms(self.isa, self.precision).0;
        for (i, tile) in tiles.enumerate() {
            let (image, h, w) = self.place(tile);
            let image = &x[image * self.input[0] * self.input[1] * c..][..self.input[0] * self.input[1] * c];
            let pixels: [*const f32; ALL] = std::array::from_fn(|at| {
                let h = (h + at / POINTS).wrapping_sub(self.pads[0]);
                let w = (w + at % POINTS).wrapping_sub(self.pads[1]);
                let inside = h < self.input[0] && w < self.input[1];
                if inside { image[(h * self.input[1] + w) * c..].as_ptr() } else { self.zeros.as_ptr() }
            });
            // SAFETY: the instruction set was detected, every pixel has `c` floats, and each matrix has a row for the
            // tile that no other thread writes.
            unsafe {
                let to = points.from.get().add((row + i) * self.row);
                transform(&In { pixels: &pixels, channels: c, to, step: points.from_step });
            }
        }
    }

    /// The product at one point, for some panels and rows.
    fn multiply(&self, point: usize, panels: Range<usize>, rows: Range<usize>, points: &Points) {
        let (from, to) = (self.row, self.channels[1]);
        let lanes = micro::lanes(self.isa);
        let part = from.div_ceil(from.div_ceil(BLOCK_SUM));
        for &(first, nv, multiply) in &self.panels[panels] {
            for k in (0..from).step_by(part) {
                let weights = point * from * to + first * from + k * nv * lanes;
                // SAFETY: the instruction set was detected. The matrices have whole tiles of rows, `from` and `to`
                // floats wide; the weights are packed for every point, panel and input. One thread writes a panel of
                // a block of rows.
                unsafe {
                    multiply(&Product {
                        x: points.from.get().add(point * points.from_step + rows.start * from + k),
                        x_step: from,
                        rows: rows.len().next_multiple_of(self.mr),
                        weights: self.weights.as_ptr().cast::<f32>().add(weights),
                        len: part.min(from - k),
                        y: points.to.get().add(point * points.to_step + rows.start * to + first),
                        y_step: to,
                        add: k > 0,
                    });
                }
            }
        }
    }

    /// Transforms tiles from points to outputs; the first is row `row` of the matrices.
    fn transform_out(
        &self,
        tiles: Range<usize>,
        row: usize,
        points: &Points,
        mask_row: usize,
        finish: &Finish,
    ) {
        let c = self.channels[1];
        let transform = transforms(self.isa, self.precision).1;
        for (i, tile) in tiles.enumerate() {
            let (image, h, w) = self.place(tile);
            let mut masks = [0; OUTPUTS * OUTPUTS];
            let pixels: [usize; OUTPUTS * OUTPUTS] = std::array::from_fn(|at| {
                let (h, w) = (h + at / OUTPUTS, w + at % OUTPUTS);
                if h >= self.output[0] || w >= self.output[1] {
                    return usize::MAX;
                }
                let pixel = h * self.output[1] + w;
                masks[at] = image * mask_row + pixel * c / 8;
                (image * self.output[0] * self.output[1] + pixel) * c
            });
            // SAFETY: the instruction set was detected; the offsets are of pixels inside the image, each in one tile;
            // channels are whole vectors, so masks are whole bytes; each matrix has the row.
            unsafe {
                transform(&Out {
                    from: points.to.get().add((row + i) * c),
                    step: points.to_step,
                    channels: c,
                    pixels: &pixels,
                    masks: &masks,
                    bias: self.bias.as_ptr(),
                    finish,
                });
            }
        }
    }
}

/// The matrices at all points: (point, tile, channel).
struct Points {
    from: SharedPtr<f32>,
    from_step: usize,
    to: SharedPtr<f32>,
    to_step: usize,
}

/// Memory of the matrices.
struct Matrices {
    from: Scratch,
    to: Scratch,
}

impl Matrices {
    fn new(rows: usize, widths: [usize; 2]) -> Self {
        let [from, to] = widths.map(|c| Scratch::new(ALL * (rows * c + GAP) + GAP));
        Self { from, to }
    }

    fn points(&mut self) -> Points {
        let [from_step, to_step] = [&self.from, &self.to].map(|v| (v.len() - GAP) / ALL);
        // from the first cache line on
        let [from, to] = [&mut self.from, &mut self.to].map(|v| {
            let skip = v.as_ptr().align_offset(64).min(GAP);
            SharedPtr::of(&mut v[skip..])
        });
        Points { from, from_step, to, to_step }
    }
}
