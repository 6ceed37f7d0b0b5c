"""`python llm_server.py LOG`: a server that speaks OpenAI's protocol and misbehaves as the model's name says.
Prints its port.

    good                 sound replies                  good@0.05   each after 0.05 s once:FAULT
    each request meets FAULT the first time always:FAULT         each request meets it every time
    faulty:SEED:RATE     a seeded schedule: which fault, if any, follows from the seed, the request and how
    often it came poison:WORDS         each request that holds these words is refused with status 400

Of the faults, `hang` sends a header that says so and then nothing (see llm_patience.py), `mute` nothing at
all, `trickle` byte after byte without an end.

What befalls files and batches is set from outside, by `Running.trouble`:

    KIND-html, -badjson, -latin1, -404 ...   no sound answer to file, create, retrieve, list or content
    create-lost          a batch is created and the connection dropped
    list-none            no batch is listed
    lines-bad            every second line of an output file is damaged
    lines-errors         each line of it is an error given as a text
    status-paused        batches stay in a state of that name

Every request is a line of LOG, written before the reply is sent: what a client that dies then has paid for.
"""

import hashlib
import json
import random
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FAULTS = ("429", "429-after", "429-date", "500", "503", "hang", "cut", "html")  # no reply comes of these
BAD = ("malformed", "truncated", "refused", "refusal-text", "swapped", "same", "over-long", "leaking",
       "fields", "empty", "huge", "no-question", "control", "two-fences")  # fmt: skip
ODD = ("fenced", "leak-to-mask", "spaces")  # accepted all the same
SOUND = ("good", "lost", "echo", *ODD)
PAGES = {
    "html": b"<html>a proxy's page</html>",
    "badjson": b'{"id": ',
    "latin1": b'{"id": "\xe9", "status": "x"}',
}
USAGES = {
    "usage-empty": {},
    "usage-null": {"prompt_tokens": 10, "completion_tokens": None},
    "usage-huge": {"prompt_tokens": 10**400, "completion_tokens": 1},
    "usage-text": "many",
}
HANGS = "x-hangs"  # a header: nothing more is sent


def sound(asked: dict) -> dict:
    """A reply that must be accepted."""
    if "narration" in asked:
        return {
            "description": f"The cook is seen to {asked['verb']} the {asked['noun']}, slowly and with both "
            "arms."
        }
    return {
        "verb_question": "Which action is the cook busy with near the <mask> in this short clip?",
        "noun_question": "Which object is moved slowly by the cook while they <mask> in this short clip?",
    }


def spoiled(fault: str, asked: dict) -> dict:
    """A choice of a completion that shows the fault."""
    fields = sound(asked)
    text, choice = json.dumps(fields), {"finish_reason": "stop"}
    first = next(iter(fields))
    match fault:
        case "malformed":
            text = text[:-3]
        case "truncated":
            text, choice["finish_reason"] = text[: len(text) // 2], "length"
        case "refused":
            return {
                **choice,
                "message": {"role": "assistant", "content": None, "refusal": "I will not do that."},
            }
        case "refusal-text":
            text = "I'm sorry, but I can't help with that."
        case "swapped" | "same" | "leaking" | "no-question" if "narration" in asked:
            text = json.dumps({**fields, "more": "this"})
        case "swapped":
            fields = dict(zip(fields, list(fields.values())[::-1], strict=True))
        case "same":
            fields = dict.fromkeys(fields, fields[first])
        case "leaking":
            fields[first] = f"{asked['verb']} {asked['noun']} {asked['verb']} {asked['noun']} of what?"
        case "no-question":
            fields[first] = fields[first].rstrip("?") + "."
        case "over-long":
            fields[first] = "what " * 200 + "?"
        case "huge":
            fields[first] = "what " * 20_000 + "?"
        case "fields":
            fields[first] = [fields[first]]
        case "control":
            fields[first] = f"{fields[first][:9]}\x07{fields[first][9:]}"
        case "empty":
            text = ""
        case "fenced":
            text = f"```json\n{text}\n```"
        case "two-fences":
            text = f"```json\n{text}\n```\n```json\n{text}\n```"
        case "spaces":
            text = f"\n  {json.dumps(fields, indent=4)} \n"
        case "leak-to-mask" if "description" in asked:
            fields[first] = (
                f"When they {asked['verb']} the {asked['noun']} near the window, which action is shown in "
                f"this clip?"
            )
    if json.loads(json.dumps(fields)) != sound(asked):
        text = json.dumps(fields)
    return {**choice, "message": {"role": "assistant", "content": text, "refusal": None}}


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, log: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.log = log.open("a", encoding="utf-8")
        self.lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """All that was ever asked, sent and set."""
        with self.lock:
            self.log.truncate(0)
            self.came: Counter[str] = Counter()
            self.files: dict[str, bytes] = {}
            self.batches: dict[str, dict] = {}
            self.troubles: list[str] = []

    def note(self, **line: object) -> None:
        with self.lock:
            self.log.write(json.dumps(line) + "\n")
            self.log.flush()

    def fault(self, body: dict) -> tuple[str, str]:
        """(the request's identity, what it meets this time)"""
        key = hashlib.sha256(json.dumps([body["model"], body["messages"]]).encode()).hexdigest()[:16]
        with self.lock:
            self.came[key] += 1
            count = self.came[key]
        kind, _, rest = body["model"].partition("@")[0].partition(":")
        if kind == "poison":
            return key, "400" if rest in body["messages"][-1]["content"] else "good"
        if kind == "always" or (kind == "once" and count == 1):
            return key, rest
        if kind == "faulty":
            seed, rate = rest.split(":")
            dice = random.Random(f"{seed} {key} {count}")
            if dice.random() < float(rate):
                return key, dice.choice([*FAULTS, *BAD, *ODD])
        return key, "good"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body go out apart: else each reply waits 40 ms for an ACK
    server: Server

    def log_message(self, *arguments: object) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):  # the client was killed
            self.close_connection = True

    def answer(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def wait_for_the_client_to_leave(self) -> None:
        self.close_connection = True
        self.connection.recv(1)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        data = self.rfile.read(length)
        if len(data) < length:  # the client was killed while it sent
            self.close_connection = True
        elif self.path.endswith("/chat/completions"):
            self.chat(json.loads(data))
        elif self.path.endswith("/trouble"):
            self.server.troubles = json.loads(data)
            self.answer(200, {})
        elif self.path.endswith("/forget"):
            self.server.forget()
            self.answer(200, {})
        elif self.troubled("file" if self.path.endswith("/files") else "create"):
            pass
        elif self.path.endswith("/files"):
            boundary = re.search(r"boundary=([^;]+)", self.headers["Content-Type"]).group(1).encode()
            part = next(p for p in data.split(b"--" + boundary) if b'name="file"' in p)
            name = f"file-{len(self.server.files)}"
            self.server.files[name] = part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
            self.answer(
                200,
                {
                    "id": name,
                    "object": "file",
                    "bytes": 1,
                    "created_at": 0,
                    "filename": "f",
                    "purpose": "batch",
                },
            )
        else:
            self.create_batch(json.loads(data))

    def do_GET(self) -> None:
        if content := re.search(r"/files/([^/]+)/content", self.path):
            if not self.troubled("content"):
                data = self.damaged(self.server.files[content.group(1)])
                self.answer(200, data, {"Content-Type": "application/octet-stream"})
        elif found := re.search(r"/batches/([^/?]+)", self.path):
            if self.troubled("retrieve"):
                return
            batch = self.server.batches[found.group(1)]
            batch["looked"] += 1
            self.answer(200, self.state(batch))
        elif "/batches" in self.path:
            if not self.troubled("list"):
                batches = [] if "list-none" in self.server.troubles else list(self.server.batches.values())
                after = re.search(r"after=([^&]+)", self.path)  # pages of two
                start = 1 + [batch["id"] for batch in batches].index(after.group(1)) if after else 0
                listed = [self.state(batch) for batch in batches[start : start + 2]]
                self.answer(200, {"object": "list", "data": listed, "has_more": start + 2 < len(batches)})
        else:
            self.answer(404, {"error": {"message": f"no {self.path}"}})

    def troubled(self, kind: str) -> bool:
        """Whether this kind of call got no sound answer."""
        for trouble in self.server.troubles:
            where, _, what = trouble.partition("-")
            if where == kind and what.isdecimal():
                self.answer(int(what), {"error": {"message": f"{what} for {kind}", "code": None}})
                return True
            if where == kind and what in PAGES:
                self.answer(
                    200, PAGES[what], {"Content-Type": "text/html" if what == "html" else "application/json"}
                )
                return True
        return False

    def damaged(self, data: bytes) -> bytes:
        lines = data.splitlines()
        if "lines-bad" in self.server.troubles:
            lines = [
                line.replace(b"custom_id", b"custom__d") if i % 2 else line for i, line in enumerate(lines)
            ]
        if "lines-errors" in self.server.troubles:
            lines = [
                json.dumps({"custom_id": json.loads(line)["custom_id"], "error": "out of luck"}).encode()
                for line in lines
            ]
        return b"".join(line + b"\n" for line in lines)

    def completion(self, body: dict, fault: str) -> dict:
        content = body["messages"][-1]["content"]
        asked = json.loads(content if isinstance(content, str) else content[0]["text"])
        usage = {
            "prompt_tokens": len(json.dumps(body["messages"])) // 4,
            "completion_tokens": 40,
            "total_tokens": 0,
        }
        choice = {"index": 0, **spoiled(fault, asked)}
        usage = USAGES.get(fault, usage)
        if fault == "enormous":
            choice["message"]["content"] = "x" * 3_000_000
        return {
            "id": "c",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [choice],
            "usage": usage,
        }

    def chat(self, body: dict) -> None:
        key, fault = self.server.fault(body)
        said = hashlib.sha256(self.headers.get("Authorization", "").encode()).hexdigest()
        images = (
            0
            if isinstance(body["messages"][-1]["content"], str)
            else len(body["messages"][-1]["content"]) - 1
        )
        shown = {
            name: body.get(name)
            for name in ("seed", "temperature", "response_format", "max_completion_tokens")
        }
        self.server.note(path="chat", key=key, what=fault, authorization=said, images=images, **shown)
        if "@" in body["model"]:
            time.sleep(float(body["model"].partition("@")[2]))
        key = self.headers.get("Authorization", "").split(" ")[-1]
        error = {
            "error": {
                "message": f"{fault}, says the server to {self.headers.get('Authorization')}",
                "code": None,
            }
        }
        if fault.endswith("-pieces"):
            error["error"]["message"] = f"no key is {key[:-1]} or {key[1:]}, {key.upper()} or {key[4:14]}"
        elif fault.endswith("-escape"):
            error["error"]["message"] = "\x1b[31mred\x1b]0;title\x07 \u202e over"
        match fault.partition("-")[0]:
            case "429":
                late = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 1))
                waits = {"429-after": {"Retry-After": "0.02"}, "429-date": {"Retry-After": late}}
                self.answer(429, error, waits.get(fault))
            case "quota":
                self.answer(429, {"error": {**error["error"], "code": "insufficient_quota"}})
            case "500" | "503" | "504" | "401" | "400" as status:
                self.answer(int(status), error)
            case "filter":
                self.answer(400, {"error": {**error["error"], "code": "content_filter"}})
            case "hang":
                self.send_response(200)
                self.send_header(HANGS, "1")
                self.send_header("Content-Length", "5000")
                self.end_headers()
                self.wait_for_the_client_to_leave()
            case "mute":
                self.wait_for_the_client_to_leave()
            case "trickle":
                self.send_response(200)
                self.send_header("Content-Length", "5000000")
                self.end_headers()
                self.close_connection = True
                while True:  # until the client has left
                    self.wfile.write(b" ")
                    time.sleep(0.01)
            case "cut":
                self.send_response(200)
                self.send_header("Content-Length", "5000")
                self.end_headers()
                self.wfile.write(b'{"id": "')
                self.close_connection = True
            case "html":
                self.answer(200, b"<html>a proxy's page</html>", {"Content-Type": "text/html"})
            case "echo":
                said = json.dumps(self.completion(body, fault)).replace(
                    "slowly", self.headers.get("Authorization", "")
                )
                self.answer(200, said.encode())
            case _:
                self.answer(200, self.completion(body, fault))

    def create_batch(self, body: dict) -> None:
        server = self.server
        lines = [json.loads(line) for line in server.files[body["input_file_id"]].splitlines()]
        good, bad = [], []
        for line in lines:
            key, fault = server.fault(line["body"])
            server.note(path="batch line", key=key, what=fault, authorization="", images=0)
            if fault in FAULTS:
                bad.append(
                    {
                        "custom_id": line["custom_id"],
                        "response": {"status_code": 500, "body": {"error": fault}},
                    }
                )
            else:
                done = {"status_code": 200, "body": self.completion(line["body"], fault)}
                good.append({"custom_id": line["custom_id"], "response": done, "error": None})
        name = f"batch-{len(server.batches)}"
        for kind, rows in (("out", good), ("err", bad)):
            server.files[f"{name}-{kind}"] = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        server.batches[name] = {
            "id": name,
            "metadata": body.get("metadata"),
            "looked": 0,
            "expired": bool(bad),
        }
        server.note(path="batch", key=name, what="created", authorization="", images=0)
        if "create-lost" in server.troubles:
            self.close_connection = True
            return
        if lines[0]["body"]["model"].endswith(":lost") and not server.came["lost"]:
            server.came["lost"] = 1
            self.close_connection = True  # the client never learns the id, the first time
            return
        self.answer(200, self.state(server.batches[name]))

    def state(self, batch: dict) -> dict:
        done, name = batch["looked"] > 1, batch["id"]
        ended = "expired" if batch["expired"] else "completed"
        return {
            "id": name,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "input_file_id": "file",
            "completion_window": "24h",
            "created_at": 0,
            "metadata": batch["metadata"],
            "status": "paused"
            if "status-paused" in self.server.troubles
            else ended
            if done
            else "in_progress",
            "output_file_id": f"{name}-out" if done else None,
            "error_file_id": f"{name}-err" if done else None,
        }


@dataclass
class Running:
    """The server as a process of its own."""

    url: str
    log: Path

    def lines(self, path: str = "chat") -> list[dict]:
        return [line for line in map(json.loads, self.log.read_text().splitlines()) if line["path"] == path]

    def accepted(self, path: str = "chat") -> Counter[str]:
        """By request: how many replies were sent that must be accepted."""
        return Counter(line["key"] for line in self.lines(path) if line["what"] in SOUND)

    def trouble(self, *troubles: str) -> None:
        """What befalls files and batches from now on."""
        data = json.dumps(troubles).encode()
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/trouble", data), timeout=60).close()

    def forget(self) -> None:
        """Make the server as new: no request was ever sent to it."""
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/forget", b"{}"), timeout=60).close()


@contextmanager
def running(folder: Path) -> Iterator[Running]:
    log = folder / "requests.jsonl"
    with subprocess.Popen([sys.executable, __file__, str(log)], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Running(f"http://127.0.0.1:{process.stdout.readline().strip()}/v1", log)
        finally:
            process.kill()


def main() -> None:
    server = Server(Path(sys.argv[1]))
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
