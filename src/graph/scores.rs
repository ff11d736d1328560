//! Which output of a file holds the scores of the classes. Others (labels, features, auxiliary heads, probabilities
//! beside logits) stay in the file as they are; a file without scores is refused by what it is.

use std::sync::Arc;

use super::{Graph, ScoreForm, lower};
use crate::error::printable;
use crate::kernels::Precision;
use crate::onnx::Model;
use crate::onnx::node::{Dim, Node, ValueInfo};
use crate::onnx::paths::Paths;
use crate::onnx::tensor::DataType;
use crate::{Error, Result};

/// What is known beforehand of the output with the scores.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// Its name. None: it is found by shape and type.
    pub name: Option<&'a str>,
    /// Number of classes of the images, if they are known.
    pub classes: Option<usize>,
}

/// The output with the scores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scores {
    /// Its name.
    pub name: String,
    /// Its index among the file's outputs.
    pub index: usize,
    /// What a row of it is.
    pub form: ScoreForm,
    /// Why it was chosen; empty for the only output.
    pub why: String,
}

impl Graph {
    /// Lowers `model` for one input shape, batch included, up to its output; of several that which [`choose`] finds.
    ///
    /// # Errors
    /// [`Error::Input`]: unsupported operators on the way to the output (all of them in one error), more than one
    /// input, a shape that contradicts the file, an invalid node or initializer; errors of [`choose`].
    pub fn lower(model: &Model, input: &[usize]) -> Result<Graph> {
        let output = match model.outputs() {
            [only] => only.name.clone(),
            _ => choose(model, input, Wanted::default())?.name,
        };
        let ends = lower::Ends { output, form: ScoreForm::EachClass };
        lower::lower(model, input, Precision::F32, &Arc::default(), ends)
    }

    /// Lowers `model` for one input shape, batch included, up to its scores: one for each class.
    ///
    /// # Errors
    /// As [`Graph::lower`].
    pub fn lower_scores(model: &Model, input: &[usize], scores: &Scores) -> Result<Graph> {
        let ends = lower::Ends { output: scores.name.clone(), form: scores.form };
        lower::lower(model, input, Precision::F32, &Arc::default(), ends)
    }
}

/// An output that may hold the scores.
struct Candidate<'a> {
    index: usize,
    info: &'a ValueInfo,
    /// Batch included.
    shape: Vec<usize>,
}

impl Candidate<'_> {
    fn classes(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    fn scores(&self, paths: &Paths<'_>, why: String) -> Scores {
        let form = match self.classes() {
            1 if paths.forms(&self.info.name).any(|node| node.op_type == "Sigmoid") => ScoreForm::Probability,
            1 => ScoreForm::Logit,
            _ => ScoreForm::EachClass,
        };
        Scores { name: self.info.name.clone(), index: self.index, form, why }
    }
}

/// The output with the scores of the classes, for an input of this shape, batch included. Nothing is lowered where the
/// file declares types and shapes.
///
/// # Errors
/// [`Error::Setting`] named `model_output` if the name is unknown or several outputs may be meant; [`Error::Input`] if no
/// output holds scores, which says what the file seems to be; errors of [`Graph::lower`].
pub fn choose(model: &Model, input: &[usize], wanted: Wanted<'_>) -> Result<Scores> {
    let all = model.outputs();
    let paths = Paths::of(model);
    let given = wanted.name.map(|name| all.iter().position(|o| o.name == name).ok_or(name));
    let only = match given {
        Some(Ok(index)) => Some((index, "chosen by name")),
        Some(Err(name)) => {
            let problem = format!("no output is named `{}`; {}", printable(name), listed(all));
            return Err(Error::setting("model_output", problem));
        }
        None => (all.len() == 1).then_some((0, "")),
    };
    let shared = Arc::default();
    let candidate = |index: usize| {
        let info = &all[index];
        let unclear = |e: Error| {
            let name = printable(&info.name);
            let problem = format!("output `{name}` cannot be judged ({e}): name the one that is used");
            if all.len() == 1 { e } else { Error::setting("model_output", problem) }
        };
        let (elem, shape) = held(model, input, info, &shared).map_err(unclear)?;
        match holds_scores(model, &paths, info, elem, &shape) {
            Ok(()) => Ok(Candidate { index, info, shape }),
            Err(problem) => Err(Error::model(format!("output \"{}\"", printable(&info.name)), problem)),
        }
    };
    if let Some((index, why)) = only {
        if held(model, input, &all[index], &shared).is_err() {
            // a judge may take what is not lowered here
            let (name, form) = (all[index].name.clone(), ScoreForm::EachClass);
            return Ok(Scores { name, index, form, why: why.to_owned() });
        }
        return Ok(candidate(index)?.scores(&paths, why.to_owned()));
    }
    let (mut found, mut refused) = (Vec::new(), None);
    for index in 0..all.len() {
        match candidate(index) {
            Ok(candidate) => found.push(candidate),
            Err(unclear @ Error::Setting { .. }) => return Err(unclear),
            Err(e) => refused = refused.or(Some(e)),
        }
    }
    match refused {
        Some(refused) if found.is_empty() => {
            let named = format!("none of its {} outputs holds scores of classes", all.len());
            Err(Error::model(printable(model.name()), format!("{named}: {refused}")))
        }
        _ => one_of(model, &paths, found, wanted.classes),
    }
}

/// Type and shape of an output, batch included: declared, else found by lowering.
fn held(
    model: &Model,
    input: &[usize],
    info: &ValueInfo,
    shared: &Arc<lower::SharedConstants>,
) -> Result<(DataType, Vec<usize>)> {
    let fixed = |dim: &Dim| if let Dim::Fixed(size) = dim { Some(*size) } else { None };
    let rest =
        info.shape.as_ref().and_then(|dims| dims.get(1..)?.iter().map(fixed).collect::<Option<Vec<_>>>());
    match (info.elem_type, rest) {
        (Some(elem), _) if !elem.is_float() => Ok((elem, vec![])), // labels, counts
        (Some(elem), Some(rest)) => Ok((elem, [&input[..1.min(input.len())], &rest].concat())),
        _ => {
            let ends = lower::Ends { output: info.name.clone(), form: ScoreForm::EachClass };
            let graph = lower::lower(model, input, Precision::F32, shared, ends)?;
            let value = graph.value(graph.output());
            Ok((value.elem, value.shape.clone()))
        }
    }
}

/// The scores among several outputs that have their shape and type.
fn one_of(
    model: &Model,
    paths: &Paths<'_>,
    mut found: Vec<Candidate<'_>>,
    classes: Option<usize>,
) -> Result<Scores> {
    if let Some(classes) = classes
        && found.iter().any(|f| f.classes() == classes)
    {
        found.retain(|f| f.classes() == classes);
    }
    let mut rest: Vec<Candidate<'_>> = Vec::new();
    for candidate in found {
        let source = paths.source(&candidate.info.name);
        match rest.iter_mut().find(|other| paths.source(&other.info.name) == source) {
            // logits rather than what is made of them
            Some(other) if candidate.info.name == source => *other = candidate,
            Some(_) => {}
            None => rest.push(candidate),
        }
    }
    let needed: Vec<Vec<bool>> = rest.iter().map(|f| paths.needed(&f.info.name)).collect();
    let leads_on = |i: usize| {
        let maker = model.nodes().iter().position(|n| n.outputs.contains(&rest[i].info.name));
        maker.is_some_and(|maker| (0..rest.len()).any(|j| j != i && needed[j][maker]))
    };
    let beyond = |a: usize, b: usize| {
        let own = needed[a].iter().zip(&needed[b]).map(|(a, b)| *a && !*b);
        own.zip(model.nodes()).filter(|(own, node)| *own && has_weights(node)).count()
    };
    let auxiliary =
        |i: usize| (0..rest.len()).any(|j| j != i && beyond(j, i) >= SMALL_HEAD * beyond(i, j).max(1));
    let mut keep = (0..rest.len()).map(|i| !leads_on(i) && !auxiliary(i)).collect::<Vec<_>>().into_iter();
    rest.retain(|_| keep.next().unwrap_or(false));
    match &rest[..] {
        [one] => {
            let why = format!("the scores of {} classes, by shape and type", one.classes());
            Ok(one.scores(paths, why))
        }
        several => {
            let one = |f: &Candidate<'_>| format!("`{}` {}", printable(&f.info.name), f.info.described());
            let names: Vec<String> = several.iter().map(one).collect();
            let problem = format!(
                "several outputs may hold the scores of the classes, {}: name the one that is used",
                names.join(", ")
            );
            Err(Error::setting("model_output", problem))
        }
    }
}

/// A head is auxiliary where another has as many times the operators with weights behind the place where they part.
const SMALL_HEAD: usize = 3;

fn has_weights(node: &Node) -> bool {
    matches!(node.op_type.as_str(), "Conv" | "Gemm" | "MatMul" | "FusedConv" | "FusedGemm")
}

/// The outputs as text: `logits` FLOAT (N, 10).
fn listed(all: &[ValueInfo]) -> String {
    let one = |o: &ValueInfo| {
        let elem = o.elem_type.map_or("?", |t| t.name());
        format!("`{}` {elem} {}", printable(&o.name), o.described())
    };
    format!("its outputs are {}", all.iter().map(one).collect::<Vec<_>>().join(", "))
}

/// Whether the output has the type and shape of scores; else what it seems to be.
fn holds_scores(
    model: &Model,
    paths: &Paths<'_>,
    info: &ValueInfo,
    elem: DataType,
    shape: &[usize],
) -> Result<(), String> {
    if !elem.is_float() {
        return Err(format!("holds {elem}, labels and not scores; export the model up to the scores"));
    }
    if let Some(node) = model.nodes().iter().find(|n| n.op_type == "NonMaxSuppression") {
        let label = node.label();
        return Err(format!("is a detector's ({label} picks boxes); only image classifiers are supported"));
    }
    match shape[..] {
        [_, _, h, w] if h > 1 && w > 1 => {
            return Err(format!(
                "has shape {shape:?}, a score for each pixel, as of a segmentation network; only image classifiers \
                 are supported"
            ));
        }
        [_, boxes, values] if boxes > 1 && values > 1 => {
            return Err(format!(
                "has shape {shape:?}, several rows for each image, as of a detector's boxes or of tokens; only image \
                 classifiers are supported"
            ));
        }
        _ => {}
    }
    let classes: usize = shape.iter().skip(1).product();
    if shape.len() < 2 || shape.iter().skip(1).max() != Some(&classes) {
        return Err(format!("has shape {shape:?}, expected one row of class scores for each image"));
    }
    if classes == 1 && !paths.is_score(&info.name) {
        return Err("is one number for each image, and neither a Sigmoid's nor a logit".to_owned());
    }
    if let Some(node) = paths.unit_length(&info.name) {
        return Err(format!(
            "is an embedding: {} scales it to length 1, and there are no scores of classes; only image classifiers are \
             supported",
            node.label()
        ));
    }
    Ok(())
}

/// Operators behind which each class keeps its place and the order of the classes is the same.
const MADE_OF_SCORES: &[&str] = &[
    "Identity",
    "Cast",
    "Dropout",
    "Softmax",
    "LogSoftmax",
    "Sigmoid",
    "Flatten",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
];

/// Operators whose single number for an image can be a logit.
const MAKES_LOGITS: &[&str] = &[
    "Gemm",
    "MatMul",
    "Add",
    "Conv",
    "FusedConv",
    "FusedGemm",
    "BatchNormalization",
    "GlobalAveragePool",
    "AveragePool",
    "ReduceMean",
    "DequantizeLinear",
];

impl<'a> Paths<'a> {
    /// The nodes that `value` was made by, back to the first that is none of [`MADE_OF_SCORES`].
    fn forms<'v>(&'v self, value: &str) -> impl Iterator<Item = &'a Node> + 'v {
        let made = |value: &str| self.maker(value).filter(|n| MADE_OF_SCORES.contains(&n.op_type.as_str()));
        let first = made(value);
        std::iter::successors(first, move |node| made(node.inputs.first()?))
    }

    /// The value that `value` is another form of.
    fn source<'v>(&'v self, value: &'v str) -> &'v str {
        self.forms(value).last().and_then(|node| node.inputs.first()).map_or(value, String::as_str)
    }

    /// Whether the single number `value` of an image is a probability or can be a logit.
    fn is_score(&self, value: &str) -> bool {
        let logit = |node: &Node| MAKES_LOGITS.contains(&node.op_type.as_str());
        self.forms(value).any(|node| node.op_type == "Sigmoid")
            || self.maker(self.source(value)).is_some_and(logit)
    }

    /// The node that scales the rows of `value` to length 1, if that is what makes it.
    fn unit_length<'v>(&self, mut value: &'v str) -> Option<&'a Node>
    where
        'a: 'v,
    {
        const PASSING: [&str; 5] = ["Identity", "Cast", "Flatten", "Reshape", "Squeeze"];
        loop {
            let node = self.maker(value)?;
            match node.op_type.as_str() {
                "LpNormalization" => return Some(node),
                "Div" => return self.is_length(node.inputs.get(1)?).then_some(node),
                op if PASSING.contains(&op) => value = node.inputs.first()?,
                _ => return None,
            }
        }
    }

    /// Whether a value is a Euclidean length: the root of a sum of squares, kept above a small number.
    fn is_length<'v>(&self, mut value: &'v str) -> bool
    where
        'a: 'v,
    {
        for _ in 0..8 {
            let Some(node) = self.maker(value) else { return false };
            match node.op_type.as_str() {
                "ReduceL2" => return true,
                "ReduceSum" | "ReduceSumSquare" => {
                    return node.op_type == "ReduceSumSquare"
                        || node.inputs.first().and_then(|v| self.maker(v)).is_some_and(|square| {
                            matches!(square.op_type.as_str(), "Pow" | "Mul") && square.inputs.len() == 2
                        });
                }
                "Clip" | "Max" | "Expand" | "Sqrt" | "Add" | "Unsqueeze" | "Identity" | "Cast" => {}
                "Pow" => {} // a root as a power of one half
                _ => return false,
            }
            let Some(from) = node.inputs.iter().find(|v| self.maker(v).is_some()) else { return false };
            value = from;
        }
        false
    }
}
