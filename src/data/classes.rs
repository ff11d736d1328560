//! Class names and their order.

use std::{collections::HashMap, path::Path};

use super::{limits, table};
use crate::{Error, Result, error::printable};

/// Class names; the position is the class index among the model's outputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Classes(pub Vec<String>);

impl Classes {
    /// Reads names from a file, in the order of the model's outputs: one name a line; lines of an index and a name
    /// between commas, semicolons or tabs (`0,cat`); ImageNet's synsets (`n01440764 tench, Tinca tinca`); or JSON: a list
    /// of names, Hugging Face's `config.json` (`id2label`, `label_names`), `{"0": "cat"}`, `{"cat": 0}` or
    /// `{"0": ["n01440764", "tench"]}`. Surrounding blanks and trailing empty lines are ignored.
    ///
    /// # Errors
    /// The file cannot be read, is not UTF-8, has an empty line between names, a name twice, an index that is missing or
    /// there twice, placeholders (`LABEL_0`), or fewer than two names.
    pub fn from_file(path: &Path) -> Result<Self> {
        let invalid = |problem: String| Error::images(path.display(), problem);
        let text = table::text(path)?;
        let names = match text.trim_start().chars().next() {
            Some('{' | '[') => json::names(&text),
            _ => lines(&text),
        };
        let names = names.map_err(invalid)?;
        if names.len() < 2 {
            return Err(invalid(format!("{} class names, but at least two are needed", names.len())));
        }
        if names.len() > limits::CLASSES {
            return Err(invalid(format!("more than {} class names", limits::CLASSES)));
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

    /// The index of the class folder `name`: of the class with that name, else of the one with its synset (`n01440764`),
    /// with that name among several (`tench` of `tench, Tinca tinca`), or, where all classes are numbers, with that
    /// number (`14` of `00014`). None as well if there are two.
    pub fn position(&self, name: &str) -> Option<u32> {
        let exact = self.0.iter().position(|n| n == name);
        let meant = || {
            if let Some(number) = number(name).filter(|_| self.are_numbers()) {
                return self.only(|class| self::number(class) == Some(number));
            }
            match synset(name) {
                Some((wnid, _)) => self.only(|class| synset(class).is_some_and(|(of, _)| of == wnid)),
                None => self.only(|class| is_called(class, name)),
            }
        };
        exact.or_else(meant).and_then(|i| u32::try_from(i).ok())
    }

    /// The position of the one class that `is` accepts.
    fn only(&self, is: impl Fn(&str) -> bool) -> Option<usize> {
        let mut found = (0..).zip(&self.0).filter(|(_, class)| is(class));
        let first = found.next();
        first.filter(|_| found.next().is_none()).map(|(at, _)| at)
    }

    /// The same classes in natural order, numbers in names as numbers and case aside, as timm sorts folders; None if
    /// that is their order already.
    pub fn natural_order(&self) -> Option<Self> {
        let mut keyed: Vec<_> = self.0.iter().map(|name| (natural(name), name)).collect();
        keyed.sort();
        let sorted = Self(keyed.into_iter().map(|(_, name)| name.clone()).collect());
        (sorted != *self).then_some(sorted)
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

/// The synset at the start of a name (`n01440764`), and the words behind it.
fn synset(name: &str) -> Option<(&str, &str)> {
    let (wnid, words) = name.split_once(' ').unwrap_or((name, ""));
    let digits = wnid.strip_prefix('n').filter(|digits| digits.len() == 8)?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| (wnid, words.trim()))
}

/// Whether a class, `n01440764 tench, Tinca tinca` or `tench, Tinca tinca`, is called `name`.
fn is_called(class: &str, name: &str) -> bool {
    let words = synset(class).map_or(class, |(_, words)| words);
    words == name || words.split(',').any(|word| word.trim() == name)
}

/// A name's place in natural order: text and numbers in turn, text first. Numbers are compared by length, then digits.
fn natural(name: &str) -> Vec<(String, usize, String)> {
    let lower = name.to_lowercase();
    let mut out = Vec::new();
    let mut rest = lower.as_str();
    while !rest.is_empty() {
        let (text, after) = rest.split_at(rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len()));
        let (digits, after) =
            after.split_at(after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len()));
        let digits = digits.trim_start_matches('0');
        out.push((text.to_owned(), digits.len(), digits.to_owned()));
        rest = after;
    }
    out
}

/// Names of a text file: one a line, or behind its index.
fn lines(text: &str) -> Result<Vec<String>, String> {
    let lines: Vec<&str> = text.trim_end().lines().map(str::trim).collect();
    if let Some(indexed) = indexed(&lines) {
        return by_index(indexed);
    }
    let mut first = HashMap::new();
    for (i, name) in lines.iter().enumerate() {
        if name.is_empty() {
            return Err(format!("line {} is empty, expected one class name per line", i + 1));
        }
        if let Some(first) = first.insert(name, i) {
            let name = printable(name);
            return Err(format!("class \"{name}\" is on both lines {} and {}", first + 1, i + 1));
        }
    }
    // synset files have tabs or blanks behind the synset
    Ok(lines.iter().map(|line| line.replacen('\t', " ", 1)).collect())
}

/// Indices and names, if every line has both, but for a line of the columns' names.
fn indexed<'t>(lines: &[&'t str]) -> Option<Vec<(u64, &'t str)>> {
    let pair = |line: &&'t str| {
        let (index, name) = line.split_once([',', ';', '\t'])?;
        Some((number(index.trim().trim_matches('"'))?, name.trim().trim_matches('"')))
    };
    let start = usize::from(lines.first().is_some_and(|line| pair(line).is_none()));
    let pairs: Vec<_> = lines[start..].iter().map(pair).collect::<Option<_>>()?;
    (pairs.len() > 1).then_some(pairs)
}

/// Names by their indices, which must be 0, 1, 2 and so on, in any order. A name that is there twice, as ImageNet's
/// "crane" is, gets its index.
fn by_index<N: AsRef<str>>(mut pairs: Vec<(u64, N)>) -> Result<Vec<String>, String> {
    pairs.sort_by_key(|(index, _)| *index);
    for ((at, (index, name)), wanted) in pairs.iter().enumerate().zip(0u64..) {
        if *index != wanted {
            let twice = at > 0 && pairs[at - 1].0 == *index;
            let found = if twice {
                format!("there are two with {index}")
            } else {
                format!("there is none with {wanted}")
            };
            return Err(format!("class indices must be 0 to {}: {found}", pairs.len() - 1));
        }
        if name.as_ref().trim().is_empty() {
            return Err(format!("the class {index} has no name"));
        }
    }
    let mut uses: HashMap<&str, usize> = HashMap::new();
    pairs.iter().for_each(|(_, name)| *uses.entry(name.as_ref()).or_default() += 1);
    let name = |(index, name): &(u64, N)| match uses[name.as_ref()] {
        1 => name.as_ref().to_owned(),
        _ => format!("{} ({index})", name.as_ref()),
    };
    Ok(pairs.iter().map(name).collect())
}

/// Class names in JSON.
mod json {
    use serde_json::{Map, Value};

    use super::{by_index, number};

    /// The names, in the order of the model's outputs.
    pub fn names(text: &str) -> Result<Vec<String>, String> {
        const EXPECTED: &str = "expected a list of class names, {\"0\": name}, {name: 0} or \"id2label\"";
        let value = serde_json::from_str(text).map_err(|e| format!("is not JSON: {e}; {EXPECTED}"))?;
        let names = match &value {
            Value::Array(names) => list(names),
            Value::Object(object) => match (object.get("id2label"), object.get("label_names")) {
                (Some(Value::Object(names)), _) => by_number(names),
                (_, Some(Value::Array(names))) => list(names),
                _ => by_number(object).or_else(|| of_numbers(object)),
            },
            _ => None,
        };
        let names = by_index(names.ok_or_else(|| EXPECTED.to_owned())?)?;
        if names.iter().enumerate().all(|(i, name)| *name == format!("LABEL_{i}")) {
            return Err("its class names are placeholders (LABEL_0, LABEL_1, ...)".into());
        }
        Ok(names)
    }

    fn list(names: &[Value]) -> Option<Vec<(u64, String)>> {
        (0..).zip(names).map(|(at, name)| Some((at, self::name(name)?))).collect()
    }

    /// `{"0": name}`.
    fn by_number(names: &Map<String, Value>) -> Option<Vec<(u64, String)>> {
        names.iter().map(|(index, name)| Some((number(index)?, self::name(name)?))).collect()
    }

    /// `{name: 0}`.
    fn of_numbers(indices: &Map<String, Value>) -> Option<Vec<(u64, String)>> {
        indices.iter().map(|(name, index)| Some((index.as_u64()?, name.clone()))).collect()
    }

    /// A name, or a synset and its name.
    fn name(value: &Value) -> Option<String> {
        match value {
            Value::String(name) => Some(name.trim().to_owned()),
            Value::Array(parts) => {
                let parts: Option<Vec<&str>> = parts.iter().map(Value::as_str).collect();
                parts.filter(|parts| !parts.is_empty()).map(|parts| parts.join(" "))
            }
            _ => None,
        }
    }
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
    use std::fs;

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

    #[test]
    fn class_files_of_other_tools_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("classes");
        let read = |text: &str| {
            fs::write(&file, text).unwrap();
            Classes::from_file(&file).map_err(|e| e.to_string())
        };
        let two = classes(&["cat", "dog"]);
        for text in [
            r#"{"architectures": ["A"], "id2label": {"1": "dog", "0": "cat"}, "label2id": {"cat": 0, "dog": 1}}"#,
            r#"{"architecture": "resnet18", "label_names": ["cat", "dog"]}"#,
            r#"["cat", "dog"]"#,
            r#" {"cat": 0, "dog": 1}"#,
            r#"{"0": "cat", "1": "dog"}"#,
            "0,cat\n1,dog\n",
            "ClassId;SignName\n1;dog\n0;\"cat\"\n",
            "0\tcat\n1\tdog",
        ] {
            assert_eq!(read(text).unwrap(), two, "{text}");
        }
        let synsets = classes(&["n01440764 tench, Tinca tinca", "n01443537 goldfish"]);
        assert_eq!(read("n01440764 tench, Tinca tinca\nn01443537\tgoldfish\n").unwrap(), synsets);
        let index = read(r#"{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}"#).unwrap();
        assert_eq!(index.0, ["n01440764 tench", "n01443537 goldfish"]);
        let cranes = read(r#"{"id2label": {"0": "crane", "1": "drake", "2": "crane"}}"#).unwrap();
        assert_eq!(cranes.0, ["crane (0)", "drake", "crane (2)"]);
        for (text, problem) in [
            (r#"{"0": "cat", "2": "dog"}"#, "none with 1"),
            ("0,cat\n0,dog\n", "two with 0"),
            (r#"{"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}"#, "placeholders"),
            (r#"{"id2label": {"0": "cat", "1": ""}}"#, "the class 1 has no name"),
            (r#"{"a": "cat", "b": "dog"}"#, "expected a list"),
            (r#"{"a": -1, "b": 0}"#, "expected a list"),
            ("[1, 2]", "expected a list"),
            ("{", "is not JSON"),
            (r#"["cat"]"#, "at least two"),
        ] {
            let e = read(text).unwrap_err();
            assert!(e.contains(problem), "{text}: {e}");
        }
    }

    #[test]
    fn folders_are_found_by_synset_name_or_number() {
        let c = classes(&["n01440764 tench, Tinca tinca", "n02012849 crane", "n03126707 crane"]);
        assert_eq!(c.position("n01440764"), Some(0));
        assert_eq!(c.position("n03126707"), Some(2));
        assert_eq!(c.position("n03126707 crane machine"), Some(2));
        assert_eq!(c.position("tench"), Some(0));
        assert_eq!(c.position("Tinca tinca"), Some(0));
        assert_eq!((c.position("crane"), c.position("n00000000"), c.position("ench")), (None, None, None));
        assert_eq!(classes(&["tench, Tinca tinca", "goldfish"]).position("tench"), Some(0));
        assert_eq!(classes(&["00000", "00001", "00014"]).position("14"), Some(2));
        assert_eq!(classes(&["0", "1", "10", "2"]).position("00002"), Some(3));
        assert_eq!(classes(&["0", "cat"]).position("00"), None);
    }

    #[test]
    fn natural_order_is_timms() {
        let order = |names: &[&str]| classes(names).natural_order().map(|c| c.0.join(" "));
        assert_eq!(order(&["0", "1", "10", "11", "2"]).unwrap(), "0 1 2 10 11");
        assert_eq!(order(&["Zebra", "ant", "bee"]).unwrap(), "ant bee Zebra");
        assert_eq!(order(&["a10b2", "a10b10", "a2"]).unwrap(), "a2 a10b2 a10b10");
        assert_eq!(order(&["00000", "00001", "00010"]), None);
        assert_eq!(order(&["1a", "a", "a1"]), None);
    }
}
