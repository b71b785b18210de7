"""tritonclient[grpc], and what of the protocol triton_http.py leaves out, against a node that holds no
model.

usage: triton_grpc.py HTTP_HOST:PORT GRPC_HOST:PORT SILERO_VAD.onnx
"""
import asyncio
import json
import queue
import sys
import urllib.request

import numpy as np
import onnxruntime as ort
import tritonclient.grpc as grpc
import tritonclient.grpc.aio as aio
import tritonclient.http as http
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

http_address, grpc_address, silero = sys.argv[1:4]
over_http, over_grpc = http.InferenceServerClient(http_address), grpc.InferenceServerClient(grpc_address)

A = np.arange(16, dtype=np.int32).reshape(1, 16)
B = np.full((1, 16), 3, dtype=np.int32)


def given(lib, name, value, datatype="INT32"):
    tensor = lib.InferInput(name, list(value.shape), datatype)
    tensor.set_data_from_numpy(value)
    return tensor


def simple(lib):
    return [given(lib, "INPUT0", A), given(lib, "INPUT1", B)]


def right(result):
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), A + B)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), A - B)


def refused(call, *words):
    try:
        call()
    except InferenceServerException as error:
        for word in words:
            assert word in str(error), (word, str(error))
        return error
    raise AssertionError(f"not refused: {words}")


# What there is.
assert over_grpc.is_server_live() and over_grpc.is_server_ready()
assert over_grpc.is_model_ready("simple") and not over_grpc.is_model_ready("nonsense")
assert over_grpc.get_server_metadata().name == "hansa"
assert [i.name for i in over_grpc.get_model_metadata("simple").inputs] == ["INPUT0", "INPUT1"]
assert over_grpc.get_model_config("simple").config.input[0].dims == [-1, 16]
assert over_grpc.get_model_repository_index().models == []

# One request, with constraints as parameters and as metadata; and one that nobody may run.
right(over_grpc.infer("simple", simple(grpc), outputs=[grpc.InferRequestedOutput("OUTPUT1"), grpc.InferRequestedOutput("OUTPUT0")]))
right(over_grpc.infer("simple", simple(grpc), parameters={"locations": "DE"}, compression_algorithm="gzip"))
right(over_grpc.infer("simple", simple(grpc), headers={"hansa-locations": "DE,FR"}, client_timeout=20))
error = refused(lambda: over_grpc.infer("simple", simple(grpc), headers={"hansa-locations": "SG"}), "permits")
assert error.status() == "StatusCode.PERMISSION_DENIED", error.status()
error = refused(lambda: over_grpc.infer("nonsense", simple(grpc)), "Request for unknown model")
assert error.status() == "StatusCode.NOT_FOUND", error.status()
refused(lambda: over_grpc.infer("simple", simple(grpc)[:1]), "INPUT1")
assert over_grpc.get_inference_statistics("simple").model_stats[0].inference_count >= 3


async def all_at_once():
    async with aio.InferenceServerClient(grpc_address) as client:
        for result in await asyncio.gather(*(client.infer("simple", simple(grpc)) for _ in range(50))):
            right(result)


asyncio.run(all_at_once())

# Any bytes are BYTES.
odd = np.array([[b"", b"\0", b"a\0b", b"\xff\xfe"]], dtype=np.object_)
for lib, client in ((http, over_http), (grpc, over_grpc)):
    result = client.infer("simple_identity", [given(lib, "INPUT0", odd, "BYTES")])
    assert result.as_numpy("OUTPUT0").tolist() == odd.tolist(), result.as_numpy("OUTPUT0")

# The largest values, as text.
for lib, client in ((http, over_http), (grpc, over_grpc)):
    wanted = [lib.InferRequestedOutput("OUTPUT0", class_count=2)]
    best = client.infer("simple", simple(lib), outputs=wanted).as_numpy("OUTPUT0")
    assert best.tolist() == [[b"18.000000:15", b"17.000000:14"]], best

# A body that is the one input, and nothing else.
request = urllib.request.Request(
    f"http://{http_address}/v2/models/custom_identity_int32/infer",
    data=A.tobytes(),
    headers={"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"},
)
with urllib.request.urlopen(request) as answer:
    head = int(answer.headers["Inference-Header-Content-Length"])
    assert answer.read()[head:] == A.tobytes()

# One flat object.
for way in ("generate", "generate_stream"):
    body = json.dumps({"INPUT0": A[0].tolist(), "INPUT1": B[0].tolist(), "id": "7", "locations": "DE"})
    request = urllib.request.Request(f"http://{http_address}/v2/models/simple/{way}", data=body.encode())
    with urllib.request.urlopen(request) as answer:
        text = answer.read().decode()
        assert answer.headers["Hansa-Executed-In"] == "DE"
    told = json.loads(text.removeprefix("data: "))
    assert told["OUTPUT0"] == (A + B)[0].tolist() and told["id"] == "7", told

# Shared memory.
size = A.nbytes
regions = {name: shm.create_shared_memory_region(name, f"/hansa-{name}-{http_address[-5:]}", size) for name in ("a", "b", "sum")}
shm.set_shared_memory_region(regions["a"], [A])
shm.set_shared_memory_region(regions["b"], [B])
for lib, client in ((http, over_http), (grpc, over_grpc)):
    for name in regions:
        client.register_system_shared_memory(name, f"/hansa-{name}-{http_address[-5:]}", size)
    refused(lambda: client.register_system_shared_memory("a", f"/hansa-a-{http_address[-5:]}", size), "already")
    shm.set_shared_memory_region(regions["sum"], [np.zeros_like(A)])
    inputs = [lib.InferInput("INPUT0", [1, 16], "INT32"), lib.InferInput("INPUT1", [1, 16], "INT32")]
    inputs[0].set_shared_memory("a", size)
    inputs[1].set_shared_memory("b", size)
    outputs = [lib.InferRequestedOutput("OUTPUT0"), lib.InferRequestedOutput("OUTPUT1")]
    outputs[0].set_shared_memory("sum", size)
    client.infer("simple", inputs, outputs=outputs)
    np.testing.assert_array_equal(shm.get_contents_as_numpy(regions["sum"], np.int32, [1, 16]), A + B)
    inputs[0].set_shared_memory("nowhere", size)
    refused(lambda: client.infer("simple", inputs), "nowhere")
    inputs[0].set_shared_memory("a", size, offset=4)
    refused(lambda: client.infer("simple", inputs), "64 bytes")
    client.unregister_system_shared_memory()
for region in regions.values():
    shm.destroy_shared_memory_region(region)

# Sequences: two at once, interleaved; each keeps its own sum.
def step(lib, client, sequence, value, start=False, end=False):
    number = given(lib, "INPUT", np.array([[value]], dtype=np.int32))
    result = client.infer("simple_dyna_sequence", [number], sequence_id=sequence, sequence_start=start, sequence_end=end)
    return int(result.as_numpy("OUTPUT")[0][0])


for lib, client in ((http, over_http), (grpc, over_grpc)):
    first = [step(lib, client, 11, 5, start=True), step(lib, client, "12", 100, start=True)]
    assert first == [6, 101], first
    assert (step(lib, client, 11, 2), step(lib, client, "12", 1)) == (8, 102)
    assert (step(lib, client, 11, 1, end=True), step(lib, client, "12", 1, end=True)) == (9 + 11, 103 + 12)
    refused(lambda: step(lib, client, 11, 1), "must specify the START flag")
    refused(lambda: step(lib, client, 0, 1), "correlation ID")
    refused(lambda: client.infer("simple", simple(lib), sequence_id=3, sequence_start=True), "sequence.json")
names = [i.name for i in over_grpc.get_model_metadata("simple_dyna_sequence").inputs]
assert names == ["INPUT"], names

# A real model's state, against the same model here.
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session, state = ort.InferenceSession(silero, options), np.zeros((2, 1, 128), dtype=np.float32)
rng = np.random.default_rng(7)
for number in range(8):
    sound = rng.standard_normal((1, 576)).astype(np.float32) / 10
    expected, state = session.run(None, {"input": sound, "state": state, "sr": np.array(16000, dtype=np.int64)})
    inputs = [given(grpc, "input", sound, "FP32"), given(grpc, "sr", np.array(16000, dtype=np.int64), "INT64")]
    result = over_grpc.infer("silero", inputs, sequence_id=5, sequence_start=number == 0, sequence_end=number == 7)
    np.testing.assert_allclose(result.as_numpy("output"), expected, rtol=1e-5, atol=1e-6)
    assert result.as_numpy("stateN") is None, "what the sequence keeps is not the app's"

# A stream: answers in order, a failed request in its place, and the last one says so.
results = queue.Queue()
over_grpc.start_stream(lambda result, error: results.put((result, error)))
for value in range(20):
    number = given(grpc, "INPUT", np.array([[value]], dtype=np.int32))
    over_grpc.async_stream_infer("simple_dyna_sequence", [number], request_id=str(value), sequence_id=77, sequence_start=value == 0, sequence_end=value == 19, enable_empty_final_response=True)
over_grpc.async_stream_infer("nonsense", simple(grpc), request_id="bad")
total = 1
for value in range(20):
    result, error = results.get(timeout=30)
    assert error is None, error
    total += value
    response = result.get_response()
    assert response.id == str(value) and response.parameters["triton_final_response"].bool_param
    assert int(result.as_numpy("OUTPUT")[0][0]) == total + (77 if value == 19 else 0)
result, error = results.get(timeout=30)
assert "Request for unknown model" in str(error), error
over_grpc.stop_stream()

# What is traced and logged.
for client in (over_http, over_grpc):
    client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    client.infer("simple", simple(http if client is over_http else grpc))
    client.update_trace_settings(settings={"trace_level": None, "trace_rate": None})
    refused(lambda: client.update_trace_settings(settings={"trace_file": "/etc/passwd"}), "trace.jsonl")
    client.update_log_settings({"log_verbose_level": 1})
    client.update_log_settings({"log_verbose_level": 0})
    refused(lambda: client.update_log_settings({"log_file": "x"}), "[telemetry]")
settings = over_http.get_trace_settings()
assert settings["trace_level"] == ["OFF"] and settings["trace_rate"] == "1000", settings
with open(settings["trace_file"]) as file:
    lines = [json.loads(line) for line in file]
assert len(lines) == 2 and lines[0]["model_name"] == "simple" and len(lines[0]["timestamps"]) == 3, lines
print(json.dumps({"traced": len(lines)}))
