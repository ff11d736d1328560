//! torchvision's `ImageClassification` transforms: as text, and those of its weights by name.
//!
//! `torchvision.csv` is written by `tests/scripts/config_tables.py` from torchvision's own weights.

use super::{Saying, Stated, fields::File, sides};
use crate::Result;

/// What the names in the table begin with, as those of presets.
const PRESET: &str = "torchvision:";

/// The weights' transforms.
const TABLE: &str = include_str!("torchvision.csv");

/// The parts of the transform of weights such as `ResNet50_Weights.IMAGENET1K_V2`, and their name as a preset.
pub fn weights(name: &str) -> Option<(&'static str, Vec<(&'static str, String)>)> {
    let rows = TABLE.lines().filter(|line| !line.starts_with('#'));
    let mut rows = rows.map(|line| line.split(',').collect::<Vec<&'static str>>());
    let row = rows.find(|row| row.first().and_then(|name| name.strip_prefix(PRESET)) == Some(name))?;
    let [name, resize, crop, filter, mean, std] = row[..] else { return None };
    let parts = vec![
        ("size", crop.to_owned()),
        ("resize", format!("shortest-edge:{resize}")),
        ("crop", format!("center:{crop}")),
        ("interpolation", filter.to_owned()),
        ("mean", mean.replace(' ', ",")),
        ("std", std.replace(' ', ",")),
    ];
    Some((name, parts))
}

/// Reads what `print(weights.transforms())` prints.
pub fn read(file: &File) -> Option<Result<Stated>> {
    let inside = file.text.strip_prefix("ImageClassification(")?.strip_suffix(')')?;
    Some(stated(file, inside))
}

fn stated(file: &File, inside: &str) -> Result<Stated> {
    let value = |field: &str| -> Result<&str> {
        let lines = inside.lines().filter_map(|line| line.trim().trim_end_matches(',').split_once('='));
        let mut found = lines.filter(|(name, _)| name.trim() == field).map(|(_, value)| value.trim());
        match (found.next(), found.next()) {
            (Some(value), None) => Ok(value),
            (None, _) => Err(file.error(Some(field), "is missing")),
            _ => Err(file.error(Some(field), "is there twice")),
        }
    };
    let listed = |field| -> Result<Vec<&str>> {
        let inner = value(field)?.trim_start_matches(['[', '(']).trim_end_matches([']', ')']);
        Ok(inner.split(',').map(str::trim).filter(|part| !part.is_empty()).collect())
    };
    let size = |field| -> Result<Vec<usize>> {
        let sides: Option<Vec<usize>> = listed(field)?.iter().map(|side| side.parse().ok()).collect();
        let fit = sides.filter(|sides| {
            matches!(sides.len(), 1 | 2)
                && sides.iter().all(|side| (1..=crate::data::limits::SIDE as usize).contains(side))
        });
        fit.ok_or_else(|| file.error(Some(field), "is not one or two numbers of pixels"))
    };
    let mut saying = Saying::new(file);
    let resize = match size("resize_size")?[..] {
        [h, w] => format!("stretch:{}", sides([h, w])),
        [side, ..] => format!("shortest-edge:{side}"),
        [] => "none".into(),
    };
    saying.part("resize", resize, "resize_size");
    let crop = match size("crop_size")?[..] {
        [h, w] => [h, w],
        [side, ..] => [side; 2],
        [] => [1; 2],
    };
    saying.part("crop", format!("center:{}", sides(crop)), "crop_size");
    saying.part("size", sides(crop), "crop_size");
    let filter = value("interpolation")?.trim_start_matches("InterpolationMode.").to_ascii_lowercase();
    if super::super::words::Interpolation::of(&filter).is_none() {
        return Err(file.error(Some("interpolation"), "names a filter that is not supported"));
    }
    saying.part("interpolation", filter, "interpolation");
    saying.part("channels", "rgb", "mean");
    for field in ["mean", "std"] {
        let numbers: Option<Vec<f64>> = listed(field)?.iter().map(|v| v.parse().ok()).collect();
        let numbers = numbers.filter(|n| matches!(n.len(), 1 | 3) && n.iter().all(|v| v.is_finite()));
        let numbers = numbers.ok_or_else(|| file.error(Some(field), "is not one or three numbers"))?;
        saying.part(field, super::list(&numbers), field);
    }
    saying.part("range", "normalized-0-1", "mean");
    Ok(saying.stated)
}
