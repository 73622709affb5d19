#!/usr/bin/env python3
"""Runs ONNX files in ONNX Runtime, and in OpenVINO if it is installed, and compares them with what they must give.

usage: onnx_differences.py FOLDER

FOLDER holds NAME.onnx and NAME-I.npz: images, logits and, to be compared too, gate_values [N, gates].
A TorchScript file NAME.pt is converted by torch.onnx.export first (dynamo=False), to give logits only,
and runs in ONNX Runtime alone.
Prints a JSON object: for each NAME-I the largest difference of a logit as a share of the largest logit,
the same of OpenVINO, and how many gate values differ. The checker of ONNX must accept every file.
"""

import json
import sys
from pathlib import Path

import numpy
import onnx
import onnxruntime


sys.modules["openvino_telemetry"] = None  # it would report every import to its makers
try:
    import openvino
except ImportError:
    openvino = None


def largest(found, expected) -> float:
    assert found.shape == expected.shape
    return float(abs(found - expected).max() / max(abs(expected).max(), 1e-6))


def convert(script: Path) -> None:
    import warnings

    import torch

    warnings.simplefilter("ignore")
    images = torch.from_numpy(numpy.load(script.with_name(f"{script.stem}-2.npz"))["images"])
    names = dict(input_names=["images"], output_names=["logits"], dynamic_axes={"images": {0: "N"}, "logits": {0: "N"}})
    torch.onnx.export(torch.jit.load(script), (images,), script.with_suffix(".onnx"), dynamo=False, opset_version=17, **names)


def main(folder: Path) -> None:
    for script in sorted(folder.glob("*.pt")):
        convert(script)
    results = {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    for file in sorted(folder.glob("*.onnx")):
        onnx.checker.check_model(str(file), full_check=True)
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        check_openvino = openvino and not file.with_suffix(".pt").exists()
        if check_openvino:
            precise = {"INFERENCE_PRECISION_HINT": "f32"}
            request = openvino.Core().compile_model(str(file), "CPU", precise).create_infer_request()
        for data in sorted(folder.glob(f"{file.stem}-*.npz")):
            expected = numpy.load(data)
            found = dict(zip(names, session.run(None, {"images": expected["images"]})))
            logits = expected["logits"]
            result = {"logits": largest(found["logits"], logits)}
            if check_openvino:
                result["openvino"] = largest(request.infer({"images": expected["images"]})["logits"], logits)
            if "gate_values" in expected and "gate_values" in found:
                result["gates"] = int((found["gate_values"] != expected["gate_values"]).sum())
            results[data.stem] = result
    json.dump(results, sys.stdout)


main(Path(sys.argv[1]))
