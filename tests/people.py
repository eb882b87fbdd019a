"""People as the server sees them: HTTP clients that log in, send, follow and stop."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, Self

import httpx

DEADLINE = 20.0  # s that a test waits for an answer before it fails


@dataclass(frozen=True)
class Received:
    """One event as it came over the wire."""

    id: str
    name: str | None
    data: dict[str, Any]

    @property
    def type(self) -> str:
        return str(self.data["type"])

    @property
    def number(self) -> int:
        return int(self.id.rpartition(":")[2])


def parse(lines: Iterator[str]) -> Iterator[Received]:
    """The events in the lines of a stream, strictly as the WHATWG has them."""
    fields: dict[str, str] = {}
    for line in lines:
        if line == "":
            if "data" in fields:
                yield Received(fields["id"], fields.get("event"), json.loads(fields["data"]))
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")


class Person:
    """A logged-in person, with cookies and CSRF token as a browser has them."""

    def __init__(self, url: str, username: str, password: str) -> None:
        self.url = url
        self.http = httpx.Client(base_url=url, timeout=DEADLINE, trust_env=False)
        page = self.http.get("/accounts/login/").text
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
        assert token
        answer = self.http.post(
            "/accounts/login/",
            data={"csrfmiddlewaretoken": token[1], "username": username, "password": password},
        )
        assert answer.status_code == 302, answer.status_code

    def at(self, url: str) -> "Person":
        """The same person at another port of this host, signed in there as here."""
        other = copy(self)
        other.url = url
        other.http = httpx.Client(
            base_url=url, cookies=self.http.cookies, timeout=DEADLINE, trust_env=False
        )
        return other

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    @property
    def headers(self) -> dict[str, str]:
        return {"X-CSRFToken": self.http.cookies["csrftoken"], "Accept": "application/json"}

    def post(self, path: str, **kwargs: Any) -> httpx.Response:
        return self.http.post(path, headers={**self.headers, **kwargs.pop("headers", {})}, **kwargs)

    def get(self, path: str, **kwargs: Any) -> httpx.Response:
        return self.http.get(
            path, headers={"Accept": "application/json", **kwargs.pop("headers", {})}, **kwargs
        )

    def new_chat(self) -> str:
        """The id of a new session."""
        answer = self.post("/chat/")
        assert answer.status_code == 201
        session_id: str = answer.json()["session_id"]
        return session_id

    def send(self, chat: str, prompt: str, **fields: Any) -> httpx.Response:
        return self.post(f"/chat/{chat}/messages/", json={"prompt": prompt, **fields})

    def ask(self, chat: str, prompt: str, **fields: Any) -> dict[str, Any]:
        """Sends, and gives the ids and addresses of the run."""
        answer = self.send(chat, prompt, **fields)
        assert answer.status_code == 201, answer.text
        told: dict[str, Any] = answer.json()
        return told

    @contextmanager
    def follow(
        self, events_url: str, last_event_id: str = "", view: str = ""
    ) -> Iterator[Iterator[Received]]:
        """The events of a run as they come. Leaving closes the connection."""
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        params = {"view": view} if view else None
        with self.http.stream("GET", events_url, headers=headers, params=params) as response:
            assert response.status_code == 200, response.status_code
            yield parse(lines_of(response))

    def events(self, run: dict[str, Any], **kwargs: Any) -> list[Received]:
        """All events of a run up to its end."""
        with self.follow(run["events_url"], **kwargs) as events:
            return list(events)

    def read_until(self, run: dict[str, Any], text: str) -> None:
        """Follows a run until its text so far is this."""
        received: list[Received] = []
        with self.follow(run["events_url"]) as events:
            for event in events:
                received.append(event)
                if text_of(received) == text:
                    return
        raise AssertionError(f"the run ended with {text_of(received)!r}")

    def stop(self, run: dict[str, Any]) -> dict[str, Any]:
        answer = self.post(run["stop_url"])
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told


def lines_of(response: httpx.Response) -> Iterator[str]:
    """Lines that end at LF alone; httpx's own `iter_lines` cuts at other characters too."""
    rest = ""
    for text in response.iter_text():
        *lines, rest = (rest + text).split("\n")
        yield from lines


def text_of(events: list[Received]) -> str:
    return "".join(event.data["content"] for event in events if event.type == "chunk")
