"""The models that the programs of Triton's client examples ask for, as ONNX.

usage: triton_models.py FOLDER
Writes FOLDER/NAME.onnx: simple, simple_int8, simple_string, simple_identity, custom_identity_int32; and
FOLDER/NAME/model.onnx with its sequence.json: simple_sequence, simple_dyna_sequence.
"""
import json
import os
import sys

from onnx import TensorProto as T
from onnx import checker, helper, save

folder = sys.argv[1]


def write(name, nodes, inputs, outputs):
    value = lambda spec: helper.make_tensor_value_info(spec[0], spec[1], spec[2])
    path = os.path.join(folder, name + ".onnx")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    graph = helper.make_graph(nodes, name.split("/")[0], [value(i) for i in inputs], [value(o) for o in outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    save(model, path)


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, **attributes)


def add_sub(kind, shape=("rows", 16)):
    inputs = [("INPUT0", kind, shape), ("INPUT1", kind, shape)]
    return inputs, [("OUTPUT0", kind, shape), ("OUTPUT1", kind, shape)]


both = [node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]), node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"])]
write("simple", both, *add_sub(T.INT32))
# ONNX Runtime adds no INT8 on CPU: it goes by way of INT32.
wide = [node("Cast", ["INPUT0"], ["a"], to=T.INT32), node("Cast", ["INPUT1"], ["b"], to=T.INT32)]
sums = [node("Add", ["a", "b"], ["s"]), node("Sub", ["a", "b"], ["d"])]
narrow = lambda kind: [node("Cast", ["s"], ["OUTPUT0"], to=kind), node("Cast", ["d"], ["OUTPUT1"], to=kind)]
write("simple_int8", wide + sums + narrow(T.INT8), *add_sub(T.INT8))
write("simple_string", wide + sums + narrow(T.STRING), *add_sub(T.STRING))
one = node("Identity", ["INPUT0"], ["OUTPUT0"])
for name, kind in (("simple_identity", T.STRING), ("custom_identity_int32", T.INT32)):
    write(name, [one], [("INPUT0", kind, ["rows", "any"])], [("OUTPUT0", kind, ["rows", "any"])])

# Sequences: the first answers its input, and one more in the first request; the second adds up, and
# adds the sequence's id in the last.
flag = lambda name: (name, T.INT32, ["rows", 1])
value = lambda name: (name, T.INT32, ["rows", 1])
write(
    "simple_sequence/model",
    [node("Add", ["INPUT", "START"], ["a"]), node("Sub", ["READY", "READY"], ["z"]), node("Add", ["a", "z"], ["OUTPUT"])],
    [value("INPUT"), flag("START"), flag("READY")],
    [value("OUTPUT")],
)
write(
    "simple_dyna_sequence/model",
    [
        node("Add", ["INPUT", "SUM"], ["NEXT"]),
        node("Add", ["NEXT", "START"], ["started"]),
        node("Cast", ["CORRID"], ["id"], to=T.INT32),
        node("Mul", ["id", "END"], ["last"]),
        node("Add", ["started", "last"], ["OUTPUT"]),
        node("Mul", ["READY", "started"], ["NEXT_SUM"]),
    ],
    [value("INPUT"), value("SUM"), flag("START"), flag("READY"), flag("END"), ("CORRID", T.UINT64, ["rows", 1])],
    [value("OUTPUT"), value("NEXT_SUM")],
)
for name, sequence in (
    ("simple_sequence", {"start": "START", "ready": "READY"}),
    (
        "simple_dyna_sequence",
        {"states": {"NEXT_SUM": "SUM"}, "start": "START", "ready": "READY", "end": "END", "id": "CORRID"},
    ),
):
    with open(os.path.join(folder, name, "sequence.json"), "w") as file:
        json.dump(sequence, file)
