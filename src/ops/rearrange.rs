//! Tile, Trilu, DepthToSpace and SpaceToDepth: elements in other places.

use super::attributes::{Attribute, Kind};
use super::call::{Call, Lowered};
use super::operator::{BINARY, Operator, UNARY, arity};
use super::pick::{Pick, picked};
use super::relocate::{NOTHING, Table, relocated};
use crate::Result;

pub const TILE: Operator = Operator::new("Tile", BINARY, lower_tile).limits("Constant repeats.");

pub const TRILU: Operator = Operator::new("Trilu", &[arity(14, 1, 2)], lower_trilu)
    .attributes(&[Attribute::int("upper", 1)])
    .limits("A constant diagonal.");

pub const DEPTH_TO_SPACE: Operator = Operator::new("DepthToSpace", UNARY, lower_depth_to_space)
    .attributes(&[Attribute::required("blocksize", Kind::Int), Attribute::text("mode", "DCR").since(11)]);

pub const SPACE_TO_DEPTH: Operator = Operator::new("SpaceToDepth", UNARY, lower_space_to_depth)
    .attributes(&[Attribute::required("blocksize", Kind::Int), Attribute::text("mode", "DCR").since(28)]);

fn lower_tile(call: &Call) -> Result<Lowered> {
    let from = call.full_shape(0)?.to_vec();
    let repeats = call.integers(1)?.unwrap_or_default();
    if repeats.len() != from.len() || call.shape(1)?.len() != 1 {
        return Err(call.error(format!("{} repeats for a value of shape {from:?}", repeats.len())));
    }
    let mut to = from.clone();
    for (size, &repeat) in to.iter_mut().zip(&repeats) {
        let repeat = usize::try_from(repeat).ok();
        *size = repeat.and_then(|r| r.checked_mul(*size)).ok_or_else(|| call.error("repeats below 0"))?;
    }
    if call.elements(&to)? == 0 {
        return Err(call.error("repeats of 0, which leave nothing"));
    }
    let picks = from.iter().zip(&to).map(|(&size, &length)| {
        let indices: Vec<usize> = (0..length).map(|i| i % size).collect();
        Pick::list(&indices, size)
    });
    let picks = picks.collect::<Result<Vec<_>>>()?;
    Ok(vec![picked(call, picks, to.clone(), to)?])
}

fn lower_trilu(call: &Call) -> Result<Lowered> {
    let shape = call.full_shape(0)?.to_vec();
    let &[ref outer @ .., height, width] = shape.as_slice() else {
        return Err(call.error(format!("a value of shape {shape:?}, expected matrices")));
    };
    let diagonal = match call.integers(1)?.as_deref() {
        None => 0,
        Some(&[k]) => k,
        Some(other) => return Err(call.error(format!("{} diagonals, expected one", other.len()))),
    };
    call.elements(&shape)?;
    let upper = call.flag("upper")?;
    let rows = !outer.is_empty();
    let matrices: usize = outer.iter().skip(1).product();
    let keeps = |at: usize| {
        let (row, column) = (at / width % height, at % width);
        let off = (column as i64).saturating_sub(row as i64);
        if upper { off >= diagonal } else { off <= diagonal }
    };
    let from = (0..matrices * height * width).map(|at| if keeps(at) { at as u32 } else { NOTHING }).collect();
    relocated(call, &[0], shape, &Table { from, rows })
}

/// Whether the channels of a pixel of a block lie together (the mode DCR), or the pixels of a channel (CRD).
fn channels_together(call: &Call) -> Result<bool> {
    match call.text("mode") {
        None | Some("DCR") => Ok(true),
        Some("CRD") => Ok(false),
        Some(_) => Err(call.error("attribute `mode` is neither \"DCR\" nor \"CRD\"")),
    }
}

/// The image's shape, the size of a block, and the shape of the one with one pixel per block.
fn blocks(call: &Call) -> Result<([usize; 4], usize)> {
    let &[n, c, h, w] = call.full_shape(0)? else {
        return Err(call.error(format!("input 0 has shape {:?}, expected (N, C, H, W)", call.shape(0)?)));
    };
    let block = call.int("blocksize").and_then(|b| usize::try_from(b).ok()).filter(|b| *b > 0);
    let block = block.filter(|b| b.checked_mul(*b).is_some());
    let block = block.ok_or_else(|| call.error("attribute `blocksize` is no positive number of pixels"))?;
    call.elements(&[n, c, h, w])?;
    Ok(([n, c, h, w], block))
}

fn lower_depth_to_space(call: &Call) -> Result<Lowered> {
    let ([n, c, h, w], block) = blocks(call)?;
    if !c.is_multiple_of(block * block) {
        return Err(call.error(format!("{c} channels cannot be put into blocks of {block} x {block} pixels")));
    }
    let together = channels_together(call)?;
    let [depth, height, width] = [c / (block * block), h * block, w * block];
    let from = |at: usize| {
        let [d, y, x] = [at / (height * width), at / width % height, at % width];
        let place = y % block * block + x % block;
        let channel = if together { place * depth + d } else { d * block * block + place };
        ((channel * h + y / block) * w + x / block) as u32
    };
    let from = (0..depth * height * width).map(from).collect();
    relocated(call, &[0], vec![n, depth, height, width], &Table { from, rows: true })
}

fn lower_space_to_depth(call: &Call) -> Result<Lowered> {
    let ([n, c, h, w], block) = blocks(call)?;
    if !h.is_multiple_of(block) || !w.is_multiple_of(block) {
        return Err(call.error(format!("{h} x {w} pixels cannot be cut into blocks of {block} x {block}")));
    }
    let [height, width] = [h / block, w / block];
    let together = channels_together(call)?;
    let from = |at: usize| {
        let [d, y, x] = [at / (height * width), at / width % height, at % width];
        let (place, channel) =
            if together { (d / c, d % c) } else { (d % (block * block), d / (block * block)) };
        ((channel * h + y * block + place / block) * w + x * block + place % block) as u32
    };
    let depth = c * block * block;
    let from = (0..depth * height * width).map(from).collect();
    relocated(call, &[0], vec![n, depth, height, width], &Table { from, rows: true })
}
