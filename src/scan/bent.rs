//! Images bent by one smooth displacement for all that are pushed towards a class, as warping triggers are (WaNet, arXiv
//! 2102.10369). No change added to the pixels comes near to one.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::{
    flow::{bend, sample},
    trigger::Trigger,
    way::{Aimed, Brought, Extent, Purpose, Way, ascent},
};
use crate::{
    Result,
    network::{Climb, Counts, Network, attack},
};

/// Cosines in each direction that a displacement is made of.
const WAVES: usize = 4;

/// Steps of the ascent.
const STEPS: usize = 8;
/// Length of a step: root mean square of the displacement over the positions, in pixels of an image 32 wide.
const STEP: f32 = 0.25;
/// How far it goes at most, in the same units.
const MOST: f32 = 1.0;

/// x'(p) = x(p + u(p)), bilinear, positions held inside the image. u is a sum of the lowest [`WAVES`]^2 cosines (DCT-II) in
/// each of its two components, the same for all images with a target. A step goes against the gradient by u, summed over the
/// images (each image's gradient scaled to length 1) and projected onto these cosines.
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

    fn attack(&self, network: &mut Network<'_>, aimed: Aimed<'_>) -> Result<Brought> {
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
        Ok(Brought { attack, triggers })
    }
}

/// Images and how far each class of them is bent.
struct Bending {
    /// (N, H, W, C), in [0, 1].
    pixels: Vec<f32>,
    width: usize,
    height: usize,
    channels: usize,
    /// For each image, which of the displacements is its own.
    own: Vec<usize>,
    /// The classes that images are pushed towards, in ascending order.
    classes: Vec<u32>,
    /// For each of them: displacement (down, right) in pixels for each position.
    fields: Vec<Vec<[f32; 2]>>,
    /// The cosines over rows and over columns, each of length 1: [`WAVES`] times H, and times W.
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

    /// The images as they are bent now, (N, C, H, W) that lies channels-last.
    fn bent(&self) -> Result<Tensor> {
        let size = [self.height, self.width, self.channels];
        let image = size.iter().product();
        let mut bent = vec![0f32; self.pixels.len()];
        let each = bent.par_chunks_mut(image).zip(self.pixels.par_chunks(image)).zip(&self.own);
        each.for_each(|((to, from), own)| bend(from, to, size, &self.fields[*own]));
        let shape = (self.own.len(), self.height, self.width, self.channels);
        Ok(Tensor::from_vec(bent, shape, &Device::Cpu)?.permute((0, 3, 1, 2))?)
    }

    /// Each class's displacement as it is now.
    fn triggers(self) -> Vec<(u32, Trigger)> {
        let flows = self.fields.into_iter().map(|field| Trigger::Flow { field });
        self.classes.into_iter().zip(flows).collect()
    }

    /// One step against `gradient`, that by what the network read: as `pixels` lies.
    fn step(&mut self, gradient: &[f32], std: &[f32], step: f32, most: f32) {
        let (places, image) = (self.height * self.width, self.height * self.width * self.channels);
        let images = gradient.par_chunks(image).zip(self.pixels.par_chunks(image)).zip(&self.own);
        // by each image's displacement
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

/// The lowest cosines over `size` places, each of length 1 (DCT-II, orthonormal).
fn cosines(size: usize) -> Vec<Vec<f32>> {
    let one = |k: usize| {
        let scale = (if k == 0 { 1.0 } else { 2.0 } / size as f64).sqrt();
        let at = |i: usize| (std::f64::consts::PI * k as f64 * (i as f64 + 0.5) / size as f64).cos();
        (0..size).map(|i| (scale * at(i)) as f32).collect()
    };
    (0..WAVES.min(size)).map(one).collect()
}

/// The part of a field (H, W) that the products of the cosines make up.
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
    fn a_step_goes_downhill_as_far_as_it_may_and_each_class_its_own_way() {
        let targets = [1, 0, 1];
        let mut b = bending(12, 12, &targets);
        let weights: Vec<f32> = (0..3 * 144).map(|i| ((i * 31) % 17) as f32 - 8.0).collect();
        b.fields.iter_mut().flatten().for_each(|u| *u = [0.25, 0.25]); // away from corners, where there is no derivative
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
        b.step(&vec![0.0; 3 * 144], &[1.0], 0.5, 1.5); // no direction, no step
        assert!(b.fields.iter().flatten().flatten().all(|u| u.is_finite()));
    }

    #[test]
    fn what_is_smooth_stays_as_it_is() {
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
