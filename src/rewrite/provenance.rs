//! Metadata of a rewritten file, in metadata_props under `polarizer.*`. It is a claim, not evidence: `revert` checks it
//! against the hash that it contains, `verify` against the original.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    error::printable,
    layer::{Form, Stored},
    onnx::splice::Change,
};

/// Prefix of the metadata keys.
pub(crate) const PREFIX: &str = "polarizer.";

/// How a layer was made; recorded in rewritten files and layer files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// Version of polarizer.
    pub version: String,
    /// The site in the user's notation: `node:/layer4/conv1/Conv`, `value:x`.
    pub site: String,
    /// Settings of the training as (name, value), in display order.
    pub settings: Vec<(String, String)>,
    /// How the layer is written.
    pub form: Form,
    /// The type that its numbers have in the file.
    pub stored: Stored,
}

impl Provenance {
    /// Provenance with the version of this crate.
    pub fn new(site: impl Into<String>, settings: Vec<(String, String)>) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { version, site: site.into(), settings, form: Form::default(), stored: Stored::default() }
    }

    /// The same with the layer written in another form.
    #[must_use]
    pub fn in_form(mut self, form: Form) -> Self {
        self.form = form;
        self
    }

    /// The same with the layer's numbers in another type.
    #[must_use]
    pub fn stored_as(mut self, stored: Stored) -> Self {
        self.stored = stored;
        self
    }

    pub(super) fn settings_json(&self) -> serde_json::Map<String, Value> {
        self.settings.iter().map(|(name, value)| (name.clone(), Value::String(value.clone()))).collect()
    }

    pub(super) fn settings_from(map: &serde_json::Map<String, Value>) -> Vec<(String, String)> {
        let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        map.iter().map(|(name, value)| (name.clone(), text(value))).collect()
    }
}

/// Names of the inserted nodes, values and initializers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// Node of the convolution or product.
    pub conv: String,
    /// Node of the batch normalization or sum.
    pub norm: String,
    /// Value between the two.
    pub between: String,
    /// The new value at the site: what the consumers read now, or what the producer writes now.
    pub value: String,
    /// The weight, an initializer as are all that follow; those that the form does not have are empty.
    pub weight: String,
    /// The normalization's scale.
    pub scale: String,
    /// The normalization's bias.
    pub bias: String,
    /// The normalization's mean.
    pub mean: String,
    /// The normalization's variance.
    pub var: String,
}

impl Names {
    pub(super) fn from_stem(stem: &str, form: Form) -> Self {
        let name = |part: &str| format!("{stem}_{part}");
        if form == Form::MatMul {
            return Self {
                conv: name("matmul"),
                norm: name("add"),
                between: name("matmul_output"),
                value: name("value"),
                weight: name("weight"),
                bias: name("bias"),
                scale: String::new(),
                mean: String::new(),
                var: String::new(),
            };
        }
        Self {
            conv: name("conv"),
            norm: name("norm"),
            between: name("conv_output"),
            value: name("value"),
            weight: name("weight"),
            scale: name("scale"),
            bias: name("bias"),
            mean: name("mean"),
            var: name("var"),
        }
    }

    /// The initializers, in the order of [`Layer::tensors`](crate::pipeline::Layer::tensors).
    pub fn initializers(&self) -> Vec<&str> {
        let all = [&self.weight, &self.scale, &self.bias, &self.mean, &self.var];
        all.into_iter().map(String::as_str).filter(|name| !name.is_empty()).collect()
    }

    /// All names.
    pub fn all(&self) -> Vec<&str> {
        let mut all: Vec<&str> = vec![&self.conv, &self.norm, &self.between, &self.value];
        all.extend(self.initializers());
        all
    }
}

/// How to restore the original: truncate the file at byte `end`, then apply `changes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Undo {
    pub end: usize,
    /// First byte, end (exclusive), original bytes in hexadecimal.
    pub changes: Vec<(usize, usize, String)>,
}

impl Undo {
    pub fn new(end: usize, changes: &[Change]) -> Self {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect();
        Self { end, changes: changes.iter().map(|c| (c.at.start, c.at.end, hex(&c.with))).collect() }
    }

    pub fn changes(&self) -> Option<Vec<Change>> {
        let bytes = |hex: &str| -> Option<Vec<u8>> {
            let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
            let digits = |pair: &[u8; 2]| {
                let digit = |b: u8| char::from(b).to_digit(16);
                u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()
            };
            if rest.is_empty() { pairs.iter().map(digits).collect() } else { None }
        };
        let changes = self.changes.iter();
        changes.map(|(start, end, hex)| Some(Change { at: *start..*end, with: bytes(hex)? })).collect()
    }
}

/// All metadata of a rewritten file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who made the layer, and how.
    pub provenance: Provenance,
    /// The site as the text of a [`SitePlace`](crate::pipeline::SitePlace).
    pub place: String,
    /// SHA-256 of the original file, in hexadecimal.
    pub input_sha256: String,
    /// [`Layer::sha256`](crate::pipeline::Layer::sha256), in hexadecimal.
    pub layer_sha256: String,
    /// The names of what was inserted.
    pub names: Names,
    pub(super) undo: Undo,
}

/// The keys without prefix, in the order of the file. The last two are left out for [`Form::Conv2d`] and
/// [`Stored::Float`].
const KEYS: [&str; 10] = [
    "version",
    "site",
    "place",
    "settings",
    "input_sha256",
    "layer_sha256",
    "names",
    "undo",
    "form",
    "stored",
];

impl Record {
    /// Whether `metadata` contains any key of polarizer.
    pub fn is_there(metadata: &[(String, String)]) -> bool {
        metadata.iter().any(|(key, _)| key.starts_with(PREFIX))
    }

    /// The record as metadata entries.
    pub(super) fn entries(&self) -> Result<Vec<(String, String)>, serde_json::Error> {
        let values = [
            self.provenance.version.clone(),
            self.provenance.site.clone(),
            self.place.clone(),
            serde_json::to_string(&self.provenance.settings_json())?,
            self.input_sha256.clone(),
            self.layer_sha256.clone(),
            serde_json::to_string(&self.names)?,
            serde_json::to_string(&self.undo)?,
            self.provenance.form.name().to_owned(),
            self.provenance.stored.name().to_owned(),
        ];
        let usual = |key: &str| match key {
            "form" => self.provenance.form == Form::default(),
            "stored" => self.provenance.stored == Stored::default(),
            _ => false,
        };
        let entries = KEYS.iter().zip(values).filter(|(key, _)| !usual(key));
        Ok(entries.map(|(key, value)| (format!("{PREFIX}{key}"), value)).collect())
    }

    /// Parses the record from metadata.
    ///
    /// # Errors
    /// A key that is missing, duplicate or unknown, or a malformed value.
    pub fn from_metadata(metadata: &[(String, String)]) -> Result<Self, String> {
        let mut values: [Option<&str>; KEYS.len()] = [None; KEYS.len()];
        for (key, value) in metadata {
            let Some(part) = key.strip_prefix(PREFIX) else { continue };
            let slot = KEYS.iter().position(|k| *k == part).and_then(|index| values.get_mut(index));
            let slot =
                slot.ok_or_else(|| format!("its metadata has the unknown key \"{}\"", printable(key)))?;
            if slot.replace(value).is_some() {
                return Err(format!("its metadata has two values for \"{key}\""));
            }
        }
        let given = |part: &str| KEYS.iter().position(|k| *k == part).and_then(|index| values[index]);
        let value = |part: &str| given(part).ok_or_else(|| format!("its metadata has no \"{PREFIX}{part}\""));
        let fault = |part: &str, e: serde_json::Error| format!("its metadata \"{PREFIX}{part}\": {e}");
        let form = match given("form").map(|name| (name, Form::named(name))) {
            None => Form::default(),
            Some((_, Some(form))) if form != Form::default() => form,
            Some((name, _)) => {
                return Err(format!("its metadata \"{PREFIX}form\" is \"{}\"", printable(name)));
            }
        };
        let stored = match given("stored").map(|name| (name, Stored::named(name))) {
            None => Stored::default(),
            Some((_, Some(stored))) if stored != Stored::default() => stored,
            Some((name, _)) => {
                return Err(format!("its metadata \"{PREFIX}stored\" is \"{}\"", printable(name)));
            }
        };
        let settings = serde_json::from_str(value("settings")?).map_err(|e| fault("settings", e))?;
        Ok(Self {
            provenance: Provenance {
                version: value("version")?.to_owned(),
                site: value("site")?.to_owned(),
                settings: Provenance::settings_from(&settings),
                form,
                stored,
            },
            place: value("place")?.to_owned(),
            input_sha256: value("input_sha256")?.to_owned(),
            layer_sha256: value("layer_sha256")?.to_owned(),
            names: serde_json::from_str(value("names")?).map_err(|e| fault("names", e))?,
            undo: serde_json::from_str(value("undo")?).map_err(|e| fault("undo", e))?,
        })
    }
}
