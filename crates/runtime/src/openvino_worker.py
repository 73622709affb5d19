"""Runs networks in OpenVINO for the crate `runtime`: a request and an answer a line (protocol.rs)."""

import json
import statistics
import sys
import time

# Without it OpenVINO reports every import to its makers, from a process that may outlive this one.
sys.modules["openvino_telemetry"] = None
try:
    import numpy
    import openvino
except ImportError as error:
    openvino, missing = None, str(error)

models = []
AWAKE = 0.04  # as in serve.rs
ROUNDS = (5, 100)


def run_once(model):
    start = time.perf_counter()
    model[0].infer({"images": model[1]}, share_inputs=True, share_outputs=True)
    return time.perf_counter() - start


def rounds(asked, seconds):
    for model in asked:
        run_once(model)
    once = sum(run_once(model) for model in asked)
    found = [[] for _ in asked]
    for turn in range(int(min(max(seconds / once, ROUNDS[0]), ROUNDS[1]))):
        for number in range(len(asked)) if turn % 2 == 0 else reversed(range(len(asked))):
            found[number].append(run_once(asked[number]))
    return found


def answer(request):
    if request == "ready":
        return {"done": 0}
    (kind, data), = request.items()
    if kind == "load":
        core = openvino.Core()
        wishes = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": int(sys.argv[1]), "NUM_STREAMS": 1}
        models.append([core.compile_model(data["file"], "CPU", wishes).create_infer_request(), None, data["file"], wishes])
        return {"done": len(models) - 1}
    if kind == "rounds":
        return {"rounds": rounds([models[number] for number in data["models"]], data["seconds"])}
    model = models[data["model"]]
    if kind == "give":
        element = numpy.uint8 if data["layout"]["bytes"] else numpy.float32
        model[1] = numpy.fromfile(data["file"], element).reshape(data["layout"]["shape"])
        return {"done": data["model"]}
    if kind == "run":
        logits = model[0].infer({"images": model[1]})["logits"]
        numpy.ascontiguousarray(logits, numpy.float32).tofile(data["file"])
        return {"written": {"shape": list(logits.shape), "bytes": False}}
    if kind == "operations":
        counting = openvino.Core().compile_model(model[2], "CPU", {**model[3], "PERF_COUNT": True}).create_infer_request()
        taken = {}
        for _ in range(data["runs"]):
            counting.infer({"images": model[1]})
            for operation in counting.get_profiling_info():
                taken.setdefault(operation.node_name, []).append(operation.real_time.total_seconds())
        return {"operations": sorted((name, statistics.median(seconds)) for name, seconds in taken.items())}
    begin = time.perf_counter()
    runs = 0
    while runs < data["warm"] or time.perf_counter() - begin < AWAKE:
        run_once(model)
        runs += 1
    return {"seconds": [run_once(model) for _ in range(data["timed"])]}


for line in sys.stdin:
    if openvino is None:
        result = {"missing": {"why": missing}}
    else:
        try:
            result = answer(json.loads(line))
        except Exception as error:
            result = {"refused": {"message": str(error)}}
    print(json.dumps(result), flush=True)
