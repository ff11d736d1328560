//! [`Model`]: a read-only, typed view of a file whose bytes passed the wire scan.

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    io::Read,
    ops::Range,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use onnx_protobuf::{NodeProto, StringStringEntryProto, TensorProto, ValueInfoProto};

use super::{
    check,
    decode::{self, decode_message, decoded},
    external,
    limits::MAX_FILE,
    node::{Node, ValueInfo},
    schema::number,
    storage::{self, Layout},
    tensor::{DataType, Tensor},
    wire::{self, Scan},
};
use crate::{Error, Result, base::digest::sha256, error::printable};

/// An initializer, not decoded.
struct Initializer {
    name: String,
    /// Index of its message in the scan.
    message: usize,
    layout: Layout,
    /// External data, read together with the model, and its path.
    external: Option<(Vec<u8>, PathBuf)>,
}

/// An ONNX model: the validated bytes of the file and a typed view of its main graph.
///
/// A `Model` is unambiguous as far as that can be checked without running it: the wire format is sound, there is one
/// default opset, every name is defined once and before its first use, every tensor has one value of exactly its size.
/// Subgraphs, functions and unknown fields are kept but not interpreted.
pub struct Model {
    bytes: Vec<u8>,
    name: String,
    dir: Option<PathBuf>,
    digest: OnceLock<String>,
    scan: Scan,
    graph: usize,
    ir_version: i64,
    opset: i64,
    nodes: Vec<Node>,
    node_messages: Vec<usize>,
    inputs: Vec<ValueInfo>,
    overridable: Vec<String>,
    outputs: Vec<ValueInfo>,
    initializers: Vec<Initializer>,
    by_name: HashMap<String, usize>,
    metadata: Vec<(String, String)>,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Model({:?}, {} nodes, opset {})", self.name, self.nodes.len(), self.opset)
    }
}

impl Model {
    /// Reads and checks the file at `path`, and the files beside it that hold its external data.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read, [`Error::Input`] if it is not a valid, supported model.
    pub fn read(path: &Path) -> Result<Self> {
        let io = |e| Error::io(path, e);
        // checked before opening: opening a pipe would block until it has a writer
        let metadata = std::fs::metadata(path).map_err(io)?;
        if !metadata.is_file() {
            let found = if metadata.is_dir() { "is a folder" } else { "is not a regular file" };
            return Err(Error::model(path.display(), format!("{found}, expected an ONNX file")));
        }
        let file = File::open(path).map_err(io)?;
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0).min(MAX_FILE));
        file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
        let name = path.file_name().map_or_else(|| path.to_string_lossy(), |n| n.to_string_lossy());
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        Self::from_bytes(bytes, &printable(&name), Some(dir))
    }

    /// Validates `bytes` as a model. `name` is used in messages; `dir` is the folder of its external data. With None,
    /// external data is an error.
    ///
    /// # Errors
    /// [`Error::Input`] if it is not a valid, supported model.
    pub fn from_bytes(bytes: Vec<u8>, name: &str, dir: Option<&Path>) -> Result<Self> {
        Self::build(bytes, name, dir).map_err(|problem| Error::model(name, problem))
    }

    fn build(bytes: Vec<u8>, name: &str, dir: Option<&Path>) -> Result<Self, String> {
        if bytes.is_empty() {
            return Err("is empty, expected an ONNX file".into());
        }
        if bytes.len() > MAX_FILE {
            return Err(format!(
                "is larger than {MAX_FILE} bytes, the maximum of an ONNX file; store the weights as external data"
            ));
        }
        let scan = wire::scan(&bytes).map_err(|fault| match other_format(&bytes) {
            Some(found) => found.to_owned(),
            None => format!("is not a well-formed ONNX file: {fault}"),
        })?;
        let Some((graph, _)) = scan.children(0, number::MODEL_GRAPH).next() else {
            let found = other_format(&bytes).unwrap_or("has no graph: not an ONNX model, or truncated");
            return Err(found.into());
        };
        let ir_version = check::ir_version(&bytes)?;
        let opset = check::opset(&bytes, &scan)?;
        check::parts(&scan, graph)?;
        check::messages(&bytes, &scan)?;

        let (nodes, node_messages) = nodes(&bytes, &scan, graph)?;
        let infos = |field| -> Result<Vec<ValueInfo>, String> {
            let found = decoded::<ValueInfoProto>(&bytes, &scan, graph, field);
            found.map(|(_, proto)| proto.map(decode::value_info)).collect()
        };
        let inputs = infos(number::GRAPH_INPUT)?;
        let outputs = infos(number::GRAPH_OUTPUT)?;
        let initializers = initializers(&bytes, &scan, graph, dir)?;
        let names: Vec<&str> = initializers.iter().map(|i| i.name.as_str()).collect();
        check::graph(&check::Names {
            inputs: &inputs,
            outputs: &outputs,
            initializers: &names,
            nodes: &nodes,
        })?;
        check::functions(&bytes, &scan, &nodes)?;

        let by_name: HashMap<String, usize> =
            initializers.iter().enumerate().map(|(index, i)| (i.name.clone(), index)).collect();
        let (overridable, inputs): (Vec<_>, Vec<_>) =
            inputs.into_iter().partition(|input| by_name.contains_key(&input.name));
        let metadata = decoded::<StringStringEntryProto>(&bytes, &scan, 0, number::MODEL_METADATA_PROPS)
            .map(|(_, entry)| entry.map(|e| (e.key, e.value)))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            name: name.to_owned(),
            dir: dir.map(Path::to_path_buf),
            digest: OnceLock::new(),
            graph,
            ir_version,
            opset,
            nodes,
            node_messages,
            inputs,
            overridable: overridable.into_iter().map(|input| input.name).collect(),
            outputs,
            initializers,
            by_name,
            metadata,
            scan,
            bytes,
        })
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Name of the model in messages: the file's name, escaped for printing.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of the file, in hexadecimal.
    pub fn sha256(&self) -> String {
        self.digest.get_or_init(|| sha256(&self.bytes)).clone()
    }

    /// Version of the file format (IR).
    pub fn ir_version(&self) -> i64 {
        self.ir_version
    }

    /// Version of the default opset.
    pub fn opset(&self) -> i64 {
        self.opset
    }

    /// The nodes of the main graph in file order, which is topological.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The inputs of the graph that are not initializers.
    pub fn inputs(&self) -> &[ValueInfo] {
        &self.inputs
    }

    /// The outputs of the graph.
    pub fn outputs(&self) -> &[ValueInfo] {
        &self.outputs
    }

    /// Initializers that are also graph inputs. From IR 4 on, a caller may override these at run time.
    pub fn overridable(&self) -> &[String] {
        &self.overridable
    }

    /// The values of the initializer `name`, decoded on every call; None if there is no such initializer.
    ///
    /// # Errors
    /// [`Error::Input`] if its type is not supported or a value does not fit its type.
    pub fn initializer(&self, name: &str) -> Result<Option<Tensor>> {
        let Some(found) = self.by_name.get(name).and_then(|&index| self.initializers.get(index)) else {
            return Ok(None);
        };
        let fault = |p| Error::model(&self.name, format!("initializer \"{}\" {p}", printable(name)));
        let proto: TensorProto = decode_message(&self.bytes, &self.scan, found.message).map_err(fault)?;
        storage::decode(&proto, &found.layout, found.external.as_ref().map(|e| e.0.as_slice()))
            .map_err(fault)
            .map(Some)
    }

    /// Names of the initializers, in file order.
    pub fn initializer_names(&self) -> impl Iterator<Item = &str> {
        self.initializers.iter().map(|i| i.name.as_str())
    }

    /// Type and dims of the initializer `name`, without its values.
    pub fn initializer_shape(&self, name: &str) -> Option<(DataType, &[usize])> {
        let found = self.by_name.get(name).and_then(|&index| self.initializers.get(index))?;
        Some((found.layout.data_type, &found.layout.dims))
    }

    /// The model's metadata as (key, value), in file order.
    pub fn metadata(&self) -> &[(String, String)] {
        &self.metadata
    }

    /// Number of fields that ONNX 1.23 does not define. They are kept unchanged and not interpreted.
    pub fn unknown_fields(&self) -> usize {
        self.scan.unknown
    }

    /// Whether any weights are external data.
    pub fn has_external_data(&self) -> bool {
        self.initializers.iter().any(|i| i.external.is_some())
    }

    /// Paths of the external data, one for each external initializer in file order; paths may repeat.
    pub fn external_files(&self) -> impl Iterator<Item = &Path> {
        self.initializers.iter().filter_map(|i| Some(i.external.as_ref()?.1.as_path()))
    }

    /// The folder of the external data.
    pub fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    /// Positions of all messages in the file.
    pub(crate) fn scan(&self) -> &Scan {
        &self.scan
    }

    /// Index of the main graph among the messages of [`Self::scan`].
    pub(crate) fn graph_message(&self) -> usize {
        self.graph
    }

    /// Index of the node `index` of [`Self::nodes`] among the messages of [`Self::scan`].
    pub(crate) fn node_message(&self, index: usize) -> Option<usize> {
        self.node_messages.get(index).copied()
    }

    /// The bytes of `range`; empty if it exceeds the file.
    pub(crate) fn slice(&self, range: Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    /// External data of the initializer `index`, if it is external.
    pub(crate) fn external(&self, index: usize) -> Option<&[u8]> {
        self.initializers.get(index).and_then(|i| i.external.as_ref()).map(|e| e.0.as_slice())
    }
}

/// The nodes of the main graph, and the index of each in the scan.
fn nodes(bytes: &[u8], scan: &Scan, graph: usize) -> Result<(Vec<Node>, Vec<usize>), String> {
    let mut nodes = Vec::new();
    let mut messages = Vec::new();
    for (index, proto) in decoded::<NodeProto>(bytes, scan, graph, number::GRAPH_NODE) {
        let proto = proto?;
        let at = scan.messages[index].start;
        let named =
            format!("node \"{}\" ({}) at byte {at}", printable(&proto.name), printable(&proto.op_type));
        nodes.push(decode::node(proto).map_err(|problem| format!("{named}: {problem}"))?);
        messages.push(index);
    }
    Ok((nodes, messages))
}

fn initializers(
    bytes: &[u8],
    scan: &Scan,
    graph: usize,
    dir: Option<&Path>,
) -> Result<Vec<Initializer>, String> {
    let mut all = Vec::new();
    for (message, proto) in decoded::<TensorProto>(bytes, scan, graph, number::GRAPH_INITIALIZER) {
        let proto = proto?;
        let fault = |problem: String| format!("initializer \"{}\" {problem}", printable(&proto.name));
        let raw = check::has_raw_data(bytes, scan.messages[message].body.clone());
        let layout = storage::layout(&proto, raw).map_err(fault)?;
        let external = match (layout.external, dir) {
            (false, _) => None,
            (true, None) => {
                return Err(fault("has external data, but the model was not read from a folder".into()));
            }
            (true, Some(dir)) => {
                let expected = layout
                    .bytes
                    .ok_or_else(|| fault("has strings as external data, which is not supported".into()))?;
                Some(external::read(dir, &proto, expected).map_err(fault)?)
            }
        };
        all.push(Initializer { name: proto.name, message, layout, external });
    }
    Ok(all)
}

/// Recognises other model formats. Returns a message that says how to convert them.
fn other_format(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [b'P', b'K', 3, 4, ..] => Some(
            "is a zip archive, as PyTorch files are (.pt, .pth); export the model with \
             torch.onnx.export(model, example, \"model.onnx\")",
        ),
        [0x80, 2..=5, ..] => Some(
            "is a Python pickle, as old PyTorch files are (.pt, .pth); export the model with \
             torch.onnx.export(model, example, \"model.onnx\")",
        ),
        [0x89, b'H', b'D', b'F', ..] => Some(
            "is an HDF5 file, as Keras files are; export the model with tf2onnx.convert.from_keras(model)",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_other_frameworks_are_named() {
        let said = |bytes: &[u8]| Model::from_bytes(bytes.to_vec(), "m", None).unwrap_err().to_string();
        assert!(said(b"PK\x03\x04\x14\0\0\0").contains("zip archive"), "{}", said(b"PK\x03\x04"));
        assert!(said(b"\x80\x02\x8a\x0a").contains("pickle"));
        assert!(said(b"\x89HDF\r\n").contains("HDF5"));
        assert!(said(b"hello world").contains("not a well-formed ONNX file"));
    }
}
