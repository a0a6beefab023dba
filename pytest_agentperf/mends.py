"""Which flag of which server brings what a preflight did not find."""

from collections.abc import Mapping

__all__ = ["mend"]

_VLLM, _SGLANG, _TRTLLM, _LLAMA, _DYNAMO = "vLLM", "SGLang", "TensorRT-LLM", "llama.cpp", "Dynamo"

_FLAGS: Mapping[str, Mapping[str, str]] = {
    "tools": {
        _VLLM: "--enable-auto-tool-choice --tool-call-parser NAME",
        _SGLANG: "--tool-call-parser NAME",
        _TRTLLM: "--tool_parser NAME",
        _LLAMA: "--jinja",
        _DYNAMO: "--dyn-tool-call-parser NAME at the worker",
    },
    "reasoning": {
        _VLLM: "--reasoning-parser NAME",
        _SGLANG: "--reasoning-parser NAME",
        _TRTLLM: "--reasoning_parser NAME",
        _LLAMA: "--reasoning-format auto",
        _DYNAMO: "--dyn-reasoning-parser NAME at the worker",
    },
    "cached tokens": {
        _VLLM: "--enable-prompt-tokens-details",
        _SGLANG: "--enable-cache-report",
    },
    "prefix cache": {
        _VLLM: "--enable-prefix-caching",
        _SGLANG: "leave --disable-radix-cache out",
        _TRTLLM: "kv_cache_config: {enable_block_reuse: true}",
        _LLAMA: "--cache-prompt",
        _DYNAMO: "the worker's own flag",
    },
    "context": {
        _VLLM: "--max-model-len N",
        _SGLANG: "--context-length N",
        _TRTLLM: "--max_seq_len N",
        _LLAMA: "-c N, shared by -np slots",
        _DYNAMO: "the worker's own flag",
    },
}


def mend(line: str, engine: str | None) -> str:
    """Return the flag of the server that answers, or of every one where its name is not known.

    Args:
        line: name of what is missing.
        engine: the server's name, where it tells; see `detected`.
    """
    flags = _FLAGS.get(line, {})
    if engine is not None and engine in flags:
        return f"{engine}: {flags[engine]}"
    return "; ".join(f"{name}: {flag}" for name, flag in flags.items())
