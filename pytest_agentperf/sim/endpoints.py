"""What the simulated server answers at each path, and who may ask."""

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from pytest_agentperf.sim.answer import Answer, Speaker
from pytest_agentperf.sim.chat import PrefixHasher, RefusedError, tokenize
from pytest_agentperf.sim.exposition import metrics_page
from pytest_agentperf.sim.http import HTTPRequest, response
from pytest_agentperf.sim.pacer import Pacer
from pytest_agentperf.sim.quirks import read_as
from pytest_agentperf.sim.watch import SendLog

__all__ = ["CHAT_PATH", "Endpoints"]

CHAT_PATH = "/v1/chat/completions"


class Endpoints:
    """What all connections share: the endpoints."""

    def __init__(
        self,
        pacer: Pacer,
        models: Sequence[str],
        *,
        speaker: Speaker,
        api_key: str | None = None,
        log: SendLog | None = None,
    ) -> None:
        self.pacer = pacer
        self.log = log
        self.finished: Counter[str] = Counter()
        self._speaker = speaker
        self._models = models
        self._api_key = api_key
        self._limit_tokens = pacer.fleet.config.context_limit_tokens
        self._rest: dict[str, tuple[str, Callable[[HTTPRequest], bytes]]] = {
            "/health": ("GET", self._health),
            "/metrics": ("GET", self._metrics),
            "/v1/models": ("GET", self._model_list),
            "/tokenize": ("POST", self._tokenize),
        }

    def new_hasher(self) -> PrefixHasher:
        """Return what hashes the prompts of one connection."""
        return PrefixHasher(self.pacer.fleet.config.block_tokens)

    def check_key(self, request: HTTPRequest) -> None:
        """Let nobody in who does not know the key; health and metrics are open, as in vLLM.

        Raises:
            RefusedError: the key is wrong or missing.
        """
        is_open = not request.path.startswith("/v1/") and request.path != "/tokenize"
        if self._api_key is None or is_open:
            return
        if request.headers.get("authorization") != f"Bearer {self._api_key}":
            raise RefusedError("Unauthorized", status=401)

    def rest(self, request: HTTPRequest) -> bytes:
        """Answer everything that needs no engine.

        Raises:
            RefusedError: there is no such path, or not with this method.
        """
        if request.path not in self._rest and request.path != CHAT_PATH:
            raise RefusedError("Not Found", status=404)
        method, endpoint = self._rest.get(request.path, ("POST", self._health))
        if request.method != method:
            raise RefusedError("Method Not Allowed", status=405)
        return endpoint(request)

    def answer_to(self, request: HTTPRequest, hasher: PrefixHasher) -> Answer:
        """Read a chat completion request and plan its answer.

        Raises:
            RefusedError: it is not valid.
        """
        chat = read_as(
            self._speaker.traits,
            request.body,
            osl_header=request.headers.get("x-agentperf-osl"),
            models=self._models,
            context_limit_tokens=self._limit_tokens,
            hasher=hasher,
        )
        return self._speaker.answer(chat)

    def _health(self, request: HTTPRequest) -> bytes:
        del request
        return response(b"", content_type="text/plain")

    def _tokenize(self, request: HTTPRequest) -> bytes:
        limit_tokens = self._limit_tokens
        return response(
            tokenize(request.body, models=self._models, context_limit_tokens=limit_tokens)
        )

    def _model_list(self, request: HTTPRequest) -> bytes:
        del request
        common = {
            "object": "model",
            "owned_by": "agentperf-sim",
            "max_model_len": self._limit_tokens,
        }
        rows = [{"id": name, **common} for name in self._models]
        return response(msgspec.json.encode({"object": "list", "data": rows}))

    def _metrics(self, request: HTTPRequest) -> bytes:
        del request
        page = metrics_page(
            self.pacer.fleet.status(self.pacer.clock_s()),
            model=self._models[0],
            finished=self.finished,
            lateness=self.pacer.lateness,
        )
        return response(page, content_type="text/plain; version=0.0.4")
