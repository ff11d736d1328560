//! The layer in principal coordinates: y = mu + b + B A U (v - mu). The rows of U (m, C) are the first m = 2 r
//! principal components of the clean values; A (r, m) and B (C, r) are trained, as is b (C). It starts as the
//! projection onto the first r components, which blocks directions that clean images do not use. The other r
//! components can only be read.
//!
//! The tensors are scaled: with l_i the variance of component i, row i of A by 1 / sqrt(m l_i), column i of B by
//! 0.2 sqrt(l_i / C), b by 0.05 times the root mean variance of the channels. Adam's steps are then independent of the
//! scale of components and values, and B and b change more slowly than A.

use candle_core::{Device, Tensor, Var};
use nalgebra::{DMatrix, SymmetricEigen};

use super::layer::{EPSILON, Trainable, finite};
use crate::{
    Error, Result,
    kernels::backend,
    layer::Layer,
    network::{Folded, Kept, Network, rows},
};

/// Components with less than this share of the largest variance are rounding errors.
const NOTHING: f64 = 1e-9;

/// Components that A can read, per component of the initial projection.
const SEEN: usize = 2;
/// Scale of B, relative to A.
const WRITE: f64 = 0.2;
/// Scale of b.
const SHIFT: f64 = 0.05;
/// Clean images used to choose the rank, at most.
const ASKED: usize = 500;

/// Mean and principal components of values (N, C, H, W), over all images and positions.
pub struct Components {
    /// (C).
    mean: Vec<f64>,
    /// Variances in descending order.
    variances: Vec<f64>,
    /// (C, C), the components as columns, in the order of their variances.
    vectors: DMatrix<f64>,
}

/// Mean and covariance of values (N, C, H, W) over all images and positions.
pub struct MeanCovariance {
    mean: Vec<f64>,
    covariance: DMatrix<f64>,
}

impl MeanCovariance {
    /// Mean and covariance of `v`; covariances are sums in f64 of f32 products.
    ///
    /// # Errors
    /// [`Error::Setting`] if there are fewer than two positions, or values that are not finite.
    pub fn of(v: &Tensor) -> Result<Self> {
        let rows = rows(v)?;
        let (count, c) = rows.dims2()?;
        if count < 2 {
            let problem = "one value per channel has no variance: more images are needed";
            return Err(Error::setting("images", problem));
        }
        let backend = backend::on(rows.device())?;
        let mean: Vec<f64> = backend.column_sums(&rows, None)?.iter().map(|sum| sum / count as f64).collect();
        let mut covariance = DMatrix::from_vec(c, c, backend.scatter(&rows, &mean)?);
        covariance /= count as f64;
        if covariance.iter().any(|v| !v.is_finite()) {
            return Err(Error::setting("images", "the values at the site are not finite"));
        }
        Ok(Self { mean, covariance })
    }

    /// The principal components; runs on one thread of the processor.
    ///
    /// # Errors
    /// [`Error::Setting`] if nothing varies.
    pub fn components(self) -> Result<Components> {
        let Self { mean, covariance } = self;
        let c = mean.len();
        let eigen = SymmetricEigen::new(covariance);
        let mut order: Vec<usize> = (0..c).collect();
        order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
        let variances: Vec<f64> = order.iter().map(|&i| eigen.eigenvalues[i].max(0.0)).collect();
        if variances.first().is_none_or(|&v| v <= 0.0) {
            return Err(Error::setting("site", "the clean images all have the same values here"));
        }
        let vectors = eigen.eigenvectors.select_columns(&order);
        Ok(Components { mean, variances, vectors })
    }
}

impl Components {
    /// The principal components of `v`, (N, C, H, W).
    ///
    /// # Errors
    /// As [`MeanCovariance::of`] and [`MeanCovariance::components`].
    pub fn of(v: &Tensor) -> Result<Self> {
        MeanCovariance::of(v)?.components()
    }

    /// Number of components above rounding errors, which is the highest possible rank.
    pub fn most(&self) -> usize {
        let least = self.variances[0] * NOTHING;
        self.variances.iter().filter(|&&v| v > least).count()
    }
}

/// The smallest rank for which the untrained layer keeps the answers of `share`, in [0, 1], of the clean images, at
/// most 500, evenly spaced. A well-trained network needs hardly more components than it has classes; others need
/// several times as many.
///
/// # Errors
/// Errors of operators.
pub fn rank_that_keeps(
    share: f64,
    components: &Components,
    network: &mut Network<'_>,
    kept: &Kept,
) -> Result<usize> {
    let every = kept.count().div_ceil(ASKED).max(1);
    let images: Vec<usize> = (0..kept.count()).step_by(every).collect();
    let (values, answers) = (kept.values(&images)?, kept.original_answers(&images));
    let mut keeps = |rank: usize| -> Result<bool> {
        let layer = Principal::new(components, rank, network.device())?.fold()?;
        let (logits, _) = network.suffix(&layer.forward(&values.edge)?, &values.crossing, false)?;
        Ok(logits.share_answered(&answers) >= share)
    };
    let most = components.most();
    let (mut less, mut enough) = (0, 1);
    while enough < most && !keeps(enough)? {
        (less, enough) = (enough, (2 * enough).min(most));
    }
    while enough - less > 1 {
        let middle = less + (enough - less) / 2;
        if keeps(middle)? { enough = middle } else { less = middle }
    }
    Ok(enough)
}

/// The layer in principal coordinates, in training.
pub struct Principal {
    channels: usize,
    pub(super) mean: Tensor,
    /// U, (m, C).
    pub(super) seen: Tensor,
    /// Scales of A's rows, (r, 1), and of B's columns, (1, r).
    pub(super) scales: [Tensor; 2],
    /// Scale of b.
    pub(super) shift_scale: f64,
    /// A, (r, m).
    pub(super) read: Var,
    /// B, (C, r).
    pub(super) write: Var,
    /// b, (C).
    pub(super) shift: Var,
}

impl Principal {
    /// The projection onto the first `rank` components.
    ///
    /// # Errors
    /// [`Error::Setting`] if `rank` is 0 or more than [`Components::most`].
    pub fn new(components: &Components, rank: usize, device: &Device) -> Result<Self> {
        let most = components.most();
        if rank == 0 || rank > most {
            let problem =
                format!("{rank} of {most} principal components that the clean images have at this site");
            return Err(Error::setting("rank", problem));
        }
        let c = components.mean.len();
        let here = |v: Vec<f64>, shape: (usize, usize)| {
            Tensor::from_vec(v.into_iter().map(|x| x as f32).collect(), shape, &Device::Cpu)
        };
        let tensor = |v: Vec<f64>, shape: (usize, usize)| here(v, shape)?.to_device(device);
        let seen = (SEEN * rank).min(most);
        let rows = |count: usize| -> Vec<f64> {
            (0..count)
                .flat_map(|i| components.vectors.column(i).iter().copied().collect::<Vec<_>>())
                .collect()
        };
        let (out_of, into) = ((seen as f64).sqrt(), (c as f64).sqrt());
        let read: Vec<f64> =
            (0..rank * seen).map(|i| if i / seen == i % seen { out_of } else { 0.0 }).collect();
        let write: Vec<f64> = rows(rank).into_iter().map(|u| u * into / WRITE).collect();
        let unit = |f: &dyn Fn(f64) -> f64| components.variances[..rank].iter().map(|l| f(*l)).collect();
        Ok(Self {
            channels: c,
            mean: tensor(components.mean.clone(), (1, c))?.squeeze(0)?,
            seen: tensor(rows(seen), (seen, c))?,
            scales: [
                tensor(unit(&|l| 1.0 / (out_of * l.sqrt())), (rank, 1))?,
                tensor(unit(&|l| WRITE * l.sqrt() / into), (1, rank))?,
            ],
            shift_scale: SHIFT * (components.variances.iter().sum::<f64>() / c as f64).sqrt(),
            read: Var::from_tensor(&tensor(read, (rank, seen))?)?,
            write: Var::from_tensor(&here(write, (rank, c))?.t()?.contiguous()?.to_device(device)?)?,
            shift: Var::zeros(c, candle_core::DType::F32, device)?,
        })
    }
}

impl Trainable for Principal {
    /// A (r, m), B (C, r) and b (C), before scaling.
    fn trained(&self) -> [&Var; 3] {
        [&self.read, &self.write, &self.shift]
    }

    fn fold_in_graph(&self) -> Result<Folded> {
        let read = self.read.as_tensor().broadcast_mul(&self.scales[0])?.matmul(&self.seen)?;
        let matrix = self.write.as_tensor().broadcast_mul(&self.scales[1])?.matmul(&read)?;
        let through = matrix.matmul(&self.mean.unsqueeze(1)?)?.squeeze(1)?;
        let offset = ((self.shift.as_tensor() * self.shift_scale)? + (&self.mean - through)?)?;
        Ok(Folded::of(matrix, offset))
    }

    /// As a convolution with B A U, and a BatchNorm that only adds the offset.
    fn export(&self) -> Result<Layer> {
        let plain = |t: &Tensor| -> Result<Vec<f32>> { Ok(t.flatten_all()?.to_vec1()?) };
        let Folded { matrix, offset, .. } = self.fold()?;
        let c = self.channels;
        finite(Layer {
            channels: c,
            weight: plain(&matrix)?,
            scale: vec![1.0; c],
            bias: plain(&offset)?,
            mean: vec![0.0; c],
            var: vec![1.0 - EPSILON as f32; c],
            epsilon: EPSILON as f32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::layer::FoldedGradients;

    /// Six positions of three channels in the plane x + y + z = 3, wider along (1, -1, 0) than along (1, 1, -2).
    fn in_a_plane() -> Tensor {
        let points = [(3.0, 1.0), (-3.0, 0.5), (2.0, -1.0), (-2.0, -0.5), (1.0, 0.0), (-1.0, 0.0)];
        let rows: Vec<f32> =
            points.iter().flat_map(|(a, b)| [1.0 + a + b, 1.0 - a + b, 1.0 - 2.0 * b]).collect();
        Tensor::from_vec(rows, (1, 2, 3, 3), &Device::Cpu).unwrap().permute((0, 3, 1, 2)).unwrap()
    }

    fn flat(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn close(a: &Tensor, b: &Tensor) {
        let (a, b) = (flat(a), flat(b));
        assert!(a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?} {b:?}");
    }

    #[test]
    fn it_starts_as_a_projection() {
        let v = in_a_plane();
        let components = Components::of(&v).unwrap();
        assert_eq!(components.most(), 2);
        let answer = |rank: usize, v: &Tensor| {
            Principal::new(&components, rank, &Device::Cpu).unwrap().fold().unwrap().forward(v).unwrap()
        };
        close(&answer(2, &v), &v);
        // the component orthogonal to the plane is blocked
        close(&answer(2, &(&v + 5.0).unwrap()), &v);
        let one = rows(&answer(1, &v)).unwrap();
        let along: Vec<f32> = flat(&one).chunks(3).map(|p| p[2]).collect();
        assert!(along.iter().all(|z| (z - 1.0).abs() < 0.3), "{along:?}");
        for rank in [0, 3] {
            let refused = Principal::new(&components, rank, &Device::Cpu)
                .err()
                .map(|e| e.to_string())
                .unwrap_or_default();
            assert!(refused.starts_with("rank: "), "{refused}");
        }
    }

    #[test]
    fn values_that_do_not_vary_have_no_components() {
        let same = Tensor::ones((2, 3, 2, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        let refused = Components::of(&same).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(refused.starts_with("site: "), "{refused}");
    }

    #[test]
    fn the_scale_of_the_values_does_not_matter() {
        let large = (in_a_plane() * 100.0).unwrap();
        let start = |v: &Tensor| Principal::new(&Components::of(v).unwrap(), 2, &Device::Cpu).unwrap();
        for (a, b) in start(&in_a_plane()).trained().iter().zip(start(&large).trained()) {
            let (a, b) = (flat(a.as_tensor()), flat(b.as_tensor()));
            // the signs of components are arbitrary
            assert!(a.iter().zip(&b).all(|(a, b)| (a.abs() - b.abs()).abs() < 1e-4), "{a:?} {b:?}");
        }
    }

    #[test]
    fn the_exported_layer_is_the_trained_one() {
        let v = in_a_plane();
        let layer = Principal::new(&Components::of(&v).unwrap(), 2, &Device::Cpu).unwrap();
        let [read, _, shift] = layer.trained();
        read.set(&(read.as_tensor() + 0.1).unwrap()).unwrap();
        shift.set(&(shift.as_tensor() + 0.3).unwrap()).unwrap();
        let folded = layer.fold().unwrap();
        let written = Folded::from_layer(&layer.export().unwrap(), &Device::Cpu).unwrap();
        close(&written.forward(&v).unwrap(), &folded.forward(&v).unwrap());
        // the gradient of the sum of the output against a finite difference
        let mut sums = FoldedGradients::default();
        sums.add(&v, &v.ones_like().unwrap()).unwrap();
        let gradients = layer.unfold(&folded, sums).unwrap();
        let sum = || flat(&layer.fold().unwrap().forward(&v).unwrap()).iter().sum::<f32>();
        for (var, gradient) in layer.trained().into_iter().zip(&gradients) {
            let before = sum();
            let step = 1e-2;
            let saved = var.as_detached_tensor().copy().unwrap();
            var.set(&(&saved + step).unwrap()).unwrap();
            let by = f64::from(sum() - before) / step;
            var.set(&saved).unwrap();
            let want: f32 = flat(gradient).iter().sum();
            assert!((by - f64::from(want)).abs() < 0.02 * by.abs().max(1.0), "{by} {want}");
        }
    }
}
