//! ONNX's own node tests for the operators that are supported: every case passes, or stands on the list of those that
//! are refused, with the reason. Run with `--nocapture` to see the lists.
//!
//! The cases come from the folder that POLARIZER_ONNX_NODE_TESTS names, or are written by the onnx package of the
//! Python that POLARIZER_PYTHON names (default python3). Without either the test does nothing, unless CI=true.
//!
//! A case feeds all inputs of a node; a network here has one, and its weights are constants. So each case is run once
//! for each of its float32 inputs, with the others as constants, and once with all of them constant (as shape
//! arithmetic is). It passes if none of these gives a wrong answer and one gives the right one, for each of its
//! outputs; all but the first may be refused as not computed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{Device, Tensor};
use onnx_protobuf::{GraphProto, Message, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use polarizer::internals::graph::Graph;
use polarizer::internals::ops;
use polarizer::onnx::Model;
use polarizer::onnx::tensor::Data;

/// Cases that are refused.
struct Refusal {
    reason: &'static str,
    /// Names, `*` standing for any text. A case that matches has to be refused.
    cases: &'static [&'static str],
    /// One of these is in the error.
    says: &'static [&'static str],
}

const REFUSED: &[Refusal] = &[
    Refusal {
        reason: "pools and convolutions over images and lines alone, not over volumes",
        cases: &["test_*pool_3d_*", "test_convtranspose_3d"],
        says: &["only images, (N, C, H, W), and lines, (N, C, W), are supported"],
    },
    Refusal {
        reason: "inference alone: no random masks",
        cases: &["test_training_dropout*"],
        says: &["`training_mode` is true"],
    },
    Refusal {
        reason: "float32 networks alone: no other floats, no integers of 2 or 4 bits",
        cases: &[
            "test_*float16*",
            "test_*_fp16*",
            "test_*_bf16*",
            "test_attention_24_qk_matmul_output_mode3_softmax_precision*",
            "test_max_float64",
            "test_min_float64",
            "test_mod_*float64*",
            "test_cast*FLOAT16*",
            "test_cast_BFLOAT16_to_FLOAT",
            "test_*quantizelinear_e4m3fn*",
            "test_*quantizelinear_e5m2",
            "test_*quantizelinear_*int2",
            "test_*quantizelinear_*int4",
            "test_*quantizelinear_float4e2m1",
            "test_cast_DOUBLE*",
            "test_castlike_DOUBLE*",
            "test_castlike_FLOAT_to_DOUBLE",
            "test_cast*FLOAT4E2M1*",
            "test_cast*FLOAT8E*",
            "test_cast*INT2*",
            "test_cast*INT4*",
            "test_flexattention_double_expanded*",
            "test_flexattention_fp16_expanded*",
            "test_swiglu_float16_expanded",
        ],
        says: &[
            "only float32 networks are supported",
            "FLOAT, FLOAT16 and BFLOAT16 are supported",
            "expected finite numbers",
            "float32, integers and bool are supported",
            "an output of a type that is not supported",
            // the value that says which type to cast to
            "an input of shape [0]",
        ],
    },
    Refusal {
        reason: "integers for shapes alone: no images of integers",
        cases: &[
            "test_clip_default_int8_inbounds",
            "test_clip_default_int8_max",
            "test_clip_default_int8_min",
            "test_maxpool_2d_uint8",
            "test_edge_pad",
            "test_reflect_pad",
            "test_wrap_pad",
            "test_pow_types_int*",
            "test_top_k_same_values*",
            "test_top_k_uint64",
        ],
        says: &["holds integers, expected float32"],
    },
    Refusal {
        reason: "powers with one constant exponent alone",
        cases: &["test_pow", "test_pow_example", "test_pow_bcast_array", "test_pow_types_float32_*"],
        says: &["the exponent is not one constant number"],
    },
    Refusal {
        reason: "no values without elements",
        cases: &[
            "test_reduce_*_empty_set*",
            "test_reshape_allowzero_reordered",
            "test_shape_start_greater_than_end",
            "test_constantofshape_int_shape_zero",
            "test_slice_start_out_of_bounds",
            "test_causal_conv_with_state_kernel_size_one_expanded",
            "test_tril_zero",
            "test_triu_zero",
            "test_split_zero_size_splits_opset*",
        ],
        says: &[
            "an input of shape",
            "does not depend on the input",
            "nothing is left of dimension",
            "a reduction of no elements",
        ],
    },
    Refusal {
        reason: "tensors alone, no sequences or optional values",
        cases: &["test_identity_opt", "test_identity_sequence", "test_if_opt", "test_if_seq"],
        says: &["inputs that are no tensors", "an output that is no tensor"],
    },
    Refusal {
        reason: "numbers and booleans alone, no strings",
        cases: &["test_equal_string*"],
        says: &["is of STRING"],
    },
    Refusal { reason: "opsets before 7", cases: &["test_not_*"], says: &["is written for opset 1"] },
    Refusal {
        reason: "attention over whole sequences alone: no cache, no window, a key for each query",
        cases: &[
            "test_attention_*_with_past_and_present",
            "test_attention_*_with_past_and_present_mask3d",
            "test_attention_*_with_past_and_present_mask4d",
            "test_attention_*_with_past_and_present_qk_matmul",
            "test_attention_*_with_past_and_present_qk_matmul_bias",
            "test_attention_*_with_past_and_present_qk_matmul_bias_3d_mask",
            "test_attention_*_with_past_and_present_qk_matmul_bias_3d_mask_causal",
            "test_attention_*_with_past_and_present_qk_matmul_bias_4d_mask",
            "test_attention_*_with_past_and_present_qk_matmul_bias_4d_mask_causal",
            "test_attention_*_with_past_and_present_qk_matmul_softcap",
            "test_attention_*_with_past_and_present_qk_matmul_softmax",
            "test_attention_*_nonpad_attn_mask_composition",
            "test_attention_*_nonpad_batch_prefill",
            "test_attention_*_nonpad_continued_prefill",
            "test_attention_*_nonpad_decode",
            "test_attention_*_nonpad_negative_offset_structural_empty",
            "test_attention_*_padded_kv",
            "test_attention_3d_local_window",
            "test_attention_local_window",
            "test_attention_local_window_ext_cache_rank2_mask",
            "test_attention_local_window_ext_cache_rank3_head_mask",
            "test_attention_local_window_ext_cache_rank4_batch_mask",
            "test_attention_local_window_gqa_rank4_mask",
            "test_attention_local_window_rank1_boolean_mask",
            "test_attention_local_window_with_past",
            "test_attention_bidirectional_window",
            "test_attention_23_boolmask_fullymasked_row_nan_robustness",
            "test_attention_23_fullymasked_qk_matmul_output_mode3_zero",
            "test_attention_24_fullymasked_qk_matmul_output_mode3_zero",
            "test_attention_causal_boolmask_nan_robustness",
        ],
        says: &[
            "only whole sequences are supported",
            "a window over the keys is not supported",
            "its mask leaves no key to a query",
            "a mask of shape",
            "is not computed, but",
        ],
    },
    Refusal {
        reason: "each letter once in an operand of Einsum",
        cases: &["test_einsum_batch_diagonal"],
        says: &["has a letter twice in one operand"],
    },
    Refusal {
        reason: "forms of Resize that runtimes compute differently, and cuts out of an image",
        cases: &["test_resize_downsample_scales_*_align_corners", "test_resize_tf_crop_and_resize*"],
        says: &["which runtimes compute differently", "tf_crop_and_resize"],
    },
    Refusal {
        reason: "scales of a tensor or of an axis alone, not of blocks",
        cases: &["test_*quantizelinear_blocked*"],
        says: &["scales of blocks are not supported"],
    },
    Refusal {
        reason: "finite constants alone",
        cases: &[
            "test_mod_float_edge_cases_fmod_0_float32",
            "test_attention_4d_softcap_neginf_mask",
            "test_attention_4d_softcap_neginf_mask_poison",
        ],
        says: &["expected finite numbers"],
    },
];

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            (0..=name.len()).any(|i| name.is_char_boundary(i) && matches(rest, &name[i..]))
        }),
    }
}

fn folder() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("POLARIZER_ONNX_NODE_TESTS") {
        return Some(folder.into());
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("onnx_node_tests");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/onnx_node_tests.py");
    let python = std::env::var("POLARIZER_PYTHON").unwrap_or_else(|_| "python3".to_string());
    let _ = std::fs::remove_dir_all(&folder);
    let operators = ops::OPERATORS.iter().map(|o| o.name);
    let made = Command::new(&python).arg(script).arg(&folder).args(operators).output();
    match made {
        Ok(out) if out.status.success() => {
            print!("{}", String::from_utf8_lossy(&out.stdout));
            Some(folder)
        }
        other => {
            let why =
                other.map_or_else(|e| e.to_string(), |out| String::from_utf8_lossy(&out.stderr).into_owned());
            let why = why.lines().last().unwrap_or_default();
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "CI needs the onnx package: {python}: {why}"
            );
            println!("ignored: needs the onnx package: {python}: {why}");
            None
        }
    }
}

/// One run of a case.
enum Outcome {
    Right,
    Refused(String),
    Wrong(String),
}

fn read<M: Message>(path: &Path) -> M {
    M::parse_from_bytes(&std::fs::read(path).unwrap()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A tensor's numbers as f64, whatever their type; None for strings.
fn decode(proto: &TensorProto) -> Option<(Vec<usize>, Vec<f64>)> {
    let mut proto = proto.clone();
    proto.name = "t".to_string();
    // our own reader decodes it, as an initializer of a model that has nothing else of interest
    let mut model = skeleton(17);
    model.graph.mut_or_insert_default().initializer.push(proto);
    let model = Model::from_bytes(model.write_to_bytes().unwrap(), "tensor", None).ok()?;
    let tensor = model.initializer("t").ok()??;
    let values = match &tensor.data {
        Data::Float(v) => v.iter().map(|&x| f64::from(x)).collect(),
        Data::Double(v) => v.clone(),
        Data::Int8(v) => v.iter().map(|&x| f64::from(x)).collect(),
        Data::Int16(v) => v.iter().map(|&x| f64::from(x)).collect(),
        Data::Int32(v) => v.iter().map(|&x| f64::from(x)).collect(),
        Data::Int64(v) => v.iter().map(|&x| x as f64).collect(),
        Data::Uint8(v) => v.iter().map(|&x| f64::from(x)).collect(),
        Data::Uint16(v) => v.iter().map(|&x| f64::from(x)).collect(),
        Data::Uint32(v) => v.iter().map(|&x| f64::from(x)).collect(),
        Data::Uint64(v) => v.iter().map(|&x| x as f64).collect(),
        Data::Bool(v) => v.iter().map(|&x| f64::from(u8::from(x))).collect(),
        _ => return None,
    };
    Some((tensor.dims, values))
}

fn value_info(name: &str) -> ValueInfoProto {
    let mut info = ValueInfoProto::new();
    info.name = name.to_string();
    info.type_.mut_or_insert_default().mut_tensor_type().elem_type = 1;
    info
}

/// An empty model with input "dummy", passed on to output "out".
fn skeleton(opset: i64) -> ModelProto {
    let mut model = ModelProto::new();
    model.ir_version = 8;
    model.opset_import.push(Default::default());
    model.opset_import[0].version = opset;
    let graph = model.graph.mut_or_insert_default();
    graph.name = "case".to_string();
    graph.input.push(value_info("dummy"));
    graph.output.push(value_info("out"));
    graph.node.push(node("Identity", &["dummy"], "out"));
    model
}

fn node(op_type: &str, inputs: &[&str], output: &str) -> NodeProto {
    let mut node = NodeProto::new();
    node.op_type = op_type.to_string();
    node.input = inputs.iter().map(ToString::to_string).collect();
    node.output.push(output.to_string());
    node
}

/// The case with input `dynamic` fed and all others constant; with None all are, and a dummy is fed that the answer is
/// added to. The answer is output `which`.
fn variant(case: &ModelProto, inputs: &[TensorProto], dynamic: Option<usize>, which: usize) -> ModelProto {
    let mut model = case.clone();
    model.ir_version = 8;
    let graph: &mut GraphProto = model.graph.mut_or_insert_default();
    let names: Vec<String> = graph.input.iter().map(|i| i.name.clone()).collect();
    graph.value_info.clear();
    graph.input.clear();
    for (i, (name, value)) in names.iter().zip(inputs).enumerate() {
        if Some(i) == dynamic {
            graph.input.push(value_info(name));
        } else {
            let mut constant = value.clone();
            constant.name = name.clone();
            graph.initializer.push(constant);
        }
    }
    let output = graph.output[which].name.clone();
    graph.output.clear();
    match dynamic {
        Some(_) => graph.output.push(value_info(&output)),
        None => {
            graph.input.push(value_info("dummy"));
            let mut cast = node("Cast", &[&output], "polarizer_as_float");
            cast.attribute.push(Default::default());
            cast.attribute[0].name = "to".to_string();
            cast.attribute[0].i = 1;
            cast.attribute[0].type_ = onnx_protobuf::attribute_proto::AttributeType::INT.into();
            graph.node.push(cast);
            graph.node.push(node("Add", &["dummy", "polarizer_as_float"], "polarizer_sum"));
            graph.output.push(value_info("polarizer_sum"));
        }
    }
    model
}

fn run(model: ModelProto, fed: &(Vec<usize>, Vec<f64>), expected: &(Vec<usize>, Vec<f64>)) -> Outcome {
    let bytes = model.write_to_bytes().unwrap();
    let answer = || -> polarizer::Result<Tensor> {
        let model = Model::from_bytes(bytes, "case", None)?;
        let graph = Graph::lower(&model, &fed.0)?;
        let values: Vec<f32> = fed.1.iter().map(|&v| v as f32).collect();
        let x = Tensor::from_vec(values, fed.0.as_slice(), &Device::Cpu)?;
        Ok(graph.segment(graph.output())?.run(&[x], None)?.remove(0))
    };
    let y = match answer() {
        Ok(y) => y,
        Err(e @ polarizer::Error::Input { .. }) => return Outcome::Refused(e.to_string()),
        Err(e) => return Outcome::Wrong(e.to_string()),
    };
    if y.dims() != expected.0 {
        return Outcome::Wrong(format!("shape {:?}, expected {:?}", y.dims(), expected.0));
    }
    let y: Vec<f32> = y.flatten_all().unwrap().to_vec1().unwrap();
    // onnx's own tolerances
    let close = |(a, b): (&f32, &f64)| {
        let a = f64::from(*a);
        a == *b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-6 + 1e-3 * b.abs()
    };
    match y.iter().zip(&expected.1).position(|pair| !close(pair)) {
        None => Outcome::Right,
        Some(i) => Outcome::Wrong(format!("{} at {i}, expected {}", y[i], expected.1[i])),
    }
}

/// The same numbers in float32, if they are float64.
fn in_single_precision(tensor: &mut TensorProto) {
    if let (11, Some((_, values))) = (tensor.data_type, decode(tensor)) {
        tensor.data_type = 1;
        tensor.raw_data.clear();
        tensor.double_data.clear();
        tensor.float_data = values.iter().map(|&v| v as f32).collect();
    }
}

/// The verdict on a case: None if it passes, else why it was refused.
fn judge(path: &Path) -> Result<Option<String>, String> {
    let case: ModelProto = read(&path.join("model.onnx"));
    let data = path.join("test_data_set_0");
    let count = case.graph.input.len();
    let inputs: Option<Vec<TensorProto>> = (0..count)
        .map(|i| Some(data.join(format!("input_{i}.pb"))).filter(|p| p.exists()).map(|p| read(&p)))
        .collect();
    let Some(mut inputs) = inputs else { return Ok(Some("inputs that are no tensors".to_string())) };
    // these are there in double precision alone
    if ["test_einsum_", "test_reduce_log_sum_exp_", "test_cumsum_"]
        .iter()
        .any(|start| case.graph.name.starts_with(start))
    {
        inputs.iter_mut().for_each(in_single_precision);
    }
    let mut verdict = None;
    for which in 0..case.graph.output.len() {
        match judge_output(&case, &inputs, &data, which)? {
            Some(why) if which > 0 && why.contains("is not computed, but") => {}
            refused => verdict = verdict.or(refused),
        }
    }
    Ok(verdict)
}

/// The verdict on one output of a case.
fn judge_output(
    case: &ModelProto,
    inputs: &[TensorProto],
    data: &Path,
    which: usize,
) -> Result<Option<String>, String> {
    if !data.join(format!("output_{which}.pb")).exists() {
        return Ok(Some("an output that is no tensor".to_string()));
    }
    let Some(expected) = decode(&read(&data.join(format!("output_{which}.pb")))) else {
        return Ok(Some("an output of a type that is not supported".to_string()));
    };
    let mut outcomes = Vec::new();
    for (i, input) in inputs.iter().enumerate() {
        if input.data_type == 1
            && let Some(fed) = decode(input)
        {
            outcomes.push(run(variant(case, inputs, Some(i), which), &fed, &expected));
        }
    }
    let zeros = (expected.0.clone(), vec![0.0; expected.1.len()]);
    outcomes.push(run(variant(case, inputs, None, which), &zeros, &expected));
    let mut refused = None;
    let mut right = false;
    for outcome in outcomes {
        match outcome {
            Outcome::Right => right = true,
            Outcome::Refused(why) => refused = refused.or(Some(why)),
            Outcome::Wrong(what) => return Err(format!("output {which}: {what}")),
        }
    }
    Ok(if right { None } else { refused })
}

#[test]
fn onnx_node_tests() {
    let Some(folder) = folder() else { return };
    let ours = |n: &NodeProto| n.domain.is_empty() && ops::OPERATORS.iter().any(|o| o.name == n.op_type);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    let mut passed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut refused: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut faults = Vec::new();
    for path in paths {
        let model: ModelProto = read(&path.join("model.onnx"));
        if model.graph.node.is_empty() || !model.graph.node.iter().all(ours) {
            continue;
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let listed = REFUSED.iter().find(|r| r.cases.iter().any(|c| matches(c, &name)));
        let verdict = std::panic::catch_unwind(|| judge(&path)).unwrap_or_else(|_| Err("panics".to_string()));
        match (verdict, listed) {
            (Ok(None), None) => passed.entry(model.graph.node[0].op_type.clone()).or_default().push(name),
            (Ok(None), Some(_)) => faults.push(format!("{name}: passes, but is listed as refused")),
            (Ok(Some(why)), Some(r)) if r.says.iter().any(|s| why.contains(s)) => {
                refused.entry(r.reason).or_default().push(name);
            }
            (Ok(Some(why)), _) => faults.push(format!("{name}: refused: {why}")),
            (Err(what), _) => faults.push(format!("{name}: wrong: {what}")),
        }
    }
    let count: usize = passed.values().map(Vec::len).sum();
    println!("passed: {count}");
    passed.iter().for_each(|(op, names)| println!("  {op}: {}", names.join(" ")));
    println!("refused: {}", refused.values().map(Vec::len).sum::<usize>());
    refused.iter().for_each(|(reason, names)| println!("  {reason}: {}", names.join(" ")));
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert!(count > 100, "only {count} cases");
}
