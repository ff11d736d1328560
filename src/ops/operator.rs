//! The declaration of an operator, and the lowering of its nodes.

use super::array::Array;
use super::attributes::{self, Attribute};
use super::axes::Axes;
use super::axes_rules::{self, AxesRule};
use super::call::{Call, Input, Lowered, Output, of_dtype};
use super::conv_spec::ConvCache;
use crate::kernels::Precision;
use crate::onnx::node::Node;
use crate::onnx::tensor::DataType;
use crate::{Error, Result};

/// An operator: the one declaration from which lowering, documentation and tests follow.
#[derive(Debug)]
pub struct Operator {
    /// The domain; "" is ONNX's default.
    pub domain: &'static str,
    /// The operator's type.
    pub name: &'static str,
    /// Numbers of inputs by opset; the first entry is the oldest supported opset.
    pub inputs: &'static [Arity],
    /// Numbers of outputs by opset.
    pub outputs: &'static [Arity],
    /// Names of the outputs that are not computed, which are the last ones. A node may have them as long as nothing
    /// reads them.
    pub not_computed: &'static [&'static str],
    /// All its attributes.
    pub attributes: &'static [Attribute],
    /// What is refused of ONNX's definition, for the documentation.
    pub limits: &'static str,
    /// Where it runs with values on a GPU.
    pub on_gpu: Placement,
    axes: AxesRule,
    lower: fn(&Call) -> Result<Lowered>,
}

/// Number of inputs or outputs from opset `since` on.
#[derive(Clone, Copy, Debug)]
pub struct Arity {
    pub since: i64,
    pub least: usize,
    pub most: usize,
}

/// Where an operator runs with values on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// This crate's kernels.
    Kernel,
    /// Kernels for the forms common in classifiers, the processor for the others.
    Partly,
    /// candle's kernels; elements are only moved.
    Candle,
    /// The processor; values are copied to it and back.
    Processor,
    /// Nothing runs: it is evaluated at lowering.
    Nowhere,
}

pub(super) const fn arity(since: i64, least: usize, most: usize) -> Arity {
    Arity { since, least, most }
}

/// Exactly one, in every opset.
pub(super) const UNARY: &[Arity] = &[arity(7, 1, 1)];
/// Exactly two, in every opset.
pub(super) const BINARY: &[Arity] = &[arity(7, 2, 2)];

/// What lowering needs besides the node.
pub struct Setting<'a> {
    /// Opset of the default domain.
    pub opset: i64,
    /// (batch in the file, batch lowered for), if they differ.
    pub batch: Option<(usize, usize)>,
    /// Packed weights, shared by all graphs of a file.
    pub convs: &'a ConvCache,
    /// Precision of the convolutions.
    pub precision: Precision,
    /// What the file's constant of this name holds, if that is known.
    pub stored: &'a dyn Fn(&str) -> Option<DataType>,
}

impl Operator {
    /// An operator of the default domain without attributes, with one output, that runs on the processor.
    pub(super) const fn new(
        name: &'static str,
        inputs: &'static [Arity],
        lower: fn(&Call) -> Result<Lowered>,
    ) -> Self {
        Self {
            domain: "",
            name,
            inputs,
            outputs: UNARY,
            not_computed: &[],
            attributes: &[],
            limits: "",
            on_gpu: Placement::Processor,
            axes: axes_rules::kept,
            lower,
        }
    }

    pub(super) const fn attributes(mut self, attributes: &'static [Attribute]) -> Self {
        self.attributes = attributes;
        self
    }

    /// Sets the numbers of outputs, and the names of those that are not computed.
    pub(super) const fn outputs(
        mut self,
        outputs: &'static [Arity],
        not_computed: &'static [&'static str],
    ) -> Self {
        self.outputs = outputs;
        self.not_computed = not_computed;
        self
    }

    pub(super) const fn limits(mut self, limits: &'static str) -> Self {
        self.limits = limits;
        self
    }

    /// Sets what the dimensions of its outputs hold. Without it each means what it means in the inputs, aligned at the
    /// last dimension as in broadcasting.
    pub(super) const fn axes(mut self, axes: AxesRule) -> Self {
        self.axes = axes;
        self
    }

    pub(super) const fn on_gpu(mut self, on_gpu: Placement) -> Self {
        self.on_gpu = on_gpu;
        self
    }

    /// Lowers node `index` of the file for these inputs; returns the computed outputs in the order of the file.
    ///
    /// # Errors
    /// The node has an attribute or a form that is not supported, or its inputs do not fit; the error names it.
    pub fn lower(&self, node: &Node, index: usize, inputs: Vec<Input>, setting: &Setting) -> Result<Lowered> {
        let opset = setting.opset;
        let fail = |problem: String| Error::invalid(node.label(), problem);
        self.check_arity(node, &inputs, opset).map_err(fail)?;
        let attributes = attributes::resolve(self.attributes, opset, &node.attributes).map_err(fail)?;
        // If all inputs are constants, the first one is presented as a value, so operators need no case for it.
        let folding = match inputs.first() {
            Some(Input::Constant(t)) if inputs.iter().all(|i| !matches!(i, Input::Value { .. })) => {
                Some(t.clone())
            }
            _ => None,
        };
        // folded constants are computed once and used in every precision
        let precision = if folding.is_some() { Precision::F32 } else { setting.precision };
        let (convs, batch, stored) = (setting.convs, setting.batch, setting.stored);
        let mut call = Call {
            node,
            index,
            opset,
            inputs,
            attributes,
            convs,
            precision,
            folding: folding.clone(),
            batch,
            stored,
        };
        let Some(first) = folding else {
            let mut outputs = (self.lower)(&call)?;
            for output in &mut outputs {
                if let Output::Run(run) = output {
                    run.axes = (self.axes)(&call, &run.shape);
                    debug_assert_eq!(run.axes.len(), run.shape.len(), "{}", self.name);
                }
            }
            return Ok(outputs);
        };
        call.inputs[0] = Input::Value {
            shape: first.dims().to_vec(),
            per_image: false,
            dtype: first.dtype(),
            elem: of_dtype(first.dtype()),
            axes: Axes::new(),
        };
        let fold = |output| match output {
            Output::Run(run) => {
                let value =
                    run.exec.forward(vec![Array::from_tensor(&first)?], None).map_err(|e| match e {
                        Error::Internal(problem) => call.error(problem),
                        other => other,
                    })?;
                Ok(Output::Constant(value.into_tensor()))
            }
            known => Ok(known),
        };
        (self.lower)(&call)?.into_iter().map(fold).collect()
    }

    /// Checks the numbers of inputs and outputs against the operator's in this opset.
    fn check_arity(&self, node: &Node, inputs: &[Input], opset: i64) -> Result<(), String> {
        let at = |all: &[Arity]| all.iter().rev().find(|a| a.since <= opset).copied();
        let (Some(takes), Some(makes)) = (at(self.inputs), at(self.outputs)) else {
            let since = self.inputs.first().map_or(0, |a| a.since);
            return Err(format!("does not exist in opset {opset}; it does from opset {since} on"));
        };
        let last = inputs.iter().rposition(|i| !matches!(i, Input::Absent)).map_or(0, |i| i + 1);
        if last > takes.most || inputs.len() < takes.least {
            let (least, most) = (takes.least, takes.most);
            return Err(format!("{} inputs, expected {least} to {most} in opset {opset}", inputs.len()));
        }
        if let Some(i) = inputs.iter().take(takes.least).position(|i| matches!(i, Input::Absent)) {
            return Err(format!("input {i} is missing"));
        }
        let last = node.outputs.iter().rposition(|o| !o.is_empty()).map_or(0, |i| i + 1);
        if last > makes.most {
            return Err(format!("{last} outputs, expected {} at most in opset {opset}", makes.most));
        }
        match node.outputs.iter().all(String::is_empty) {
            true => Err("it has no output".to_owned()),
            false => Ok(()),
        }
    }
}
