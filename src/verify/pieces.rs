//! A network taken apart: the judge's parts of a file between values that the executor knows too, each run from the
//! executor's values. Proves what outputs cannot where rounding grows too far, and finds where two runtimes part.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    rc::Rc,
};

use rayon::prelude::*;
use tract_onnx::pb::{GraphProto, ModelProto};

use super::{
    cut::{Port, cut, makers, reads},
    judge::Judge,
    parity,
    reference::{LAYER, Reference},
    rounding::{self, CEILING, median},
    runtime::{Form, Value},
};
use crate::{
    Error, Result,
    error::printable,
    graph::ValueId,
    layer::Layer,
    onnx::{Model, tensor::DataType},
    rewrite::Record,
    site::{self, SitePlace},
};

/// What is compared: a file in the judge with a network in the executor.
#[derive(Clone, Copy)]
pub struct Claim<'a> {
    /// The file that the judge runs.
    pub file: &'a Model,
    /// The original in the executor.
    pub network: &'a Reference<'a>,
    /// The layer that the file has besides.
    pub layer: Option<(&'a SitePlace, &'a Layer)>,
}

/// A part of the file whose values agree.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// The values that it starts from and those that it ends with.
    pub from: String,
    pub to: String,
    /// Largest difference of an image, relative to the largest entry of the value.
    pub difference: f64,
    /// The most that an image was allowed.
    pub allowed: f64,
}

/// Why pieces prove nothing.
pub enum Fault {
    /// The runtimes part.
    Parted(Box<Parted>),
    Error(Error),
}

impl From<Error> for Fault {
    fn from(e: Error) -> Self {
        Self::Error(e)
    }
}

/// The smallest part found on which two runtimes disagree though they start from the same values.
#[derive(Clone, Debug)]
pub struct Parted {
    /// The value where they part.
    pub value: String,
    /// The nodes of the part, as messages name them.
    pub nodes: Vec<String>,
    pub form: Form,
    pub difference: f64,
    pub allowed: f64,
    /// The part as a model of its own.
    pub model: ModelProto,
    /// What it is fed, what the executor and what the judge make of it.
    pub inputs: Vec<(Port, Value)>,
    pub expected: Vec<(Port, Value)>,
    pub found: Vec<Value>,
}

impl Parted {
    /// For messages.
    pub fn text(&self) -> String {
        let made = match self.nodes.as_slice() {
            [one] => format!("made by {one}"),
            [first, .., last] => format!("between {first} and {last}"),
            [] => "made by no node".to_owned(),
        };
        format!(
            "they part at the value \"{}\", {made}: {:.1e} apart from the same values before it, {:.0e} allowed",
            printable(&self.value),
            self.difference,
            self.allowed
        )
    }
}

/// A file and the values that both runtimes know in it.
pub struct Apart<'a> {
    claim: Claim<'a>,
    judge: &'a Judge<'a>,
    model: ModelProto,
    line: Line,
    /// Images in batches, each filled up with its last image.
    batches: Vec<Vec<f32>>,
    batch: usize,
    /// The executor's values at a position, a batch each.
    known: RefCell<HashMap<usize, Rc<Vec<Vec<Value>>>>>,
}

/// Difference of a part from one position to another.
#[derive(Default)]
struct Compared {
    difference: f64,
    allowed: f64,
    /// Of the value, batch and row that is furthest beyond what it is allowed.
    worst: Worst,
}

impl Compared {
    /// Takes in a value's differences by row, and how far the rows moved in each direction.
    fn add(&mut self, port: usize, batch: usize, apart: &[f64], moved: &[Vec<f64>]) {
        for (row, &difference) in apart.iter().enumerate() {
            let rounded = median(moved.iter().filter_map(|rows| rows.get(row).copied()).collect());
            let one = Worst { port, batch, difference, allowed: rounding::allowed(rounded) };
            self.difference = self.difference.max(difference);
            self.allowed = self.allowed.max(one.allowed);
            if one.beyond() > self.worst.beyond() || self.worst.allowed == 0.0 {
                self.worst = one;
            }
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Worst {
    port: usize,
    batch: usize,
    difference: f64,
    allowed: f64,
}

impl Worst {
    fn is_beyond(&self) -> bool {
        self.difference > self.allowed || self.difference.is_infinite()
    }

    fn beyond(&self) -> f64 {
        if self.difference.is_finite() {
            self.difference / self.allowed.max(f64::MIN_POSITIVE)
        } else {
            f64::INFINITY
        }
    }
}

impl<'a> Apart<'a> {
    /// Takes `claim` apart for the images `x`, (n, C, H, W) row-major, normalised.
    ///
    /// # Errors
    /// A file that the judge cannot read.
    pub fn new(claim: Claim<'a>, judge: &'a Judge<'a>, x: &[f32]) -> Result<Self> {
        let model = judge.decoded(claim.file)?;
        let graph = model.graph.as_ref().ok_or_else(|| Error::internal("a model without a graph"))?;
        let line = Line::of(graph, &claim)?;
        let numel = judge.input_shape()[1..].iter().product::<usize>().max(1);
        let n = x.len() / numel;
        let batch = judge.pieces_at_a_time(n).max(1);
        let batches = x.chunks(batch * numel).map(|some| {
            let mut some = some.to_vec();
            while some.len() < batch * numel {
                some.extend_from_within(some.len() - numel..);
            }
            some
        });
        let batches = batches.collect();
        Ok(Self { claim, judge, model, line, batches, batch, known: RefCell::default() })
    }

    /// Compares prefix, layer and suffix, or the whole where there is no layer, each from the executor's values; what
    /// rounding makes too much of in parts.
    ///
    /// # Errors
    /// [`Fault::Parted`] with the smallest part on which they disagree; a single node of which rounding makes too much.
    pub fn prove(&self) -> Result<Vec<Piece>, Fault> {
        let mut proved = Vec::new();
        for pair in self.line.ends.windows(2) {
            self.prove_between(pair[0], pair[1], &mut proved)?;
        }
        Ok(proved)
    }

    fn prove_between(&self, from: usize, to: usize, proved: &mut Vec<Piece>) -> Result<(), Fault> {
        let compared = self.compare(Form::Plain, from, to)?;
        // what is not finite says where it is at once
        if compared.allowed <= CEILING || compared.difference.is_infinite() {
            if compared.worst.is_beyond() {
                let parted = self.smallest(Form::Plain, from, to)?;
                return Err(Fault::Parted(Box::new(parted)));
            }
            proved.push(Piece {
                from: self.line.name(from),
                to: self.line.name(to),
                difference: compared.difference,
                allowed: compared.allowed,
            });
            return Ok(());
        }
        let Some(middle) = self.line.middle(from, to) else {
            let problem = format!(
                "rounding alone moves the value {} by {:.1e}: nothing can be said of what makes it",
                self.line.name(to),
                compared.allowed / rounding::TIMES
            );
            return Err(Error::check("judge", problem).into());
        };
        self.prove_between(from, middle, proved)?;
        self.prove_between(middle, to, proved)
    }

    /// Where the runtimes part in `form`; None if they agree from the same values.
    ///
    /// # Errors
    /// Errors of either runtime.
    pub fn parted(&self, form: Form) -> Result<Option<Parted>> {
        let (Some(&from), Some(&to)) = (self.line.cuts.first(), self.line.cuts.last()) else {
            return Ok(None);
        };
        match self.compare(form, from, to)?.worst.is_beyond() {
            true => self.smallest(form, from, to).map(Some),
            false => Ok(None),
        }
    }

    /// The smallest part on which they disagree, found by halving; they disagree on the whole.
    fn smallest(&self, form: Form, mut from: usize, mut to: usize) -> Result<Parted> {
        while let Some(middle) = self.line.middle(from, to) {
            if self.compare(form, from, middle)?.worst.is_beyond() {
                to = middle;
            } else if self.compare(form, middle, to)?.worst.is_beyond() {
                from = middle;
            } else {
                break; // it builds up
            }
        }
        let Worst { port, batch, difference, allowed } = self.compare(form, from, to)?.worst;
        let (model, sources, targets) = self.part(from, to)?;
        let inputs = self.values(from)?[batch].clone();
        let found = self.judge.piece(form, &model)?.run(&inputs)?;
        let expected = self.expected(from, to)?.swap_remove(batch);
        let value = targets.get(port).map_or_else(|| self.line.name(to), |port| port.name.clone());
        let nodes = model.graph.iter().flat_map(|graph| &graph.node).map(|node| {
            let name = if node.name.is_empty() { node.output.first() } else { Some(&node.name) };
            let name = name.map(|name| printable(name).to_string()).unwrap_or_default();
            format!("node \"{name}\" ({})", printable(&node.op_type))
        });
        let nodes = nodes.collect();
        let inputs = sources.into_iter().zip(inputs).collect();
        let expected = targets.into_iter().zip(expected).collect();
        Ok(Parted { value, nodes, form, difference, allowed, model, inputs, expected, found })
    }

    /// The judge's values at `to` from the executor's at `from`, beside the executor's.
    fn compare(&self, form: Form, from: usize, to: usize) -> Result<Compared> {
        let (sources, targets) = (self.line.ports(from), self.targets(from, to));
        let mut all = Compared::default();
        if targets.is_empty() {
            return Ok(all);
        }
        let piece = self.judge.piece(form, &self.part(from, to)?.0)?;
        let (inputs, images) = (self.values(from)?, self.batch);
        for (batch, expected) in self.expected(from, to)?.iter().enumerate() {
            let inputs = &inputs[batch];
            let (found, moved) = rayon::join(
                || piece.run(inputs),
                || {
                    let run = |direction| piece.run(&moved(&sources, inputs, images, direction));
                    (0..rounding::MOVES).into_par_iter().map(run).collect::<Result<Vec<_>>>()
                },
            );
            let (found, moved) = (found?, moved?);
            for (port, target) in targets.iter().enumerate() {
                let missing = || Error::internal("a part without its output");
                let floor = if target.name == self.line.output { 1e-3 } else { 0.0 };
                let found = found.get(port).ok_or_else(missing)?;
                let apart = relative(found, expected.get(port).ok_or_else(missing)?, images, floor)?;
                let moved = moved.iter().filter_map(|values| values.get(port));
                let moved = moved.map(|value| relative(value, found, images, floor));
                all.add(port, batch, &apart, &moved.collect::<Result<Vec<_>>>()?);
            }
        }
        Ok(all)
    }

    /// The part of the file from one position to another for a batch, its inputs and its outputs.
    fn part(&self, from: usize, to: usize) -> Result<(ModelProto, Vec<Port>, Vec<Port>)> {
        let shaped = |ports: Vec<Port>, values: Option<&Vec<Value>>| -> Vec<Port> {
            let shapes = values.into_iter().flatten().map(|value| value.shape.clone());
            ports.into_iter().zip(shapes).map(|(port, shape)| Port { shape, ..port }).collect()
        };
        let sources = shaped(self.line.ports(from), self.values(from)?.first());
        let targets = shaped(self.targets(from, to), self.expected(from, to)?.first());
        Ok((cut(&self.model, self.claim.file, &sources, &targets), sources, targets))
    }

    /// What lives at `to` and not yet at `from`.
    fn targets(&self, from: usize, to: usize) -> Vec<Port> {
        let before = self.line.ports(from);
        self.line.ports(to).into_iter().filter(|port| !before.contains(port)).collect()
    }

    /// The executor's values of [`targets`](Self::targets), by batch.
    fn expected(&self, from: usize, to: usize) -> Result<Vec<Vec<Value>>> {
        let before = self.line.ports(from);
        let new: Vec<bool> = self.line.ports(to).iter().map(|port| !before.contains(port)).collect();
        let of = |values: &Vec<Value>| {
            values.iter().zip(&new).filter(|(_, new)| **new).map(|(v, _)| v.clone()).collect()
        };
        Ok(self.values(to)?.iter().map(of).collect())
    }

    /// The executor's values at a position, by batch.
    fn values(&self, position: usize) -> Result<Rc<Vec<Vec<Value>>>> {
        if let Some(known) = self.known.borrow().get(&position) {
            return Ok(known.clone());
        }
        let wanted = self.line.ids(position);
        let of = |x: &Vec<f32>| self.claim.network.values(self.claim.layer, x, self.batch, &wanted);
        let values = Rc::new(self.batches.iter().map(of).collect::<Result<Vec<_>>>()?);
        self.known.borrow_mut().insert(position, values.clone());
        Ok(values)
    }
}

/// Inputs moved by one unit in the last place; integers stay.
fn moved(ports: &[Port], inputs: &[Value], batch: usize, direction: u32) -> Vec<Value> {
    let one = |(port, value): (&Port, &Value)| {
        if !port.elem.is_float() {
            return value.clone();
        }
        let numel = value.data.len() / batch.max(1);
        Value { shape: value.shape.clone(), data: rounding::moved(&value.data, numel, direction) }
    };
    ports.iter().zip(inputs).map(one).collect()
}

/// For each image max |a - b| / max |b|, the latter at least `floor`; one figure for all where a value does not keep
/// its images apart.
fn relative(a: &Value, b: &Value, batch: usize, floor: f64) -> Result<Vec<f64>> {
    if a.data.len() != b.data.len() {
        let problem = format!("a value has shape {:?} in the judge, {:?} in candle", a.shape, b.shape);
        return Err(Error::check("judge", problem));
    }
    let images = if b.shape.first().is_some_and(|&first| first % batch.max(1) == 0) { batch } else { 1 };
    let numel = (b.data.len() / images.max(1)).max(1);
    let one = |(a, b): (&[f32], &[f32])| {
        let scale = b.iter().fold(floor, |m: f64, &v| m.max(f64::from(v).abs()));
        match parity::apart(a, b) {
            0.0 => 0.0,
            apart => parity::quotient(apart, scale.max(f64::MIN_POSITIVE)),
        }
    };
    Ok(a.data.chunks(numel).zip(b.data.chunks(numel)).map(one).collect())
}

/// A file's nodes in their order, and what lives between them: the values that later nodes read. Values that the
/// executor does not know, such as shapes, are computed again from those that it does.
struct Line {
    /// Positions, each behind a node that makes a known value.
    cuts: Vec<usize>,
    /// Some of them: the start, before and behind the layer, the end.
    ends: Vec<usize>,
    output: String,
    /// What lives at each of `cuts`.
    alive: HashMap<usize, Vec<(Port, ValueId)>>,
}

impl Line {
    fn of(graph: &GraphProto, claim: &Claim<'_>) -> Result<Self> {
        let known = Known::of(graph, claim)?;
        let output = graph.output.first().map(|output| output.name.clone()).unwrap_or_default();
        // by node: the known values that it reads, also by way of others
        let makers = makers(graph);
        let mut behind: Vec<BTreeSet<&str>> = Vec::with_capacity(graph.node.len());
        for node in &graph.node {
            let mut own = BTreeSet::new();
            for name in reads(node) {
                match (known.id(name), makers.get(name)) {
                    (Some(_), _) => drop(own.insert(name)),
                    (None, Some(&maker)) if maker < behind.len() => own.extend(behind[maker].iter().copied()),
                    _ => {}
                }
            }
            behind.push(own);
        }
        let makes = |node: usize| {
            graph.node[node].output.iter().map(String::as_str).filter(|name| known.id(name).is_some())
        };
        let mut needed: BTreeSet<&str> = BTreeSet::from([output.as_str()]);
        let mut alive: HashMap<usize, Vec<(Port, ValueId)>> = HashMap::new();
        let mut cuts = Vec::new();
        // backward: what lives behind a node is read by a later one
        for node in (0..graph.node.len()).rev() {
            if !makes(node).any(|name| needed.contains(name)) {
                continue;
            }
            cuts.push(node + 1);
            alive.insert(node + 1, needed.iter().filter_map(|name| known.port(name)).collect());
            needed.retain(|name| !makes(node).any(|made| made == *name));
            needed.extend(behind[node].iter().copied());
        }
        cuts.push(0);
        alive.insert(0, needed.iter().filter_map(|name| known.port(name)).collect());
        cuts.reverse();
        let mut ends = vec![0];
        ends.extend(
            known.layer.into_iter().flatten().filter_map(|node| cuts.iter().rev().find(|&&cut| cut <= node)),
        );
        ends.extend(cuts.last());
        ends.dedup();
        Ok(Self { cuts, ends, output, alive })
    }

    fn ports(&self, position: usize) -> Vec<Port> {
        self.alive.get(&position).into_iter().flatten().map(|(port, _)| port.clone()).collect()
    }

    fn ids(&self, position: usize) -> Vec<ValueId> {
        self.alive.get(&position).into_iter().flatten().map(|(_, id)| *id).collect()
    }

    /// The position half way between two; None if there is none.
    fn middle(&self, from: usize, to: usize) -> Option<usize> {
        let between: Vec<usize> = self.cuts.iter().copied().filter(|&cut| from < cut && cut < to).collect();
        between.get(between.len() / 2).copied()
    }

    /// What lives at a position, for messages.
    fn name(&self, position: usize) -> String {
        let names: Vec<String> =
            self.ports(position).iter().map(|port| format!("\"{}\"", printable(&port.name))).collect();
        match names.as_slice() {
            [] => "the start".to_owned(),
            [one] => one.clone(),
            [first, rest @ ..] => format!("{first} and {} more", rest.len()),
        }
    }
}

/// Names in a file of the values that the executor knows.
struct Known<'a> {
    claim: &'a Claim<'a>,
    /// Of a layer: the value before it and the one behind it.
    around: Option<(String, String)>,
    /// The executor's value before the layer.
    edge: Option<ValueId>,
    /// Its first node, and the position behind its last.
    layer: Option<[usize; 2]>,
}

impl<'a> Known<'a> {
    fn of(graph: &GraphProto, claim: &'a Claim<'a>) -> Result<Self> {
        let Some((place, _)) = claim.layer else {
            return Ok(Self { claim, around: None, edge: None, layer: None });
        };
        let record = Record::from_metadata(claim.file.metadata());
        let names = record.map_err(|problem| Error::check("structure", problem))?.names;
        let find = |name: &str| graph.node.iter().position(|node| node.name == name);
        let found = find(&names.conv).zip(find(&names.norm)).and_then(|(first, last)| {
            let around = (graph.node[first].input.first()?.clone(), graph.node[last].output.first()?.clone());
            Some((around, [first, last + 1]))
        });
        let (around, layer) =
            found.ok_or_else(|| Error::check("structure", "the layer is not in the file"))?;
        let edge = Some(site::edge(claim.network.graph(), place)?.value);
        Ok(Self { claim, around: Some(around), edge, layer: Some(layer) })
    }

    fn id(&self, name: &str) -> Option<ValueId> {
        let graph = self.claim.network.graph();
        match &self.around {
            Some((_, behind)) if behind == name => Some(LAYER),
            Some((before, _)) if before == name => self.edge,
            _ => graph.find_value(name),
        }
    }

    fn port(&self, name: &str) -> Option<(Port, ValueId)> {
        let graph = self.claim.network.graph();
        let id = self.id(name)?;
        let value = graph.value(if id == LAYER { self.edge? } else { id });
        // bfloat16 is widened for the judge
        let elem = if value.elem == DataType::Bfloat16 { DataType::Float } else { value.elem };
        Some((Port { name: name.to_owned(), elem, shape: value.shape.clone() }, id))
    }
}
