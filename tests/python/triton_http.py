"""tritonclient[http] against a node that does not hold the model.

usage: triton_http.py HOST:PORT MODEL.onnx REQUESTS
Prints one JSON object; exits non-zero when an answer differs from local ONNX Runtime.
"""
import json
import sys
import time

import gevent
import numpy as np
import onnxruntime as ort
import tritonclient.http as http
from gevent.pool import Pool

address, model_path, requests = sys.argv[1], sys.argv[2], int(sys.argv[3])
client = http.InferenceServerClient(address, concurrency=16)

assert client.is_server_live() and client.is_server_ready()
assert client.is_model_ready("magika")
assert not client.is_model_ready("nonsense")
server = client.get_server_metadata()
assert server["name"] == "hansa" and "binary_tensor_data" in server["extensions"], server
metadata = client.get_model_metadata("magika")
assert metadata["inputs"] == [{"name": "bytes", "datatype": "INT32", "shape": [-1, 2048]}], metadata
assert metadata["outputs"][0]["datatype"] == "FP32", metadata

config = client.get_model_config("magika")
assert config["input"] == [{"name": "bytes", "data_type": "TYPE_INT32", "dims": [-1, 2048]}], config
assert config["output"][0]["data_type"] == "TYPE_FP32", config
assert isinstance(client.get_model_repository_index(), list)

rng = np.random.default_rng(7)
rows = rng.integers(0, 257, size=(64, 2048), dtype=np.int32)
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(model_path, options)
expected = np.concatenate([session.run(None, {"bytes": rows[i : i + 1]})[0] for i in range(64)])


def ask(index, binary, **kwargs):
    given = http.InferInput("bytes", [1, 2048], "INT32")
    given.set_data_from_numpy(rows[index : index + 1], binary_data=binary)
    wanted = [http.InferRequestedOutput("target_label", binary_data=binary)]
    result = client.infer("magika", [given], outputs=wanted, request_id=str(index), **kwargs)
    assert result.get_response()["id"] == str(index)
    got = result.as_numpy("target_label")
    assert got.shape == (1, 214) and got.dtype == np.float32
    np.testing.assert_allclose(got[0], expected[index], rtol=1e-5, atol=1e-6)


# Every form of a request: JSON and binary, compressed both ways, with constraints.
for binary in (False, True):
    for compression in (None, "gzip", "deflate"):
        ask(3, binary, request_compression_algorithm=compression, response_compression_algorithm=compression)
    ask(4, binary, headers={"Hansa-Locations": "DE,FR"}, model_version="1")
    ask(5, binary, parameters={"locations": "DE"})
# No outputs named: all of them.
given = http.InferInput("bytes", [2, 2048], "INT32")
given.set_data_from_numpy(rows[:2])
np.testing.assert_allclose(
    client.infer("magika", [given]).as_numpy("target_label"), expected[:2], rtol=1e-5, atol=1e-6
)

errors = []


def guarded(index):
    try:
        ask(index % 64, True)
    except Exception as error:  # every kind counts
        errors.append(repr(error))


started = time.time()
pool = Pool(16)
for index in range(requests):
    pool.spawn(guarded, index)
pool.join()
took = time.time() - started
print(json.dumps({"requests": requests, "errors": len(errors), "per_s": round(requests / took), "first": errors[:1]}))
sys.exit(1 if errors else 0)
