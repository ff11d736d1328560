//! Which array of a file holds the images, and which their labels: by the names that people give them.

use super::{super::nearest, labels, layout::Layout, tensor::Member};
use crate::error::printable;

/// Words for images, as parts of a name.
const IMAGES: &[&str] =
    &["x", "image", "images", "img", "imgs", "data", "pixels", "pixel_values", "inputs", "input", "arr_0"];

/// Words for labels.
const LABELS: &[&str] = &["y", "label", "labels", "target", "targets", "class", "classes", "lbl", "arr_1"];

/// Names in a message.
const NAMED: usize = 12;

/// What a name says: that an array holds images or labels, and of which part (`train`, `test`, none).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Meaning<'n> {
    images: bool,
    part: String,
    /// The name around its word, for the same name with another word.
    around: [&'n str; 2],
}

fn meaning(name: &str) -> Option<Meaning<'_>> {
    let lower = name.to_ascii_lowercase();
    let of = |words: &[&str], images: bool| {
        // the longest word first: pixel_values before pixels
        let mut words: Vec<&&str> = words.iter().collect();
        words.sort_by_key(|word| std::cmp::Reverse(word.len()));
        words.into_iter().find_map(|word| {
            let word = around(&lower, word)?;
            let around = [&name[..word.start], &name[word.end..]];
            let part = around.iter().map(|s| s.trim_matches(SEPARATORS)).filter(|s| !s.is_empty());
            Some(Meaning { images, part: part.collect::<Vec<_>>().join("_").to_ascii_lowercase(), around })
        })
    };
    of(IMAGES, true).or_else(|| of(LABELS, false))
}

const SEPARATORS: [char; 5] = ['_', '-', '.', '/', ' '];

/// Where `word` stands in `name` as a word of its own: between separators, or joined to the name of a part as in
/// `xtrain`.
fn around(name: &str, word: &str) -> Option<std::ops::Range<usize>> {
    const PARTS: &[&str] = &["train", "test", "val", "valid", "validation", "training", "tr", "te"];
    name.match_indices(word).find_map(|(at, _)| {
        let (before, after) = (&name[..at], &name[at + word.len()..]);
        let joined = |rest: &str| word.len() == 1 && PARTS.contains(&rest);
        let starts = before.is_empty() || before.ends_with(SEPARATORS) || joined(before);
        let ends = after.is_empty() || after.starts_with(SEPARATORS) || joined(after);
        (starts && ends).then_some(at..at + word.len())
    })
}

/// The names that labels of the images `name` may have.
pub fn labels_of(name: &str) -> Vec<String> {
    let mut out = Vec::new();
    if let Some(Meaning { images: true, around: [before, after], .. }) = meaning(name) {
        out.extend(LABELS.iter().map(|word| format!("{before}{word}{after}")));
    }
    out.extend(LABELS.iter().filter(|w| w.len() > 1).map(|word| format!("{name}_{word}")));
    out
}

/// Chooses the images, and the labels if there are any, by their numbers among `members`: those that `selector` names
/// (`IMAGES` or `IMAGES,LABELS`), else those whose names fit.
///
/// # Errors
/// No array of images, or more than one choice; the message names them and the way out.
pub fn choose(members: &[Member], selector: Option<&str>) -> Result<(usize, Option<usize>), String> {
    let Some(selector) = selector else { return by_names(members) };
    if let Ok(images) = find(members, selector) {
        return Ok((images, labels_for(members, images)?));
    }
    match selector.split_once(',') {
        Some((images, labels)) => Ok((find(members, images)?, Some(find(members, labels)?))),
        None => find(members, selector).map(|images| (images, None)),
    }
}

fn find(members: &[Member], name: &str) -> Result<usize, String> {
    members.iter().position(|member| member.name == name).ok_or_else(|| {
        let hint = nearest(name, members.iter().map(|m| m.name.as_str()));
        format!("no array \"{}\"{hint}; it has {}", printable(name), listed(members, |_| true))
    })
}

/// Names and shapes of the members that `wanted` accepts.
fn listed(members: &[Member], wanted: impl Fn(&Member) -> bool) -> String {
    let names: Vec<String> = members
        .iter()
        .filter(|m| wanted(m))
        .map(|m| match &m.tensor {
            Ok(tensor) => format!("\"{}\" {:?}", printable(&m.name), tensor.shape),
            Err(_) => format!("\"{}\"", printable(&m.name)),
        })
        .collect();
    match names.len() {
        0 => "no array".to_owned(),
        n if n > NAMED => format!("{} and {} more", names[..NAMED].join(", "), n - NAMED),
        _ => names.join(", "),
    }
}

/// Whether an array's shape is that of images. What cannot be read may be meant: it is asked for by its name alone.
fn may_be_images(member: &Member) -> bool {
    member
        .tensor
        .as_ref()
        .map_or(true, |t| (3..=4).contains(&t.shape.len()) || t.shape.len() == 2 && t.shape[1] > 64)
}

fn by_names(members: &[Member]) -> Result<(usize, Option<usize>), String> {
    let named: Vec<usize> = (0..members.len())
        .filter(|&i| meaning(&members[i].name).is_some_and(|m| m.images) && may_be_images(&members[i]))
        .collect();
    let images = match named[..] {
        [one] => one,
        [] => {
            let is = |m: &Member| m.tensor.as_ref().is_ok_and(|t| Layout::of(&t.shape).is_ok());
            let fitting: Vec<usize> = (0..members.len()).filter(|&i| is(&members[i])).collect();
            match fitting[..] {
                [one] => one,
                [] => {
                    return Err(format!("no images among its arrays: it has {}", listed(members, |_| true)));
                }
                _ => return Err(several(members, &fitting)),
            }
        }
        _ => return Err(several(members, &named)),
    };
    Ok((images, labels_for(members, images)?))
}

fn several(members: &[Member], fitting: &[usize]) -> String {
    let names: Vec<&str> = fitting.iter().map(|&i| members[i].name.as_str()).collect();
    format!(
        "{} arrays may be the images: {}; append the one that is meant to the path, as FILE#{}",
        fitting.len(),
        listed(members, |m| names.contains(&m.name.as_str())),
        printable(names[0])
    )
}

/// The labels of the array `images`: the one array that is named after labels of the same part, or the one other array
/// that has their shape.
fn labels_for(members: &[Member], images: usize) -> Result<Option<usize>, String> {
    let part = meaning(&members[images].name).filter(|m| m.images).map(|m| m.part);
    let others = || (0..members.len()).filter(|&i| i != images);
    let named: Vec<usize> = others()
        .filter(|&i| meaning(&members[i].name).is_some_and(|m| !m.images && Some(&m.part) == part.as_ref()))
        .collect();
    let count = members[images].tensor.as_ref().map_or(0, |t| t.shape.first().copied().unwrap_or(0));
    let fits = |i: &usize| members[*i].tensor.as_ref().is_ok_and(|t| labels::fits(&t.shape, count));
    let fitting: Vec<usize> = others().filter(fits).collect();
    match (&named[..], &fitting[..]) {
        ([one], _) => Ok(Some(*one)),
        ([], []) => Ok(None),
        ([], [one]) if part.is_none() => Ok(Some(*one)),
        (several, _) => {
            let choice = if several.is_empty() { &fitting[..] } else { several };
            let names: Vec<&str> = choice.iter().map(|&i| members[i].name.as_str()).collect();
            Err(format!(
                "the labels of \"{0}\" are not clear: {1}; append both names to the path, as FILE#{0},{2}",
                printable(&members[images].name),
                listed(members, |m| names.contains(&m.name.as_str())),
                printable(names[0])
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str) -> Option<(bool, String)> {
        meaning(name).map(|m| (m.images, m.part))
    }

    #[test]
    fn names_say_what_an_array_holds() {
        for (name, images, of) in [
            ("x", true, ""),
            ("X", true, ""),
            ("x_train", true, "train"),
            ("Xtest", true, "test"),
            ("train_images", true, "train"),
            ("pixel_values", true, ""),
            ("data", true, ""),
            ("val/images", true, "val"),
            ("arr_0", true, ""),
            ("arr_1", false, ""),
            ("y", false, ""),
            ("y_train", false, "train"),
            ("train_labels", false, "train"),
            ("Targets", false, ""),
            ("fine_labels", false, "fine"),
        ] {
            assert_eq!(part(name), Some((images, of.to_owned())), "{name}");
        }
        for name in ["xylophone", "max", "weights", "", "arr_2", "dataset"] {
            assert_eq!(part(name), None, "{name}");
        }
        assert!(labels_of("x_test").contains(&"y_test".to_owned()));
        assert!(labels_of("faces").contains(&"faces_labels".to_owned()));
    }
}
