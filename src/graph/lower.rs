//! From a file to a graph: resolves names, folds constants, hands every node to its operator.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};

use super::{Graph, NOT_IN_FILE, Operand, ScoreForm, Step, Value, ValueId};
use crate::error::printable;
use crate::kernels::Precision;
use crate::onnx::node::{Attribute, AttributeValue, Dim, Node, Subgraph, ValueInfo};
use crate::onnx::paths::Paths;
use crate::onnx::tensor::DataType;
use crate::onnx::{ImageInput, ImageLayout, Model, TO_NHWC};
use crate::ops::{self, Axes, ConvCache, Input, Operator, Output, Run, Setting, limits};
use crate::{Error, Result};

/// SharedConstants by all graphs lowered from one file: decoded initializers and packed weights.
#[derive(Default)]
pub(super) struct SharedConstants {
    initializers: Mutex<HashMap<String, Tensor>>,
    pub(super) convs: ConvCache,
}

impl SharedConstants {
    fn initializer(&self, model: &Model, name: &str) -> Result<Option<Tensor>> {
        let lock = || self.initializers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(name) {
            return Ok(Some(known.clone()));
        }
        let Some(tensor) = model.initializer(name)? else { return Ok(None) };
        let constant = ops::constant(&tensor)
            .map_err(|problem| Error::model(format!("initializer \"{}\"", printable(name)), problem))?;
        lock().insert(name.to_string(), constant.clone());
        Ok(Some(constant))
    }
}

/// Where a graph ends: the file's output of this name, taken as scores in this form.
#[derive(Clone)]
pub(super) struct Ends {
    pub output: String,
    pub form: ScoreForm,
}

/// What a name refers to.
#[derive(Clone)]
enum Binding {
    Value(ValueId),
    Constant(Tensor),
}

impl Graph {
    /// The same network for another batch size. `model` must be the one that this graph was lowered from; packed
    /// weights are shared.
    ///
    /// # Errors
    /// As [`Graph::lower`].
    pub fn lower_like(&self, model: &Model, batch: usize) -> Result<Graph> {
        self.lower_in(model, batch, self.precision)
    }

    /// [`Graph::lower_like`] with convolutions in this precision; everything else stays f32, as [`Graph::lower`] has
    /// it.
    /// Values and steps are the same as this graph's, so a tape of one is valid for the other.
    ///
    /// # Errors
    /// As [`Graph::lower`].
    pub fn lower_in(&self, model: &Model, batch: usize, precision: Precision) -> Result<Graph> {
        let mut input = self.input_shape().to_vec();
        if let Some(first) = input.first_mut() {
            *first = batch;
        }
        lower(model, &input, precision, &self.shared, self.ends.clone())
    }
}

pub(super) fn lower(
    model: &Model,
    input: &[usize],
    precision: Precision,
    shared: &Arc<SharedConstants>,
    ends: Ends,
) -> Result<Graph> {
    let file = printable(model.name());
    let fail = |problem: String| Error::model(&file, problem);
    let opset = model.opset();
    if !(limits::OLDEST_OPSET..=limits::NEWEST_OPSET).contains(&opset) {
        return Err(fail(format!(
            "opset {opset}; supported are {} to {}",
            limits::OLDEST_OPSET,
            limits::NEWEST_OPSET
        )));
    }
    let paths = Paths::of(model);
    let needed = paths.needed(&ends.output);
    // what other outputs need besides is neither run nor judged
    let used = || model.nodes().iter().enumerate().filter(|(index, _)| needed[*index]);
    ops::check_all_known(used().map(|(_, node)| node), model.name())?;
    let declared = only_input(model.inputs()).map_err(fail)?;
    let in_file = in_file(model, input);
    let batch = fits(declared, &in_file).map_err(fail)?;

    let mut lowering = Lowering {
        model,
        shared,
        needed: &needed,
        output: &ends.output,
        bindings: HashMap::new(),
        values: vec![],
        steps: vec![],
    };
    let elem_type = declared.elem_type.unwrap_or(DataType::Float);
    let channels_last = ImageInput::of(model).is_ok_and(|form| form.layout == ImageLayout::Nhwc);
    let id = lowering.input(&declared.name, elem_type, input, channels_last && input.len() == 4)?;
    let stored = |name: &str| stored(model, &paths, name);
    let setting = Setting { opset, batch, convs: &shared.convs, precision, stored: &stored };
    for (index, node) in used() {
        lowering.node(node, index, &setting)?;
    }
    let output = match lowering.resolve(&ends.output)? {
        Some(Binding::Value(id)) => id,
        Some(Binding::Constant(_)) => {
            return Err(fail(format!("output \"{}\" does not depend on the input", printable(&ends.output))));
        }
        None => return Err(fail(format!("nothing makes the output \"{}\"", printable(&ends.output)))),
    };
    let logits = lowering.logits(output);
    let [output, logits] = lowering.of_two_classes(ends.form, output, logits)?;
    let Lowering { values, steps, .. } = lowering;
    Ok(Graph { values, steps, input: id, output, logits, ends, precision, shared: shared.clone() })
}

/// What a constant of the file holds: an initializer, or a Constant's tensor.
fn stored(model: &Model, paths: &Paths<'_>, name: &str) -> Option<DataType> {
    if let Some((elem, _)) = model.initializer_shape(name) {
        return Some(elem);
    }
    let node = paths.maker(name).filter(|node| node.op_type == "Constant")?;
    node.attributes.iter().find_map(|attribute| match &attribute.value {
        AttributeValue::Tensor(tensor) => Some(tensor.data.data_type()),
        _ => None,
    })
}

/// The only input; an error unless there is exactly one.
fn only_input(all: &[ValueInfo]) -> Result<&ValueInfo, String> {
    match all {
        [only] => Ok(only),
        _ => {
            let names: Vec<_> = all.iter().map(|v| format!("\"{}\"", printable(&v.name))).collect();
            Err(format!("{} inputs ({}), expected one", all.len(), names.join(", ")))
        }
    }
}

/// The shape in the file of the images `input`, (N, C, H, W); another input is as it is.
fn in_file(model: &Model, input: &[usize]) -> Vec<usize> {
    match (input, ImageInput::of(model)) {
        (&[n, c, h, w], Ok(form)) => form.layout.shape([n, c, h, w]).to_vec(),
        _ => input.to_vec(),
    }
}

/// Checks a shape against the declared one. The batch may differ from a fixed one in the file: then both are
/// returned, (declared, given).
fn fits(declared: &ValueInfo, shape: &[usize]) -> Result<Option<(usize, usize)>, String> {
    let name = printable(&declared.name);
    let images = [DataType::Float, DataType::Float16, DataType::Uint8];
    if let Some(other) = declared.elem_type.filter(|t| !images.contains(t)) {
        return Err(format!("input \"{name}\" holds {other:?}, expected Float, Float16 or Uint8"));
    }
    let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    if shape.len() > limits::RANK || !elements.is_some_and(|n| (1..=limits::VALUE).contains(&n)) {
        return Err(format!("an input of shape {shape:?}"));
    }
    let Some(dims) = &declared.shape else { return Ok(None) };
    let agrees = |(i, (dim, &size)): (usize, (&Dim, &usize))| match dim {
        Dim::Fixed(d) => *d == size || i == 0,
        Dim::Symbol(_) => true,
    };
    if dims.len() != shape.len() || !dims.iter().zip(shape).enumerate().all(agrees) {
        let dims: Vec<String> = dims.iter().map(Dim::to_string).collect();
        return Err(format!("input \"{name}\" has shape [{}], but was given {shape:?}", dims.join(", ")));
    }
    Ok(match (dims.first(), shape.first()) {
        (Some(Dim::Fixed(written)), Some(&actual)) if *written != actual => Some((*written, actual)),
        _ => None,
    })
}

struct Lowering<'a> {
    model: &'a Model,
    shared: &'a SharedConstants,
    /// By node of the file: whether it is lowered.
    needed: &'a [bool],
    /// Name of the output that is lowered.
    output: &'a str,
    bindings: HashMap<String, Binding>,
    values: Vec<Value>,
    steps: Vec<Step>,
}

impl Lowering<'_> {
    /// The value that the graph is given, (N, C, H, W), and the file's input made of it.
    fn input(
        &mut self,
        name: &str,
        elem_type: DataType,
        shape: &[usize],
        channels_last: bool,
    ) -> Result<ValueId> {
        let given = if channels_last { format!("{name} as (N, C, H, W)") } else { name.to_owned() };
        let id = self.value(&given, shape.to_vec(), !shape.is_empty(), ops::of_images(shape));
        let mut in_file = id;
        if channels_last {
            let perm = Attribute { name: "perm".into(), value: AttributeValue::Ints(TO_NHWC.to_vec()) };
            in_file = self.add("Transpose", vec![perm], id, &[], name)?;
        }
        self.values[in_file].elem = elem_type;
        self.bind(name, Binding::Value(in_file))?;
        Ok(id)
    }

    /// A step that the file does not have, which makes the value `name` of `from` and constants.
    fn add(
        &mut self,
        op_type: &str,
        attributes: Vec<Attribute>,
        from: ValueId,
        constants: &[Tensor],
        name: &str,
    ) -> Result<ValueId> {
        let node = Node {
            name: self.values[from].name.clone(),
            op_type: op_type.to_owned(),
            domain: String::new(),
            inputs: vec![String::new(); 1 + constants.len()],
            outputs: vec![name.to_owned()],
            attributes,
        };
        let operator = ops::find("", op_type).ok_or_else(|| Error::internal(format!("no {op_type}")))?;
        let Value { shape, per_image, elem, axes, .. } = self.values[from].clone();
        let mut inputs = vec![Input::value(shape, per_image, elem, axes)];
        inputs.extend(constants.iter().cloned().map(Input::Constant));
        let setting = Setting {
            opset: limits::NEWEST_OPSET,
            batch: None,
            convs: &self.shared.convs,
            precision: Precision::F32,
            stored: &|_| None,
        };
        let outputs = operator.lower(&node, NOT_IN_FILE, inputs, &setting)?;
        let Some(Output::Run(Run { shape, per_image, axes, exec, .. })) = outputs.into_iter().next() else {
            return Err(Error::internal(format!("an added {op_type} is no step")));
        };
        let output = self.value(name, shape, per_image, axes);
        let mut operands = vec![Operand::Value(from)];
        operands.extend(constants.iter().cloned().map(Operand::Constant));
        self.steps.push(Step {
            node: NOT_IN_FILE,
            name: node.name,
            op_type: operator.name,
            operands,
            output,
            exec,
        });
        Ok(output)
    }

    /// Output and logits as scores of two classes, where the file has one number for an image.
    fn of_two_classes(&mut self, form: ScoreForm, output: ValueId, logits: ValueId) -> Result<[ValueId; 2]> {
        if form == ScoreForm::EachClass {
            return Ok([output, logits]);
        }
        let mut both = |from: ValueId, factors: [f32; 2], offsets: [f32; 2]| {
            let name = self.values[from].name.clone();
            let row = self.add("Flatten", vec![], from, &[], &format!("{name} as a row"))?;
            let (factors, offsets) =
                (Tensor::new(&[factors], &Device::Cpu)?, Tensor::new(&offsets, &Device::Cpu)?);
            self.add("Gemm", vec![], row, &[factors, offsets], &format!("{name} of two classes"))
        };
        // the scores of two classes whose difference is the logit
        let logits = both(logits, [0.0, 1.0], [0.0; 2])?;
        match form {
            ScoreForm::Probability => Ok([both(output, [-1.0, 1.0], [1.0, 0.0])?, logits]),
            _ => Ok([logits, logits]),
        }
    }

    fn value(&mut self, name: &str, shape: Vec<usize>, per_image: bool, axes: Axes) -> ValueId {
        let elem = DataType::Float;
        self.values.push(Value { name: name.to_string(), shape, elem, axes, per_image });
        self.values.len() - 1
    }

    fn bind(&mut self, name: &str, binding: Binding) -> Result<()> {
        match self.bindings.insert(name.to_string(), binding) {
            None => Ok(()),
            Some(_) => Err(Error::model(
                printable(self.model.name()),
                format!("the value \"{}\" is made twice", printable(name)),
            )),
        }
    }

    fn resolve(&self, name: &str) -> Result<Option<Binding>> {
        if let Some(binding) = self.bindings.get(name) {
            return Ok(Some(binding.clone()));
        }
        Ok(self.shared.initializer(self.model, name)?.map(Binding::Constant))
    }

    /// The branch that an If with a constant condition takes: 0 where it is true, and the graph.
    fn branch<'n>(&self, node: &'n Node) -> Result<Option<(usize, &'n Subgraph)>> {
        let (true, [condition]) = (node.op_type == "If" && node.domain.is_empty(), node.inputs.as_slice())
        else {
            return Ok(None);
        };
        let Some(Binding::Constant(condition)) = self.resolve(condition)? else { return Ok(None) };
        let holds = match condition.dtype() {
            DType::I64 if condition.elem_count() == 1 => condition.flatten_all()?.to_vec1::<i64>()?[0] != 0,
            _ => return Err(Error::model(node.label(), "its condition is not one boolean")),
        };
        let (branch, name) = if holds { (0, "then_branch") } else { (1, "else_branch") };
        let graph = node.attributes.iter().find(|a| a.name == name).map(|a| &a.value);
        let Some(AttributeValue::Graph(graph)) = graph else {
            return Err(Error::model(
                node.label(),
                format!("its `{name}` is missing, or holds what is not read"),
            ));
        };
        match graph.inputs.is_empty() && graph.outputs.len() == node.outputs.len() {
            true => Ok(Some((branch, graph))),
            false => {
                Err(Error::model(node.label(), format!("its `{name}` does not return what the node does")))
            }
        }
    }

    /// Lowers the nodes of a branch in the place of the node `index`, whose outputs its own become.
    fn inline(
        &mut self,
        node: &Node,
        index: usize,
        (branch, graph): (usize, &Subgraph),
        setting: &Setting,
    ) -> Result<()> {
        /// Most nodes of a branch.
        const MOST: usize = 1 << 12;
        let fail = |problem: String| Error::model(node.label(), problem);
        let mut own = Vec::new();
        for tensor in &graph.initializers {
            let constant = ops::constant(tensor)
                .map_err(|problem| fail(format!("its constant \"{}\" {problem}", printable(&tensor.name))))?;
            self.bind(&tensor.name, Binding::Constant(constant))?;
            own.push(&tensor.name);
        }
        let made = self.values.len();
        for (place, inner) in graph.nodes.iter().enumerate() {
            // a number that no other node has, of the file or of another branch
            let number = index.checked_mul(2).and_then(|i| (i + branch).checked_mul(MOST));
            let number = number.and_then(|i| i.checked_add(self.model.nodes().len() + place));
            let number =
                number.filter(|_| place < MOST).ok_or_else(|| fail("too many nodes in a branch".into()))?;
            self.node(inner, number, setting)?;
            own.extend(inner.outputs.iter().filter(|name| !name.is_empty()));
        }
        let mut results = Vec::new();
        for name in &graph.outputs {
            let result = self.resolve(name)?;
            results.push(result.ok_or_else(|| fail(format!("nothing makes \"{}\"", printable(name))))?);
        }
        for name in own {
            self.bindings.remove(name);
        }
        // a branch's names are not the file's
        for value in &mut self.values[made..] {
            value.name = format!("{} in {}", value.name, node.label());
        }
        for (name, result) in node.outputs.iter().zip(results).filter(|(name, _)| !name.is_empty()) {
            if let Binding::Value(id) = &result
                && *id >= made
            {
                self.values[*id].name.clone_from(name);
            }
            self.bind(name, result)?;
        }
        Ok(())
    }

    fn node(&mut self, node: &Node, index: usize, setting: &Setting) -> Result<()> {
        if let Some(branch) = self.branch(node)? {
            return self.inline(node, index, branch, setting);
        }
        let operator = ops::find(&node.domain, &node.op_type)
            .ok_or_else(|| Error::model(node.label(), "an operator that is not supported"))?;
        let (operands, inputs) = self.operands(node)?;
        let outputs = operator.lower(node, index, inputs, setting)?;
        self.check_unread(node, operator, outputs.len())?;
        for (name, output) in node.outputs.iter().zip(outputs).filter(|(name, _)| !name.is_empty()) {
            match output {
                Output::Constant(tensor) => self.bind(name, Binding::Constant(tensor))?,
                Output::Run(Run { shape, per_image, elem, axes, exec }) => {
                    let output = self.value(name, shape, per_image, axes);
                    self.values[output].elem = elem;
                    self.steps.push(Step {
                        node: if index < self.model.nodes().len() { index } else { NOT_IN_FILE },
                        name: node.name.clone(),
                        op_type: operator.name,
                        operands: operands.clone(),
                        output,
                        exec,
                    });
                    self.bind(name, Binding::Value(output))?;
                }
            }
        }
        Ok(())
    }

    /// A node's inputs in two forms: for its steps and for its operator.
    fn operands(&self, node: &Node) -> Result<(Vec<Operand>, Vec<Input>)> {
        let operand = |name: &String| {
            if name.is_empty() {
                return Ok((Operand::Absent, Input::Absent));
            }
            match self.resolve(name)? {
                Some(Binding::Value(id)) => {
                    // computed as float32 whatever the file holds
                    let Value { shape, per_image, elem, axes, .. } = self.values[id].clone();
                    Ok((Operand::Value(id), Input::value(shape, per_image, elem, axes)))
                }
                Some(Binding::Constant(t)) => Ok((Operand::Constant(t.clone()), Input::Constant(t))),
                None => {
                    let problem = format!("nothing makes its input \"{}\"", printable(name));
                    Err(Error::model(node.label(), problem))
                }
            }
        };
        node.inputs.iter().map(operand).collect()
    }

    /// Refuses a node if an output that its operator does not compute is read.
    fn check_unread(&self, node: &Node, operator: &Operator, computed: usize) -> Result<()> {
        for (i, name) in node.outputs.iter().enumerate().skip(computed).filter(|(_, n)| !n.is_empty()) {
            let mut readers = self.model.nodes().iter().zip(self.needed).filter(|(_, needed)| **needed);
            let reader = match readers.find(|(n, _)| n.inputs.contains(name)) {
                Some((reader, _)) => reader.label(),
                None if self.output == name => "the graph".to_string(),
                None => continue,
            };
            let known = operator.not_computed.get(i - computed);
            let known = known.map_or(String::new(), |known| format!(" ({known})"));
            return Err(Error::model(
                node.label(),
                format!(
                    "its output {i} \"{}\"{known} is not computed, but {reader} reads it",
                    printable(name)
                ),
            ));
        }
        Ok(())
    }

    /// See [`Graph::logits`].
    fn logits(&self, output: ValueId) -> ValueId {
        let classes = |id: ValueId| self.values[id].shape.iter().skip(1).product::<usize>();
        let mut at = output;
        loop {
            let Some(step) = self.steps.iter().find(|s| s.output == at) else { return output };
            let Some(from) = step.reads().next() else { return output };
            // a row that sums to one is a distribution over classes only if each row is an image
            let of_images = self.values[at].per_image && classes(from) == classes(at);
            match step.op_type {
                "Identity" | "Dropout" | "Cast" => at = from,
                "Flatten" | "Reshape" | "Squeeze" if of_images => at = from,
                "Softmax" | "LogSoftmax" if of_images && self.sums_over_classes(step, from) => return from,
                "Sigmoid" if of_images => return from,
                _ => return output,
            }
        }
    }

    /// Whether a Softmax sums over all that an image has.
    fn sums_over_classes(&self, step: &Step, from: ValueId) -> bool {
        let shape = &self.values[from].shape;
        let flattens = self.model.opset() < 13;
        let given = self.model.nodes().get(step.node).and_then(|node| {
            node.attributes.iter().find_map(|a| match a.value {
                AttributeValue::Int(axis) if a.name == "axis" => Some(axis),
                _ => None,
            })
        });
        let axis = given.unwrap_or(if flattens { 1 } else { -1 });
        let axis = if axis < 0 { axis + shape.len() as i64 } else { axis };
        let Some(along) = usize::try_from(axis).ok().filter(|axis| *axis > 0).and_then(|a| shape.get(a..))
        else {
            return false;
        };
        let along = if flattens { along.iter().product() } else { along.first().copied().unwrap_or(1) };
        along == shape.iter().skip(1).product::<usize>()
    }
}
