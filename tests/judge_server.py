"""A scripted judge: a loopback server of chat completions and /systemone; fast, deterministic, and wrong on demand.

    python tests/judge_server.py --port 0      # prints http://127.0.0.1:PORT/v1 and serves
    with JudgeServer(delay=0.1) as judge: ...  # the same in a test

It reads the question, the labels and the persona from the request; its opinion depends on those and on `Settings`.
"""

import argparse
import asyncio
import contextlib
import json
import math
import random
import re
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any, Self

SILENT = {"refusal_field": None, "null_content": None, "content_filter": ""}  # the content of replies that say nothing
ODD_TOKENS = {"wrong_label": (" banana", 0.97), "refusal": ("I", 0.9)}
FAULTS = {"400", "401", "429", "500", "503", "hang", "reset", "truncated_json", "html", "empty_choices", "nan"}
FAULTS |= {"other_id", "other_key", *SILENT, *ODD_TOKENS}
PAGE = b"<html><body>Welcome to the proxy.</body></html>"
REFUSAL = "I'm sorry, but I can't help with that."
RATED_LABELS = ["Yes", "No", "Maybe"]  # of rating prompts, which list no labels
PERSONA_STRENGTH = 6.0
PERSONAS = {"optimist": "Yes", "pessimist": "No", "commit yourself": "Maybe"}
CLASSIFY_LINES = {"Text": "Question", "Labels": "Allowed answers"}
PROMPT_LINES = re.compile(r"^(Question|Text|Allowed answers|Labels|Answer given): (.*\S)", re.MULTILINE)


@dataclass
class Settings:
    """The judge's opinions, the abilities of its server, and its faults (the first that is not used up)."""

    gold_labels: dict[str, str] = field(default_factory=dict)  # question -> the label that gets 0.85
    missing_mass: float = 0.02  # probability of the token " the"
    logprobs: bool = True
    schema: bool = True
    sampled: bool = False
    delay: float = 0.0
    # {"kind": one of FAULTS, "match": part of the question, "times": for each question, "retry_after": seconds}
    faults: list[dict[str, Any]] = field(default_factory=list)
    down_for: dict[str, float] | None = None  # {"after_requests": N, "seconds": S}, once

    def __post_init__(self) -> None:
        if unknown := {str(rule.get("kind")) for rule in self.faults} - FAULTS:
            raise ValueError(f"no faults: {sorted(unknown)}; there are {sorted(FAULTS)}")


def prompt_lines(user: str) -> dict[str, str]:
    """The data of a prompt by the words that stand before them in most prompts."""
    return {CLASSIFY_LINES.get(name, name): text for name, text in PROMPT_LINES.findall(user)}


def opinion(settings: Settings, question: str, labels: list[str], persona: str) -> dict[str, float]:
    """The probability of each label: by the gold label or else a hash of question and label, shifted by the persona."""
    gold = settings.gold_labels.get(question)
    if gold in labels:
        weight = {label: 0.85 if label == gold else 0.15 / (len(labels) - 1) for label in labels}
    else:
        digests = {label: sha256(f"{question}\0{label}".encode()).digest() for label in labels}
        weight = {label: math.exp(3 * int.from_bytes(digest[:4], "big") / 2**32) for label, digest in digests.items()}
    persona = " ".join(persona.lower().split())
    for word, favourite in PERSONAS.items():
        if favourite in weight and word in persona:
            weight[favourite] *= PERSONA_STRENGTH
    total = math.fsum(weight.values())
    return {label: share / total for label, share in weight.items()}


def http(status: int, content: Any, headers: str = "") -> bytes:
    """A response: bytes as they are, a text as an error in OpenAI's form, all else as JSON."""
    if isinstance(content, str):
        content = {"error": {"message": content, "type": "error", "param": None, "code": str(status)}}
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    headers += f"Content-Type: {'text/html' if body == PAGE else 'application/json'}\r\n"
    return f"HTTP/1.1 {status} -\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body


class Judge:
    """The server. A reply of it is bytes and what is done with them: "", "judged", "hang" or "reset"."""

    def __init__(self) -> None:
        self.writers: set[asyncio.StreamWriter] = set()
        self.in_flight = 0
        self.down = False
        self.reset({})

    def reset(self, settings: dict[str, Any]) -> None:
        """New settings, and zero counts."""
        self.settings = Settings(**settings)
        self.stats = dict.fromkeys(("requests", "answered", "in_flight_max", "keys"), 0)
        self.by_question: Counter[str] = Counter()
        self.used: Counter[tuple[int, str]] = Counter()  # (fault, question) -> times so far

    def reply(self, route: str, headers: dict[str, str], body: bytes) -> tuple[bytes, str]:
        """The reply to a request; one that cannot be read gets status 400."""
        try:
            if route in ("POST /v1/chat/completions", "POST /v1/systemone"):
                return self.judge(route.endswith("/systemone"), headers, body)
            if route == "POST /reset":
                self.reset(json.loads(body))
            if route in ("POST /reset", "GET /stats"):
                listed = self.by_question if len(self.by_question) < 5000 else {}
                return http(200, {**self.stats, "by_question": listed}), ""
        except Exception as reason:
            return http(400, f"{type(reason).__name__}: {reason}"), ""
        return http(404, f"there is no {route}"), ""

    def fault(self, question: str) -> dict[str, Any]:
        """What goes wrong with this request, counted as used; {} for nothing."""
        for index, rule in enumerate(self.settings.faults):
            match, times = rule.get("match") or "", rule.get("times")
            if match in question and (times is None or self.used[index, question] < times):
                self.used[index, question] += 1
                return rule
        return {}

    def judge(self, choice: bool, headers: dict[str, str], raw: bytes) -> tuple[bytes, str]:
        """The reply to a judge request, with its fault if it has one."""
        self.stats["requests"] += 1
        self.stats["keys"] += "authorization" in headers
        self.stats["in_flight_max"] = max(self.stats["in_flight_max"], self.in_flight)
        if (down := self.settings.down_for) and self.stats["requests"] == down["after_requests"]:
            self.pause = asyncio.create_task(self.go_down(down["seconds"]))
        body = json.loads(raw)
        messages = [{"role": "user", "content": body["state"]["question"]}] if choice else body["messages"]
        texts = {message["role"]: message["content"] for message in messages}
        prompt = prompt_lines(texts["user"])
        question = json.loads(prompt["Question"]) if "Question" in prompt else texts["user"]
        self.by_question[question] += 1
        fault = self.fault(question)
        kind = fault.get("kind", "")
        echo = f"{random.getrandbits(128):032x}" if kind == "other_id" else headers.get("x-client-request-id")
        extra = f"X-Client-Request-Id: {echo}\r\n" if echo else ""
        if kind.isdigit():
            extra += f"Retry-After: {fault.get('retry_after', 1)}\r\n" if kind == "429" else ""
            return http(int(kind), f"scripted {kind}", extra), ""
        content = self.choices(body, question, kind) if choice else self.chat(body, texts, question, kind)
        reply = json.dumps(content).encode()
        if kind in ("html", "truncated_json"):
            return http(200, PAGE if kind == "html" else reply[: len(reply) // 2], extra), ""
        return http(200, reply, extra), kind if kind in ("hang", "reset") else "judged"

    def choices(self, body: dict[str, Any], question: str, kind: str) -> dict[str, Any]:
        """The content of a /systemone reply; a judge that says nothing leaves null as the answer."""
        answers: dict[str, Any] = {}
        for key, asked in body["questions"].items():
            share = opinion(self.settings, question, list(asked["criteria"]), asked.get("instructions", ""))
            if kind == "wrong_label":
                share = {"banana": 0.97, **{label: 0.03 * p for label, p in share.items()}}
            best = max(share, key=share.__getitem__)
            share[best] = math.nan if kind == "nan" else share[best]
            answer = {"type": "choice", "choice": best, "confidence": share[best], "probabilities": share}
            answers[f"not_{key}" if kind == "other_key" else key] = None if kind in {*SILENT, "refusal"} else answer
        return {"answers": {} if kind == "empty_choices" else answers}

    def chat(self, body: dict[str, Any], texts: dict[str, str], question: str, kind: str) -> dict[str, Any]:
        """The content of a chat completion; it ends by "length" where one token is the most, as with real servers."""
        prompt = prompt_lines(texts["user"])
        schema = (body.get("response_format") or {}).get("json_schema") if self.settings.schema else None
        [(key, form)] = schema["schema"]["properties"].items() if schema else [("", {})]
        given = prompt.get("Answer given", "").strip('"')
        listed = RATED_LABELS if given else form.get("enum") or prompt["Allowed answers"].split(", ")
        labels = list(dict.fromkeys(label.strip('"') for label in [*listed, given or listed[0]]))  # quoted or not
        share = opinion(self.settings, question, labels, texts.get("system", ""))
        masses = {label: 0.9 * p for label, p in share.items()}
        masses |= {f" {label.lower()}": 0.1 * p for label, p in share.items()}
        if given:
            mode = 1 + round(9 * share[given] / max(share.values()))
            near = [r for r in (mode - 1, mode + 1) if 1 <= r <= 10]
            masses = share = {str(r): 0.7 if r == mode else 0.3 / len(near) if r in near else 0.0 for r in range(1, 11)}
        odd, amount = ODD_TOKENS.get(kind, (" the", self.settings.missing_mass))
        masses = {odd: amount, **{token: (1 - amount) * p for token, p in masses.items()}}
        top = sorted(((p, token) for token, p in masses.items()), reverse=True)
        tokens = [{"token": token, "logprob": math.log(p) if p else -9999.0, "bytes": None} for p, token in top]
        if kind == "nan":
            tokens[0]["logprob"] = math.nan
        choices: list[dict[str, Any]] = []
        for index in range(0 if kind == "empty_choices" else body.get("n") or 1):
            best = max(share, key=share.__getitem__)
            if self.settings.sampled and body.get("temperature") != 0:
                draw = random.Random(f"{question}\0{self.by_question[question]}\0{index}")
                best = draw.choices([*share], [*share.values()])[0]
            sampled = next(token for token in tokens if token["token"] == (odd if kind in ODD_TOKENS else best))
            position: dict[str, Any] = {**sampled, "top_logprobs": tokens[: body.get("top_logprobs") or 0]}
            asked = body.get("logprobs") and self.settings.logprobs and kind not in SILENT
            value = {"wrong_label": "banana", "nan": math.nan}.get(kind, int(best) if given else best)
            text = json.dumps({f"not_{key}" if kind == "other_key" else key: value}) if schema else str(value)
            content = {**SILENT, "refusal": REFUSAL}.get(kind, text)
            message = {"role": "assistant", "content": content, "refusal": REFUSAL if kind == "refusal_field" else None}
            ended = kind if kind == "content_filter" else "length" if body.get("max_tokens") == 1 else "stop"
            logprobs = {"content": [position]} if asked else None
            choices.append({"index": index, "message": message, "logprobs": logprobs, "finish_reason": ended})
        words, n = sum(len(text.split()) for text in texts.values()), len(choices)
        usage = {"prompt_tokens": words, "completion_tokens": n, "total_tokens": words + n}
        reply = {"id": "chat-0", "object": "chat.completion", "created": 0, "model": body["model"]}
        return {**reply, "choices": choices, "usage": usage}

    async def listen(self, port: int) -> str:
        """Starts to listen, on any free port for 0, and returns the address; asyncio sets TCP_NODELAY."""
        self.server = await asyncio.start_server(self.client, "127.0.0.1", port, backlog=1024)
        self.port = self.server.sockets[0].getsockname()[1]
        self.down = False
        return f"http://127.0.0.1:{self.port}/v1"

    async def go_down(self, seconds: float) -> None:
        """Closes everything for a while; what is in flight is lost, also what was accepted a moment ago."""
        self.down = True
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()
        await asyncio.sleep(seconds)
        await self.listen(self.port)

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, kept alive; its requests are answered one after the other."""
        self.writers.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while not self.down and await self.exchange(reader, writer):
                pass
        self.writers.discard(writer)
        writer.close()

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its reply; False where the connection ends. Of HTTP, no more than JSON APIs use."""
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.in_flight += 1
        try:
            raw, then = self.reply(first.rpartition(" ")[0], headers, body)
            if self.settings.delay and "/v1/" in first:
                await asyncio.sleep(self.settings.delay)
            if then == "hang":
                await reader.read()
            if reader.at_eof() or writer.is_closing():  # the client is gone
                return False
            if then == "reset":
                writer.write(raw[: (raw.index(b"{") + len(raw)) // 2])
                sock, linger = writer.get_extra_info("socket"), (1).to_bytes(4, sys.byteorder) + bytes(4)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)  # closing it sends RST
                writer.transport.abort()
                return False
            writer.write(raw)
            self.stats["answered"] += then == "judged"
            return headers.get("connection") != "close"
        finally:
            self.in_flight -= 1


class JudgeServer:
    """The judge in a separate process, for a `with`; keyword arguments are `Settings`."""

    def __init__(self, **settings: Any):
        self.settings = asdict(Settings(**settings))

    def __enter__(self) -> Self:
        self.process = subprocess.Popen([sys.executable, __file__, "--port", "0"], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.base_url = self.process.stdout.readline().strip()
        self.reset()
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:
            self.process.kill()

    def stats(self) -> dict[str, Any]:
        return self._call("/stats")

    def reset(self, **settings: Any) -> None:
        """These settings over those of the constructor, and zero counts."""
        self._call("/reset", json.dumps(asdict(Settings(**{**self.settings, **settings}))).encode())

    def _call(self, path: str, data: bytes | None = None) -> Any:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(self.base_url.removesuffix("/v1") + path, data, timeout=10) as response:
            return json.load(response)


async def main() -> None:
    """Prints the address and serves until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    print(await Judge().listen(parser.parse_args().port), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
