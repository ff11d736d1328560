//! Which neighbours are fused into one pass over memory: a convolution with a following BatchNormalization, residual
//! sum and Relu; a BatchNormalization with its Relu.

use std::{any::Any, sync::Arc};

use super::activation::Relu;
use super::arithmetic::{Add, Gate};
use super::conv::{Conv, JoinedConv};
use super::conv_spec::{ConvCache, ConvSpec};
use super::exec::Exec;
use super::normalization::{Affine, AffineRelu};
use crate::Result;
use crate::kernels::Precision;

/// What fusion needs to know of an [`Exec`].
pub enum Form<'a> {
    /// A convolution that nothing is fused to.
    Conv(&'a Arc<ConvSpec>),
    /// A convolution with fused neighbours. With a Relu it saves the mask first.
    JoinedConv {
        relu: bool,
    },
    /// A factor and a summand per channel.
    Affine(&'a Affine),
    /// The same with a Relu; saves the mask first.
    AffineRelu(&'a Affine),
    /// Saves the mask first.
    Relu,
    /// The sum of two inputs of the same shape.
    Add,
    /// A value times a smaller one; saves the large operand first.
    Gate(&'a Gate),
    Other,
}

impl<'a> Form<'a> {
    /// The form of a lowered operator.
    pub fn of(exec: &'a dyn Exec) -> Self {
        let exec: &dyn Any = exec;
        if let Some(conv) = exec.downcast_ref::<Conv>() {
            Self::Conv(&conv.0)
        } else if let Some(conv) = exec.downcast_ref::<JoinedConv>() {
            Self::JoinedConv { relu: conv.relu }
        } else if let Some(affine) = exec.downcast_ref::<Affine>() {
            Self::Affine(affine)
        } else if let Some(affine) = exec.downcast_ref::<AffineRelu>() {
            Self::AffineRelu(&affine.0)
        } else if exec.is::<Relu>() {
            Self::Relu
        } else if exec.is::<Add>() {
            Self::Add
        } else if let Some(gate) = exec.downcast_ref::<Gate>() {
            Self::Gate(gate)
        } else {
            Self::Other
        }
    }
}

/// An operator and the neighbours fused to it so far.
pub enum Fused {
    /// `node`: index of the convolution's node; `plain`: nothing is fused to it yet.
    Conv { conv: Arc<ConvSpec>, node: usize, plain: bool, residual: bool, relu: bool },
    /// A factor and a summand per channel, and optionally a Relu.
    Affine { affine: Affine, relu: bool },
    /// Not fusible.
    Alone,
}

impl Fused {
    /// The operator of node `node` alone. `rank`: number of dimensions of its output.
    pub fn new(exec: &dyn Exec, node: usize, rank: usize) -> Self {
        match Form::of(exec) {
            Form::Conv(conv) => {
                Self::Conv { conv: conv.clone(), node, plain: true, residual: false, relu: false }
            }
            Form::Affine(affine) if matches!(rank, 2 | 4) => {
                Self::Affine { affine: affine.clone(), relu: false }
            }
            _ => Self::Alone,
        }
    }

    /// This operator fused with `next`, of node `after`, which reads its output; None if they cannot be fused.
    ///
    /// # Errors
    /// Weights that cannot be read.
    pub fn with(&self, next: &dyn Exec, after: usize, convs: &ConvCache) -> Result<Option<Self>> {
        Ok(match (self, Form::of(next)) {
            (Self::Conv { conv, node, plain: true, .. }, Form::Affine(affine)) => {
                let conv = convs.joined((*node, after), conv, &affine.scale, &affine.shift)?;
                Some(Self::Conv { conv, node: *node, plain: false, residual: false, relu: false })
            }
            (Self::Conv { conv, node, residual: false, relu: false, .. }, Form::Add) => {
                let conv = conv.clone();
                Some(Self::Conv { conv, node: *node, plain: false, residual: true, relu: false })
            }
            (Self::Conv { conv, node, residual, relu: false, .. }, Form::Relu) => {
                let (conv, residual) = (conv.clone(), *residual);
                Some(Self::Conv { conv, node: *node, plain: false, residual, relu: true })
            }
            (Self::Affine { affine, relu: false }, Form::Relu) => {
                Some(Self::Affine { affine: affine.clone(), relu: true })
            }
            _ => None,
        })
    }

    /// The fused operator; None if nothing was fused.
    pub fn exec(self, precision: Precision) -> Option<Arc<dyn Exec>> {
        match self {
            Self::Conv { plain: true, .. } | Self::Affine { relu: false, .. } | Self::Alone => None,
            Self::Conv { conv, residual, relu, .. } => {
                Some(Arc::new(JoinedConv { conv, residual, relu, precision }))
            }
            Self::Affine { affine, .. } => Some(Arc::new(AffineRelu(affine))),
        }
    }
}
