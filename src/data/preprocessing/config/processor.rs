//! Hugging Face's image processors: `preprocessor_config.json`, and `processor_config.json` with one inside.
//!
//! What a class does where the file is silent is in `processors.json`, written by `tests/scripts/config_tables.py` from
//! transformers' own classes.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::{
    super::words::Interpolation,
    Saying, Stated,
    fields::{Fields, File},
    list, sides,
};
use crate::{Result, error::printable};

/// Fields one of which an image processor's file has.
const MARKS: [&str; 7] = [
    "image_processor_type",
    "feature_extractor_type",
    "image_mean",
    "do_resize",
    "do_normalize",
    "do_rescale",
    "resample",
];

/// Fields that change no pixel of one RGB image, or only the form of the answer.
const HARMLESS: [&str; 18] = [
    "_valid_processor_keys",
    "antialias",
    "auto_map",
    "data_format",
    "device",
    "disable_grouping",
    "do_convert_rgb",
    "do_reduce_labels",
    "feature_extractor_type",
    "image_processor_type",
    "image_seq_length",
    "input_data_format",
    "max_size",
    "model_input_names",
    "pad_size",
    "processor_class",
    "reduce_labels",
    "return_tensors",
];

/// Pillow's filters by their code.
const FILTERS: [&str; 6] = ["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"];

/// What is known of the classes.
static KNOWN: LazyLock<Map<String, Value>> =
    LazyLock::new(|| serde_json::from_str(include_str!("processors.json")).unwrap_or_default());

/// How a class differs from the usual order of resize, centre crop, rescale, normalise.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Plain,
    /// Never crops.
    Uncropped,
    /// Below 384: the shorter edge to size / crop_pct, then the centre; else both sides to the size.
    ConvNext,
    /// The shorter edge to 256 / 224 of the size.
    Levit,
    /// The shorter edge to size / crop_pct.
    PoolFormer,
    /// Rescaled to -1 to 1, divided by the std a second time.
    EfficientNet,
    /// Blue first, never normalised.
    MobileVit,
}

impl Way {
    fn named(word: &str) -> Option<Self> {
        Some(match word {
            "plain" => Self::Plain,
            "uncropped" => Self::Uncropped,
            "convnext" => Self::ConvNext,
            "levit" => Self::Levit,
            "poolformer" => Self::PoolFormer,
            "efficientnet" => Self::EfficientNet,
            "mobilevit" => Self::MobileVit,
            _ => return None,
        })
    }
}

/// Reads the file of an image processor.
pub fn read(file: &File) -> Option<Result<Stated>> {
    let fields = file.fields()?;
    let fields = match fields.object("image_processor") {
        Ok(Some(inner)) => inner,
        Ok(None) => fields,
        Err(e) => return Some(Err(e)),
    };
    MARKS.iter().any(|mark| fields.names(mark)).then(|| stated(file, fields))
}

fn stated(file: &File, own: Fields<'_>) -> Result<Stated> {
    let class = class(&own)?;
    let (way, silent) = known(&own, &class)?;
    let fields = own.or(silent);
    let mut saying = Saying::new(file);
    geometry(&fields, &class, way, &mut saying)?;
    let order = if way == Way::MobileVit && fields.flag("do_flip_channel_order")? { "bgr" } else { "rgb" };
    let said =
        if fields.names("do_flip_channel_order") { "do_flip_channel_order" } else { "image_processor_type" };
    saying.part("channels", order, &fields.full(said));
    normalisation(&fields, way, &mut saying)?;
    notes(&fields, &class, silent, &mut saying);
    Ok(saying.stated)
}

/// The class that the file names, else that of the model type in the `config.json` beside it, in today's spelling.
fn class(fields: &Fields<'_>) -> Result<String> {
    let named = match fields.text("image_processor_type")? {
        Some(name) => Some(name),
        None => fields.text("feature_extractor_type")?,
    };
    if let Some(name) = named {
        let name = name.strip_suffix("Fast").or(name.strip_suffix("Pil")).unwrap_or(name);
        return Ok(match name.strip_suffix("FeatureExtractor") {
            Some(start) => format!("{start}ImageProcessor"),
            None => name.to_owned(),
        });
    }
    let beside = fields.file.place.with_file_name("config.json");
    let config = if beside.is_file() { Some(File::new(&beside, &super::text_of(&beside)?)?) } else { None };
    let of_type = match config.as_ref().and_then(File::fields) {
        Some(config) => config.text("model_type")?.and_then(|of| KNOWN.get("model_types")?.get(of)?.as_str()),
        None => None,
    };
    of_type.map(str::to_owned).ok_or_else(|| {
        let problem = "is missing, and no `config.json` beside the file has a `model_type` that is known: without it \
                       the other fields have no certain meaning";
        fields.error("image_processor_type", problem)
    })
}

/// How a class works, and what it does where the file is silent.
fn known(fields: &Fields<'_>, class: &str) -> Result<(Way, &'static Map<String, Value>)> {
    let own = fields
        .object("auto_map")?
        .map(|map| ["AutoImageProcessor", "AutoFeatureExtractor"].map(|c| map.names(c)));
    if own.is_some_and(|own| own.contains(&true)) {
        return Err(fields.error("auto_map", "names code of the model's own, whose steps are not known"));
    }
    let silent = KNOWN.get("processors").and_then(|all| all.get(class)).and_then(Value::as_object);
    let way = silent.and_then(|silent| Way::named(silent.get("way")?.as_str()?));
    way.zip(silent).ok_or_else(|| {
        let why = match class {
            "DonutImageProcessor" => "makes thumbnails and pads them",
            "DINOv3ViTImageProcessor" => "resizes after rescaling, without rounding to bytes",
            "ImageGPTImageProcessor" => "replaces colours by those of a palette",
            "PerceiverImageProcessor" => "crops before it resizes",
            "PPLCNetImageProcessor" => "rounds sizes in a way of its own",
            "Siglip2ImageProcessor" => "cuts images into patches",
            "TextNetImageProcessor" => "rounds sizes up to a multiple of `size_divisor`",
            _ => "is not among the image processors that are known",
        };
        let problem =
            format!("is {}, which {why}; state the parts of the preprocessing instead", printable(class));
        fields.error("image_processor_type", problem)
    })
}

/// What the size of an image becomes.
#[derive(Clone, Copy)]
enum Size {
    Sides([usize; 2]),
    Shortest(usize),
}

/// A size in any of the forms that were ever written.
fn size(fields: &Fields<'_>, field: &str, square: bool) -> Result<Size> {
    match fields.value(field) {
        None => Err(fields.error(field, "is missing")),
        Some(Value::Array(values)) => Ok(Size::Sides(fields.sides(field, values)?)),
        Some(Value::Object(map)) => {
            let mut keys: Vec<(&str, &Value)> =
                map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.as_str(), v)).collect();
            keys.sort_by_key(|(key, _)| *key);
            match keys[..] {
                [("height", h), ("width", w)] => {
                    Ok(Size::Sides([fields.side(field, h)?, fields.side(field, w)?]))
                }
                [("shortest_edge", side)] => Ok(Size::Shortest(fields.side(field, side)?)),
                _ => {
                    let names = keys.iter().map(|(key, _)| printable(key)).collect::<Vec<_>>().join(", ");
                    let problem = format!("has {names}; expected height and width, or shortest_edge alone");
                    Err(fields.error(field, problem))
                }
            }
        }
        Some(one) => {
            let side = fields.side(field, one)?;
            Ok(if square { Size::Sides([side; 2]) } else { Size::Shortest(side) })
        }
    }
}

/// States resize, interpolation, crop and size.
fn geometry(fields: &Fields<'_>, class: &str, way: Way, saying: &mut Saying<'_>) -> Result<()> {
    if fields.flag("do_pad")? {
        return Err(
            fields.error("do_pad", "is true: padding to a size is not among the parts of preprocessing")
        );
    }
    let mut last = None; // the size that images end with
    if fields.flag("do_resize")? {
        let to = resized(fields, class, way)?;
        let text = match to {
            Size::Sides(size) => format!("stretch:{}", sides(size)),
            Size::Shortest(side) => format!("shortest-edge:{side}"),
        };
        if let Size::Sides(size) = to {
            last = Some((size, "size"));
        }
        saying.part("resize", text, &fields.full("size"));
        saying.part("interpolation", filter(fields)?, &fields.full("resample"));
    } else {
        saying.part("resize", "none", &fields.full("do_resize"));
    }
    match cropped(fields, way)? {
        Some((size, field)) => {
            saying.part("crop", format!("center-floor:{}", sides(size)), &fields.full(field));
            last = Some((size, field));
        }
        None => saying.part("crop", "none", &fields.full("do_center_crop")),
    }
    if let Some((size, field)) = last {
        saying.part("size", sides(size), &fields.full(field));
    }
    Ok(())
}

/// The size after the resize.
fn resized(fields: &Fields<'_>, class: &str, way: Way) -> Result<Size> {
    let to = size(fields, "size", fields.flag("default_to_square")?)?;
    let over = |side: usize, share: f64| -> Result<usize> {
        let side = (side as f64 / share).floor();
        fields.side("size", &Value::from(side))
    };
    Ok(match (way, to) {
        (Way::Levit, Size::Shortest(side)) => {
            Size::Shortest(fields.side("size", &Value::from((256.0 / 224.0 * side as f64).floor()))?)
        }
        (Way::ConvNext, Size::Shortest(side)) if side >= LARGE => Size::Sides([side; 2]),
        (Way::ConvNext, Size::Shortest(side)) => match crop_pct(fields)? {
            Some(share) => Size::Shortest(over(side, share)?),
            None => return Err(fields.error("crop_pct", "is missing")),
        },
        (Way::ConvNext, Size::Sides(_)) => {
            return Err(fields.error("size", format!("has no shortest_edge, which {class} needs")));
        }
        (Way::PoolFormer, to) => match (crop_pct(fields)?, to) {
            (None, to) => to,
            (Some(share), Size::Shortest(side)) => Size::Shortest(over(side, share)?),
            (Some(share), Size::Sides([h, w])) if h == w => Size::Shortest(over(h, share)?),
            (Some(share), Size::Sides([h, w])) => Size::Sides([over(h, share)?, over(w, share)?]),
        },
        (_, to) => to,
    })
}

/// ConvNext stretches to this size and above.
const LARGE: usize = 384;

fn crop_pct(fields: &Fields<'_>) -> Result<Option<f64>> {
    let share = fields.number("crop_pct")?;
    match share {
        Some(share) if share > 0.01 && share <= 10.0 => Ok(Some(share)),
        None => Ok(None),
        Some(share) => {
            Err(fields.error("crop_pct", format!("is {share}, expected above 0.01 and at most 10")))
        }
    }
}

/// The size that is cut out, and the field that says so.
fn cropped(fields: &Fields<'_>, way: Way) -> Result<Option<([usize; 2], &'static str)>> {
    let wanted = fields.flag("do_center_crop")? && way != Way::Uncropped;
    if way == Way::ConvNext {
        if wanted {
            return Err(fields
                .error("do_center_crop", "is true: a second crop is not among the parts of preprocessing"));
        }
        if !fields.flag("do_resize")? {
            return Ok(None);
        }
        return Ok(match size(fields, "size", false)? {
            Size::Shortest(side) if side < LARGE => Some(([side; 2], "size")),
            _ => None,
        });
    }
    if !wanted {
        return Ok(None);
    }
    match size(fields, "crop_size", true)? {
        Size::Sides(size) => Ok(Some((size, "crop_size"))),
        Size::Shortest(_) => Err(fields.error("crop_size", "has a shortest_edge, expected height and width")),
    }
}

/// The filter of the resize.
fn filter(fields: &Fields<'_>) -> Result<&'static str> {
    let Some(value) = fields.value("resample") else { return Ok("bilinear") }; // as the library where it is null
    let code = value.as_u64().and_then(|code| FILTERS.get(usize::try_from(code).ok()?).copied());
    let Some(word) = code else {
        let found = super::fields::shown(value);
        return Err(fields.error("resample", format!("is {found}, expected one of Pillow's codes 0 to 5")));
    };
    if Interpolation::of(word).is_none() {
        return Err(fields.error("resample", format!("is Pillow's {word} filter, which is not supported")));
    }
    Ok(word)
}

/// States mean, std and range: a byte times `scale` plus `offset` of each channel, said in the 0-1 scale.
fn normalisation(fields: &Fields<'_>, way: Way, saying: &mut Saying<'_>) -> Result<()> {
    let rescales = fields.flag("do_rescale")?;
    let factor = match fields.number("rescale_factor")? {
        _ if !rescales => 1.0,
        Some(factor) => factor,
        None => return Err(fields.error("rescale_factor", "is missing")),
    };
    let shift =
        if way == Way::EfficientNet && rescales && fields.flag("rescale_offset")? { -1.0 } else { 0.0 };
    let normalises = way != Way::MobileVit && fields.flag("do_normalize")?;
    let top = way == Way::EfficientNet && fields.flag("include_top")?;
    let (mut mean, mut std) = (vec![0.0], vec![1.0]);
    if normalises {
        mean = of_channels(fields, "image_mean")?;
    }
    if normalises || top {
        std = of_channels(fields, "image_std")?;
    }
    let one = |values: &[f64], c: usize| if values.len() == 1 { values[0] } else { values[c] };
    let affine = (0..mean.len().max(std.len())).map(|c| {
        let (mean, std) = (one(&mean, c), one(&std, c));
        let (scale, offset) = if normalises { (factor / std, (shift - mean) / std) } else { (factor, shift) };
        if top { (scale / std, offset / std) } else { (scale, offset) }
    });
    let affine: Vec<(f64, f64)> = affine.collect();
    let field = match (normalises, rescales) {
        (true, _) => "image_mean",
        (false, true) => "rescale_factor",
        (false, false) => "do_rescale",
    };
    if affine.iter().all(|one| *one == (1.0, 0.0)) {
        saying.part("mean", "0", &fields.full("do_normalize"));
        saying.part("std", "1", &fields.full("do_normalize"));
        saying.part("range", "0-255", &fields.full("do_rescale"));
        return Ok(());
    }
    let stds: Vec<f64> = affine.iter().map(|(scale, _)| 1.0 / (255.0 * scale)).collect();
    if stds.iter().any(|std| !std.is_finite() || *std <= 0.0) {
        let field = if normalises || top { "image_std" } else { "rescale_factor" };
        return Err(fields.error(field, "does not lead to a positive factor"));
    }
    let means: Vec<f64> = affine.iter().zip(&stds).map(|((_, offset), std)| -offset * std).collect();
    saying.part("mean", list(&means), &fields.full(field));
    saying.part("std", list(&stds), &fields.full(if normalises || top { "image_std" } else { field }));
    saying.part("range", "normalized-0-1", &fields.full("do_rescale"));
    Ok(())
}

/// One value, or three.
fn of_channels(fields: &Fields<'_>, field: &str) -> Result<Vec<f64>> {
    let values = fields.numbers(field)?.ok_or_else(|| fields.error(field, "is missing"))?;
    match values.len() {
        1 | 3 => Ok(values),
        n => Err(fields.error(field, format!("has {n} values, expected 1 or 3"))),
    }
}

/// Notes the fields that the class supplied, and those that it does not read.
fn notes(fields: &Fields<'_>, class: &str, silent: &Map<String, Value>, saying: &mut Saying<'_>) {
    let matters = |field: &str| match field {
        "size" | "resample" | "crop_pct" => fields.flag("do_resize").unwrap_or_default(),
        "crop_size" => fields.flag("do_center_crop").unwrap_or_default(),
        "image_mean" | "image_std" => fields.flag("do_normalize").unwrap_or_default(),
        "way" | "default_to_square" => false,
        _ => true,
    };
    let supplied =
        silent.iter().filter(|(field, value)| !fields.names(field) && **value != Value::Bool(false));
    let supplied: Vec<&str> =
        supplied.map(|(field, _)| field.as_str()).filter(|field| matters(field)).collect();
    if !supplied.is_empty() {
        let version = KNOWN.get("transformers").and_then(Value::as_str).unwrap_or_default();
        let names = supplied.join(", ");
        saying
            .note(format!("silent about {names}: as {} of transformers {version} has it", printable(class)));
    }
    let unread = fields.named().filter(|(field, value)| {
        let off = value.is_null() || **value == Value::Bool(false);
        !off && !silent.contains_key(*field)
            && !HARMLESS.contains(&field.as_str())
            && !READ.contains(&field.as_str())
    });
    let unread: Vec<String> = unread.take(8).map(|(field, _)| printable(field)).collect();
    if !unread.is_empty() {
        saying.note(format!("{} does not read {}", printable(class), unread.join(", ")));
    }
}

/// Fields that are read although not every class has a value for them.
const READ: [&str; 4] = ["do_center_crop", "crop_size", "default_to_square", "do_normalize"];
