//! Convolution, and its input gradient, as sums over taps gathered from channels-last pixels, without copying the
//! input. Weights are packed once; pixels run through the tiles of [`micro`](super::cpu::micro).
//!
//! The outputs are cut into blocks (some images by some rows) whose inputs stay in the L2 cache. The loop order in a
//! block: panel of output channels, block of the sum (its weights stay in L1), tile.

use std::ops::Range;

use rayon::prelude::*;

use super::cpu::Isa;
use super::cpu::bf16;
use super::cpu::finish::Finish;
use super::cpu::micro::{self, Rows, Span, Tile, TileCall};
use super::plan::{Axis, Geometry, Stretch};
use super::{Precision, buffers};

/// Approximate output pixels per block.
const BLOCK_PIXELS: usize = 192;
/// Approximate input floats per block of rows.
const BLOCK_ROWS: usize = 8 * 1024;
/// Approximate inputs per block of the sum.
const BLOCK_SUM: usize = 256;
/// Approximate number of inputs that one task rounds to bfloat16.
const PAIRS: usize = 32 * 1024;

/// Source of a packed weight: (group, output within the group, slots, input within the group).
pub(super) type Weight<'a> = &'a dyn Fn(usize, usize, [usize; 2], usize) -> f32;

/// A panel of output channels, `nv` vectors wide.
struct Panel {
    group: usize,
    /// First channel, counted over all groups.
    channel: usize,
    /// Number of actual channels, without the padding to whole vectors.
    width: usize,
    nv: usize,
    /// Offset of its weights and of its bias, in floats.
    weights: usize,
    bias: usize,
}

/// Outputs that read the same taps: one stretch per axis.
struct Region {
    rows: Stretch,
    columns: Stretch,
}

/// Some rows of a region.
struct Piece {
    region: usize,
    rows: Range<usize>,
}

/// A packed product.
pub(super) struct Dense {
    isa: Isa,
    precision: Precision,
    input: [usize; 2],
    output: [usize; 2],
    channels: [usize; 2],
    groups: usize,
    /// Inputs per pixel and group: channels, or pairs of them.
    in_group: usize,
    /// Pixels per tile.
    mr: usize,
    /// One panel of a few channels, packed for [`micro::narrow_kernel`].
    narrow: bool,
    /// Inputs per output.
    sum: usize,
    panels: Vec<Panel>,
    weights: Vec<Line>,
    bias: Vec<f32>,
    regions: Vec<Region>,
    /// By block of the sum and region: the segments to read.
    segments: Vec<Vec<Vec<Span>>>,
    /// Pieces computed together, for each of `images` images.
    blocks: Vec<Vec<Piece>>,
    images: usize,
}

/// 64 bytes, aligned as cache lines are.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub [f32; 16]);

impl Dense {
    pub fn new(geometry: Geometry, weight: Weight, bias: Option<&[f32]>) -> Self {
        let isa = Isa::get();
        let packing = Packing::new(isa, &geometry);
        let (panels, weights, biases) = packing.pack(&geometry, weight, bias);
        let Packing { in_group, narrow, sum, .. } = packing;
        let mr = if narrow { micro::NARROW_ROWS } else { micro::rows(isa) };
        let (regions, segments) = regions(&geometry, in_group, if narrow { usize::MAX } else { BLOCK_SUM });
        let Geometry { input, output, channels, groups, axes, precision } = geometry;
        // enough images to fill a block, a multiple of the tile so that small regions fill tiles too
        let pixels = output[0] * output[1];
        let images =
            if pixels >= BLOCK_PIXELS * 4 { 1 } else { (BLOCK_PIXELS / pixels).max(1).next_multiple_of(mr) };
        let blocks = blocks(&axes, BLOCK_PIXELS / images);
        Self {
            isa,
            precision,
            input,
            output,
            channels,
            groups,
            in_group,
            mr,
            narrow,
            sum,
            panels,
            weights,
            bias: biases,
            regions,
            segments,
            blocks,
            images,
        }
    }

    /// `x`: `n` input images; `to`: the outputs, whose mask rows have `mask_pixels` pixels (see [`Finish`]).
    ///
    /// # Safety
    /// The pointers in `to` are valid for `n` images, and nothing else accesses what is written during the call.
    pub unsafe fn run(&self, x: &[f32], n: usize, to: &Finish, mask_pixels: usize) {
        let pixels_in = self.input[0] * self.input[1];
        assert_eq!(x.len(), n * pixels_in * self.channels[0]);
        assert!(!to.masked() || (self.channels[1] / self.groups).is_multiple_of(8));
        let mask_row = (mask_pixels * self.channels[1]).div_ceil(64) * 8;
        let pairs = (self.precision == Precision::Bf16).then(|| self.pairs(x));
        let x = pairs.as_deref().unwrap_or(x);
        let groups_of_images = n.div_ceil(self.images);
        // with few blocks the panels are split too; how finely depends on the shape alone
        let shares = 32usize.div_ceil(groups_of_images * self.blocks.len()).clamp(1, self.panels.len());
        let tasks = groups_of_images * self.blocks.len() * shares;
        (0..tasks).into_par_iter().for_each_init(TaskBuffers::default, |scratch, task| {
            let (share, rest) = (task % shares, task / shares);
            let (block, images) =
                (&self.blocks[rest % self.blocks.len()], rest / self.blocks.len() * self.images);
            let images = images..(images + self.images).min(n);
            let panels = share * self.panels.len() / shares..(share + 1) * self.panels.len() / shares;
            let masks = to.masked().then_some((mask_pixels, mask_row));
            self.tiles(scratch, block, images, x, masks);
            self.block(scratch, &self.panels[panels], to);
        });
    }

    /// All inputs rounded to bfloat16, up front since each is read several times.
    fn pairs(&self, x: &[f32]) -> buffers::Scratch {
        let (width, row) = (self.channels[0] / self.groups, self.in_group);
        let rows = x.len() / width;
        let mut all = buffers::Scratch::new(rows * row);
        let part = (PAIRS / width).max(1);
        all.par_chunks_mut(part * row).zip(x.par_chunks(part * width)).for_each(|(to, x)| {
            bf16::pairs(self.isa, x, width, to);
        });
        all
    }

    /// Lists the tiles of a block.
    fn tiles(
        &self,
        scratch: &mut TaskBuffers,
        block: &[Piece],
        images: Range<usize>,
        x: &[f32],
        masks: Option<(usize, usize)>,
    ) {
        scratch.clear();
        let [pixels_in, pixels_out] = [self.input, self.output].map(|s| s[0] * s[1]);
        for piece in block {
            let Region { rows, columns } = &self.regions[piece.region];
            let first = scratch.rows.len();
            for image in images.clone() {
                for i in piece.rows.clone() {
                    let (ih, oh) = (rows.input + i * rows.input_step, rows.output + i * rows.output_step);
                    let from = image * pixels_in + ih * self.input[1] + columns.input;
                    let to = image * pixels_out + oh * self.output[1] + columns.output;
                    for j in 0..columns.count {
                        let from = from + j * columns.input_step;
                        let to = to + j * columns.output_step;
                        scratch.rows.push(x[from * self.groups * self.in_group..].as_ptr());
                        scratch.outputs.push(to * self.channels[1]);
                        if let Some((pixels, row)) = masks {
                            scratch.masks.push(to / pixels * row + to % pixels * self.channels[1] / 8);
                        }
                    }
                }
            }
            for at in (first..scratch.rows.len()).step_by(self.mr) {
                let valid = self.mr.min(scratch.rows.len() - at);
                scratch.tiles.push(Tile { region: piece.region, valid });
            }
            // the last tile repeats its first pixel
            let again = (scratch.rows.len() - first) / self.mr * self.mr + first;
            while !(scratch.rows.len() - first).is_multiple_of(self.mr) {
                scratch.rows.push(scratch.rows[again]);
                scratch.outputs.push(scratch.outputs[again]);
                if masks.is_some() {
                    scratch.masks.push(scratch.masks[again]);
                }
            }
        }
    }

    /// Computes the listed tiles for some panels.
    fn block(&self, scratch: &mut TaskBuffers, panels: &[Panel], finish: &Finish) {
        let lanes = micro::lanes(self.isa);
        for panel in panels {
            let kernel = match self.narrow {
                true => micro::narrow_kernel(self.isa, panel.width),
                false => micro::kernel(self.isa, self.precision, panel.nv),
            };
            if self.segments.len() > 1 {
                let size = scratch.tiles.len() * self.mr * panel.nv * lanes;
                scratch.partial.resize(size.max(scratch.partial.len()), 0.0);
            }
            for (part, segments) in self.segments.iter().enumerate() {
                // SAFETY: `isa` was detected. `tiles` made `mr` rows, outputs and masks per tile; a row points to the
                // first input of its region, whose segments stay inside the input (`plan` tests check that). `new`
                // packed every panel; `partial` has room for each tile. Tiles, panels and tasks write different
                // elements and mask bytes, valid by the caller of `run`.
                unsafe {
                    kernel(&TileCall {
                        tiles: &scratch.tiles,
                        rows: scratch.rows.as_ptr(),
                        x_offset: panel.group * self.in_group,
                        segments,
                        weights: self.weights.as_ptr().cast::<f32>().add(panel.weights),
                        sum: self.sum,
                        partial: scratch.partial.as_mut_ptr(),
                        first: part == 0,
                        last: part == self.segments.len() - 1,
                        finish,
                        outputs: scratch.outputs.as_ptr(),
                        masks: scratch.masks.as_ptr(),
                        channel: panel.channel,
                        width: panel.width,
                        bias: self.bias.as_ptr().add(panel.bias),
                    });
                }
            }
        }
    }

    /// `x`: `count` rows of channels, one pixel each, for a kernel that reads one pixel at the same position. `to`:
    /// the
    /// outputs, with `mask_pixels` pixels per mask row.
    ///
    /// # Safety
    /// The pointers in `to` are valid for `count` pixels, and nothing else accesses what is written during the call.
    pub unsafe fn run_rows(&self, x: &[f32], count: usize, to: &Finish, mask_pixels: usize) {
        let [from, out] = self.channels;
        assert!(x.len() == count * from && self.input == [1, 1] && self.output == [1, 1] && !self.narrow);
        assert!(!to.masked() || (out / self.groups).is_multiple_of(8));
        let mask_row = (mask_pixels * out).div_ceil(64) * 8;
        // masks are contiguous within an image, and across images if each image's mask fills whole words
        let stride = if to.masked() && mask_row * 8 != mask_pixels * out { mask_pixels } else { count };
        let block = (BLOCK_ROWS / from).clamp(BLOCK_PIXELS / 4, BLOCK_PIXELS).next_multiple_of(self.mr);
        let per_stride = stride.div_ceil(block);
        let lanes = micro::lanes(self.isa);
        let (sum, row) = (self.in_group, self.groups * self.in_group);
        let part = sum.div_ceil(sum.div_ceil(BLOCK_SUM));
        (0..count / stride * per_stride).into_par_iter().for_each_init(Vec::new, |pairs, task| {
            let first = task / per_stride * stride + task % per_stride * block;
            let end = (first + block).min((task / per_stride + 1) * stride);
            let mask = first / mask_pixels * mask_row + first % mask_pixels * out / 8;
            let x = match self.precision {
                Precision::F32 | Precision::Tf32 => &x[first * from..end * from],
                Precision::Bf16 => {
                    pairs.resize(block * row, 0.0);
                    let to = &mut pairs[..(end - first) * row];
                    bf16::pairs(self.isa, &x[first * from..end * from], from / self.groups, to);
                    &*to
                }
            };
            for panel in &self.panels {
                let kernel = micro::rows_kernel(self.isa, self.precision, panel.nv);
                for k in (0..sum).step_by(part) {
                    // SAFETY: `isa` was detected; the rows are those of x, weights and bias those of the panel; each
                    // row of a panel belongs to one task. The caller vouches for `to`.
                    unsafe {
                        kernel(&Rows {
                            x: x[panel.group * sum + k..].as_ptr(),
                            x_step: row,
                            count: end - first,
                            weights: self
                                .weights
                                .as_ptr()
                                .cast::<f32>()
                                .add(panel.weights + k * panel.nv * lanes),
                            len: part.min(sum - k),
                            first: k == 0,
                            last: k + part >= sum,
                            finish: to,
                            y: first * out,
                            y_step: out,
                            mask,
                            channel: panel.channel,
                            width: panel.width,
                            bias: self.bias.as_ptr().add(panel.bias),
                        });
                    }
                }
            }
        });
    }
}

/// Parameters of packing.
struct Packing {
    lanes: usize,
    /// Inputs per pixel and group: channels, or pairs of them.
    in_group: usize,
    taps: [usize; 2],
    narrow: bool,
    /// Inputs per output.
    sum: usize,
}

impl Packing {
    fn new(isa: Isa, geometry: &Geometry) -> Self {
        let lanes = micro::lanes(isa);
        let [channels_in, out_group] = geometry.channels.map(|c| c / geometry.groups);
        let in_group = channels_in.div_ceil(geometry.precision.inputs());
        let taps = geometry.axes.each_ref().map(|a| a.slots.len());
        // few outputs of many inputs: vectorise over the inputs
        let few = out_group <= micro::NARROW && in_group.is_multiple_of(lanes);
        let narrow = few && geometry.groups == 1 && taps != [1, 1] && geometry.precision == Precision::F32;
        Self { lanes, in_group, taps, narrow, sum: taps[0] * taps[1] * in_group }
    }

    /// The panels, their packed weights and their biases.
    fn pack(
        &self,
        geometry: &Geometry,
        weight: Weight,
        bias: Option<&[f32]>,
    ) -> (Vec<Panel>, Vec<Line>, Vec<f32>) {
        let out_group = geometry.channels[1] / geometry.groups;
        let (mut panels, mut biases, mut packed) = (Vec::new(), Vec::new(), 0);
        for group in 0..geometry.groups {
            let mut first = 0;
            for nv in micro::panels(out_group.div_ceil(self.lanes)) {
                let lanes = nv * self.lanes;
                let width = lanes.min(out_group - first);
                let channel = group * out_group + first;
                panels.push(Panel { group, channel, width, nv, weights: packed, bias: biases.len() });
                let bias = |i| bias.filter(|_| i < width).map_or(0.0, |b| b[channel + i]);
                biases.extend((0..lanes).map(bias));
                packed += self.sum * if self.narrow { out_group } else { lanes };
                first += width;
            }
        }
        let mut weights = vec![Line([0.0; 16]); packed.div_ceil(16)];
        for panel in &panels {
            self.pack_panel(panel, geometry, weight, &mut weights);
        }
        (panels, weights, biases)
    }

    fn pack_panel(&self, p: &Panel, geometry: &Geometry, weight: Weight, weights: &mut [Line]) {
        let [channels_in, out_group] = geometry.channels.map(|c| c / geometry.groups);
        let mut at = p.weights;
        for tap in (0..self.taps[0]).flat_map(|h| (0..self.taps[1]).map(move |w| [h, w])) {
            for c in 0..self.in_group {
                for o in 0..p.width {
                    let one = |i| weight(p.group, p.channel - p.group * out_group + o, tap, i);
                    let value = match geometry.precision {
                        Precision::F32 | Precision::Tf32 => one(c),
                        Precision::Bf16 if 2 * c + 1 < channels_in => bf16::pair(one(2 * c), one(2 * c + 1)),
                        Precision::Bf16 => bf16::pair(one(2 * c), 0.0),
                    };
                    let at = if self.narrow { at + o * self.sum } else { at + o };
                    weights[at / 16].0[at % 16] = value;
                }
                at += if self.narrow { 1 } else { p.nv * self.lanes };
            }
        }
    }
}

/// The regions of the output and, per block of about `block` inputs of the sum, what each region reads.
fn regions(geometry: &Geometry, in_group: usize, block: usize) -> (Vec<Region>, Vec<Vec<Vec<Span>>>) {
    let [rows, columns] = &geometry.axes;
    let taps = [rows.slots.len(), columns.slots.len()];
    let sum = taps[0] * taps[1] * in_group;
    let count = sum.div_ceil(block).max(1);
    let part = sum.div_ceil(count).max(1);
    let pixel = geometry.groups * in_group;
    let mut regions = Vec::new();
    let mut parts = vec![Vec::new(); count];
    for rows in &rows.stretches {
        for columns in &columns.stretches {
            let all = segments(rows, columns, geometry.input[1] * pixel, pixel, in_group, taps[1]);
            for (i, p) in parts.iter_mut().enumerate() {
                p.push(clip(&all, i * part..(i + 1) * part));
            }
            regions.push(Region { rows: rows.clone(), columns: columns.clone() });
        }
    }
    (regions, parts)
}

/// Buffers of one task, reused by the next.
#[derive(Default)]
struct TaskBuffers {
    rows: Vec<*const f32>,
    outputs: Vec<usize>,
    masks: Vec<usize>,
    tiles: Vec<Tile>,
    partial: Vec<f32>,
}

impl TaskBuffers {
    fn clear(&mut self) {
        self.rows.clear();
        self.outputs.clear();
        self.masks.clear();
        self.tiles.clear();
    }
}

/// All inputs of an output of a region. Taps contiguous in both the input and the weights are merged into one
/// segment.
fn segments(
    rows: &Stretch,
    columns: &Stretch,
    row: usize,
    pixel: usize,
    in_group: usize,
    taps: usize,
) -> Vec<Span> {
    let mut all: Vec<Span> = Vec::new();
    for h in &rows.taps {
        for w in &columns.taps {
            let x = h.distance * row + w.distance * pixel;
            let at = (h.slot * taps + w.slot) * in_group;
            match all.last_mut() {
                Some(s) if s.x + s.len == x && s.w + s.len == at => s.len += in_group,
                _ => all.push(Span { x, w: at, len: in_group }),
            }
        }
    }
    all
}

/// Clips segments to the weights in `range`.
fn clip(segments: &[Span], range: Range<usize>) -> Vec<Span> {
    let part = |s: &Span| {
        let (from, to) = (s.w.max(range.start), (s.w + s.len).min(range.end));
        (from < to).then(|| Span { x: s.x + from - s.w, w: from, len: to - from })
    };
    segments.iter().filter_map(part).collect()
}

/// Cuts the regions into blocks of about `pixels` pixels per image, by whole rows.
fn blocks(axes: &[Axis; 2], pixels: usize) -> Vec<Vec<Piece>> {
    let columns = &axes[1].stretches;
    let width: usize = columns.iter().map(|c| c.count).sum();
    let rows: usize = axes[0].stretches.iter().map(|r| r.count).sum();
    // equal blocks, so that the last one is not small
    let count = (rows * width).div_ceil(pixels.max(1)).clamp(1, rows.max(1));
    let mut blocks: Vec<Vec<Piece>> = Vec::new();
    let mut row = 0;
    for (r, stretch) in axes[0].stretches.iter().enumerate() {
        let mut from = 0;
        while from < stretch.count {
            let block = row * count / rows;
            let end = ((block + 1) * rows).div_ceil(count);
            let to = (from + end - row).min(stretch.count);
            if blocks.len() <= block {
                blocks.push(Vec::new());
            }
            let region = |c| Piece { region: r * columns.len() + c, rows: from..to };
            blocks[block].extend((0..columns.len()).map(region));
            row += to - from;
            from = to;
        }
    }
    blocks
}
