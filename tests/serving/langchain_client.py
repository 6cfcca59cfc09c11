# SPDX-License-Identifier: Apache-2.0
"""LangChain's Cohere reranker against a server, as a program of its own.

It asks for another release of cohere than the suite has, so it runs in an environment
of its own, which has nothing of this project. Prints a score for each document.

    python langchain_client.py URL MODEL QUERY DOCUMENT...
"""

import json
import sys

from langchain_cohere import CohereRerank

# compress_documents() leaves it out as null, which vLLM 0.32 refuses (400).
_TOKENS_OF_A_DOCUMENT = 200


def main() -> None:
    """Rank the documents of the command line."""
    url, model, query, *documents = sys.argv[1:]
    reranker = CohereRerank(
        base_url=url, cohere_api_key="none", model=model, top_n=len(documents)
    )
    ranked = reranker.rerank(documents, query, max_tokens_per_doc=_TOKENS_OF_A_DOCUMENT)
    scores = {r["index"]: r["relevance_score"] for r in ranked}
    print(json.dumps([scores[i] for i in range(len(documents))]))


if __name__ == "__main__":
    main()
