//! One pass over memory: a single operator, or several fused ones.

use std::sync::Arc;

use crate::Error;
use crate::ops::Exec;

/// A unit of execution of a segment.
pub(super) struct Action {
    /// The slots read; `true` where this action is the last reader.
    pub reads: Vec<(usize, bool)>,
    pub writes: usize,
    pub exec: Arc<dyn Exec>,
    /// For a product whose large operand is not saved: the action that makes the operand and can recompute it.
    pub recompute: Option<usize>,
    /// Index among the file's nodes.
    pub node: usize,
    /// Name and operator of every node in it, for messages.
    pub names: Vec<(String, &'static str)>,
}

impl Action {
    /// Name and operator of every node, for errors.
    pub fn name(&self) -> String {
        let each = |(node, operator): &(String, &str)| format!("\"{node}\" ({operator})");
        self.names.iter().map(each).collect::<Vec<_>>().join(" to ")
    }

    pub fn fault(&self, error: Error) -> Error {
        match error {
            Error::Internal(problem) => Error::Internal(format!("{}: {problem}", self.name())),
            other => other,
        }
    }
}
