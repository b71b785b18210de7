"""tritonclient against a model that answers step by step, as Triton's example repeat_int32 does.

usage: triton_loops.py HTTP_HOST:PORT GRPC_HOST:PORT
"""
import queue
import sys

import numpy as np
import tritonclient.grpc as grpc
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

http_address, grpc_address = sys.argv[1:3]
over_http, over_grpc = http.InferenceServerClient(http_address), grpc.InferenceServerClient(grpc_address)


def given(lib, values, delays=None):
    delays = [0] * len(values) if delays is None else delays
    inputs = []
    for name, data, kind in (("IN", values, np.int32), ("DELAY", delays, np.uint32), ("WAIT", [0], np.uint32)):
        data = np.array(data, dtype=kind)
        tensor = lib.InferInput(name, [len(data)], {np.int32: "INT32", np.uint32: "UINT32"}[kind])
        tensor.set_data_from_numpy(data)
        inputs.append(tensor)
    return inputs


# What clients are told of it.
config = over_grpc.get_model_config("repeat").config
assert config.model_transaction_policy.decoupled
assert {i.name for i in config.input if i.optional} == {"AT"}, config
config = over_http.get_model_config("repeat")
assert config["model_transaction_policy"] == {"decoupled": True}, config
metadata = over_grpc.get_model_metadata("repeat")
assert [o.name for o in metadata.outputs] == ["OUT", "IDX"], metadata

# One request has no room for several answers.
for lib, client, words in (
    (http, over_http, "HTTP end point doesn't support models with decoupled transaction policy"),
    (grpc, over_grpc, "ModelInfer RPC doesn't support models with decoupled transaction policy"),
):
    try:
        client.infer("repeat", given(lib, [1]))
        raise AssertionError("not refused")
    except InferenceServerException as error:
        assert words in str(error) and "generate_stream" in str(error), error
        assert error.status() in ("501", "StatusCode.UNIMPLEMENTED"), error.status()


class Stream:
    """A stream, and what came on it."""

    def __enter__(self):
        self.client, self.came = grpc.InferenceServerClient(grpc_address), queue.Queue()
        self.client.start_stream(callback=lambda result, error: self.came.put((result, error)))
        return self

    def __exit__(self, *_):
        self.client.stop_stream()

    def ask(self, values, id, delays=None, **more):
        self.client.async_stream_infer("repeat", given(grpc, values, delays), request_id=id, **more)

    def next(self):
        """Id, value, index, whether it is the last; or an error."""
        result, error = self.came.get(timeout=60)
        if error is not None:
            return error
        response = result.get_response()
        end = response.parameters["triton_final_response"].bool_param if "triton_final_response" in response.parameters else None
        if not response.outputs:
            return response.id, None, None, end
        return response.id, int(result.as_numpy("OUT")[0]), int(result.as_numpy("IDX")[0]), end


with Stream() as stream:
    # Each answer says that it is not the last; that one, with nothing in it, comes to who asks for it…
    stream.ask([4, 2, 0], "a", enable_empty_final_response=True)
    assert [stream.next() for _ in range(4)] == [
        ("a", 4, 0, False), ("a", 2, 1, False), ("a", 0, 2, False), ("a", None, None, True),
    ]
    # …and nobody else.
    stream.ask([4, 2], "b")
    stream.ask([7], "c")
    told = sorted(stream.next() for _ in range(3))
    assert told == [("b", 2, 1, False), ("b", 4, 0, False), ("c", 7, 0, False)], told
    assert stream.came.empty()
    # Many at once come each in its own order.
    values = {str(number): list(range(number, number + 20)) for number in range(30)}
    for id, own in values.items():
        stream.ask(own, id, enable_empty_final_response=True)
    told = {id: [] for id in values}
    order = []
    for _ in range(30 * 21):
        id, value, _, end = stream.next()
        assert end == (value is None)
        order.append(id)
        told[id] += [] if end else [value]
    assert told == values, told
    assert order != sorted(order, key=int), "one does not wait for another"
    # What is answered once is answered in its order among them.
    for number in range(20):
        stream.ask([number] * 5, f"m{number}")
        once = grpc.InferInput("x", [1], "INT64")
        once.set_data_from_numpy(np.array([number], dtype=np.int64))
        stream.client.async_stream_infer("once", [once], request_id=f"o{number}")
    order = []
    for _ in range(20 * 6):
        result, error = stream.came.get(timeout=60)
        assert error is None, error
        response = result.get_response()
        order.append(response.id)
        assert response.parameters["triton_final_response"].bool_param == (response.id[0] == "o")
    assert [id for id in order if id[0] == "o"] == [f"o{number}" for number in range(20)], order
    assert all(order.count(f"m{number}") == 5 for number in range(20)), order
    # Fewer steps, and only what is wanted.
    stream.ask([4, 2, 0], "d", parameters={"steps_max": 2}, enable_empty_final_response=True)
    assert [stream.next()[1] for _ in range(3)] == [4, 2, None]
    wanted = [grpc.InferRequestedOutput("IDX")]
    stream.ask([9], "e", outputs=wanted)
    result, error = stream.came.get(timeout=60)
    assert error is None and [o.name for o in result.get_response().outputs] == ["IDX"]
    stream.ask([9, 8], "f", outputs=[grpc.InferRequestedOutput("OUT", class_count=1)])
    best = [stream.came.get(timeout=60)[0].as_numpy("OUT").tolist() for _ in range(2)]
    assert best == [[b"9.000000:0"], [b"8.000000:0"]], best
    # What cannot be is refused, and the stream goes on.
    for more, words in (
        ({"parameters": {"steps_max": 0}}, "not a number from 1 to 512"),
        ({"parameters": {"steps_max": 513}}, "not a number from 1 to 512"),
        ({"parameters": {"steps_max": "x"}}, "not a number of steps"),
        ({"sequence_id": 7, "sequence_start": True}, "leave sequence_id out"),
        ({"outputs": [grpc.InferRequestedOutput("NEXT")]}, "no output `NEXT`"),
    ):
        stream.ask([1], "g", **more)
        error = stream.next()
        assert isinstance(error, InferenceServerException) and words in str(error), error
    # One that fails in the middle tells what came before.
    stream.ask([5, 6, 7, 8], "h", delays=[0, 0], enable_empty_final_response=True)
    assert [stream.next() for _ in range(2)] == [("h", 5, 0, False), ("h", 6, 1, False)]
    error = stream.next()
    assert isinstance(error, InferenceServerException) and "step 3" in str(error), error
    stream.ask([1], "i", enable_empty_final_response=True)
    assert [stream.next() for _ in range(2)] == [("i", 1, 0, False), ("i", None, None, True)]
    assert stream.came.empty()
    # One that would not end is stopped with its stream.
    stream.ask([1, 2], "endless", delays=[0, 2**32 - 1])
    assert stream.next() == ("endless", 1, 0, False)
    stream.client.stop_stream(cancel_requests=True)

with Stream() as stream:
    # So many at once and no more; what is answered once is answered all the same.
    for number in range(65):
        stream.ask(list(range(512)), f"m{number}")
    once = grpc.InferInput("x", [1], "INT64")
    once.set_data_from_numpy(np.array([1], dtype=np.int64))
    stream.client.async_stream_infer("once", [once], request_id="once")
    is_refused = is_answered = False
    while not (is_refused and is_answered):
        result, error = stream.came.get(timeout=60)
        if error is not None:
            assert "64 requests are answered step by step" in str(error), error
            is_refused = True
        elif result.get_response().id == "once":
            is_answered = True
    stream.client.stop_stream(cancel_requests=True)
