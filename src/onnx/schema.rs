//! ONNX's messages as a table, from onnx.proto of onnx 1.23 (IR 14); the wire scan checks files against it. A field
//! that is not listed is kept unchanged and counted.

/// The type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    Attribute,
    DeviceConfiguration,
    Dimension,
    Function,
    Graph,
    IntIntListEntry,
    Map,
    Model,
    Node,
    NodeDeviceConfiguration,
    Opaque,
    OperatorSetId,
    Optional,
    Segment,
    Sequence,
    ShardedDim,
    ShardingSpec,
    SimpleShardedDim,
    SparseTensor,
    SparseTensorType,
    StringStringEntry,
    Tensor,
    TensorAnnotation,
    TensorShape,
    TensorType,
    TrainingInfo,
    TypeProto,
    ValueInfo,
}

/// Type of a field. Repeated numbers may be packed or not; both are legal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// int32 or an enum: a varint that fits 32 bits.
    Int32,
    Int64,
    Uint64,
    Float,
    Double,
    /// A string: UTF-8.
    Text,
    Bytes,
    Message(Type),
}

/// How often a field may occur in its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// At most once: of several, readers take the first or the last, or merge them.
    Once,
    Many,
    /// Member of the message's oneof: at most one of these may occur.
    OneOf,
}

/// One field of a message.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub number: u32,
    pub name: &'static str,
    pub kind: Kind,
    pub count: Count,
}

const fn once(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, count: Count::Once }
}

const fn many(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, count: Count::Many }
}

const fn one_of(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, count: Count::OneOf }
}

use Kind::{Bytes, Double, Float, Int32, Int64, Message, Text, Uint64};

const ENTRY: Kind = Message(Type::StringStringEntry);

impl Type {
    /// The message's name in onnx.proto.
    pub fn name(self) -> &'static str {
        match self {
            Type::Attribute => "AttributeProto",
            Type::DeviceConfiguration => "DeviceConfigurationProto",
            Type::Dimension => "TensorShapeProto.Dimension",
            Type::Function => "FunctionProto",
            Type::Graph => "GraphProto",
            Type::IntIntListEntry => "IntIntListEntryProto",
            Type::Map => "TypeProto.Map",
            Type::Model => "ModelProto",
            Type::Node => "NodeProto",
            Type::NodeDeviceConfiguration => "NodeDeviceConfigurationProto",
            Type::Opaque => "TypeProto.Opaque",
            Type::OperatorSetId => "OperatorSetIdProto",
            Type::Optional => "TypeProto.Optional",
            Type::Segment => "TensorProto.Segment",
            Type::Sequence => "TypeProto.Sequence",
            Type::ShardedDim => "ShardedDimProto",
            Type::ShardingSpec => "ShardingSpecProto",
            Type::SimpleShardedDim => "SimpleShardedDimProto",
            Type::SparseTensor => "SparseTensorProto",
            Type::SparseTensorType => "TypeProto.SparseTensor",
            Type::StringStringEntry => "StringStringEntryProto",
            Type::Tensor => "TensorProto",
            Type::TensorAnnotation => "TensorAnnotation",
            Type::TensorShape => "TensorShapeProto",
            Type::TensorType => "TypeProto.Tensor",
            Type::TrainingInfo => "TrainingInfoProto",
            Type::TypeProto => "TypeProto",
            Type::ValueInfo => "ValueInfoProto",
        }
    }

    /// The message's fields.
    pub fn fields(self) -> &'static [Field] {
        match self {
            Type::Attribute => &ATTRIBUTE,
            Type::DeviceConfiguration => &DEVICE_CONFIGURATION,
            Type::Dimension => &DIMENSION,
            Type::Function => &FUNCTION,
            Type::Graph => &GRAPH,
            Type::IntIntListEntry => &INT_INT_LIST_ENTRY,
            Type::Map => &MAP,
            Type::Model => &MODEL,
            Type::Node => &NODE,
            Type::NodeDeviceConfiguration => &NODE_DEVICE_CONFIGURATION,
            Type::Opaque => &OPAQUE,
            Type::OperatorSetId => &OPERATOR_SET_ID,
            Type::Optional | Type::Sequence => &ELEMENT,
            Type::Segment => &SEGMENT,
            Type::ShardedDim => &SHARDED_DIM,
            Type::ShardingSpec => &SHARDING_SPEC,
            Type::SimpleShardedDim => &SIMPLE_SHARDED_DIM,
            Type::SparseTensor => &SPARSE_TENSOR,
            Type::SparseTensorType | Type::TensorType => &TENSOR_TYPE,
            Type::StringStringEntry => &STRING_STRING_ENTRY,
            Type::Tensor => &TENSOR,
            Type::TensorAnnotation => &TENSOR_ANNOTATION,
            Type::TensorShape => &TENSOR_SHAPE,
            Type::TrainingInfo => &TRAINING_INFO,
            Type::TypeProto => &TYPE_PROTO,
            Type::ValueInfo => &VALUE_INFO,
        }
    }

    /// The field with this number, if ONNX has one.
    pub fn field(self, number: u32) -> Option<&'static Field> {
        self.fields().iter().find(|f| f.number == number)
    }
}

/// Field numbers that are looked up in the scan.
pub(crate) mod number {
    pub const MODEL_IR_VERSION: u32 = 1;
    pub const MODEL_GRAPH: u32 = 7;
    pub const MODEL_OPSET_IMPORT: u32 = 8;
    pub const MODEL_METADATA_PROPS: u32 = 14;
    pub const MODEL_TRAINING_INFO: u32 = 20;
    pub const MODEL_FUNCTIONS: u32 = 25;
    pub const GRAPH_NODE: u32 = 1;
    pub const GRAPH_INITIALIZER: u32 = 5;
    pub const GRAPH_INPUT: u32 = 11;
    pub const GRAPH_OUTPUT: u32 = 12;
    pub const GRAPH_SPARSE_INITIALIZER: u32 = 15;
    pub const NODE_INPUT: u32 = 1;
    pub const NODE_OUTPUT: u32 = 2;
    pub const TENSOR_RAW_DATA: u32 = 9;
    pub const FUNCTION_NAME: u32 = 1;
    pub const FUNCTION_DOMAIN: u32 = 10;
}

static MODEL: [Field; 12] = [
    once(1, "ir_version", Int64),
    once(2, "producer_name", Text),
    once(3, "producer_version", Text),
    once(4, "domain", Text),
    once(5, "model_version", Int64),
    once(6, "doc_string", Text),
    once(7, "graph", Message(Type::Graph)),
    many(8, "opset_import", Message(Type::OperatorSetId)),
    many(14, "metadata_props", ENTRY),
    many(20, "training_info", Message(Type::TrainingInfo)),
    many(25, "functions", Message(Type::Function)),
    many(26, "configuration", Message(Type::DeviceConfiguration)),
];
static OPERATOR_SET_ID: [Field; 2] = [once(1, "domain", Text), once(2, "version", Int64)];
static STRING_STRING_ENTRY: [Field; 2] = [once(1, "key", Text), once(2, "value", Text)];
static GRAPH: [Field; 10] = [
    many(1, "node", Message(Type::Node)),
    once(2, "name", Text),
    many(5, "initializer", Message(Type::Tensor)),
    once(10, "doc_string", Text),
    many(11, "input", Message(Type::ValueInfo)),
    many(12, "output", Message(Type::ValueInfo)),
    many(13, "value_info", Message(Type::ValueInfo)),
    many(14, "quantization_annotation", Message(Type::TensorAnnotation)),
    many(15, "sparse_initializer", Message(Type::SparseTensor)),
    many(16, "metadata_props", ENTRY),
];
static NODE: [Field; 10] = [
    many(1, "input", Text),
    many(2, "output", Text),
    once(3, "name", Text),
    once(4, "op_type", Text),
    many(5, "attribute", Message(Type::Attribute)),
    once(6, "doc_string", Text),
    once(7, "domain", Text),
    once(8, "overload", Text),
    many(9, "metadata_props", ENTRY),
    many(10, "device_configurations", Message(Type::NodeDeviceConfiguration)),
];
static ATTRIBUTE: [Field; 18] = [
    once(1, "name", Text),
    once(2, "f", Float),
    once(3, "i", Int64),
    once(4, "s", Bytes),
    once(5, "t", Message(Type::Tensor)),
    once(6, "g", Message(Type::Graph)),
    many(7, "floats", Float),
    many(8, "ints", Int64),
    many(9, "strings", Bytes),
    many(10, "tensors", Message(Type::Tensor)),
    many(11, "graphs", Message(Type::Graph)),
    once(13, "doc_string", Text),
    once(14, "tp", Message(Type::TypeProto)),
    many(15, "type_protos", Message(Type::TypeProto)),
    once(20, "type", Int32),
    once(21, "ref_attr_name", Text),
    once(22, "sparse_tensor", Message(Type::SparseTensor)),
    many(23, "sparse_tensors", Message(Type::SparseTensor)),
];
static TENSOR: [Field; 15] = [
    many(1, "dims", Int64),
    once(2, "data_type", Int32),
    once(3, "segment", Message(Type::Segment)),
    many(4, "float_data", Float),
    many(5, "int32_data", Int32),
    many(6, "string_data", Bytes),
    many(7, "int64_data", Int64),
    once(8, "name", Text),
    once(9, "raw_data", Bytes),
    many(10, "double_data", Double),
    many(11, "uint64_data", Uint64),
    once(12, "doc_string", Text),
    many(13, "external_data", ENTRY),
    once(14, "data_location", Int32),
    many(16, "metadata_props", ENTRY),
];
static SEGMENT: [Field; 2] = [once(1, "begin", Int64), once(2, "end", Int64)];
static SPARSE_TENSOR: [Field; 3] = [
    once(1, "values", Message(Type::Tensor)),
    once(2, "indices", Message(Type::Tensor)),
    many(3, "dims", Int64),
];
static VALUE_INFO: [Field; 4] = [
    once(1, "name", Text),
    once(2, "type", Message(Type::TypeProto)),
    once(3, "doc_string", Text),
    many(4, "metadata_props", ENTRY),
];
static TYPE_PROTO: [Field; 7] = [
    one_of(1, "tensor_type", Message(Type::TensorType)),
    one_of(4, "sequence_type", Message(Type::Sequence)),
    one_of(5, "map_type", Message(Type::Map)),
    once(6, "denotation", Text),
    one_of(7, "opaque_type", Message(Type::Opaque)),
    one_of(8, "sparse_tensor_type", Message(Type::SparseTensorType)),
    one_of(9, "optional_type", Message(Type::Optional)),
];
static TENSOR_TYPE: [Field; 2] = [once(1, "elem_type", Int32), once(2, "shape", Message(Type::TensorShape))];
static TENSOR_SHAPE: [Field; 1] = [many(1, "dim", Message(Type::Dimension))];
static DIMENSION: [Field; 3] =
    [one_of(1, "dim_value", Int64), one_of(2, "dim_param", Text), once(3, "denotation", Text)];
static ELEMENT: [Field; 1] = [once(1, "elem_type", Message(Type::TypeProto))];
static MAP: [Field; 2] = [once(1, "key_type", Int32), once(2, "value_type", Message(Type::TypeProto))];
static OPAQUE: [Field; 2] = [once(1, "domain", Text), once(2, "name", Text)];
static TENSOR_ANNOTATION: [Field; 2] =
    [once(1, "tensor_name", Text), many(2, "quant_parameter_tensor_names", ENTRY)];
static TRAINING_INFO: [Field; 4] = [
    once(1, "initialization", Message(Type::Graph)),
    once(2, "algorithm", Message(Type::Graph)),
    many(3, "initialization_binding", ENTRY),
    many(4, "update_binding", ENTRY),
];
static FUNCTION: [Field; 12] = [
    once(1, "name", Text),
    many(4, "input", Text),
    many(5, "output", Text),
    many(6, "attribute", Text),
    many(7, "node", Message(Type::Node)),
    once(8, "doc_string", Text),
    many(9, "opset_import", Message(Type::OperatorSetId)),
    once(10, "domain", Text),
    many(11, "attribute_proto", Message(Type::Attribute)),
    many(12, "value_info", Message(Type::ValueInfo)),
    once(13, "overload", Text),
    many(14, "metadata_props", ENTRY),
];
static DEVICE_CONFIGURATION: [Field; 3] =
    [once(1, "name", Text), once(2, "num_devices", Int32), many(3, "device", Text)];
static NODE_DEVICE_CONFIGURATION: [Field; 3] = [
    once(1, "configuration_id", Text),
    many(2, "sharding_spec", Message(Type::ShardingSpec)),
    once(3, "pipeline_stage", Int32),
];
static SHARDING_SPEC: [Field; 4] = [
    once(1, "tensor_name", Text),
    many(2, "device", Int64),
    many(3, "index_to_device_group_map", Message(Type::IntIntListEntry)),
    many(4, "sharded_dim", Message(Type::ShardedDim)),
];
static INT_INT_LIST_ENTRY: [Field; 2] = [once(1, "key", Int64), many(2, "value", Int64)];
static SHARDED_DIM: [Field; 2] =
    [once(1, "axis", Int64), many(2, "simple_sharding", Message(Type::SimpleShardedDim))];
static SIMPLE_SHARDED_DIM: [Field; 3] =
    [one_of(1, "dim_value", Int64), one_of(2, "dim_param", Text), once(3, "num_shards", Int64)];
