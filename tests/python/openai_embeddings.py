"""The openai client against a node that does not hold the model.

usage: openai_embeddings.py URL REFERENCE HOLDER
REFERENCE is what minilm_reference.py writes, HOLDER the name of the node that runs the models: `minilm`, the
same without its pooling as `minilm-tokens`, and `magika`, which takes no text. Prints one JSON object.
"""

import asyncio
import json
import pathlib
import sys
import time

import numpy as np
import openai

url, folder, holder = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
known = json.loads((folder / "texts.json").read_text())
texts, tokens = known["texts"], known["tokens"]
reference = np.load(folder / "embeddings.npy")
SHORT = 2048
ODD = range(SHORT, len(texts))
options = {"base_url": f"{url}/v1", "api_key": "none", "max_retries": 0}
client = openai.OpenAI(**options)
worst = 0.0


def close(response, rows):
    """The answer's embeddings are the reference's, each in its place, and its tokens are counted."""
    global worst
    assert response.object == "list" and [item.index for item in response.data] == list(range(len(rows)))
    got = np.array([item.embedding for item in response.data], np.float32)
    assert got.shape == (len(rows), 384), got.shape
    worst = max(worst, float(np.abs(got - reference[list(rows)]).max()))
    assert worst < 1e-5, worst
    counted = sum(len(tokens[row]) for row in rows)
    assert response.usage.prompt_tokens == response.usage.total_tokens == counted, response.usage
    return got


def refused(kind, code, param, words, **request):
    request = {"model": "minilm", "input": "hello", **request}
    try:
        client.embeddings.create(**request)
    except kind as error:
        assert error.code == code and error.param == param, (error.code, error.param, error)
        assert error.type, error
        assert all(word in error.message for word in words), error.message
        return error
    raise AssertionError(f"{request} was not refused")


# Models, of which this node holds none.
listed = {model.id: model for model in client.models.list()}
assert {"minilm", "minilm-tokens", "magika"} <= set(listed), listed
assert client.models.retrieve("minilm").id == "minilm"
assert listed["minilm"].object == "model" and listed["minilm"].owned_by == holder
exact = f"minilm@{listed['minilm'].bundle}"
assert client.models.retrieve(exact).id == exact
try:
    client.models.retrieve("nonsense")
    raise AssertionError("a model that nobody has")
except openai.NotFoundError as error:
    assert error.code == "model_not_found" and error.param == "model", error

# One text: as base64 (the client's own choice), as floats, and the two are the same to the bit.
for row in (0, *ODD):
    ours = close(client.embeddings.create(model="minilm", input=texts[row]), [row])
    floats = client.embeddings.create(model="minilm", input=texts[row], encoding_format="float", user="u")
    assert np.array_equal(ours, close(floats, [row])), row
# base64 is what the client asks for when it is told so, and its value is left alone then.
raw = client.embeddings.create(model="minilm", input="hello", encoding_format="base64").data[0].embedding
assert isinstance(raw, str) and len(raw) == 2048, raw

# Several texts of all lengths, as tokens too, with those that frame a text and without.
mixed = [*ODD, 3, 2000, ODD[-1], 7]
close(client.embeddings.create(model="minilm", input=[texts[row] for row in mixed]), mixed)
close(client.embeddings.create(model="minilm", input=[tokens[row] for row in mixed]), mixed)
close(client.embeddings.create(model="minilm", input=tokens[5][1:-1]), [5])
close(client.embeddings.create(model="minilm-tokens", input=[texts[row] for row in mixed]), mixed)
close(client.embeddings.create(model=exact, input=texts[1]), [1])

# As many as OpenAI takes.
started = time.time()
whole = client.embeddings.with_raw_response.create(model="minilm", input=texts[:SHORT])
took = time.time() - started
close(whole.parse(), range(SHORT))
assert whole.headers["hansa-executed-by"] == holder, whole.headers
receipts = whole.headers["hansa-receipt"].split(", ")
assert len(receipts) > 1 and whole.parse().receipts == receipts, receipts

# What the answer says of who ran it, and what the request may demand.
told = client.embeddings.with_raw_response.create(
    model="minilm", input="hello", extra_headers={"Hansa-Locations": "DE", "Hansa-Receipt": "inline"}
)
assert told.headers["hansa-executed-by"] == holder and told.headers["hansa-executed-in"] == "DE"
assert len(told.headers["hansa-receipt"]) == 32 and "server-timing" in told.headers
assert len(told.parse().receipts) == 1 and told.parse().receipts[0].count("\n") > 3
denied = refused(
    openai.PermissionDeniedError, "policy_unsatisfiable", None, ["policy"], extra_headers={"Hansa-Locations": "JP"}
)
assert denied.body["failed"] == {"location": 1}, denied.body
refused(openai.BadRequestError, "bad_constraint", None, ["Hansa-Locations"], extra_headers={"Hansa-Locations": ""})

# What cannot be done, and why.
bad = openai.BadRequestError
assert len(client.embeddings.create(model="minilm", input="hello", dimensions=384).data[0].embedding) == 384
refused(bad, "malformed", "dimensions", ["128", "384", "matryoshka_dimensions"], dimensions=128)
refused(bad, "malformed", "dimensions", ["385"], dimensions=385)
refused(bad, "malformed", "input", ["2048"], input=["a"] * 2049)
refused(bad, "malformed", "input", ["empty"], input=[])
refused(bad, "bad_input", "input", ["input[1]", "empty"], input=["a", ""])
refused(bad, "bad_input", "input", ["99999999"], input=[99999999])
long = ["short", "word " * 600]
refused(bad, "context_length_exceeded", "input", ["input[1]", "602 tokens", "256 tokens"], input=long)
refused(bad, "bad_input", "input", ["bytes"], input="word " * 100_000)
refused(bad, "no_tokenizer", "model", ["tokenizer.json"], model="magika")
refused(openai.NotFoundError, "model_not_found", "model", ["nonsense"], model="nonsense")
refused(bad, "malformed", None, ["temperature"], extra_body={"temperature": 1})
for path, status in (("/nothing", 404), ("/embeddings", 405)):
    try:
        client.get(path, cast_to=object)
        raise AssertionError(path)
    except openai.APIStatusError as error:
        assert error.status_code == status and error.type == "invalid_request_error", error


async def together():
    rows = range(64)
    async with openai.AsyncOpenAI(**options) as many:
        asked = [many.embeddings.create(model="minilm", input=texts[row]) for row in rows]
        for row, response in zip(rows, await asyncio.gather(*asked)):
            close(response, [row])


asyncio.run(together())
print(json.dumps({"worst": worst, "texts": SHORT, "seconds": round(took, 2), "receipts": len(receipts)}))
