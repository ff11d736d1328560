//! Einsum: operands are multiplied two at a time, each product one matrix product with leading dimensions. The gradient
//! of an operand is the product of the output's gradient and the other operands, which is an einsum again.

use std::collections::HashMap;

use candle_core::Tensor;

use super::array::Array;
use super::attributes::{Attribute, Kind};
use super::axes_rules;
use super::call::{Call, Input, Lowered};
use super::exec::Exec;
use super::matmul::product;
use super::operator::{Operator, arity};
use super::saved::Saved;
use crate::error::printable;
use crate::profile::Direction;
use crate::{Error, Result};

pub const EINSUM: Operator = Operator::new("Einsum", &[arity(12, 1, usize::MAX)], lower)
    .attributes(&[Attribute::required("equation", Kind::Text)])
    .limits("No letter twice in one operand.")
    .axes(axes_rules::unknown);

/// A dimension's name: a letter, or one that an ellipsis stands for (counted from the last).
type Label = u32;

/// What a term of the equation says of a value of rank `rank`; None if it does not fit.
fn labels(term: &str, rank: usize) -> Option<Vec<Label>> {
    let letters = |text: &str| -> Option<Vec<Label>> {
        text.chars().map(|c| c.is_ascii_alphabetic().then_some(c as Label)).collect()
    };
    let Some((before, behind)) = term.split_once("...") else {
        return letters(term).filter(|labels| labels.len() == rank);
    };
    let (mut all, behind) = (letters(before)?, letters(behind)?);
    let hidden = rank.checked_sub(all.len() + behind.len())?;
    all.extend((0..hidden).rev().map(|i| HIDDEN + i as Label));
    all.extend(behind);
    Some(all)
}

/// The first label that an ellipsis stands for.
const HIDDEN: Label = 1 << 16;

fn lower(call: &Call) -> Result<Lowered> {
    let equation: String = call.text("equation").unwrap_or("").chars().filter(|c| *c != ' ').collect();
    let fail = |what: &str| call.error(format!("the equation \"{}\" {what}", printable(&equation)));
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (equation.as_str(), None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != call.inputs.len() {
        return Err(fail(&format!("does not have a term for each of {} inputs", call.inputs.len())));
    }
    let mut sizes: HashMap<Label, usize> = HashMap::new();
    let mut operands = Vec::new();
    for (i, term) in terms.iter().enumerate() {
        let shape = call.float_shape(i)?;
        let labels =
            labels(term, shape.len()).ok_or_else(|| fail(&format!("does not fit input {i}, {shape:?}")))?;
        if (1..labels.len()).any(|d| labels[..d].contains(&labels[d])) {
            return Err(fail("has a letter twice in one operand, which is not supported"));
        }
        for (&label, &size) in labels.iter().zip(shape) {
            let known = sizes.entry(label).or_insert(size);
            match (*known, size) {
                (known, size) if known == size || size == 1 => {}
                (1, size) => *known = size,
                _ => return Err(fail(&format!("has two sizes for one letter, {known} and {size}"))),
            }
        }
        operands.push((labels, shape.to_vec()));
    }
    let out = match right {
        Some(right) => {
            let hidden = sizes.keys().filter(|label| **label >= HIDDEN).count();
            let letters = right.replace("...", "").chars().count();
            let rank = letters + if right.contains("...") { hidden } else { 0 };
            labels(right, rank).ok_or_else(|| fail("has an output that is not understood"))?
        }
        None => implicit(&operands),
    };
    if (0..out.len()).any(|d| out[..d].contains(&out[d]) || !sizes.contains_key(&out[d])) {
        return Err(fail("has a letter in its output that is in no input, or twice"));
    }
    let shape: Vec<usize> = out.iter().map(|label| sizes[label]).collect();
    // no intermediate is larger than all sizes together
    let all: Vec<usize> = sizes.values().copied().filter(|&size| size > 1).collect();
    let most = all.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n < 1 << 40);
    let Some(most) = most else { return Err(fail("needs too many products")) };
    check_intermediates(call, &operands, &out, &sizes)?;
    let first = |i: usize| operands[i].0.first() == out.first() && operands[i].1.first() == shape.first();
    let per_image = !shape.is_empty()
        && (0..operands.len()).all(|i| match call.input(i) {
            Input::Constant(_) => !operands[i].0.contains(&out[0]) || shape[0] == 1,
            _ => first(i),
        });
    let sides = operands.into_iter().enumerate().map(|(i, (labels, shape))| {
        let constant = match call.input(i) {
            Input::Constant(t) => Some(t.contiguous()?),
            _ => None,
        };
        Ok(Side { labels, shape, constant })
    });
    let sides = sides.collect::<Result<Vec<_>>>()?;
    call.run(shape, per_image, Einsum { sides, out, sizes, products: most as u64 })
}

/// Without an output in the equation: what is there once, in alphabetical order, behind what the ellipses stand for.
fn implicit(operands: &[(Vec<Label>, Vec<usize>)]) -> Vec<Label> {
    let all: Vec<Label> = operands.iter().flat_map(|(labels, _)| labels.iter().copied()).collect();
    let mut hidden: Vec<Label> = all.iter().copied().filter(|l| *l >= HIDDEN).collect();
    hidden.sort_unstable_by(|a, b| b.cmp(a));
    hidden.dedup();
    let once = |label: &Label| all.iter().filter(|l| *l == label).count() == 1;
    let mut letters: Vec<Label> = all.iter().copied().filter(|l| *l < HIDDEN && once(l)).collect();
    letters.sort_unstable();
    hidden.extend(letters);
    hidden
}

/// Refuses products of operands that would be larger than any value may be, in either direction.
fn check_intermediates(
    call: &Call,
    operands: &[(Vec<Label>, Vec<usize>)],
    out: &[Label],
    sizes: &HashMap<Label, usize>,
) -> Result<()> {
    let terms: Vec<&[Label]> = operands.iter().map(|(labels, _)| labels.as_slice()).collect();
    let check = |terms: &[&[Label]], out: &[Label]| -> Result<()> {
        let mut left = terms[0].to_vec();
        for k in 1..terms.len() {
            left = needed(&left, terms[k], &terms[k + 1..], out);
            call.elements(&[left.iter().map(|label| sizes[label]).product()])?;
        }
        Ok(())
    };
    check(&terms, out)?;
    for i in 0..terms.len() {
        let mut others: Vec<&[Label]> = vec![out];
        others.extend(terms.iter().enumerate().filter(|(k, _)| *k != i).map(|(_, term)| *term));
        check(&others, terms[i])?;
    }
    Ok(())
}

/// The labels of the product of `a` and `b`: those that the operands to come or the output have.
fn needed(a: &[Label], b: &[Label], to_come: &[&[Label]], out: &[Label]) -> Vec<Label> {
    let mut all = a.to_vec();
    all.extend(b.iter().filter(|label| !a.contains(label)));
    all.retain(|label| out.contains(label) || to_come.iter().any(|term| term.contains(label)));
    all
}

struct Side {
    labels: Vec<Label>,
    shape: Vec<usize>,
    constant: Option<Tensor>,
}

struct Einsum {
    sides: Vec<Side>,
    out: Vec<Label>,
    sizes: HashMap<Label, usize>,
    /// The product of all sizes.
    products: u64,
}

/// A value with the labels of its dimensions.
type Labelled = (Tensor, Vec<Label>);

impl Einsum {
    /// The value of operand `i`, without the dimensions of one element that stand for more.
    fn operand(&self, i: usize, value: &Tensor) -> Result<Labelled> {
        let side = &self.sides[i];
        let kept = self.stretched(i);
        let dims: Vec<usize> = kept.iter().map(|&d| side.shape[d]).collect();
        let labels = kept.iter().map(|&d| side.labels[d]).collect();
        Ok((value.contiguous()?.reshape(dims)?, labels))
    }

    /// The dimensions of operand `i` that are not of one element where others have more.
    fn stretched(&self, i: usize) -> Vec<usize> {
        let side = &self.sides[i];
        (0..side.shape.len()).filter(|&d| side.shape[d] == self.sizes[&side.labels[d]]).collect()
    }

    /// The product of all `operands`, with the labels `out`. A label that is in no operand is one that was summed over:
    /// the product is the same along it.
    fn multiplied(&self, operands: Vec<Labelled>, out: &[Label]) -> Result<Tensor> {
        let terms: Vec<Vec<Label>> = operands.iter().map(|(_, labels)| labels.clone()).collect();
        let mut operands = operands.into_iter();
        let mut left = operands.next().ok_or_else(|| Error::internal("an operand is missing"))?;
        for (k, right) in operands.enumerate() {
            let to_come: Vec<&[Label]> = terms[k + 2..].iter().map(Vec::as_slice).collect();
            let labels = needed(&left.1, &right.1, &to_come, out);
            left = (pair(&left, &right, &labels, &self.sizes)?, labels);
        }
        let (mut value, mut labels) = summed(&left, |label| out.contains(&label))?;
        for label in out.iter().filter(|label| !labels.contains(label)).copied().collect::<Vec<_>>() {
            let mut dims = value.dims().to_vec();
            dims.push(self.sizes[&label]);
            value = value.unsqueeze(labels.len())?.broadcast_as(dims)?;
            labels.push(label);
        }
        ordered(&value, &labels, out)
    }

    /// All operands, the values that depend on the image from `values`.
    fn operands<'a>(&self, mut values: impl Iterator<Item = &'a Array>) -> Result<Vec<Labelled>> {
        let one = |(i, side): (usize, &Side)| match &side.constant {
            Some(constant) => self.operand(i, constant),
            None => {
                let value = values.next().ok_or_else(|| Error::internal("an operand is missing"))?;
                self.operand(i, value.tensor())
            }
        };
        self.sides.iter().enumerate().map(one).collect()
    }
}

/// The value with its dimensions in the order of `to`.
fn ordered(value: &Tensor, labels: &[Label], to: &[Label]) -> Result<Tensor> {
    let places: Option<Vec<usize>> = to.iter().map(|label| labels.iter().position(|l| l == label)).collect();
    let places = places.ok_or_else(|| Error::internal("a dimension is missing"))?;
    Ok(value.permute(places)?.contiguous()?)
}

/// The value summed over the dimensions that are not kept.
fn summed((value, labels): &Labelled, keep: impl Fn(Label) -> bool) -> Result<Labelled> {
    let gone: Vec<usize> = (0..labels.len()).filter(|&d| !keep(labels[d])).collect();
    let left = labels.iter().copied().filter(|&label| keep(label)).collect();
    Ok((if gone.is_empty() { value.clone() } else { value.sum(gone)? }, left))
}

/// The product of two operands, with the labels `out`, each of which one of them has.
fn pair(a: &Labelled, b: &Labelled, out: &[Label], sizes: &HashMap<Label, usize>) -> Result<Tensor> {
    // what is in one alone and not asked for is summed first
    let a = summed(a, |label| out.contains(&label) || b.1.contains(&label))?;
    let b = summed(b, |label| out.contains(&label) || a.1.contains(&label))?;
    let both = |label: &&Label| b.1.contains(label);
    let batch: Vec<Label> = a.1.iter().filter(both).filter(|l| out.contains(l)).copied().collect();
    let inner: Vec<Label> = a.1.iter().filter(both).filter(|l| !out.contains(l)).copied().collect();
    let rows: Vec<Label> = a.1.iter().filter(|l| !b.1.contains(l)).copied().collect();
    let columns: Vec<Label> = b.1.iter().filter(|l| !a.1.contains(l)).copied().collect();
    let count = |labels: &[Label]| labels.iter().map(|label| sizes[label]).product::<usize>();
    let matrices = |value: &Labelled, parts: [&[Label]; 3]| -> Result<Tensor> {
        let dims: Vec<usize> = parts.iter().map(|part| count(part)).collect();
        Ok(ordered(&value.0, &value.1, &parts.concat())?.reshape(dims)?)
    };
    let left = matrices(&a, [&batch, &rows, &inner])?;
    let right = matrices(&b, [&batch, &inner, &columns])?;
    let labels = [batch.as_slice(), &rows, &columns].concat();
    let dims: Vec<usize> = labels.iter().map(|label| sizes[label]).collect();
    ordered(&product(&left, &right)?.reshape(dims)?, &labels, out)
}

impl Exec for Einsum {
    fn forward(&self, x: Vec<Array>, keep: Option<&mut Saved>) -> Result<Array> {
        let y = self.multiplied(self.operands(x.iter())?, &self.out)?;
        if let (Some(keep), true) = (keep, self.sides.len() > 1) {
            x.iter().for_each(|x| keep.array(x));
        }
        // a single operand's memory may be the output's
        x.first().map_or_else(|| Array::from_tensor(&y), |x| x.derive(&y))
    }

    fn vjp(&self, kept: &Saved, dy: Array, want: &[bool]) -> Result<Vec<Option<Array>>> {
        let count = self.sides.iter().filter(|side| side.constant.is_none()).count();
        let one = self.sides.len() == 1;
        let values: Vec<&Array> = match one {
            true => vec![],
            false => (0..count).map(|i| kept.get_array(i)).collect::<Result<_>>()?,
        };
        let operands = if one { vec![] } else { self.operands(values.into_iter())? };
        let mut grads = Vec::with_capacity(count);
        for (i, side) in self.sides.iter().enumerate().filter(|(_, side)| side.constant.is_none()) {
            if want.get(grads.len()) != Some(&true) {
                grads.push(None);
                continue;
            }
            let mut factors = vec![(dy.tensor().clone(), self.out.clone())];
            factors.extend(operands.iter().enumerate().filter(|(k, _)| *k != i).map(|(_, o)| o.clone()));
            let labels: Vec<Label> = self.stretched(i).iter().map(|&d| side.labels[d]).collect();
            let dx = self.multiplied(factors, &labels)?.contiguous()?.reshape(side.shape.as_slice())?;
            grads.push(Some(dy.derive(&dx)?));
        }
        Ok(grads)
    }

    fn flops(&self, _: usize, direction: Direction) -> u64 {
        let values = self.sides.iter().filter(|side| side.constant.is_none()).count() as u64;
        2 * self.products * if direction == Direction::Forward { 1 } else { values }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn terms_are_read() {
        let letters = |text: &str| text.chars().map(|c| c as Label).collect::<Vec<_>>();
        assert_eq!(labels("bhid", 4), Some(letters("bhid")));
        assert_eq!(labels("bhid", 3), None);
        assert_eq!(labels("b...d", 4), Some([letters("b"), vec![HIDDEN + 1, HIDDEN], letters("d")].concat()));
        assert_eq!(labels("...", 0), Some(vec![]));
        assert_eq!(labels("b.d", 3), None);
    }

    #[test]
    fn what_is_there_once_stays() {
        let operand = |term: &str, shape: &[usize]| (labels(term, shape.len()).unwrap(), shape.to_vec());
        let out = implicit(&[operand("...ki", &[2, 3, 4]), operand("kj", &[3, 5])]);
        assert_eq!(out, [HIDDEN, 'i' as Label, 'j' as Label]);
    }

    #[test]
    fn a_product_of_matrices() {
        let sizes = HashMap::from([(1, 2), (2, 3), (3, 2)]);
        let t =
            |values: &[f32], dims: (usize, usize)| Tensor::from_slice(values, dims, &Device::Cpu).unwrap();
        let a = (t(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], (2, 3)), vec![1, 2]);
        let b = (t(&[1.0, 0.0, 0.0, 1.0, 1.0, 1.0], (3, 2)), vec![2, 3]);
        let y = pair(&a, &b, &[3, 1], &sizes).unwrap();
        assert_eq!(y.to_vec2::<f32>().unwrap(), [[4.0, 10.0], [5.0, 11.0]]);
    }
}
