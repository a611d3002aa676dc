"""Ask a diffacet service from Python: `client.py URL ID ...`; its key, if it wants one, from DIFFACET_KEY."""

import os
import random
import sys
import time
from typing import Any

import httpx


class Refused(Exception):
    """An error that the service answered: `code` for programs, the message for people, `field` where one is meant."""

    def __init__(self, code: str, message: str, field: str | None) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.field = code, field


class Client:
    """Requests to one service, `timeout` seconds for each answer; methods raise Refused, or httpx.HTTPError."""

    def __init__(self, url: str, timeout: float = 15.0) -> None:
        key = os.environ.get("DIFFACET_KEY")
        self.http = httpx.Client(base_url=url, timeout=timeout, headers={"X-API-Key": key} if key else {})

    def recommend(self, history: list[Any], **wish: Any) -> list[dict[str, Any]]:
        """Items for a history of item ids, oldest first; `wish`: k, categories and what else the API has."""
        return self._post("/v1/recommend", history=history, **wish)["items"]

    def recommend_many(self, histories: list[list[Any]], **wish: Any) -> list[list[dict[str, Any]] | Refused]:
        """For each of at most 256 histories its items, or why it has none: a bad one does not spoil the others."""
        results = self._post("/v1/recommend", histories=histories, **wish)["results"]
        return [Refused(**one["error"]) if "error" in one else one["items"] for one in results]

    def interests(self, history: list[Any], **wish: Any) -> list[dict[str, Any]]:
        """The K interests: coarse and refined vectors, and attention over the items that were read."""
        return self._post("/v1/interests", history=history, **wish)["interests"]

    def similar(self, item_id: Any, k: int = 20) -> list[dict[str, Any]]:
        """The items whose vectors point the same way."""
        return self._post("/v1/similar", item_id=item_id, k=k)["items"]

    def _post(self, path: str, tries: int = 4, **asked: Any) -> dict[str, Any]:
        answer = self.http.post(path, json=asked)
        if tries > 1 and "Retry-After" in answer.headers:  # 429 of one that is busy, 503 of one that starts or stops
            time.sleep(float(answer.headers["Retry-After"]) * random.uniform(1, 2))  # not all clients at once
            return self._post(path, tries - 1, **asked)
        if answer.is_error:
            raise Refused(**answer.json()["error"])
        return answer.json()


if __name__ == "__main__":
    try:
        for item in Client(sys.argv[1]).recommend(sys.argv[2:], k=10):
            print(f"{item['item_id']!s:>10} {item['score']:8.4f}  interest {item['interest']}  {item['title'] or ''}")
    except (Refused, httpx.HTTPError) as error:
        sys.exit(str(error))
