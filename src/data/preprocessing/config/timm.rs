//! timm's `pretrained_cfg`, as its `resolve_data_config` reads it by default: at the training resolution.

use serde_json::Value;

use super::{super::words::Interpolation, Saying, fields::Fields, list, sides};
use crate::{Result, error::printable};

/// What timm takes where the configuration is silent, or says nothing.
const SIZE: [usize; 2] = [224, 224];
const CROP_PCT: f64 = 0.875;
const MEAN: [f64; 3] = [0.485, 0.456, 0.406];
const STD: [f64; 3] = [0.229, 0.224, 0.225];

/// States all parts that a `pretrained_cfg` says.
///
/// # Errors
/// Wrong types; an unknown filter or crop mode; sizes beyond the limits.
pub fn parts(cfg: &Fields<'_>, saying: &mut Saying<'_>) -> Result<()> {
    let size = input_size(cfg)?;
    let share = match cfg.number("crop_pct")?.filter(|share| *share != 0.0) {
        None => CROP_PCT,
        Some(share) if share > 0.01 && share <= 10.0 => share,
        Some(share) => {
            return Err(cfg.error("crop_pct", format!("is {share}, expected above 0.01 and at most 10")));
        }
    };
    cfg.side("input_size", &(size[0].max(size[1]) as f64 / share).floor().into())?; // not too large
    // of crop_pct, not of pixels: only then sides are rounded as by timm
    let (resize, crop) = match cfg.text("crop_mode")?.unwrap_or("center") {
        "center" | "" => ("shortest-edge", "center"),
        "squash" => ("stretch", "center"),
        "border" => ("longest-edge", "border"),
        other => {
            let problem = format!("is \"{}\", expected center, squash or border", printable(other));
            return Err(cfg.error("crop_mode", problem));
        }
    };
    saying.part("resize", format!("{resize}:{share:?}"), &cfg.full("crop_pct"));
    saying.part("crop", format!("{crop}:{}", sides(size)), &cfg.full("input_size"));
    saying.part("size", sides(size), &cfg.full("input_size"));
    let filter = cfg.text("interpolation")?.filter(|word| !word.is_empty()).unwrap_or("bicubic");
    if Interpolation::of(filter).is_none() || filter.starts_with("torch-") {
        let problem = format!("is \"{}\", which is not supported", printable(filter));
        return Err(cfg.error("interpolation", problem));
    }
    saying.part("interpolation", filter, &cfg.full("interpolation"));
    saying.part("channels", "rgb", &cfg.full("mean"));
    saying.part("mean", list(&values(cfg, "mean", &MEAN)?), &cfg.full("mean"));
    saying.part("std", list(&values(cfg, "std", &STD)?), &cfg.full("std"));
    saying.part("range", "normalized-0-1", &cfg.full("mean"));
    notes(cfg, saying);
    Ok(())
}

/// Height and width of `input_size`, which is (C, H, W).
fn input_size(cfg: &Fields<'_>) -> Result<[usize; 2]> {
    match cfg.value("input_size") {
        None => Ok(SIZE),
        Some(Value::Array(values)) if values.len() == 3 => cfg.sides("input_size", &values[1..]),
        Some(_) => Err(cfg.error("input_size", "is not a list of channels, height and width")),
    }
}

/// One number for each channel.
fn values(cfg: &Fields<'_>, field: &str, silent: &[f64]) -> Result<Vec<f64>> {
    let values = match cfg.value(field) {
        Some(Value::Array(values)) if values.is_empty() => None,
        _ => cfg.numbers(field)?,
    };
    match values {
        None => Ok(silent.to_vec()),
        Some(values) if matches!(values.len(), 1 | 3) => Ok(values),
        Some(values) => Err(cfg.error(field, format!("has {} values, expected 1 or 3", values.len()))),
    }
}

/// Notes what was silent, and a test resolution, which timm leaves out too unless asked for it.
fn notes(cfg: &Fields<'_>, saying: &mut Saying<'_>) {
    let all = ["input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std"];
    let silent: Vec<String> =
        all.into_iter().filter(|f| cfg.value(f).is_none()).map(|f| cfg.full(f)).collect();
    if !silent.is_empty() {
        saying.note(format!("silent about {}: as timm has it", silent.join(", ")));
    }
    for field in ["test_input_size", "test_crop_pct"] {
        if cfg.value(field).is_some() {
            saying.note(format!("`{}` was left out, as timm does by default", cfg.full(field)));
        }
    }
}
