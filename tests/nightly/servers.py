"""Real servers that a nightly run installs, each in an environment of its own."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Mapping
from pathlib import Path

import httpx

from tests.fetched import environment

__all__ = ["KEY", "litellm", "vllm"]

KEY = "sk-nightly-0123456789-abcdefghij"
_START_S = 300.0
_STOP_S = 20.0
_LOCK = Path(__file__).with_name("vllm-lock.txt")


@contextlib.contextmanager
def vllm(model: Path, log: Path) -> Generator[str]:
    """Serve a model on the CPU, with all that an agent wants; yield the base of the API."""
    python = environment("vllm-0.32.0", "--no-deps", "-r", _LOCK)
    port = _free_port()
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--served-model-name=tiny", "--host=127.0.0.1", f"--port={port}"]
    command += ["--max-model-len=32768", "--max-num-seqs=64", "--enforce-eager"]
    command += ["--reasoning-parser=qwen3", "--enable-auto-tool-choice"]
    command += ["--tool-call-parser=hermes", "--enable-prompt-tokens-details"]
    quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    with _started(command, {"VLLM_CPU_KVCACHE_SPACE": "1", **quiet}, log, port, "/health"):
        yield f"http://127.0.0.1:{port}/v1"


@contextlib.contextmanager
def litellm(behind: str, log: Path) -> Generator[str]:
    """Put LiteLLM's proxy before a server; it asks for `KEY`."""
    python = environment("litellm-1.106.2", "litellm[proxy]==1.106.2")
    config = log.with_suffix(".yaml")
    served = f"{{model: openai/tiny, api_base: '{behind}', api_key: none}}"
    config.write_text(f"model_list:\n  - {{model_name: tiny, litellm_params: {served}}}\n", "utf-8")
    port = _free_port()
    command = [python.with_name("litellm"), "--config", config, "--host=127.0.0.1"]
    command += [f"--port={port}"]
    settings = {"LITELLM_MASTER_KEY": KEY, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with _started(command, settings, log, port, "/health/liveliness"):
        yield f"http://127.0.0.1:{port}/v1"


@contextlib.contextmanager
def _started(
    command: list[str | Path], settings: Mapping[str, str], log: Path, port: int, path: str
) -> Generator[None]:
    with log.open("w") as out:
        process = subprocess.Popen(
            list(map(str, command)),
            env=os.environ | settings,
            stdout=out,
            stderr=subprocess.STDOUT,
            # Not a session of its own: the kernel would share the CPU between it and us by halves,
            # or by whatever priority the sessions have, and a client that starves is not measured.
            process_group=0,
        )
        try:
            _wait(process, f"http://127.0.0.1:{port}{path}", log)
            yield
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    limit_s = time.monotonic() + _START_S
    while time.monotonic() < limit_s and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url).is_success:
                return
        time.sleep(0.5)
    raise RuntimeError(f"{process.args} is not up:\n{log.read_text()[-3000:]}")


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
