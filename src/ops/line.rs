//! Lines of pixels, (N, C, W), as images with one row, for operators that slide a window.

use super::array::Array;
use super::call::{Call, Lowered};
use super::exec::Exec;
use super::saved::Saved;
use crate::Result;
use crate::profile::Direction;

/// The only output of `exec`, which works on images: an image of shape `to`, or a line if the first input is one.
pub(super) fn run_on_images(call: &Call, to: [usize; 4], exec: impl Exec) -> Result<Lowered> {
    let [n, c, h, w] = to;
    match call.shape(0)?.len() {
        3 => call.run(vec![n, c, w], true, Line(exec)),
        _ => call.run(vec![n, c, h, w], true, exec),
    }
}

/// An operator over images, over lines.
struct Line<E>(E);

fn as_image(line: &Array) -> Result<Array> {
    line.derive(&line.tensor().unsqueeze(2)?)
}

fn as_line(image: &Array) -> Result<Array> {
    image.derive(&image.tensor().squeeze(2)?.contiguous()?)
}

impl<E: Exec> Exec for Line<E> {
    fn forward(&self, x: Vec<Array>, keep: Option<&mut Saved>) -> Result<Array> {
        let images = x.iter().map(as_image).collect::<Result<_>>()?;
        as_line(&self.0.forward(images, keep)?)
    }

    fn vjp(&self, kept: &Saved, dy: Array, want: &[bool]) -> Result<Vec<Option<Array>>> {
        let dx = self.0.vjp(kept, as_image(&dy)?, want)?;
        dx.iter().map(|dx| dx.as_ref().map(as_line).transpose()).collect()
    }

    fn flops(&self, images: usize, direction: Direction) -> u64 {
        self.0.flops(images, direction)
    }

    fn packed_bytes(&self) -> usize {
        self.0.packed_bytes()
    }
}
