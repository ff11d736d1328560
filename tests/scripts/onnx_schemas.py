"""Writes tests/vectors/onnx_schemas.json: what the onnx package says of the operators that polarizer declares, for
every opset from 7 on: attributes with type and default, and how many inputs and outputs. tests/schemas.rs holds the declarations
against it.

Needs onnx. Run with the operators' names: python tests/scripts/onnx_schemas.py Conv Relu ...
"""

import json
import sys
from pathlib import Path

import onnx

newest = onnx.defs.onnx_opset_version()
history = {}
for schema in onnx.defs.get_all_schemas_with_history():
    if schema.domain == "" and schema.name in sys.argv[1:]:
        history.setdefault(schema.name, []).append(schema)

operators = {}
for name in sorted(sys.argv[1:]):
    versions = []
    for schema in sorted(history[name], key=lambda s: s.since_version):
        attributes = {}
        for a in schema.attributes.values():
            default = onnx.helper.get_attribute_value(a.default_value) if a.default_value.type else None
            if isinstance(default, bytes):
                default = default.decode()
            kind = str(a.type).split(".")[-1]
            attributes[a.name] = {"kind": kind, "required": a.required, "default": default}
        versions.append({
            "since": schema.since_version, "deprecated": schema.deprecated,
            "inputs": [schema.min_input, schema.max_input],
            "outputs": [schema.min_output, schema.max_output], "attributes": attributes,
        })
    # what stood before opset 7 is not read: the last of these holds at 7
    old = [v for v in versions if v["since"] <= 7]
    operators[name] = old[-1:] + [v for v in versions if v["since"] > 7]

out = Path(__file__).parent.parent / "vectors" / "onnx_schemas.json"
lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in operators.items())
out.write_text(f'{{"onnx": "{onnx.__version__}", "newest": {newest}, "operators": {{\n{lines}\n}}}}\n')
print(f"{len(operators)} operators, {out.stat().st_size} bytes")
