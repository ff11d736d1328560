//! The network, lowered for one input shape: constants folded, every shape known, the order of execution fixed. A
//! [`Graph`] is run through [`Segment`]s: the whole of it, or the two parts that [`Graph::cut`] makes at an edge.
//!
//! Values that depend on the image are float32. Segments accept tensors in any memory layout and return images, (N,
//! C, H, W), channels-last: one (N, H, W, C) block seen through a permutation.

mod action;
mod cut;
mod gpu;
mod join;
mod lower;
mod score_form;
mod scores;
mod segment;
mod tape;
mod turn;

use std::{fmt, sync::Arc};

use candle_core::Tensor;

pub use cut::{Cut, Edge};
pub use score_form::ScoreForm;
pub use scores::{Scores, Wanted, choose};
pub use segment::{Segment, VjpOptions};
pub use tape::Tape;

use crate::kernels::Precision;
use crate::onnx::tensor::DataType;
use crate::ops::{Axes, Exec};
pub use crate::ops::{Layout, Role};

/// Index of a value that depends on the image.
pub type ValueId = usize;

/// A network lowered for one input shape.
pub struct Graph {
    values: Vec<Value>,
    steps: Vec<Step>,
    input: ValueId,
    output: ValueId,
    logits: ValueId,
    ends: lower::Ends,
    /// Precision of the convolutions.
    precision: Precision,
    shared: Arc<lower::SharedConstants>,
}

/// A value that depends on the image.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its name in the file.
    pub name: String,
    /// Batch included.
    pub shape: Vec<usize>,
    /// What the file holds; it is computed as float32.
    pub elem: DataType,
    /// What its dimensions hold.
    pub axes: Axes,
    /// Row i of dimension 0 depends on image i alone.
    pub per_image: bool,
}

impl Value {
    /// How its elements are arranged.
    pub fn layout(&self) -> Layout {
        Layout::of(&self.axes)
    }
}

/// Computes one output of a node. A node with several outputs becomes several steps with the same operands.
pub struct Step {
    /// Index among the file's nodes, or [`NOT_IN_FILE`].
    pub node: usize,
    /// The node's name; may be empty.
    pub name: String,
    /// The operator's type.
    pub op_type: &'static str,
    /// The node's inputs, in the order of the file.
    pub operands: Vec<Operand>,
    /// The value it computes.
    pub output: ValueId,
    exec: Arc<dyn Exec>,
}

/// An input of a [`Step`].
#[derive(Clone, Debug)]
pub enum Operand {
    /// Depends on the image.
    Value(ValueId),
    /// The same for every image.
    Constant(Tensor),
    /// An optional input that is not given.
    Absent,
}

/// [`Step::node`] of a step that no node of the main graph is: it lays the images out as the file takes them, or stands
/// in a branch.
pub const NOT_IN_FILE: usize = usize::MAX;

impl Step {
    /// The values it reads, in the order of the operands.
    pub fn reads(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.operands.iter().filter_map(|o| if let Operand::Value(id) = o { Some(*id) } else { None })
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Graph")
            .field("input", &self.input_shape())
            .field("output", &self.output_shape())
            .finish_non_exhaustive()
    }
}

impl Graph {
    /// Shape of the input, batch included.
    pub fn input_shape(&self) -> &[usize] {
        &self.values[self.input].shape
    }

    /// Shape of the output, batch included.
    pub fn output_shape(&self) -> &[usize] {
        &self.values[self.output].shape
    }

    /// The graph's input.
    pub fn input(&self) -> ValueId {
        self.input
    }

    /// The graph's output: the file's, with a single score as those of two classes.
    pub fn output(&self) -> ValueId {
        self.output
    }

    /// The output; if that is a Sigmoid, or a Softmax or LogSoftmax over the classes, its input.
    pub fn logits(&self) -> ValueId {
        self.logits
    }

    /// A value of this graph.
    ///
    /// # Panics
    /// If `id` belongs to another graph and is out of range.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id]
    }

    /// All values, including those of dead steps.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The value with this name; None if no value that depends on the image has it.
    pub fn find_value(&self, name: &str) -> Option<ValueId> {
        self.values.iter().position(|v| v.name == name)
    }

    /// All steps in the order of execution, which is the file's.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Index of the step that computes a value; None for the input.
    pub fn producer(&self, id: ValueId) -> Option<usize> {
        self.steps.iter().position(|s| s.output == id)
    }
}
