//! Labels in arrays: whole numbers of any type, or one-hot rows.

use std::path::Path;

use super::{
    super::{limits, table::Table},
    tensor::Tensor,
};
use crate::{Error, Result, error::printable};

/// Whether an array of this shape may label `count` images: (count), (count, 1) or one-hot (count, classes).
pub fn fits(shape: &[usize], count: usize) -> bool {
    matches!(shape, [n] | [n, _] | [n, _, 1] if *n == count)
}

/// The label of each of `count` images. Labels are class indices from 0.
///
/// # Errors
/// The shape does not fit, a label is no whole number from 0 on, a row is not one-hot; errors of reading.
pub fn read(tensor: &Tensor, count: usize) -> Result<Result<Vec<u32>, String>> {
    let shape = &tensor.shape;
    let wide = match shape[..] {
        [n] | [n, 1] | [n, 1, 1] if n == count => 1,
        [n, classes] | [n, classes, 1] if n == count => classes,
        _ => {
            return Ok(Err(format!(
                "has the shape {shape:?}, which does not label {count} images: \
                 expected ({count}), ({count}, 1), or one-hot ({count}, classes)"
            )));
        }
    };
    if wide > limits::CLASSES {
        return Ok(Err(format!("has the shape {shape:?}, more than {} classes", limits::CLASSES)));
    }
    let mut labels = Labels { found: vec![None; count], wide, problem: None };
    let mut at = 0;
    tensor.stream(&mut |block| {
        tensor.element.each(block, |value| {
            let (row, class) = if tensor.fortran { (at % count, at / count) } else { (at / wide, at % wide) };
            labels.take(row, class, value);
            at += 1;
        });
        Ok(())
    })?;
    Ok(labels.finish())
}

struct Labels {
    found: Vec<Option<u32>>,
    /// Columns: 1, or the number of classes.
    wide: usize,
    problem: Option<String>,
}

impl Labels {
    fn take(&mut self, row: usize, class: usize, value: f64) {
        if self.problem.is_some() {
            return;
        }
        let found = match self.wide {
            1 if value.fract() == 0.0 && (0.0..limits::CLASSES as f64).contains(&value) => value as u32,
            1 => {
                let most = limits::CLASSES - 1;
                self.problem =
                    Some(format!("labels image {row} {value}; expected a whole number, 0 to {most}"));
                return;
            }
            _ if value == 0.0 => return,
            _ if value == 1.0 && self.found[row].is_none() => class as u32,
            _ => {
                self.problem = Some(format!("is not one-hot: row {row} is not a single 1 among zeros"));
                return;
            }
        };
        self.found[row] = Some(found);
    }

    fn finish(self) -> Result<Vec<u32>, String> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        let without = |row| format!("is not one-hot: row {row} is not a single 1 among zeros");
        self.found.into_iter().enumerate().map(|(row, found)| found.ok_or_else(|| without(row))).collect()
    }
}

/// As [`read`], with the file and the array named in every error.
///
/// # Errors
/// As [`read`].
pub fn named(tensor: &Tensor, count: usize) -> Result<Vec<u32>> {
    let file = tensor.file.path.display();
    let subject = format!("{file}: \"{}\"", printable(&tensor.name));
    read(tensor, count)?.map_err(|problem| Error::images(subject, problem))
}

/// The labels in a table: its one column, or of two the one beside the rows' numbers; a first line may name them.
///
/// # Errors
/// The table cannot be read, has more columns, or does not label `count` images by whole numbers.
pub fn of_table(path: &Path, count: usize) -> Result<Vec<u32>> {
    let invalid = |problem: String| Error::images(path.display(), problem);
    let rows = Table::read(path)?.rows;
    let label =
        |row: &Vec<String>| row.last()?.parse().ok().filter(|&l: &u32| (l as usize) < limits::CLASSES);
    let rows = &rows[usize::from(rows.first().is_some_and(|row| label(row).is_none()))..];
    if rows.len() != count || rows.iter().any(|row| row.len() > 2) {
        let columns = rows.first().map_or(0, Vec::len);
        let problem = format!(
            "{} rows of {columns} columns; expected {count} labels, or numbers and labels",
            rows.len()
        );
        return Err(invalid(problem));
    }
    let mut labels = Vec::with_capacity(count);
    for (at, row) in rows.iter().enumerate() {
        // numbers of rows may count from 0 or 1, but must be in order
        if row.len() == 2 && ![at.to_string(), (at + 1).to_string()].contains(&row[0]) {
            return Err(invalid(format!(
                "row {} is of image \"{}\": not in order",
                at + 1,
                printable(&row[0])
            )));
        }
        labels
            .push(label(row).ok_or_else(|| invalid(format!("row {} has no whole number as label", at + 1)))?);
    }
    Ok(labels)
}
