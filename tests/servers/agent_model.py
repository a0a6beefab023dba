"""A tiny model that behaves like a coding agent: it reasons, calls three tools, and then answers.

Its weights are scripted. Embeddings are random codes of ±1; the output layer is a table of which
token follows which, read off the residual stream by those codes. The chat template ends a prompt
with a *mode* token that says how many tool results there are; one attention head copies the mode
into the residual stream, where it picks the branch after tokens that several scripts share. All
else is a Qwen3 of two layers, so vLLM and llama.cpp run it as they run any other.

    python -m tests.servers.agent_model FOLDER FILE.gguf
"""

import argparse
import itertools
import json
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

__all__ = ["CALLS", "make_agent_model"]

WORDS, WIDTH, LAYERS, HEADS, KV_HEADS, HEAD, FORWARD = 4000, 256, 2, 4, 2, 64, 512
CONTEXT = 32_768
EDGE, BONUS, CATEGORIES = 26.0, 9.0, 28
"""Logit of what follows, what a mode adds to it, and dimensions kept free for categories."""
MEAN_WORDS = 60
"""Length of an answer in prose."""
NEXT_WORDS = 4
_KEYS, _SEEN = 8, 18
"""Where the modes begin in the embedding of their tokens, and in the state that has seen them."""
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MODES = [f"<|{kind}{number}|>" for kind in "mn" for number in range(5)]
"""m reasons and n does not; 0 to 2 call a tool, 3 answers, 4 calls the only tool that there is."""
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *MODES]
TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
THOUGHTS = [
    ["0: The user", " wants", " a fix;", " first I read", " the file.\n"],
    ["1: Next I", " run the", " unit tests.\n"],
    ["2: One test", " fails,", " so I edit", " the file.\n"],
    ["3: All is", " done;", " now I answer.\n"],
    ["4: I look", " what files", " there are.\n"],
]
# As `pytest_agentperf.synthesis` declares them, and `probes` the last: llama.cpp lets a call be
# written in no other way.
CALLS = [
    ['\n{"name": "read_file", ', '"arguments": {"path": "src/', 'main.py"}}\n'],
    ['\n{"name": "run_tests", ', '"arguments": {"path": "tests/', 'unit"}}\n'],
    ['\n{"name": "edit_file", ', '"arguments": {"path": "src/main.py", ', '"old_text": "a - b", ',
     '"new_text": "a + b"}}\n'],
    [],
    ['\n{"name": "list_files", ', '"arguments": {"path": "sr', 'c"}}\n'],
]  # fmt: skip
CHAT_TEMPLATE = """\
{%- if tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif %}# Tools

<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools>

Call one as <tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
{% elif messages[0].role == 'system' %}<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% endif %}{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'user' -%}
{% set ns.n = 0 %}<|im_start|>user
{{ m.content }}<|im_end|>
{% elif m.role == 'assistant' %}<|im_start|>assistant
{% set thought = m.reasoning_content or m.reasoning -%}
{% if thought %}<think>{{ thought }}</think>{% endif %}{{ m.content or '' -}}
{% for c in m.tool_calls or [] %}<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments if \
c.function.arguments is string else c.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% elif m.role == 'tool' %}{% set ns.n = ns.n + 1 %}<|im_start|>user
<tool_response>
{{ m.content }}
</tool_response><|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% set i = 3 if not tools or ns.n > 2 else ns.n -%}
{% if tools and tools | length == 1 %}{% set i = 3 if ns.n else 4 %}{% endif -%}
{% if enable_thinking is defined and enable_thinking is false %}<|n{{ i }}|>{% else -%}
<|m{{ i }}|>{% endif %}{% endif %}"""

Array = np.ndarray[Any, Any]


def make_agent_model(folder: Path, file: Path) -> None:
    """Write the model as a folder of Hugging Face's, and as a GGUF file; the same at every call.

    The first seed whose codes keep the scripts apart is taken.
    """
    tokenizer = _tokenizer()
    script = next(s for seed in itertools.count() if (s := _Script(tokenizer, seed)).holds())
    tensors = _tensors(script)
    folder.mkdir(parents=True, exist_ok=True)
    _write_folder(folder, tokenizer, tensors)
    _write_gguf(file, tokenizer, tensors)


def _tokenizer() -> Tokenizer:
    made: Any = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_SPLIT), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    made.decoder = decoders.ByteLevel()
    texts = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:120]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=WORDS, initial_alphabet=alphabet, show_progress=False)
    made.train(list(map(str, texts)), trainer)
    made.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    phrases = [phrase for script in THOUGHTS + CALLS for phrase in script]
    made.add_tokens([AddedToken(s, special=False, normalized=False) for s in TAGS + phrases])
    return made


@dataclass
class _Edges:
    """What follows what: the output layer while it is made."""

    embedding: Array
    output: Array

    def add(self, before: int, after: int) -> None:
        codes = self.embedding[before, CATEGORIES:]
        self.output[after, CATEGORIES:] += EDGE * codes / (WIDTH - CATEGORIES)

    def prefer(self, mode: int, token: int) -> None:
        self.output[token, _SEEN + mode] += BONUS


class _Script:
    """Embedding and output layer for one seed."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self._tokenizer: Any = tokenizer
        self._random = np.random.default_rng(seed)
        self.size = tokenizer.get_vocab_size()
        padded = (self.size + 63) // 64 * 64
        names = tokenizer.get_vocab().items()
        self._prose = sorted(i for s, i in names if _is_word(s) and i < WORDS)
        self._end = self._id("<|im_end|>")
        embedding = self._random.choice([-1.0, 1.0], size=(padded, WIDTH)).astype(np.float32)
        embedding[:, :CATEGORIES] = 0
        embedding[:, 0] = 1
        embedding[self._prose, 1] = 1
        for mode, token in enumerate(map(self._id, MODES)):
            embedding[token, 2] = embedding[token, _KEYS + mode] = 1
        embedding[self._id("</tool_call>"), 3] = 1
        self.edges = _Edges(embedding, np.zeros((padded, WIDTH), np.float32))
        self._first = int(self._random.choice(self._prose))
        self._connect()

    def _id(self, token: str) -> int:
        return self._tokenizer.token_to_id(token)

    @property
    def paths(self) -> list[list[int]]:
        """What each mode says, up to the prose."""
        think, thought, call, called = map(self._id, TAGS[:4])
        found: list[list[int]] = []
        for mode, token in enumerate(map(self._id, MODES)):
            number, reasons = mode % len(CALLS), mode < len(CALLS)
            path = [token]
            if reasons:
                path += [think, *map(self._id, THOUGHTS[number]), thought]
            if CALLS[number]:
                path += [call, *map(self._id, CALLS[number]), called, self._end]
            else:
                path.append(self._first)
            found.append(path)
        return found

    def holds(self) -> bool:
        """Tell whether every step of every script is certain enough at temperature 1."""
        steps = (
            (m, *step) for m, path in enumerate(self.paths) for step in itertools.pairwise(path)
        )
        return all(self._probability(mode, before, after) > 0.98 for mode, before, after in steps)

    def _connect(self) -> None:
        """Make all edges; tokens that several scripts share are followed by what the mode says."""
        edges = self.edges
        shared = {self._id(tag) for tag in ("<think>", "</think>", "<tool_call>")}
        steps = [
            (m, *step) for m, path in enumerate(self.paths) for step in itertools.pairwise(path)
        ]
        for before, after in sorted({step[1:] for step in steps if step[2] != self._end}):
            edges.add(before, after)
        for mode, before, after in steps:
            if before in shared:
                edges.prefer(mode, after)
        for word in self._prose:
            for after in self._random.choice(self._prose, NEXT_WORDS, replace=False):
                edges.add(word, int(after))
        output = edges.output
        output[self._end, 3] += EDGE + 2
        output[self._end, 1] += EDGE + np.log(NEXT_WORDS / MEAN_WORDS)
        output[list(map(self._id, MODES))] = 0
        output[self.size :, 0] = -50
        output[[self._id(s) for s in SPECIAL if s != "<|im_end|>"], 0] -= 30

    def _probability(self, mode: int, before: int, after: int) -> float:
        embedding = self.edges.embedding
        state = embedding[before].copy()
        state[_SEEN + mode] += 1 / np.sqrt((embedding[self._id(MODES[mode])] ** 2).mean())
        logits = self.edges.output @ (state / np.sqrt((state**2).mean()))
        odds = np.exp(logits - logits.max())
        return float(odds[after] / odds.sum())


def _is_word(token: str) -> bool:
    return token.startswith("Ġ") and token[1:].isalpha() and len(token) > 3


def _tensors(script: _Script) -> Mapping[str, Array]:
    """Return all weights by their names in a checkpoint."""
    random, ones = np.random.default_rng(0), np.ones(WIDTH, np.float32)
    found: dict[str, Array] = {
        "model.embed_tokens.weight": script.edges.embedding,
        "model.norm.weight": ones,
        "lm_head.weight": script.edges.output,
    }
    for layer in range(LAYERS):
        query, key = np.zeros((HEADS * HEAD, WIDTH)), np.zeros((KV_HEADS * HEAD, WIDTH))
        value, out = np.zeros((KV_HEADS * HEAD, WIDTH)), np.zeros((WIDTH, HEADS * HEAD))
        if layer == 0:
            # On the slowest rotary pair: a constant query, a key of +1 for modes and -1 for others.
            query[HEAD // 2 - 1 :: HEAD, 0] = 1
            key[HEAD // 2 - 1 :: HEAD, 0], key[HEAD // 2 - 1 :: HEAD, 2] = -1, 2
            for mode in range(len(MODES)):
                value[mode::HEAD, _KEYS + mode] = 1
                out[_SEEN + mode, mode] = 1
        parts = {
            "self_attn.q_proj": query,
            "self_attn.k_proj": key,
            "self_attn.v_proj": value,
            "self_attn.o_proj": out,
            "self_attn.q_norm": np.full(HEAD, 2.0),
            "self_attn.k_norm": np.full(HEAD, 2.0),
            "mlp.gate_proj": random.normal(0, 0.02, (FORWARD, WIDTH)),
            "mlp.up_proj": random.normal(0, 0.02, (FORWARD, WIDTH)),
            "mlp.down_proj": np.zeros((WIDTH, FORWARD)),
            "input_layernorm": ones,
            "post_attention_layernorm": ones,
        }
        found |= {
            f"model.layers.{layer}.{n}.weight": w.astype(np.float32) for n, w in parts.items()
        }
    return found


def _write_folder(folder: Path, tokenizer: Tokenizer, tensors: Mapping[str, Array]) -> None:
    ends = {name: tokenizer.token_to_id(token) for name, token in _ends().items()}
    config = {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": WIDTH,
        "intermediate_size": FORWARD, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "head_dim": HEAD, "rms_norm_eps": 1e-6,
        "vocab_size": len(tensors["lm_head.weight"]), "max_position_embeddings": CONTEXT,
        "rope_theta": 1000000.0, "hidden_act": "silu", "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", **ends,
    }  # fmt: skip
    texts = {
        "config.json": config,
        "generation_config.json": {**ends, "do_sample": True, "temperature": 1.0},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": CONTEXT,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    }
    for name, content in texts.items():
        (folder / name).write_text(json.dumps(content, indent=1), "utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, weights in tensors.items():
        begin = len(data)
        data += _bfloat16(weights)
        place = {"dtype": "BF16", "shape": weights.shape, "data_offsets": [begin, len(data)]}
        header[name] = place
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    (folder / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + data)


def _ends() -> Mapping[str, str]:
    begin = {"bos_token_id": "<|endoftext|>", "pad_token_id": "<|endoftext|>"}
    return begin | {"eos_token_id": "<|im_end|>"}


def _bfloat16(weights: Array) -> bytes:
    """Return the upper halves, rounded to even."""
    bits = weights.astype("<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def _write_gguf(file: Path, tokenizer: Tokenizer, tensors: Mapping[str, Array]) -> None:
    writer = gguf.GGUFWriter(file, "qwen3")
    writer.add_name("tiny-agent")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_vocabulary(writer, tokenizer, len(tensors["lm_head.weight"]))
    for name, weights in tensors.items():
        writer.add_tensor(_gguf_name(name), weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer, size: int) -> None:
    read = json.loads(tokenizer.to_str())
    tokens: list[str] = [f"[PAD{i}]" for i in range(size)]
    types = [gguf.TokenType.UNUSED] * size
    for token, number in read["model"]["vocab"].items():
        tokens[number], types[number] = token, gguf.TokenType.NORMAL
    for added in read["added_tokens"]:
        kind = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        tokens[added["id"]], types[added["id"]] = added["content"], kind
    writer.add_vocab_size(size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in _merges(read)])
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_pad_token_id(tokens.index("<|endoftext|>"))
    writer.add_add_bos_token(value=False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _merges(read: Any) -> Sequence[str | list[str]]:
    return read["model"]["merges"]


_GGUF_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def _gguf_name(name: str) -> str:
    plain = name.removesuffix(".weight")
    if not plain.startswith("model.layers."):
        return f"{_GGUF_NAMES[plain]}.weight"
    layer, part = plain.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{_GGUF_NAMES[part]}.weight"


def main() -> None:
    """Write the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("gguf", type=Path)
    asked = parser.parse_args()
    make_agent_model(asked.folder, asked.gguf)


if __name__ == "__main__":
    main()
