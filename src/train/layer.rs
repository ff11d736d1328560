//! The published layer: a 1x1 convolution without bias, then BatchNorm (candle-nn). The convolution starts as the
//! identity, the BatchNorm with weight 1 and bias 0, so that the layer initially standardises each channel.
//!
//! Values are (N, C, H, W), physically channels-last: viewed as N H W rows of C, the convolution is a matrix product.

use candle_core::{Device, Tensor, Var, backprop::GradStore};
use candle_nn::{BatchNorm, ModuleT};

use super::layer_gpu::{Normalised, WrittenOut};
use crate::{
    Error, Result,
    kernels::{backend, gpu::Gpu},
    layer::Layer,
    network::{Folded, from_rows, identity, rows},
};

/// BatchNorm's epsilon; it is written into the file.
pub const EPSILON: f64 = 1e-5;
/// PyTorch's momentum of the running statistics: new = 0.9 old + 0.1 batch.
pub(super) const MOMENTUM: f64 = 0.1;

/// The published layer in training.
pub struct Polarizer {
    channels: usize,
    /// (C, C): output channel, input channel.
    pub(super) weight: Var,
    /// gamma, (C).
    pub(super) scale: Var,
    /// beta, (C).
    pub(super) bias: Var,
    pub(super) norm: BatchNorm,
}

/// Gradients (f32) with respect to a layer's three tensors, in the order of [`Trainable::trained`].
pub type Gradients = [Tensor; 3];

/// A forward pass in training mode, with the inputs of its backward pass.
pub struct TrainPass {
    /// (N, C, H, W).
    pub output: Tensor,
    /// GPU only; on the processor `output` is attached to candle's graph.
    pub(super) normalised: Option<Normalised>,
}

/// A trainable layer: an affine map of the channels, parametrised by three tensors.
pub trait Trainable: WrittenOut {
    /// The three trained tensors.
    fn trained(&self) -> [&Var; 3];

    /// [`Trainable::fold`] attached to candle's graph, for the gradients.
    ///
    /// # Errors
    /// Errors of candle.
    fn fold_in_graph(&self) -> Result<Folded>;

    /// The layer in evaluation mode; valid until its tensors change.
    ///
    /// # Errors
    /// Errors of candle or of the GPU driver.
    fn fold(&self) -> Result<Folded> {
        match Gpu::of(self.trained()[0].device())? {
            Some(gpu) => self.fold_on(&gpu),
            None => self.fold_in_graph(),
        }
    }

    /// The layer as plain numbers, to be written into the file.
    ///
    /// # Errors
    /// [`Error::Check`] `finite-layer` if a number is not finite: the training diverged.
    fn export(&self) -> Result<Layer>;

    /// Gradients with respect to the layer's tensors, from those with respect to its folded form.
    ///
    /// # Errors
    /// Errors of candle.
    fn unfold(&self, folded: &Folded, gradients: FoldedGradients) -> Result<Gradients> {
        let Some((matrix, offset)) = gradients.0 else {
            let [a, b, c] = self.trained().map(|var| var.as_tensor().zeros_like());
            return Ok([a?, b?, c?]);
        };
        if let Some(gpu) = Gpu::of(matrix.device())? {
            return self.unfold_on(&gpu, folded, &matrix, &offset);
        }
        let inner = ((&folded.matrix * matrix)?.sum_all()? + (&folded.offset * offset)?.sum_all()?)?;
        collect(self.trained(), &inner.backward()?)
    }
}

fn collect(trained: [&Var; 3], store: &GradStore) -> Result<Gradients> {
    let of = |var: &Var| match store.get(var.as_tensor()) {
        Some(g) => Ok(g.detach()),
        None => var.as_tensor().zeros_like(),
    };
    let [a, b, c] = trained.map(of);
    Ok([a?, b?, c?])
}

/// Refuses numbers that are not finite.
///
/// # Errors
/// [`Error::Check`] `finite-layer`.
pub fn finite(layer: Layer) -> Result<Layer> {
    let tensors = [&layer.weight, &layer.scale, &layer.bias, &layer.mean, &layer.var];
    if tensors.iter().any(|t| t.iter().any(|v| !v.is_finite())) {
        let problem = "the training diverged: a number of the layer is not finite";
        return Err(Error::check("finite-layer", problem));
    }
    Ok(layer)
}

/// Gradients with respect to A and b of [`Folded`], summed over batches.
#[derive(Default)]
pub struct FoldedGradients(Option<(Tensor, Tensor)>);

impl Polarizer {
    /// The untrained layer for `channels` channels.
    ///
    /// # Errors
    /// Errors of candle.
    pub fn new(channels: usize, device: &Device) -> Result<Self> {
        let identity = identity(channels, device)?;
        let ones = Tensor::from_vec(vec![1f32; channels], channels, device)?;
        let zeros = ones.zeros_like()?;
        Self::from_parts(&identity, &ones, &zeros, &zeros, &ones)
    }

    /// The layer with these tensors: weight (C, C), the others (C).
    ///
    /// # Errors
    /// If the shapes disagree.
    pub fn from_parts(
        weight: &Tensor,
        scale: &Tensor,
        bias: &Tensor,
        mean: &Tensor,
        var: &Tensor,
    ) -> Result<Self> {
        let channels = weight.dims2()?.0;
        let (weight, scale, bias) =
            (Var::from_tensor(weight)?, Var::from_tensor(scale)?, Var::from_tensor(bias)?);
        let norm = BatchNorm::new_with_momentum(
            channels,
            mean.clone(),
            var.clone(),
            scale.as_tensor().clone(),
            bias.as_tensor().clone(),
            EPSILON,
            MOMENTUM,
        )?;
        Ok(Self { channels, weight, scale, bias, norm })
    }

    /// Forward pass in training mode: uses batch statistics and updates the running ones.
    ///
    /// # Errors
    /// [`Error::Setting`] if the batch has a single value per channel: there is no variance.
    pub fn forward_train(&self, v: &Tensor) -> Result<TrainPass> {
        let rows = rows(v)?;
        if rows.dim(0)? < 2 {
            return Err(Error::setting("batch", "a batch of one value per channel has no variance"));
        }
        if let Some(gpu) = Gpu::of(rows.device())? {
            return self.forward_train_on(&gpu, rows, v);
        }
        let u = rows.matmul(&self.weight.as_tensor().t()?)?;
        let output = from_rows(&self.norm.forward_t(&u, true)?, v)?;
        Ok(TrainPass { output, normalised: None })
    }

    /// Gradients with respect to the layer, from `grad`, the gradient with respect to the output of `pass`.
    ///
    /// # Errors
    /// Errors of candle.
    pub fn gradients(&self, pass: &TrainPass, grad: &Tensor) -> Result<Gradients> {
        if let (Some(gpu), Some(pass)) = (Gpu::of(grad.device())?, &pass.normalised) {
            return self.gradients_on(&gpu, pass, &rows(grad)?);
        }
        let inner = (rows(&pass.output)? * rows(grad)?.detach())?.sum_all()?;
        collect(self.trained(), &inner.backward()?)
    }

    /// Sets the running statistics exactly: mean and unbiased variance per channel of the convolution's output over all
    /// values `v`, (N, C, H, W), summed in f64.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is a single value per channel.
    pub fn set_statistics(&mut self, v: &Tensor) -> Result<()> {
        // in blocks: the whole output would be as large as the cache of clean values
        const ROWS: usize = 4096;
        let (rows, weight) = (rows(v)?, self.weight.as_tensor().detach().t()?);
        let count = rows.dim(0)?;
        if count < 2 {
            return Err(Error::setting(
                "images",
                "one value per channel has no variance: more images are needed",
            ));
        }
        let c = self.channels;
        let each = |take: &mut dyn FnMut(&[f32])| -> Result<()> {
            for start in (0..count).step_by(ROWS) {
                let u = rows.narrow(0, start, ROWS.min(count - start))?.matmul(&weight)?;
                u.flatten_all()?.to_vec1::<f32>()?.chunks_exact(c).for_each(&mut *take);
            }
            Ok(())
        };
        let mut mean = vec![0f64; c];
        each(&mut |row| mean.iter_mut().zip(row).for_each(|(m, v)| *m += f64::from(*v)))?;
        mean.iter_mut().for_each(|m| *m /= count as f64);
        let mut var = vec![0f64; c];
        each(&mut |row| {
            var.iter_mut().zip(row).zip(&mean).for_each(|((s, v), m)| *s += (f64::from(*v) - m).powi(2));
        })?;
        let as_tensor =
            |v: Vec<f64>| Tensor::from_vec(v.into_iter().map(|x| x as f32).collect(), c, rows.device());
        let var = as_tensor(var.into_iter().map(|s| s / (count - 1) as f64).collect())?;
        *self = Self::from_parts(
            self.weight.as_tensor(),
            self.scale.as_tensor(),
            self.bias.as_tensor(),
            &as_tensor(mean)?,
            &var,
        )?;
        Ok(())
    }

    /// Turns the untrained layer into the identity: BatchNorm's weight becomes sqrt(var + eps) of the running
    /// statistics, its bias their mean. The convolution has to be the identity still.
    ///
    /// # Errors
    /// Errors of candle.
    pub fn become_identity(&mut self) -> Result<()> {
        self.scale.set(&(self.norm.running_var().detach() + EPSILON)?.sqrt()?)?;
        Ok(self.bias.set(&self.norm.running_mean().detach())?)
    }
}

impl Trainable for Polarizer {
    /// Weight (C, C), scale (C), bias (C).
    fn trained(&self) -> [&Var; 3] {
        [&self.weight, &self.scale, &self.bias]
    }

    fn fold_in_graph(&self) -> Result<Folded> {
        let deviation = (self.norm.running_var().detach() + EPSILON)?.sqrt()?;
        let factor = (self.scale.as_tensor() / deviation)?;
        let matrix = self.weight.as_tensor().broadcast_mul(&factor.unsqueeze(1)?)?;
        let offset = (self.bias.as_tensor() - (self.norm.running_mean().detach() * &factor)?)?;
        Ok(Folded::of(matrix, offset))
    }

    fn export(&self) -> Result<Layer> {
        let plain = |t: &Tensor| -> Result<Vec<f32>> { Ok(t.flatten_all()?.to_vec1()?) };
        finite(Layer {
            channels: self.channels,
            weight: plain(self.weight.as_tensor())?,
            scale: plain(self.scale.as_tensor())?,
            bias: plain(self.bias.as_tensor())?,
            mean: plain(self.norm.running_mean())?,
            var: plain(self.norm.running_var())?,
            epsilon: EPSILON as f32,
        })
    }
}

impl FoldedGradients {
    /// Adds the gradients of a batch with input `v` and gradient `dy` with respect to the output.
    ///
    /// # Errors
    /// If the shapes disagree.
    pub fn add(&mut self, v: &Tensor, dy: &Tensor) -> Result<()> {
        let dy = rows(dy)?;
        let matrix = dy.t()?.matmul(&rows(v)?)?;
        let backend = backend::on(dy.device())?;
        let offset = backend.sum_rows(&dy)?;
        self.0 = Some(match self.0.take() {
            None => (matrix, offset),
            Some((m, o)) => (backend.add(&m, &matrix)?, backend.add(&o, &offset)?),
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::towards_identity;

    fn values() -> Tensor {
        let v: Vec<f32> = (0..2 * 3 * 2 * 2).map(|i| ((i * 7919) % 23) as f32 / 5.0 - 2.0).collect();
        Tensor::from_vec(v, (2, 3, 2, 2), &Device::Cpu).unwrap()
    }

    fn close(a: &Tensor, b: &Tensor, within: f32) {
        let d = (a - b)
            .unwrap()
            .abs()
            .unwrap()
            .flatten_all()
            .unwrap()
            .max(0)
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        assert!(d <= within, "{d}");
    }

    #[test]
    fn the_untrained_layer_whitens() {
        let mut p = Polarizer::new(3, &Device::Cpu).unwrap();
        let v = values();
        p.set_statistics(&v).unwrap();
        let y = rows(&p.fold().unwrap().forward(&v).unwrap()).unwrap();
        close(&y.mean(0).unwrap(), &Tensor::zeros(3, candle_core::DType::F32, &Device::Cpu).unwrap(), 1e-6);
        let var = y.var(0).unwrap();
        close(&var, &var.ones_like().unwrap(), 1e-4);
    }

    /// Folded, unfolded with candle-nn's BatchNorm, and exported: the same function.
    #[test]
    fn every_form_is_the_same_function() {
        let mut p = Polarizer::new(3, &Device::Cpu).unwrap();
        let v = values();
        p.set_statistics(&v).unwrap();
        let w = Tensor::new(&[[1.0f32, 0.2, -0.3], [0.1, 0.8, 0.4], [-0.5, 0.3, 1.1]], &Device::Cpu).unwrap();
        p.weight.set(&w).unwrap();
        p.scale.set(&Tensor::new(&[0.5f32, 2.0, -1.0], &Device::Cpu).unwrap()).unwrap();
        p.bias.set(&Tensor::new(&[0.1f32, 0.0, 3.0], &Device::Cpu).unwrap()).unwrap();
        let plain = p.norm.forward_t(&rows(&v).unwrap().matmul(&w.t().unwrap()).unwrap(), false).unwrap();
        let folded = p.fold().unwrap();
        close(&rows(&folded.forward(&v).unwrap()).unwrap(), &plain, 1e-5);
        let exported = Folded::from_layer(&p.export().unwrap(), &Device::Cpu).unwrap();
        close(&rows(&exported.forward(&v).unwrap()).unwrap(), &plain, 1e-5);

        // the gradients match candle's autograd through the unfolded form
        let dy = (v.sin().unwrap() * 0.5).unwrap();
        let mut sums = FoldedGradients::default();
        sums.add(&v, &dy).unwrap();
        let got = p.unfold(&folded, sums).unwrap();
        let x = Var::from_tensor(&rows(&v).unwrap()).unwrap();
        let u = x.as_tensor().matmul(&p.weight.as_tensor().t().unwrap()).unwrap();
        let y = p.norm.forward_t(&u, false).unwrap();
        let store = (y * rows(&dy).unwrap()).unwrap().sum_all().unwrap().backward().unwrap();
        let want = collect(p.trained(), &store).unwrap();
        got.iter().zip(&want).for_each(|(got, want)| close(got, want, 1e-5));
        let dx = rows(&folded.input_gradient(&dy).unwrap()).unwrap();
        close(&dx, store.get(x.as_tensor()).unwrap(), 1e-5);
    }

    #[test]
    fn it_can_start_as_the_identity() {
        let mut p = Polarizer::new(3, &Device::Cpu).unwrap();
        let v = values();
        p.set_statistics(&v).unwrap();
        p.become_identity().unwrap();
        close(&p.fold().unwrap().forward(&v).unwrap(), &v, 1e-6);
    }

    #[test]
    fn mixed_with_the_identity_it_lies_between() {
        let mut p = Polarizer::new(3, &Device::Cpu).unwrap();
        let v = values();
        p.set_statistics(&v).unwrap();
        let w = Tensor::new(&[[1.0f32, 0.2, -0.3], [0.1, 0.8, 0.4], [-0.5, 0.3, 1.1]], &Device::Cpu).unwrap();
        p.weight.set(&w).unwrap();
        p.bias.set(&Tensor::new(&[0.1f32, 0.0, 3.0], &Device::Cpu).unwrap()).unwrap();
        let layer = p.export().unwrap();
        let answer = |l: &Layer| Folded::from_layer(l, &Device::Cpu).unwrap().forward(&v).unwrap();
        for share in [0.0, 0.3, 1.0] {
            let want = ((answer(&layer) * share).unwrap() + (&v * (1.0 - share)).unwrap()).unwrap();
            close(&answer(&towards_identity(&layer, share)), &want, 1e-5);
        }
    }

    /// PyTorch's update: the running variance takes the unbiased batch variance, normalisation the biased one.
    #[test]
    fn running_statistics_follow_pytorch() {
        let p = Polarizer::new(1, &Device::Cpu).unwrap();
        let v = Tensor::new(&[[[[1.0f32, 3.0]]]], &Device::Cpu).unwrap();
        let y = rows(&p.forward_train(&v).unwrap().output)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        assert!((y[1] - 1.0 / (1.0f32 + 1e-5).sqrt()).abs() < 1e-6);
        let layer = p.export().unwrap();
        assert!((layer.mean[0] - 0.2).abs() < 1e-6);
        assert!((layer.var[0] - (0.9 + 0.1 * 2.0)).abs() < 1e-6);
    }
}
