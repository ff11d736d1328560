//! The operators, one file per family. Each is declared once, as an [`Operator`]: its opsets, number of inputs,
//! attributes with defaults, and how it is lowered for known shapes to something that runs forward and backward.
//! [`OPERATORS`] lists them all; everything that needs to know what is supported reads it.
//!
//! This module knows no graph and no file: a node comes with the shapes and constants of its inputs.

mod activation;
mod aggregate;
mod arithmetic;
pub mod array;
mod attention;
mod attributes;
mod axes;
mod axes_rules;
mod branch;
mod broadcast;
mod call;
mod cast;
mod combine;
mod concat;
mod constant;
mod conv;
mod conv_spec;
mod conv_transpose;
mod cumulative;
mod einsum;
mod exec;
mod fusion;
mod gpu;
mod index;
mod layer_norm;
pub mod limits;
mod line;
mod lrn;
mod matmul;
mod normalization;
pub mod on_gpu;
mod operator;
mod pad;
mod pick;
mod pool;
mod quantize;
mod rearrange;
mod reduction;
mod refused;
mod registry;
mod relocate;
mod resize;
mod saved;
mod scatter;
mod select;
mod shape;
mod softmax;
mod split;
mod walk;
mod window;

pub use arithmetic::Gate;
pub(crate) use arithmetic::add;
pub use array::Array;
pub use attributes::{Attribute, Kind, Preset};
pub use axes::{Axes, Axis, Layout, Role, of_images};
pub use call::{Call, Input, Lowered, Output, Run};
pub use constant::constant;
pub use conv::JoinedConv;
pub use conv_spec::{ConvCache, ConvSpec};
pub use exec::{Exec, VjpContext};
pub use fusion::{Form, Fused};
pub use normalization::{Affine, AffineRelu};
pub use operator::{Arity, Operator, Placement, Setting};
pub use refused::{REFUSED, Refusal};
pub use registry::{OPERATORS, check_all_known, find};
pub use saved::Saved;
