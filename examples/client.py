# SPDX-License-Identifier: Apache-2.0
"""Rerank over HTTP with Cohere's SDK, against a server of examples/serve.sh.

pip install cohere
python examples/client.py [--url http://localhost:8000]
"""

import argparse
import sys

import cohere
import httpx

QUERY = "What is the capital of France?"
DOCUMENTS = [
    "The capital of Brazil is Brasilia.",
    "The capital of France is Paris.",
    "Horses and cows are both animals.",
    "The French have a rich tradition in engineering.",
]


def main() -> None:
    """Send one request and print the ranking."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://localhost:8000")
    args = parser.parse_args()
    # vLLM asks for a key only where --api-key is given.
    client = cohere.ClientV2(api_key="none", base_url=args.url, timeout=60)
    try:
        response = client.rerank(model="reranker", query=QUERY, documents=DOCUMENTS)
    except (httpx.HTTPError, cohere.core.ApiError) as e:
        sys.exit(f"client.py: no ranking from {args.url}: {e}. Is the server up?")
    print(QUERY)
    for result in response.results:
        print(f"{result.relevance_score:.3f}  {DOCUMENTS[result.index]}")


if __name__ == "__main__":
    main()
