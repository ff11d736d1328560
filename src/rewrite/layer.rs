//! The layer file: a trained layer as safetensors, with its site and model in the header.

use std::{borrow::Cow, collections::HashMap};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};

use super::Provenance;
use crate::{
    Error, Result,
    error::printable,
    layer::{Form, Layer, Stored, TENSORS},
    onnx::Model,
    site::SitePlace,
};

/// The single key of the header: safetensors does not keep the order of several.
const HEADER: &str = "polarizer";

/// Version of the layer file's header.
const FORMAT: u32 = 1;

/// Content of a layer file: a layer, its site and the model that it was trained for.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerFile {
    /// Its numbers.
    pub layer: Layer,
    /// Its site in the model.
    pub place: SitePlace,
    /// SHA-256 of the model file that it was trained for, in hexadecimal.
    pub input_sha256: String,
    /// The provenance that is written into the rewritten file.
    pub provenance: Provenance,
}

/// The header of a layer file, as JSON under the key `polarizer`.
#[derive(Serialize, Deserialize)]
struct Header<'a> {
    format: u32,
    version: Cow<'a, str>,
    site: Cow<'a, str>,
    place: String,
    channels: usize,
    epsilon: f32,
    input_sha256: Cow<'a, str>,
    /// Digest of the layer itself; files of version 0.1.0 have none.
    #[serde(default)]
    layer_sha256: Option<String>,
    settings: serde_json::Map<String, serde_json::Value>,
    /// How the layer is written; left out for Conv and BatchNormalization on (N, C, H, W).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    form: Option<String>,
    /// The type that its numbers have in the model's file; left out for float32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stored: Option<String>,
}

impl LayerFile {
    /// The bytes of the file; equal layers give equal bytes.
    ///
    /// # Errors
    /// [`Error::Internal`] if the layer is invalid.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        if let Some(problem) = self.layer.problem() {
            return Err(Error::internal(format!("the layer to save {problem}")));
        }
        let header = Header {
            format: FORMAT,
            version: Cow::Borrowed(&self.provenance.version),
            site: Cow::Borrowed(&self.provenance.site),
            place: self.place.to_string(),
            channels: self.layer.channels,
            epsilon: self.layer.epsilon,
            input_sha256: Cow::Borrowed(&self.input_sha256),
            layer_sha256: Some(self.layer.sha256()),
            settings: self.provenance.settings_json(),
            form: Some(self.provenance.form).filter(|f| *f != Form::default()).map(|f| f.name().to_owned()),
            stored: Some(self.provenance.stored)
                .filter(|s| *s != Stored::default())
                .map(|s| s.name().to_owned()),
        };
        let fault = |e: &dyn std::fmt::Display| Error::internal(format!("layer file: {e}"));
        let header = serde_json::to_string(&header).map_err(|e| fault(&e))?;
        let c = self.layer.channels;
        let bytes = self.layer.tensors().map(|t| t.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
        let mut views = Vec::new();
        for (name, bytes) in TENSORS.into_iter().zip(&bytes) {
            let shape = if name == "weight" { vec![c, c, 1, 1] } else { vec![c] };
            views.push((name, TensorView::new(Dtype::F32, shape, bytes).map_err(|e| fault(&e))?));
        }
        safetensors::serialize(views, Some(HashMap::from([(HEADER.to_owned(), header)])))
            .map_err(|e| fault(&e))
    }

    /// Reads a layer file. `name` is used in messages.
    ///
    /// # Errors
    /// [`Error::Input`] if it is not a layer file or its layer is invalid.
    pub fn from_bytes(bytes: &[u8], name: &str) -> Result<Self> {
        Self::parse(bytes).map_err(|problem| Error::invalid(name, problem))
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let none = |e: &dyn std::fmt::Display| format!("is not a layer file of polarizer: {e}");
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| none(&e))?;
        let header = metadata.metadata().as_ref().and_then(|m| m.get(HEADER));
        let header = header.ok_or_else(|| none(&"its header has no key \"polarizer\""))?;
        let header: Header = serde_json::from_str(header).map_err(|e| none(&e))?;
        if header.format != FORMAT {
            return Err(format!(
                "is a layer file of format {}; this version reads format {FORMAT}",
                header.format
            ));
        }
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| none(&e))?;
        if tensors.len() != TENSORS.len() {
            return Err(format!("has {} tensors, expected {}", tensors.len(), TENSORS.len()));
        }
        let c = header.channels;
        let values = |name: &str| -> Result<Vec<f32>, String> {
            let view = tensors.tensor(name).map_err(|e| none(&e))?;
            let shape = if name == "weight" { vec![c, c, 1, 1] } else { vec![c] };
            if view.dtype() != Dtype::F32 || view.shape() != shape {
                return Err(format!(
                    "has {name} as {:?} {:?}, expected F32 {shape:?}",
                    view.dtype(),
                    view.shape()
                ));
            }
            Ok(view.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
        };
        let layer = Layer {
            channels: c,
            weight: values("weight")?,
            scale: values("scale")?,
            bias: values("bias")?,
            mean: values("mean")?,
            var: values("var")?,
            epsilon: header.epsilon,
        };
        if let Some(problem) = layer.problem() {
            return Err(format!("its layer {problem}"));
        }
        if header.layer_sha256.is_some_and(|stated| stated != layer.sha256()) {
            return Err("its layer is not the one that was saved: the file has been changed since".into());
        }
        let named = |name: &str| {
            Form::named(name).ok_or_else(|| format!("has the unknown form \"{}\"", printable(name)))
        };
        let form = header.form.as_deref().map_or(Ok(Form::default()), named)?;
        let named = |name: &str| {
            Stored::named(name)
                .ok_or_else(|| format!("has numbers of the unknown type \"{}\"", printable(name)))
        };
        let stored = header.stored.as_deref().map_or(Ok(Stored::default()), named)?;
        let provenance = Provenance {
            version: header.version.into_owned(),
            site: header.site.into_owned(),
            settings: Provenance::settings_from(&header.settings),
            form,
            stored,
        };
        Ok(Self {
            layer,
            place: header.place.parse()?,
            input_sha256: header.input_sha256.into_owned(),
            provenance,
        })
    }

    /// Checks that the layer was trained for `model`.
    ///
    /// # Errors
    /// [`Error::Input`] with both digests.
    pub fn check_belongs(&self, model: &Model) -> Result<()> {
        let (expected, found) = (printable(&self.input_sha256), model.sha256());
        if self.input_sha256 == found {
            return Ok(());
        }
        let problem = format!("has SHA-256 {found}; the layer was trained for the file with {expected}");
        Err(Error::invalid(model.name(), problem))
    }
}
