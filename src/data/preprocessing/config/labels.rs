//! `config.json` of Hugging Face and of timm: class names, and a `pretrained_cfg` where there is one.

use serde_json::Value;

use super::{
    Saying, Stated,
    fields::{Fields, File},
    timm,
};
use crate::{
    Result,
    data::{Classes, limits::CLASSES},
    error::printable,
};

/// Fields one of which such a file has.
const MARKS: [&str; 6] =
    ["pretrained_cfg", "id2label", "label_names", "model_type", "architectures", "architecture"];

/// Reads a `config.json`.
pub fn read(file: &File) -> Option<Result<Stated>> {
    let fields = file.fields()?;
    MARKS.iter().any(|mark| fields.names(mark)).then(|| stated(file, &fields))
}

fn stated(file: &File, fields: &Fields<'_>) -> Result<Stated> {
    let mut saying = Saying::new(file);
    let cfg = fields.object("pretrained_cfg")?;
    if let Some(cfg) = &cfg {
        timm::parts(cfg, &mut saying)?;
    }
    let places =
        [Some((fields, "id2label")), Some((fields, "label_names")), cfg.as_ref().map(|c| (c, "label_names"))];
    for (fields, field) in places.into_iter().flatten() {
        if let Some(names) = names(fields, field)? {
            if placeholders(&names) {
                saying.note(format!("`{}` has placeholders, not class names", fields.full(field)));
                continue;
            }
            count(fields, field, names.len())?;
            twice(&names, &fields.full(field), &mut saying);
            saying.stated.classes = Some((Classes(names), saying.origin(&fields.full(field))));
            break;
        }
    }
    Ok(saying.stated)
}

/// Names in the order of the outputs: a list, or an object from index to name.
fn names(fields: &Fields<'_>, field: &str) -> Result<Option<Vec<String>>> {
    let (many, entries): (usize, Vec<(usize, &Value)>) = match fields.value(field) {
        None => return Ok(None),
        Some(Value::Array(values)) => (values.len(), values.iter().enumerate().collect()),
        Some(Value::Object(map)) => {
            let index = |key: &str| key.parse().ok().filter(|index| *index < map.len());
            let entry = |(key, value): (&String, _)| {
                let problem =
                    || format!("has the index \"{}\", expected 0 to {}", printable(key), map.len() - 1);
                Ok((index(key).ok_or_else(|| fields.error(field, problem()))?, value))
            };
            (map.len(), map.iter().map(entry).collect::<Result<_>>()?)
        }
        Some(_) => return Err(fields.error(field, "is neither a list nor an object")),
    };
    if many > CLASSES {
        return Err(fields.error(field, format!("has {many} names, at most {CLASSES} are supported")));
    }
    let mut names = vec![None; many];
    for (index, value) in entries {
        let Value::String(name) = value else {
            return Err(fields.error(field, format!("has a name at index {index} that is not text")));
        };
        if names[index].replace(name.trim().to_owned()).is_some() {
            return Err(fields.error(field, format!("has index {index} twice")));
        }
    }
    let names: Vec<String> = names.into_iter().flatten().collect();
    if let Some(at) = names.iter().position(String::is_empty) {
        return Err(fields.error(field, format!("has an empty name at index {at}")));
    }
    Ok(Some(names).filter(|names| !names.is_empty()))
}

/// Whether these are the names that Hugging Face writes where nobody gave any, or too few to be classes.
fn placeholders(names: &[String]) -> bool {
    names.len() < 2 || names.iter().enumerate().all(|(at, name)| *name == format!("LABEL_{at}"))
}

/// # Errors
/// The file itself says another number of classes.
fn count(fields: &Fields<'_>, field: &str, names: usize) -> Result<()> {
    let said = fields.number("num_classes")?;
    match said {
        Some(said) if said != names as f64 => {
            Err(fields.error(field, format!("has {names} names, but `num_classes` is {said}")))
        }
        _ => Ok(()),
    }
}

/// Notes the first name that two classes share; ImageNet has two cranes.
fn twice(names: &[String], field: &str, saying: &mut Saying<'_>) {
    let mut seen = std::collections::HashMap::new();
    for (at, name) in names.iter().enumerate() {
        if let Some(first) = seen.insert(name, at) {
            let name = printable(name);
            saying.note(format!("`{field}` calls both class {first} and class {at} \"{name}\""));
            return;
        }
    }
}
