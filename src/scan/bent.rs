//! The way `bent`: one smooth displacement of all images, like a warping trigger (WaNet, arXiv 2102.10369), which no
//! change added to the pixels imitates.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::{
    flow::{bend, sample},
    trigger::Trigger,
    way::{Aimed, AttackOutcome, Extent, Purpose, Way, ascent},
};
use crate::{
    Result,
    network::{Climb, Counts, Network, attack},
};

/// Cosines per axis that make up a displacement.
const WAVES: usize = 4;

/// Steps of the ascent.
const STEPS: usize = 8;
/// Step length: root mean square of the displacement over the positions, in pixels of an image 32 wide.
const STEP: f32 = 0.25;
/// Largest displacement, in the same units.
const MOST: f32 = 1.0;

/// x'(p) = x(p + u(p)), bilinear, positions clamped to the image. Both components of u are sums of the lowest
/// [`WAVES`]^2 cosines (DCT-II); images with the same target share u. A step descends the gradient with respect to u,
/// summed over the images (each scaled to length 1) and projected onto the cosines.
pub struct Bent;

impl Way for Bent {
    fn name(&self) -> &'static str {
        "bent"
    }

    fn meaning(&self) -> &'static str {
        "one smooth displacement of all images"
    }

    fn follows_layer(&self) -> bool {
        true
    }

    fn passes(&self, extent: &Extent) -> Counts {
        ascent(STEPS).times(extent.pushed)
    }

    fn attack(&self, network: &mut Network<'_>, aimed: Aimed<'_>) -> Result<AttackOutcome> {
        let Aimed { layer, batch, targets, purpose, .. } = aimed;
        let pixels = batch.pixels(network)?;
        let mut bending = Bending::new(&pixels, &targets)?;
        let unit = bending.width as f32 / 32.0;
        let normalisation = &batch.kept.normalisation;
        let step = |gradient: Option<Tensor>| {
            if let Some(gradient) = gradient {
                let gradient = attack::rows_of(&gradient)?;
                bending.step(&gradient, &normalisation.std, STEP * unit, MOST * unit);
            }
            normalisation.apply(&bending.bent()?.to_device(pixels.device())?)
        };
        let attack = Climb { steps: STEPS, stop_share: None }.run(network, layer, batch, targets, step)?;
        let triggers = match purpose {
            Purpose::Measure => bending.triggers(),
            Purpose::Train => Vec::new(),
        };
        Ok(AttackOutcome { attack, triggers })
    }
}

/// Images and the displacement of each target class.
struct Bending {
    /// (N, H, W, C), in [0, 1].
    pixels: Vec<f32>,
    width: usize,
    height: usize,
    channels: usize,
    /// Index into `fields` for each image.
    own: Vec<usize>,
    /// The target classes, ascending.
    classes: Vec<u32>,
    /// Per target class, (H, W) of (down, right): the displacement in pixels.
    fields: Vec<Vec<[f32; 2]>>,
    /// Unit-length cosines over rows, ([`WAVES`], H), and over columns, ([`WAVES`], W).
    waves: [Vec<Vec<f32>>; 2],
}

impl Bending {
    fn new(pixels: &Tensor, targets: &[u32]) -> Result<Self> {
        let (_, channels, height, width) = pixels.dims4()?;
        let mut classes = targets.to_vec();
        classes.sort_unstable();
        classes.dedup();
        let own = targets.iter().map(|t| classes.partition_point(|c| c < t)).collect();
        let fields = vec![vec![[0.0; 2]; height * width]; classes.len()];
        let pixels = attack::rows_of(pixels)?;
        let waves = [cosines(height), cosines(width)];
        Ok(Self { pixels, width, height, channels, own, classes, fields, waves })
    }

    /// The displaced images, (N, C, H, W), physically channels-last.
    fn bent(&self) -> Result<Tensor> {
        let size = [self.height, self.width, self.channels];
        let image = size.iter().product();
        let mut bent = vec![0f32; self.pixels.len()];
        let each = bent.par_chunks_mut(image).zip(self.pixels.par_chunks(image)).zip(&self.own);
        each.for_each(|((to, from), own)| bend(from, to, size, &self.fields[*own]));
        let shape = (self.own.len(), self.height, self.width, self.channels);
        Ok(Tensor::from_vec(bent, shape, &Device::Cpu)?.permute((0, 3, 1, 2))?)
    }

    /// The current displacement of each target class.
    fn triggers(self) -> Vec<(u32, Trigger)> {
        let flows = self.fields.into_iter().map(|field| Trigger::Flow { field });
        self.classes.into_iter().zip(flows).collect()
    }

    /// One step against `gradient` with respect to the network's input, in the layout of `pixels`.
    fn step(&mut self, gradient: &[f32], std: &[f32], step: f32, most: f32) {
        let (places, image) = (self.height * self.width, self.height * self.width * self.channels);
        let images = gradient.par_chunks(image).zip(self.pixels.par_chunks(image)).zip(&self.own);
        // gradients with respect to each image's displacement
        let each: Vec<Vec<[f32; 2]>> = images
            .map(|((gradient, from), own)| {
                let mut by: Vec<[f32; 2]> = Vec::with_capacity(places);
                for (place, (g, u)) in
                    gradient.chunks_exact(self.channels).zip(&self.fields[*own]).enumerate()
                {
                    let at = sample([self.height, self.width], place, *u);
                    let mut sum = [0f32; 2];
                    for (c, (g, std)) in g.iter().zip(std).enumerate() {
                        let [[a, b], [d, e]] = at.around.map(|row| row.map(|p| from[p * self.channels + c]));
                        let down = (d - a) + at.right * ((e - d) - (b - a));
                        let right = (b - a) + at.down * ((e - d) - (b - a));
                        sum[0] += g / std * down;
                        sum[1] += g / std * right;
                    }
                    by.push(sum);
                }
                let length = length(by.iter().flatten()) + 1e-30;
                by.iter_mut().flatten().for_each(|v| *v = (f64::from(*v) / length) as f32);
                by
            })
            .collect();
        let root = (places as f64).sqrt();
        for (class, field) in self.fields.iter_mut().enumerate() {
            let mut sum = vec![[0f32; 2]; places];
            for (by, _) in each.iter().zip(&self.own).filter(|(_, own)| **own == class) {
                sum.iter_mut().flatten().zip(by.iter().flatten()).for_each(|(s, v)| *s += v);
            }
            let smooth = smooth(&sum, &self.waves);
            let long = length(smooth.iter().flatten());
            if long <= 1e-30 {
                continue;
            }
            let factor = (f64::from(step) * root / long) as f32;
            field.iter_mut().flatten().zip(smooth.iter().flatten()).for_each(|(u, s)| *u -= factor * s);
            let far = length(field.iter().flatten()) / root;
            if far > f64::from(most) {
                let factor = (f64::from(most) / far) as f32;
                field.iter_mut().flatten().for_each(|u| *u *= factor);
            }
        }
    }
}

fn length<'a>(values: impl Iterator<Item = &'a f32>) -> f64 {
    values.map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

/// The lowest cosines over `size` positions (DCT-II, orthonormal).
fn cosines(size: usize) -> Vec<Vec<f32>> {
    let one = |k: usize| {
        let scale = (if k == 0 { 1.0 } else { 2.0 } / size as f64).sqrt();
        let at = |i: usize| (std::f64::consts::PI * k as f64 * (i as f64 + 0.5) / size as f64).cos();
        (0..size).map(|i| (scale * at(i)) as f32).collect()
    };
    (0..WAVES.min(size)).map(one).collect()
}

/// Projection of a field (H, W) onto the products of the cosines.
fn smooth(field: &[[f32; 2]], [rows, columns]: &[Vec<Vec<f32>>; 2]) -> Vec<[f32; 2]> {
    let width = columns[0].len();
    let mut out = vec![[0f32; 2]; field.len()];
    for row in rows {
        for column in columns {
            let mut share = [0f64; 2];
            for (values, r) in field.chunks_exact(width).zip(row) {
                for (value, c) in values.iter().zip(column) {
                    share[0] += f64::from(value[0] * r * c);
                    share[1] += f64::from(value[1] * r * c);
                }
            }
            for (out, r) in out.chunks_exact_mut(width).zip(row) {
                for (out, c) in out.iter_mut().zip(column) {
                    out[0] += share[0] as f32 * r * c;
                    out[1] += share[1] as f32 * r * c;
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bending(h: usize, w: usize, targets: &[u32]) -> Bending {
        let values = (0..targets.len() * h * w).map(|i| ((i * 7919) % 101) as f32 / 101.0).collect();
        let pixels = Tensor::from_vec::<_, f32>(values, (targets.len(), 1, h, w), &Device::Cpu).unwrap();
        Bending::new(&pixels, targets).unwrap()
    }

    fn objective(b: &Bending, weights: &[f32]) -> f64 {
        let bent = attack::rows_of(&b.bent().unwrap()).unwrap();
        bent.iter().zip(weights).map(|(v, w)| f64::from(v * w)).sum()
    }

    #[test]
    fn a_displacement_of_one_pixel_takes_the_neighbour() {
        let mut b = bending(4, 5, &[3]);
        assert_eq!(attack::rows_of(&b.bent().unwrap()).unwrap(), b.pixels);
        b.fields[0].fill([0.0, 1.0]);
        let bent = attack::rows_of(&b.bent().unwrap()).unwrap();
        assert!((0..20).all(|i| (bent[i] - b.pixels[if i % 5 == 4 { i } else { i + 1 }]).abs() < 1e-6));
        b.fields[0].fill([-9.0, 0.0]);
        let bent = attack::rows_of(&b.bent().unwrap()).unwrap();
        assert!((0..20).all(|i| (bent[i] - b.pixels[i % 5]).abs() < 1e-6));
    }

    #[test]
    fn a_step_descends_within_the_bound_for_each_class() {
        let targets = [1, 0, 1];
        let mut b = bending(12, 12, &targets);
        let weights: Vec<f32> = (0..3 * 144).map(|i| ((i * 31) % 17) as f32 - 8.0).collect();
        // bilinear interpolation has no derivative at the pixel positions themselves
        b.fields.iter_mut().flatten().for_each(|u| *u = [0.25, 0.25]);
        let before = objective(&b, &weights);
        b.step(&weights, &[1.0], 0.02, 10.0);
        assert!(objective(&b, &weights) < before);
        assert_ne!(b.fields[0], b.fields[1]);
        for _ in 0..50 {
            b.step(&weights, &[1.0], 0.5, 1.5);
        }
        for field in &b.fields {
            assert!(length(field.iter().flatten()) / 12.0 <= 1.5 + 1e-4);
        }
        b.step(&vec![0.0; 3 * 144], &[1.0], 0.5, 1.5); // no gradient, no step
        assert!(b.fields.iter().flatten().flatten().all(|u| u.is_finite()));
    }

    #[test]
    fn a_smooth_field_is_its_own_projection() {
        let waves = [cosines(8), cosines(6)];
        let field: Vec<[f32; 2]> = (0..48)
            .map(|i| [waves[0][2][i / 6] * waves[1][1][i % 6], 3.0 * waves[0][0][i / 6] * waves[1][3][i % 6]])
            .collect();
        let same = smooth(&field, &waves);
        assert!(field.iter().flatten().zip(same.iter().flatten()).all(|(a, b)| (a - b).abs() < 1e-6));
        assert_eq!(cosines(2).len(), 2);
        assert_eq!(smooth(&[[1.0, -1.0]], &[cosines(1), cosines(1)]), [[1.0, -1.0]]);
    }
}
