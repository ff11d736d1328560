//! Which neighbours run as one pass over memory, and as what: a convolution takes in the BatchNormalization behind it,
//! the residual sum and the Relu; BatchNormalization takes in its Relu.

use std::{any::Any, sync::Arc};

use super::activation::Relu;
use super::arithmetic::{Add, Gate};
use super::conv::{Conv, JoinedConv};
use super::conv_spec::{ConvCache, ConvSpec};
use super::exec::Exec;
use super::normalization::{Affine, AffineRelu};
use crate::Result;
use crate::kernels::Precision;

/// What an [`Exec`] is, as far as its neighbours need to know.
pub enum Form<'a> {
    /// A convolution and nothing else.
    Conv(&'a Arc<ConvSpec>),
    /// A convolution that others were joined to. Where it ends with a Relu it keeps its mask first.
    JoinedConv {
        relu: bool,
    },
    /// One factor and one summand for each channel.
    Affine(&'a Affine),
    /// The same, and a Relu; keeps the mask first.
    AffineRelu(&'a Affine),
    /// Keeps the mask first.
    Relu,
    /// The sum of two inputs of the same shape.
    Add,
    /// A value times a smaller one; keeps the large operand, which is this one, first.
    Gate(&'a Gate),
    Other,
}

impl<'a> Form<'a> {
    /// The form of an operator that was lowered.
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

/// An operator while its neighbours are joined to it.
pub enum Fused {
    /// `node` is the convolution's place in the file; `plain` while nothing was joined to it.
    Conv { conv: Arc<ConvSpec>, node: usize, plain: bool, residual: bool, relu: bool },
    /// A factor and a summand for each channel, and perhaps a Relu.
    Affine { affine: Affine, relu: bool },
    /// Nothing can be joined to it.
    Alone,
}

impl Fused {
    /// The operator of the node at place `node` of the file by itself. `rank`: how many dimensions its output has.
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

    /// This operator and `next`, of the node at place `after`, which reads its output; None where they stay apart.
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

    /// What runs in place of the joined operators; None where nothing was joined.
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
