//! What a rewritten file says of itself, in metadata_props under `polarizer.*`. It is a statement, no evidence: whoever
//! reads it checks it, by the hash it names (`revert`) or against the original (`verify`).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{error::printable, onnx::splice::Change};

/// Keys of a rewritten file start so.
pub(crate) const PREFIX: &str = "polarizer.";

/// Who made a layer, and how: what a rewritten file and a layer file say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The version of this tool.
    pub version: String,
    /// The site, as a user would write it: `node:/layer4/conv1/Conv`, `value:x`.
    pub site: String,
    /// Settings of the training, as (name, value), in the order they are to be shown.
    pub settings: Vec<(String, String)>,
}

impl Provenance {
    /// By this version of the tool.
    pub fn new(site: impl Into<String>, settings: Vec<(String, String)>) -> Self {
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), site: site.into(), settings }
    }

    pub(super) fn settings_json(&self) -> serde_json::Map<String, Value> {
        self.settings.iter().map(|(name, value)| (name.clone(), Value::String(value.clone()))).collect()
    }

    pub(super) fn settings_from(map: &serde_json::Map<String, Value>) -> Vec<(String, String)> {
        let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        map.iter().map(|(name, value)| (name.clone(), text(value))).collect()
    }
}

/// The names of what was inserted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// The convolution's node.
    pub conv: String,
    /// The batch normalization's node.
    pub norm: String,
    /// What the convolution makes and the normalization reads.
    pub between: String,
    /// The value that is new at the site: what the readers read now, or what the producer makes now.
    pub value: String,
    /// The convolution's weight, an initializer as are all that follow.
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
    pub(super) fn from_stem(stem: &str) -> Self {
        let name = |part: &str| format!("{stem}_{part}");
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
    pub fn initializers(&self) -> [&str; 5] {
        [&self.weight, &self.scale, &self.bias, &self.mean, &self.var]
    }

    /// All of them.
    pub fn all(&self) -> [&str; 9] {
        let [a, b, c, d, e] = self.initializers();
        [&self.conv, &self.norm, &self.between, &self.value, a, b, c, d, e]
    }
}

/// How to get the original back: the file is cut at byte `end`, then bytes are replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Undo {
    pub end: usize,
    /// First byte, end, what stood there in hexadecimal.
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

/// All that a rewritten file says of itself.
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

/// The keys, without prefix, in the order they are written.
const KEYS: [&str; 8] =
    ["version", "site", "place", "settings", "input_sha256", "layer_sha256", "names", "undo"];

impl Record {
    /// Whether metadata has anything of ours.
    pub fn is_there(metadata: &[(String, String)]) -> bool {
        metadata.iter().any(|(key, _)| key.starts_with(PREFIX))
    }

    /// As metadata.
    pub(super) fn entries(&self) -> Result<[(String, String); 8], serde_json::Error> {
        let values = [
            self.provenance.version.clone(),
            self.provenance.site.clone(),
            self.place.clone(),
            serde_json::to_string(&self.provenance.settings_json())?,
            self.input_sha256.clone(),
            self.layer_sha256.clone(),
            serde_json::to_string(&self.names)?,
            serde_json::to_string(&self.undo)?,
        ];
        let mut keys = KEYS.iter();
        Ok(values.map(|value| (format!("{PREFIX}{}", keys.next().unwrap_or(&"")), value)))
    }

    /// From metadata.
    ///
    /// # Errors
    /// What is missing, stands twice, is unknown or is not what it should be.
    pub fn from_metadata(metadata: &[(String, String)]) -> Result<Self, String> {
        let mut values: [Option<&str>; 8] = [None; 8];
        for (key, value) in metadata {
            let Some(part) = key.strip_prefix(PREFIX) else { continue };
            let slot = KEYS.iter().position(|k| *k == part).and_then(|index| values.get_mut(index));
            let slot =
                slot.ok_or_else(|| format!("its metadata has the unknown key \"{}\"", printable(key)))?;
            if slot.replace(value).is_some() {
                return Err(format!("its metadata has two values for \"{key}\""));
            }
        }
        let value = |part: &str| {
            let found = KEYS.iter().position(|k| *k == part).and_then(|index| values[index]);
            found.ok_or_else(|| format!("its metadata has no \"{PREFIX}{part}\""))
        };
        let fault = |part: &str, e: serde_json::Error| format!("its metadata \"{PREFIX}{part}\": {e}");
        let settings = serde_json::from_str(value("settings")?).map_err(|e| fault("settings", e))?;
        Ok(Self {
            provenance: Provenance {
                version: value("version")?.to_owned(),
                site: value("site")?.to_owned(),
                settings: Provenance::settings_from(&settings),
            },
            place: value("place")?.to_owned(),
            input_sha256: value("input_sha256")?.to_owned(),
            layer_sha256: value("layer_sha256")?.to_owned(),
            names: serde_json::from_str(value("names")?).map_err(|e| fault("names", e))?,
            undo: serde_json::from_str(value("undo")?).map_err(|e| fault("undo", e))?,
        })
    }
}
