//! The layer as plain numbers: a 1x1 convolution and a batch normalization. Owns their validity; knows neither training
//! nor files.

use crate::base::digest::sha256;

/// A 1x1 convolution without bias, then a batch normalization with fixed statistics, on values (N, C, H, W):
/// `y = (W x - mean) / sqrt(var + epsilon) * scale + bias`.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// C, at least 1.
    pub channels: usize,
    /// (C, C, 1, 1), row-major: the output channel first.
    pub weight: Vec<f32>,
    /// gamma, (C): the factor after normalising.
    pub scale: Vec<f32>,
    /// (C): added last.
    pub bias: Vec<f32>,
    /// (C): subtracted first.
    pub mean: Vec<f32>,
    /// (C): not negative.
    pub var: Vec<f32>,
    /// Added to the variance; positive.
    pub epsilon: f32,
}

/// How a layer is written into a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// Conv and BatchNormalization, on (N, C, H, W).
    #[default]
    Conv2d,
    /// Conv and BatchNormalization, on (N, C, T).
    Conv1d,
    /// MatMul and Add, on values whose last dimension is the channels.
    MatMul,
}

/// The names of the forms in files.
const FORMS: [(Form, &str); 3] =
    [(Form::Conv2d, "conv2d"), (Form::Conv1d, "conv1d"), (Form::MatMul, "matmul")];

impl Form {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        FORMS.iter().find(|f| f.0 == self).map_or("", |f| f.1)
    }

    /// The form of this name.
    pub fn named(name: &str) -> Option<Self> {
        FORMS.iter().find(|f| f.1 == name).map(|f| f.0)
    }
}

/// The type that a layer's numbers have in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stored {
    /// 32 bits.
    #[default]
    Float,
    /// IEEE 754 half precision.
    Float16,
    /// The upper half of a float32.
    Bfloat16,
}

/// The names of the types in files.
const STORED: [(Stored, &str); 3] =
    [(Stored::Float, "float32"), (Stored::Float16, "float16"), (Stored::Bfloat16, "bfloat16")];

impl Stored {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        STORED.iter().find(|s| s.0 == self).map_or("", |s| s.1)
    }

    /// The type of this name.
    pub fn named(name: &str) -> Option<Self> {
        STORED.iter().find(|s| s.1 == name).map(|s| s.0)
    }

    /// The nearest number of this type.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::Float => value,
            Self::Float16 => half::f16::from_f32(value).to_f32(),
            Self::Bfloat16 => half::bf16::from_f32(value).to_f32(),
        }
    }

    /// A number of this type in little-endian bytes.
    pub fn bytes(self, value: f32) -> Vec<u8> {
        match self {
            Self::Float => value.to_le_bytes().to_vec(),
            Self::Float16 => half::f16::from_f32(value).to_le_bytes().to_vec(),
            Self::Bfloat16 => half::bf16::from_f32(value).to_le_bytes().to_vec(),
        }
    }
}

/// The names of the tensors in the order of [`Layer::tensors`].
pub(crate) const TENSORS: [&str; 5] = ["weight", "scale", "bias", "mean", "var"];

impl Layer {
    /// Weight, scale, bias, mean, var, in this order.
    pub fn tensors(&self) -> [&[f32]; 5] {
        [&self.weight, &self.scale, &self.bias, &self.mean, &self.var]
    }

    /// The reason why the layer is invalid, if it is: a wrong number of values, NaN or infinity, a negative variance.
    pub fn problem(&self) -> Option<String> {
        if self.channels == 0 {
            return Some("has no channel".into());
        }
        let expected = [self.channels.saturating_mul(self.channels), self.channels];
        for (index, (name, values)) in TENSORS.into_iter().zip(self.tensors()).enumerate() {
            let expected = expected[index.min(1)];
            if values.len() != expected {
                return Some(format!("has {} values of {name}, expected {expected}", values.len()));
            }
            if let Some(value) = values.iter().find(|v| !v.is_finite()) {
                return Some(format!("has {value} in {name}"));
            }
        }
        if let Some(value) = self.var.iter().find(|v| **v < 0.0) {
            return Some(format!("has the negative variance {value}"));
        }
        (!self.epsilon.is_finite() || self.epsilon <= 0.0).then(|| format!("has epsilon {}", self.epsilon))
    }

    /// The weight, (C, C), with the input channel first.
    pub fn transposed_weight(&self) -> Vec<f32> {
        let c = self.channels;
        (0..c * c).map(|i| self.weight[i % c * c + i / c]).collect()
    }

    /// Whether it is a product and a sum alone, as [`folded`] makes it.
    pub fn is_folded(&self) -> bool {
        let all = |values: &[f32], value: f32| values.iter().all(|v| *v == value);
        self.epsilon == FOLDED_EPSILON
            && all(&self.scale, 1.0)
            && all(&self.mean, 0.0)
            && all(&self.var, 1.0 - FOLDED_EPSILON)
    }

    /// The layer, to be written in `form`, with numbers that a file can hold in this type: folded, since variances can
    /// be beyond its range, and rounded. In float32 it is the same.
    ///
    /// # Errors
    /// A number is beyond the type's range.
    pub fn stored_as(&self, stored: Stored, form: Form) -> Result<Self, String> {
        if stored == Stored::Float {
            return Ok(self.clone());
        }
        let Self { channels, weight, bias, .. } = folded(self);
        let rounded = |values: Vec<f32>| values.into_iter().map(|v| stored.round(v)).collect();
        let mut layer = from_folded(channels, rounded(weight), rounded(bias));
        if form != Form::MatMul {
            layer.var = rounded(layer.var);
        }
        match layer.problem() {
            Some(problem) => Err(format!("as {} {problem}", stored.name())),
            None => Ok(layer),
        }
    }

    /// Whether a file can hold the numbers that `form` writes in this type as they are.
    pub fn is_stored_as(&self, stored: Stored, form: Form) -> bool {
        let written: &[&[f32]] = match form {
            Form::MatMul => &[&self.weight, &self.bias],
            _ => &self.tensors(),
        };
        written.iter().all(|values| values.iter().all(|&v| stored.round(v) == v))
    }

    /// SHA-256, in hexadecimal, of channels (64 bits), epsilon and the tensors (32 bits each), all little-endian.
    pub fn sha256(&self) -> String {
        let mut bytes = (self.channels as u64).to_le_bytes().to_vec();
        bytes.extend(self.epsilon.to_le_bytes());
        bytes.extend(self.tensors().into_iter().flatten().flat_map(|v| v.to_le_bytes()));
        sha256(&bytes)
    }
}

/// The layer as y = A v + b: A = diag(scale / sqrt(var + eps)) W, (C, C), and b = bias - mean scale / sqrt(var + eps),
/// (C).
pub fn folded_in_f64(layer: &Layer) -> (Vec<f64>, Vec<f64>) {
    let factor: Vec<f64> = (layer.scale.iter().zip(&layer.var))
        .map(|(s, v)| f64::from(*s) / (f64::from(*v) + f64::from(layer.epsilon)).sqrt())
        .collect();
    let matrix = (layer.weight.chunks_exact(layer.channels).zip(&factor))
        .flat_map(|(row, f)| row.iter().map(move |w| f64::from(*w) * f))
        .collect();
    let offset = (layer.bias.iter().zip(&layer.mean).zip(&factor))
        .map(|((b, m), f)| f64::from(*b) - f64::from(*m) * f)
        .collect();
    (matrix, offset)
}

/// Epsilon of a folded layer.
pub(crate) const FOLDED_EPSILON: f32 = 1e-5;

/// The same layer as a product and a sum, y = A v + b: scale 1, mean 0, var + epsilon = 1.
pub fn folded(layer: &Layer) -> Layer {
    let (matrix, offset) = folded_in_f64(layer);
    let weight = matrix.iter().map(|&a| a as f32).collect();
    from_folded(layer.channels, weight, offset.iter().map(|&b| b as f32).collect())
}

/// The layer y = A v + b: `matrix` (C, C), the output channel first, and `offset` (C).
pub fn from_folded(channels: usize, matrix: Vec<f32>, offset: Vec<f32>) -> Layer {
    Layer {
        channels,
        weight: matrix,
        scale: vec![1.0; channels],
        bias: offset,
        mean: vec![0.0; channels],
        var: vec![1.0 - FOLDED_EPSILON; channels],
        epsilon: FOLDED_EPSILON,
    }
}

/// The mixture s (A v + b) + (1 - s) v with the identity as a layer; s = `share` in [0, 1].
pub fn towards_identity(layer: &Layer, share: f64) -> Layer {
    let c = layer.channels;
    let (matrix, offset) = folded_in_f64(layer);
    let identity = |i: usize| if i / c == i % c { 1.0 - share } else { 0.0 };
    Layer {
        channels: c,
        weight: matrix.iter().enumerate().map(|(i, a)| (share * a + identity(i)) as f32).collect(),
        scale: vec![1.0; c],
        bias: offset.iter().map(|b| (share * b) as f32).collect(),
        mean: vec![0.0; c],
        var: vec![1.0 - layer.epsilon; c],
        epsilon: layer.epsilon,
    }
}
