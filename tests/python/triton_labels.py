"""Classes by their names, over HTTP and gRPC, at a node that holds neither the models nor their labels.

usage: triton_labels.py HTTP_HOST:PORT GRPC_HOST:PORT MODEL…
"""
import sys

import numpy as np
import tritonclient.grpc as grpc
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

over_http, over_grpc = http.InferenceServerClient(sys.argv[1]), grpc.InferenceServerClient(sys.argv[2])


def best(lib, client, model, name, count, **kwargs):
    inputs = []
    for own, value in (("INPUT0", np.arange(32).reshape(2, 16) % 16), ("INPUT1", np.full((2, 16), 3))):
        tensor = lib.InferInput(own, [2, 16], "INT32")
        tensor.set_data_from_numpy(value.astype(np.int32))
        inputs.append(tensor)
    wanted = [lib.InferRequestedOutput(name, class_count=count)]
    return client.infer(model, inputs, outputs=wanted, **kwargs).as_numpy(name).tolist()


for model in sys.argv[3:]:
    for lib, client in ((http, over_http), (grpc, over_grpc)):
        try:
            best(lib, client, model, "OUTPUT0", 2, headers={"hansa-locations": "US"})
            raise AssertionError("not refused")
        except InferenceServerException as error:
            assert "permits" in str(error), error
        # The file has no line for the last element.
        row = [b"18.000000:15", b"17.000000:14:fourteen small ones", b"16.000000:13:13"]
        assert best(lib, client, model, "OUTPUT0", 3) == [row, row]
        # The other output has no labels.
        assert best(lib, client, model, "OUTPUT1", 1) == [[b"12.000000:15"]] * 2
    told = over_http.get_model_config(model)["output"]
    assert told[0]["label_filename"] == "labels/OUTPUT0.txt" and "label_filename" not in told[1], told
    assert over_grpc.get_model_config(model).config.output[0].label_filename == "labels/OUTPUT0.txt"
print("ok")
