//! What an operator declares of itself, and how a node of it is lowered.

use super::array::Array;
use super::attributes::{self, Attribute};
use super::call::{Call, Input, Lowered, Output};
use super::conv_spec::ConvCache;
use crate::kernels::Precision;
use crate::onnx::node::Node;
use crate::{Error, Result};

/// An operator: one declaration, from which lowering, the documentation and the tests follow.
#[derive(Debug)]
pub struct Operator {
    /// Its domain: "" is ONNX's own.
    pub domain: &'static str,
    /// Its op_type.
    pub name: &'static str,
    /// How many inputs it takes, from which opset on; the first entry is the oldest opset it is understood in.
    pub inputs: &'static [Arity],
    /// How many outputs it has, from which opset on.
    pub outputs: &'static [Arity],
    /// What the outputs are called that are not computed; these are the last ones. A node may name them as long as
    /// nothing reads them.
    pub not_computed: &'static [&'static str],
    /// All attributes it has.
    pub attributes: &'static [Attribute],
    /// What of ONNX's definition is refused, for the documentation.
    pub limits: &'static str,
    /// Where it runs when the values are on a GPU.
    pub on_gpu: Placement,
    lower: fn(&Call) -> Result<Lowered>,
}

/// How many inputs or outputs an operator has from opset `since` on.
#[derive(Clone, Copy, Debug)]
pub struct Arity {
    pub since: i64,
    pub least: usize,
    pub most: usize,
}

/// Where an operator runs when the values are on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Kernels of this crate.
    Kernel,
    /// The kernels in the forms that classifiers have, the processor in the others.
    Partly,
    /// Candle's own kernels: elements are only moved.
    Candle,
    /// The processor: values are copied there and back.
    Processor,
    /// Nothing is run: it is computed while lowering.
    Nowhere,
}

pub(super) const fn arity(since: i64, least: usize, most: usize) -> Arity {
    Arity { since, least, most }
}

/// One input or output, in every opset.
pub(super) const UNARY: &[Arity] = &[arity(7, 1, 1)];
/// Two inputs, in every opset.
pub(super) const BINARY: &[Arity] = &[arity(7, 2, 2)];

/// What lowering a node needs to know beside the node.
pub struct Setting<'a> {
    /// Opset of the default domain.
    pub opset: i64,
    /// The batch the file was written for and the one it is lowered for, where these differ.
    pub batch: Option<(usize, usize)>,
    /// Packed weights, shared between lowerings.
    pub convs: &'a ConvCache,
    /// What convolutions multiply.
    pub precision: Precision,
}

impl Operator {
    /// An operator of ONNX's own domain without attributes, with one output, that runs on the processor.
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
            lower,
        }
    }

    pub(super) const fn attributes(mut self, attributes: &'static [Attribute]) -> Self {
        self.attributes = attributes;
        self
    }

    /// The names are those of the outputs that are not computed.
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

    pub(super) const fn on_gpu(mut self, on_gpu: Placement) -> Self {
        self.on_gpu = on_gpu;
        self
    }

    /// Lowers the node at place `index` of the file for inputs of these shapes: what becomes of each output that is
    /// computed, in the order of the file.
    ///
    /// # Errors
    /// Naming the node: anything in it that is not understood, or that its inputs do not fit.
    pub fn lower(&self, node: &Node, index: usize, inputs: Vec<Input>, setting: &Setting) -> Result<Lowered> {
        let opset = setting.opset;
        let fail = |problem: String| Error::invalid(node.label(), problem);
        self.check_arity(node, &inputs, opset).map_err(fail)?;
        let attributes = attributes::resolve(self.attributes, opset, &node.attributes).map_err(fail)?;
        // With constants alone the first input stands as a value, so that an operator need not know the difference.
        let folding = match inputs.first() {
            Some(Input::Constant(t)) if inputs.iter().all(|i| !matches!(i, Input::Value { .. })) => {
                Some(t.clone())
            }
            _ => None,
        };
        // what is folded into a constant is computed once and for all uses
        let precision = if folding.is_some() { Precision::F32 } else { setting.precision };
        let (convs, batch) = (setting.convs, setting.batch);
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
        };
        let Some(first) = folding else { return (self.lower)(&call) };
        call.inputs[0] =
            Input::Value { shape: first.dims().to_vec(), per_image: false, dtype: first.dtype() };
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

    /// Whether the node has as many inputs and outputs as the operator does in this opset.
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
