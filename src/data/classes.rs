//! Class names and their order.

use std::{collections::HashMap, fs, path::Path};

use crate::{Error, Result, error::printable};

/// Class names; the position is the class index among the model's outputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Classes(pub Vec<String>);

impl Classes {
    /// Reads names from a file, one per line, in the order of the model's outputs. Surrounding blanks and trailing
    /// empty lines are ignored.
    ///
    /// # Errors
    /// The file cannot be read, is not UTF-8, has an empty line between names, a name twice, or fewer than two names.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = fs::read(path).map_err(|e| Error::io(path, e))?;
        let invalid = |problem: String| Error::images(path.display(), problem);
        let text = String::from_utf8(text).map_err(|_| invalid("class names must be UTF-8 text".into()))?;
        let names: Vec<String> = text.trim_end().lines().map(|line| line.trim().to_owned()).collect();
        for (i, name) in names.iter().enumerate() {
            if name.is_empty() {
                return Err(invalid(format!("line {} is empty, expected one class name per line", i + 1)));
            }
            if let Some(first) = names[..i].iter().position(|n| n == name) {
                let name = printable(name);
                return Err(invalid(format!(
                    "class \"{name}\" is on both lines {} and {}",
                    first + 1,
                    i + 1
                )));
            }
        }
        if names.len() < 2 {
            return Err(invalid(format!("{} class names, but at least two are needed", names.len())));
        }
        Ok(Self(names))
    }

    /// Number of classes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True without classes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The index of the class folder `name`.
    pub fn position(&self, name: &str) -> Option<u32> {
        self.0.iter().position(|n| n == name).and_then(|i| u32::try_from(i).ok())
    }

    /// The class denoted by `text`: a name, else an index from 0. Names take precedence over indices.
    ///
    /// # Errors
    /// No such class; the message suggests the nearest names.
    pub fn find(&self, text: &str) -> Result<u32> {
        if let Some(index) = self.position(text) {
            return Ok(index);
        }
        if let Some(index) = text.parse::<u32>().ok().filter(|&i| (i as usize) < self.len()) {
            return Ok(index);
        }
        let hint = nearest(text, self.0.iter().map(String::as_str));
        Err(Error::images(
            format!("class \"{}\"", printable(text)),
            format!("not one of the {} classes (a name, or an index from 0){hint}", self.len()),
        ))
    }

    /// Whether every name is a whole number, as folders are often called: `0`, `00042`.
    pub fn are_numbers(&self) -> bool {
        !self.is_empty() && self.0.iter().all(|name| number(name).is_some())
    }

    /// Labels that are class indices, as positions among these classes. Where the classes are called by numbers, a label
    /// is that number, in whatever order they stand; without classes it is taken as it is.
    ///
    /// # Errors
    /// A label that is no class; `row` names its image.
    pub(super) fn of_indices(&self, labels: &[u32], row: impl Fn(usize) -> String) -> Result<Vec<u32>> {
        let missing = |at: usize, problem: String| Error::images(row(at), problem);
        if self.are_numbers() {
            let numbered = (0u32..).zip(&self.0).filter_map(|(at, name)| Some((number(name)?, at)));
            let places: HashMap<u64, u32> = numbered.collect();
            let place = |(at, label): (usize, &u32)| {
                let class = places.get(&u64::from(*label)).copied();
                class.ok_or_else(|| {
                    missing(at, format!("is of class {label}, which is none of the {}", self.len()))
                })
            };
            return labels.iter().enumerate().map(place).collect();
        }
        match labels.iter().position(|&label| !self.is_empty() && label as usize >= self.len()) {
            None => Ok(labels.to_vec()),
            Some(at) => {
                let problem = format!("is of class {}, but there are {} classes", labels[at], self.len());
                Err(missing(at, problem))
            }
        }
    }

    /// Checks that there are as many classes as model outputs; `subject` is the folder or file that they come from.
    pub fn require_count(&self, outputs: usize, subject: impl std::fmt::Display) -> Result<()> {
        if self.len() == outputs {
            return Ok(());
        }
        Err(Error::images(subject, format!("{} classes, but the model has {outputs} outputs", self.len())))
    }
}

/// The whole number that a name is.
fn number(name: &str) -> Option<u64> {
    (!name.is_empty() && name.bytes().all(|b| b.is_ascii_digit())).then(|| name.parse().ok()).flatten()
}

/// `; did you mean "a" or "b"?` with the names nearest to `wanted`; empty if none is near.
pub fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let lower = wanted.to_lowercase();
    let mut near: Vec<(f64, &str)> = names
        .into_iter()
        .map(|name| {
            let candidate = name.to_lowercase();
            let likeness = strsim::normalized_damerau_levenshtein(&lower, &candidate);
            let part = !lower.is_empty() && candidate.contains(&lower);
            (if part { likeness.max(0.9) } else { likeness }, name)
        })
        .filter(|(likeness, _)| *likeness > 0.6)
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    let near: Vec<String> = near.iter().take(3).map(|(_, n)| format!("\"{}\"", printable(n))).collect();
    if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(" or ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(names: &[&str]) -> Classes {
        Classes(names.iter().map(|n| n.to_string()).collect())
    }

    #[test]
    fn a_class_is_found_by_name_then_by_index() {
        let c = classes(&["0", "1", "10", "2"]);
        assert_eq!(c.find("2").unwrap(), 3); // the name, as folders sort
        assert_eq!(c.find("3").unwrap(), 3); // no such name: the index
        assert!(c.find("4").is_err());
        assert!(c.find("-1").is_err());
    }

    #[test]
    fn an_unknown_class_gets_the_nearest_names() {
        let e = classes(&["airplane", "automobile", "bird"]).find("aeroplane").unwrap_err().to_string();
        assert!(e.contains("did you mean \"airplane\""), "{e}");
        assert!(!e.contains("bird"), "{e}");
    }

    #[test]
    fn a_class_file_is_read_strictly() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("classes.txt");
        let read = |text: &str| {
            fs::write(&file, text).unwrap();
            Classes::from_file(&file).map_err(|e| e.to_string())
        };
        assert_eq!(read("cat\r\n dog \n\n").unwrap(), classes(&["cat", "dog"]));
        assert!(read("cat\n\ndog").unwrap_err().contains("line 2"));
        assert!(read("cat\ndog\ncat").unwrap_err().contains("lines 1 and 3"));
        assert!(read("cat\n").unwrap_err().contains("at least two"));
        assert!(read("").unwrap_err().contains("at least two"));
    }
}
