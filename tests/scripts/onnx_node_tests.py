"""Writes ONNX's node tests to a folder: FOLDER/NAME/model.onnx and FOLDER/NAME/test_data_set_N/{input,output}_I.pb,
the layout that onnx's own wheels had while they still held these files. tests/onnx_node_tests.rs runs them.

Only the cases all of whose operators are named. Needs onnx.
Run: python tests/scripts/onnx_node_tests.py FOLDER OPERATOR...
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

warnings.simplefilter("ignore")
from onnx.backend.test.case.node import collect_testcases  # noqa: E402

folder, operators = Path(sys.argv[1]), set(sys.argv[2:])
count = 0
for case in collect_testcases(None):
    if not all(n.domain == "" and n.op_type in operators for n in case.model.graph.node):
        continue
    where = folder / case.name
    where.mkdir(parents=True, exist_ok=True)
    (where / "model.onnx").write_bytes(case.model.SerializeToString())
    for i, (inputs, outputs) in enumerate(case.data_sets):
        data = where / f"test_data_set_{i}"
        data.mkdir(exist_ok=True)
        for kind, values in (("input", inputs), ("output", outputs)):
            for j, value in enumerate(values):
                # sequences and optionals belong to operators that no image classifier has
                if isinstance(value, onnx.TensorProto):
                    tensor = value
                elif isinstance(value, (np.ndarray, np.generic)):
                    tensor = numpy_helper.from_array(np.asarray(value))
                else:
                    continue
                (data / f"{kind}_{j}.pb").write_bytes(tensor.SerializeToString())
    count += 1
print(f"onnx {onnx.__version__}: {count} cases")
