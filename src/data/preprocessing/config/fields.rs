//! JSON objects whose values are asked for by name and type; an error names the file and the field.

use std::{fmt, path::Path};

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::{Error, Result, data::limits::SIDE, error::printable};

/// A file: its text and, where that is JSON, its object.
pub struct File {
    /// The path in errors.
    path: String,
    /// The file's name.
    short: String,
    /// The path itself.
    pub place: std::path::PathBuf,
    /// All of it.
    pub text: String,
    json: Option<Map<String, Value>>,
}

impl File {
    /// # Errors
    /// Text that begins as a JSON object and is none; a name twice in an object.
    pub fn new(path: &Path, text: &str) -> Result<Self> {
        let name = path.file_name().map_or_else(|| path.to_string_lossy(), |name| name.to_string_lossy());
        let text = text.trim_start_matches('\u{feff}').trim();
        let json = match text.starts_with(['{', '[']) {
            true => match serde_json::from_str(text) {
                Ok(Unique(Value::Object(map))) => Some(map),
                Ok(_) => return Err(Error::images(path.display(), "is a JSON list, expected an object")),
                Err(e) => return Err(Error::images(path.display(), format!("is not valid JSON: {e}"))),
            },
            false => None,
        };
        Ok(Self {
            path: path.display().to_string(),
            short: printable(&name),
            place: path.to_path_buf(),
            text: text.to_owned(),
            json,
        })
    }

    /// The file's name, escaped for printing.
    pub fn short(&self) -> &str {
        &self.short
    }

    /// Its JSON object.
    pub fn fields(&self) -> Option<Fields<'_>> {
        self.json.as_ref().map(|map| Fields { file: self, at: String::new(), map, silent: None })
    }

    /// An error about a field, or about the whole file.
    pub fn error(&self, field: Option<&str>, problem: impl fmt::Display) -> Error {
        match field {
            Some(field) => Error::images(&self.path, format!("`{}` {problem}", printable(field))),
            None => Error::images(&self.path, problem),
        }
    }
}

/// An object in a file. What it does not name is looked up in `silent`.
#[derive(Clone)]
pub struct Fields<'a> {
    pub file: &'a File,
    /// Path of the object: `pretrained_cfg.`.
    at: String,
    map: &'a Map<String, Value>,
    silent: Option<&'a Map<String, Value>>,
}

impl<'a> Fields<'a> {
    /// With what holds for fields that the file does not name.
    pub fn or(self, silent: &'a Map<String, Value>) -> Self {
        Self { silent: Some(silent), ..self }
    }

    /// Whether the file names the field.
    pub fn names(&self, field: &str) -> bool {
        self.map.contains_key(field)
    }

    /// The fields that the file names.
    pub fn named(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.map.iter()
    }

    /// The value of a field; None if it is null or nowhere.
    pub fn value(&self, field: &str) -> Option<&'a Value> {
        let value = self.map.get(field).or_else(|| self.silent.and_then(|silent| silent.get(field)));
        value.filter(|value| !value.is_null())
    }

    /// The field's name with that of its object.
    pub fn full(&self, field: &str) -> String {
        format!("{}{field}", self.at)
    }

    /// An error about a field.
    pub fn error(&self, field: &str, problem: impl fmt::Display) -> Error {
        self.file.error(Some(&self.full(field)), problem)
    }

    fn expected(&self, field: &str, value: &Value, what: &str) -> Error {
        self.error(field, format!("is {}, expected {what}", shown(value)))
    }

    /// True or false; None counts as false.
    pub fn flag(&self, field: &str) -> Result<bool> {
        match self.value(field) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(other) => Err(self.expected(field, other, "true or false")),
        }
    }

    /// Text.
    pub fn text(&self, field: &str) -> Result<Option<&'a str>> {
        match self.value(field) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(other) => Err(self.expected(field, other, "text")),
        }
    }

    /// A finite number.
    pub fn number(&self, field: &str) -> Result<Option<f64>> {
        let Some(value) = self.value(field) else { return Ok(None) };
        let number = value.as_f64().filter(|number| number.is_finite());
        number.map(Some).ok_or_else(|| self.expected(field, value, "a number"))
    }

    /// One or several finite numbers, at most 16.
    pub fn numbers(&self, field: &str) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.value(field) else { return Ok(None) };
        let wrong = || self.expected(field, value, "numbers, one or one for each channel");
        let number = |value: &Value| value.as_f64().filter(|number| number.is_finite());
        let values: Option<Vec<f64>> = match value {
            Value::Array(values) if values.len() <= 16 => values.iter().map(number).collect(),
            one => number(one).map(|one| vec![one]),
        };
        values.filter(|values| !values.is_empty()).map(Some).ok_or_else(wrong)
    }

    /// A side of an image in pixels.
    pub fn side(&self, field: &str, value: &Value) -> Result<usize> {
        let whole = value
            .as_u64()
            .or_else(|| value.as_f64().filter(|v| v.fract() == 0.0 && *v >= 0.0).map(|v| v as u64));
        let side = whole.filter(|side| (1..=u64::from(SIDE)).contains(side));
        let side = side.ok_or_else(|| self.expected(field, value, &format!("pixels from 1 to {SIDE}")))?;
        Ok(side as usize)
    }

    /// Two numbers of pixels, height first.
    pub fn sides(&self, field: &str, values: &[Value]) -> Result<[usize; 2]> {
        let [h, w] = values else {
            return Err(self.error(field, format!("has {} values, expected height and width", values.len())));
        };
        Ok([self.side(field, h)?, self.side(field, w)?])
    }

    /// An object.
    pub fn object(&self, field: &str) -> Result<Option<Self>> {
        match self.value(field) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                let at = self.full(field) + ".";
                Ok(Some(Self { file: self.file, at, map, silent: None }))
            }
            Some(other) => Err(self.expected(field, other, "an object")),
        }
    }
}

/// A value in messages, shortened.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        other => crate::error::shortened(&other.to_string(), 40).replace("\\\"", "\""),
    }
}

/// JSON whose objects have each name once; serde_json alone takes the last of several.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Once).map(Self)
    }
}

struct Once;

impl<'de> Visitor<'de> for Once {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unique(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(name) = object.next_key::<String>()? {
            let Unique(value) = object.next_value()?;
            if values.contains_key(&name) {
                return Err(A::Error::custom(format!("`{}` is there twice", printable(&name))));
            }
            values.insert(name, value);
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<File> {
        File::new(Path::new("some/a.json"), text)
    }

    #[test]
    fn what_is_no_object_of_distinct_names_is_refused() {
        let said = |text: &str| file(text).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(said("[1]").contains("expected an object"));
        assert!(said(r#"{"a": 1, "b": {"c": 1, "c": 2}}"#).contains("`c` is there twice"));
        assert!(said(r#"{"a": NaN}"#).contains("not valid JSON"));
        assert!(said(r#"{"a": 1e999}"#).contains("out of range"));
        assert!(said(&format!("{{\"a\": {}", "[".repeat(100_000))).contains("recursion limit"));
        assert!(said(r#"{"a": 1"#).contains("EOF"));
        assert!(said(r#"{"a": 1}"#).is_empty());
        assert!(file("other text").unwrap().fields().is_none());
    }

    #[test]
    fn an_error_names_file_field_and_value() {
        let file = file(r#"{"o": {"f": "yes", "n": [1, "x"], "s": 0, "t": 3}}"#).unwrap();
        let fields = file.fields().unwrap().object("o").unwrap().unwrap();
        let said = |e: Result<()>| e.unwrap_err().to_string();
        assert_eq!(said(fields.flag("f").map(drop)), "some/a.json: `o.f` is \"yes\", expected true or false");
        assert!(said(fields.numbers("n").map(drop)).contains("`o.n` is a list, expected numbers"));
        assert!(
            said(fields.side("s", &0.into()).map(drop))
                .contains("`o.s` is 0, expected pixels from 1 to 16384")
        );
        assert!(said(fields.text("t").map(drop)).contains("`o.t` is 3, expected text"));
        assert!(said(fields.object("t").map(drop)).contains("expected an object"));
        assert!(!fields.flag("missing").unwrap());
    }
}
