//! One pass over memory of a segment: an operator, or several that were joined.

use std::sync::Arc;

use crate::Error;
use crate::ops::Exec;

/// One thing to be run.
pub(super) struct Action {
    /// What is read, and whether this is the last reader.
    pub reads: Vec<(usize, bool)>,
    pub writes: usize,
    pub exec: Arc<dyn Exec>,
    /// For a product: the action that makes its large operand, and can make it again from what it keeps itself.
    pub again: Option<usize>,
    /// Place among the file's nodes.
    pub node: usize,
    /// Nodes and operators that it stands for, for people.
    pub names: Vec<(String, &'static str)>,
}

impl Action {
    /// Nodes and operators, for errors.
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
