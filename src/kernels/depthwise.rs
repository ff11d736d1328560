//! Depthwise convolution, in which each output channel reads one input channel, and its input gradient, vectorised
//! over channels. Kernels of width 3 and 5 at stride 1 or 2 slide along image rows (`cpu::slide`), the others go tap
//! by tap (`cpu::depth`). With a channel multiplier m, output channels c m .. c m + m read input channel c.

use std::ops::Range;

use rayon::prelude::*;

use super::Window;
use super::buffers;
use super::cpu::Isa;
use super::cpu::depth::{self, DepthTask, TILE, TapOffsets};
use super::cpu::finish::Finish;
use super::cpu::micro;
use super::cpu::slide::{self, Column, Relation, Row};
use super::plan::{Axis, Geometry, Stretch};

/// Approximate output floats per task with few images.
const TASK: usize = 16 * 1024;
/// From this many tasks on, tasks are not split further.
const ENOUGH_TASKS: usize = 64;
/// Approximate channels per task.
const CHANNELS: usize = 64;
/// In rows at least this long, a tile is neighbouring pixels of one image.
const LONG_ROW: usize = 24;

type RowPieces = Vec<(usize, Range<usize>)>;

/// A packed depthwise product.
pub(super) struct Depthwise {
    isa: Isa,
    input: [usize; 2],
    output: [usize; 2],
    /// Channels computed: groups times multiplier.
    channels: usize,
    multiplier: usize,
    /// Direction: forward repeats input channels, the gradient sums over output channels.
    forward: bool,
    rows: Vec<Stretch>,
    columns: Vec<Stretch>,
    /// By pair of stretches.
    taps: Vec<Vec<TapOffsets>>,
    /// The faster loop, if the geometry has one.
    slide: Option<Slide>,
    /// (tap, channel), in the order of `slide` if there is one.
    weights: Vec<f32>,
    bias: Vec<f32>,
    /// All rows in coarse and in fine pieces: lists of (row stretch, some of its rows).
    rows_whole: Vec<RowPieces>,
    rows_cut: Vec<RowPieces>,
}

impl Depthwise {
    /// `weight` returns the weight of an output channel at a pair of slots.
    pub fn new(
        geometry: Geometry,
        window: &Window,
        forward: bool,
        weight: &dyn Fn(usize, [usize; 2]) -> f32,
        bias: Option<&[f32]>,
    ) -> Self {
        let Geometry { input, output, channels, groups, axes, .. } = geometry;
        let channels = channels[0].max(channels[1]);
        let kernel = [axes[0].slots.len(), axes[1].slots.len()];
        let isa = Isa::get();
        let slide = Slide::new(isa, window, forward, [input, output], channels, &axes);
        let across = slide.as_ref().map_or_else(|| (0..kernel[1]).collect(), |s| s.slots.clone());
        let mut weights = Vec::with_capacity(kernel[0] * kernel[1] * channels);
        for h in 0..kernel[0] {
            for &w in &across {
                weights.extend((0..channels).map(|o| weight(o, [h, w])));
            }
        }
        let [rows, columns] = axes.map(|a| a.stretches);
        let mut taps = Vec::new();
        for r in &rows {
            for c in &columns {
                let at = |h: &super::plan::Tap, w: &super::plan::Tap| {
                    let x = (h.distance * input[1] + w.distance) * channels;
                    (x, (h.slot * kernel[1] + w.slot) * channels)
                };
                taps.push(r.taps.iter().flat_map(|h| c.taps.iter().map(move |w| at(h, w))).collect());
            }
        }
        let some = TASK.div_ceil(output[1] * channels);
        let rows_whole = vec![rows.iter().enumerate().map(|(s, r)| (s, 0..r.count)).collect()];
        let mut rows_cut = Vec::new();
        for (s, stretch) in rows.iter().enumerate() {
            let cut = (0..stretch.count).step_by(some).map(|r| r..(r + some).min(stretch.count));
            rows_cut.extend(cut.map(|r| vec![(s, r)]));
        }
        let bias = bias.map_or_else(|| vec![0.0; channels], <[f32]>::to_vec);
        Self {
            isa,
            input,
            output,
            channels,
            multiplier: channels / groups,
            forward,
            rows,
            columns,
            taps,
            slide,
            weights,
            bias,
            rows_whole,
            rows_cut,
        }
    }

    /// Whether masks can be fused.
    pub fn masks(&self) -> bool {
        self.multiplier == 1 && self.channels.is_multiple_of(8) && self.channels >= micro::lanes(self.isa)
    }

    /// `x`: `n` input images; `to`: the outputs.
    ///
    /// # Safety
    /// The pointers in `to` are valid for `n` images, and nothing else accesses what is written during the call.
    /// Where the
    /// gradient sums over a multiplier, `to` has `y` alone.
    pub unsafe fn run(&self, x: &[f32], n: usize, to: &Finish) {
        let [pixels_in, pixels_out] = [self.input, self.output].map(|s| s[0] * s[1]);
        let (m, wide) = (self.multiplier, self.channels);
        let narrow = wide / m;
        assert_eq!(x.len(), n * pixels_in * if self.forward { narrow } else { wide });
        assert!(!to.masked() || self.masks());
        if m == 1 {
            // SAFETY: upheld by the caller.
            return unsafe { self.wide(x, n, to) };
        }
        if self.forward {
            let mut copy = buffers::Scratch::new(n * pixels_in * wide);
            copy.par_chunks_mut(wide).zip(x.par_chunks(narrow)).for_each(|(to, from)| {
                to.chunks_exact_mut(m).zip(from).for_each(|(to, &v)| to.fill(v));
            });
            // SAFETY: upheld by the caller.
            unsafe { self.wide(&copy, n, to) };
        } else {
            let mut sums = buffers::Scratch::new(n * pixels_out * wide);
            // SAFETY: the sums are local.
            unsafe { self.wide(x, n, &Finish { y: sums.as_mut_ptr(), ..Finish::default() }) };
            // SAFETY: upheld by the caller.
            let y = unsafe { std::slice::from_raw_parts_mut(to.y, n * pixels_out * narrow) };
            y.par_chunks_mut(narrow).zip(sums.par_chunks(wide)).for_each(|(to, from)| {
                to.iter_mut().zip(from.chunks_exact(m)).for_each(|(to, v)| *to = v.iter().sum());
            });
        }
    }

    /// With as many input channels as output channels.
    ///
    /// # Safety
    /// As [`Self::run`].
    unsafe fn wide(&self, x: &[f32], n: usize, finish: &Finish) {
        // SAFETY: upheld by the caller.
        unsafe {
            match &self.slide {
                Some(slide) => self.along_rows(slide, x, n, finish),
                None => self.tap_by_tap(x, n, finish),
            }
        }
    }

    /// Bytes per image of the mask.
    fn mask_row(&self) -> usize {
        (self.output[0] * self.output[1] * self.channels).div_ceil(64) * 8
    }

    /// [`Self::wide`] with `cpu::slide`.
    ///
    /// # Safety
    /// As [`Self::run`].
    unsafe fn along_rows(&self, slide: &Slide, x: &[f32], n: usize, finish: &Finish) {
        let [pixels_in, pixels_out] = [self.input, self.output].map(|s| s[0] * s[1]);
        let (c, mask_row) = (self.channels, self.mask_row());
        // a few images are split by rows
        let alone = n >= ENOUGH_TASKS || rayon::current_num_threads() == 1;
        let some = if alone { usize::MAX } else { TASK.div_ceil(self.output[1] * c) };
        let pieces: Vec<&[Row]> = slide.rows.chunks(some).collect();
        (0..n * pieces.len()).into_par_iter().for_each(|task| {
            let image = task / pieces.len();
            // SAFETY: the instruction set was detected. Rows, columns and taps are inside the image (`Slide`'s tests
            // check that); `run` asserted the input's length, and its caller vouches for the rest. Tasks write
            // different elements and mask bytes.
            unsafe {
                (slide.kernel)(&slide::SlideTask {
                    x: x[image * pixels_in * c..].as_ptr(),
                    x_row: self.input[1] * c,
                    finish,
                    y: image * pixels_out * c,
                    y_row: self.output[1] * c,
                    mask: image * mask_row,
                    rows: pieces[task % pieces.len()],
                    columns: &slide.columns,
                    channels: c,
                    weights: self.weights.as_ptr(),
                    bias: self.bias.as_ptr(),
                });
            }
        });
    }

    /// [`Self::wide`] with `cpu::depth`.
    ///
    /// # Safety
    /// As [`Self::run`].
    unsafe fn tap_by_tap(&self, x: &[f32], n: usize, finish: &Finish) {
        let [pixels_in, pixels_out] = [self.input, self.output].map(|s| s[0] * s[1]);
        let (c, mask_row) = (self.channels, self.mask_row());
        let kernel = depth::kernel(self.isa);
        // a tile is the same pixel of several images, so narrow borders are as fast as the rest; with few images or
        // long rows it is neighbouring pixels
        let together = n >= 4 && self.columns.iter().all(|s| s.count < LONG_ROW);
        let images = if together { TILE } else { 1 };
        let shares = (c / CHANNELS).max(1);
        let step = c.div_ceil(shares).next_multiple_of(2 * micro::lanes(self.isa));
        let shares = c.div_ceil(step);
        let groups = n.div_ceil(images);
        let rows = if groups * shares < ENOUGH_TASKS { &self.rows_cut } else { &self.rows_whole };
        (0..groups * shares * rows.len()).into_par_iter().for_each(|task| {
            let (image, rest) = (task / (shares * rows.len()) * images, task % (shares * rows.len()));
            let (share, rows) = (rest / rows.len(), &rows[rest % rows.len()]);
            // SAFETY: the instruction set was detected. Every tap of a stretch is inside the image (`plan` tests
            // check that); `run` asserted the input's length, and its caller vouches for the rest. Tasks write
            // different elements and mask bytes, or the same values where a last vector overlaps.
            unsafe {
                kernel(&DepthTask {
                    x: x[image * pixels_in * c..].as_ptr(),
                    x_image: pixels_in * c,
                    x_row: self.input[1] * c,
                    finish,
                    y: image * pixels_out * c,
                    y_image: pixels_out * c,
                    y_row: self.output[1] * c,
                    mask: image * mask_row,
                    mask_image: mask_row,
                    images: images.min(n - image),
                    together,
                    rows,
                    stretches: (&self.rows, &self.columns),
                    taps: &self.taps,
                    channels: c,
                    range: share * step..((share + 1) * step).min(c),
                    weights: self.weights.as_ptr(),
                    bias: self.bias.as_ptr(),
                });
            }
        });
    }
}

/// Parameters of `cpu::slide`.
struct Slide {
    kernel: slide::Kernel,
    rows: Vec<Row>,
    columns: Vec<Column>,
    /// The slot of each column tap, in loop order.
    slots: Vec<usize>,
}

impl Slide {
    /// `sizes`: input and output of the loop (the gradient reads outputs). `None` if no loop fits.
    fn new(
        isa: Isa,
        window: &Window,
        forward: bool,
        sizes: [[usize; 2]; 2],
        channels: usize,
        axes: &[Axis; 2],
    ) -> Option<Self> {
        let [input, output] = sizes;
        let (taps, stride, pad) = (window.kernel[1], window.stride[1], window.pads[1] as isize);
        if window.dilation[1] != 1 || channels < micro::lanes(isa) {
            return None;
        }
        let (relation, turned) = match (forward, stride) {
            (true, _) => (Relation::Forward { stride }, false),
            // the gradient is a convolution with the rotated kernel and complemented paddings
            (false, 1) => (Relation::Forward { stride }, true),
            (false, _) => {
                let most = usize::try_from(pad - stride as isize * first_read(0, window, forward)).ok()?;
                (Relation::Backward { stride, most }, false)
            }
        };
        let (kernel, tile) = slide::kernel(isa, output[1], taps, relation)?;
        let even = if matches!(relation, Relation::Backward { .. }) { stride } else { 1 };
        // the last tile ends with the row and overlaps the one before
        let end = output[1] - tile;
        if !end.is_multiple_of(even) {
            return None;
        }
        let reach = slide::reach(tile, taps, relation) as isize;
        let columns = (0..output[1]).step_by(tile).map(|o| {
            let output = o.min(end);
            let first = first_read(output, window, forward);
            let inside = [-first, input[1] as isize - first].map(|at| at.clamp(0, reach) as usize);
            Column { output, input: first, inside }
        });
        let rows = axes[0].stretches.iter().flat_map(|s| {
            (0..s.count).map(|i| {
                let from = s.input + i * s.input_step;
                let taps = s.taps.iter().map(|t| (from + t.distance, t.slot * taps * channels)).collect();
                Row { output: s.output + i * s.output_step, taps }
            })
        });
        let mut rows: Vec<Row> = rows.collect();
        rows.sort_unstable_by_key(|r| r.output);
        let slot = |k: usize| axes[1].slots.iter().position(|&s| s == k);
        let slots = (0..taps).map(|k| slot(if turned { taps - 1 - k } else { k })).collect::<Option<_>>()?;
        Some(Self { kernel, rows, columns: columns.collect(), slots })
    }
}

/// The first input read by the tile that starts at output `o` of a row; negative in the padding. The gradient reads
/// outputs.
fn first_read(o: usize, window: &Window, forward: bool) -> isize {
    let (stride, pad) = (window.stride[1] as isize, window.pads[1] as isize);
    let (o, last) = (o as isize, window.kernel[1] as isize - 1);
    match (forward, stride) {
        (true, _) => o * stride - pad,
        (false, 1) => o + pad - last,
        // rounded up: the first input that any tap of the first output reads
        (false, _) => -((last - pad - o).div_euclid(stride)),
    }
}
