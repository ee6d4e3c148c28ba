"""An app that shows what a container has: for tests of the fake control plane itself."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import modal

Message = MutableMapping[str, Any]
DATA = Path("/data/packages")

image = modal.Image.debian_slim(python_version="3.12").env({"PROBE": "set by the image"})
app = modal.App("probe", image=image)
data = modal.Volume.from_name("probe-data", create_if_missing=True)
settings = modal.Volume.from_name("probe-settings", create_if_missing=True)
to_read = settings.with_mount_options(read_only=True)
secret = modal.Secret.from_name("probe-secret", required_keys=["PROBE_SECRET"])


class Probe:
    """Does what the path says, and answers with JSON."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            (DATA / "goodbye").write_text("written by the exit hook")
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        status, response = 200, {}
        try:
            response = await self.do(scope["path"].strip("/").split("/"), body) | {"scope": sorted(scope)}
        except Exception as error:  # noqa: BLE001 - shown to the test
            status, response = 500, {"error": f"{type(error).__name__}: {error}"}
        response["task"] = os.environ["MODAL_TASK_ID"]
        await send({"type": "http.response.start", "status": status, "headers": [(b"x-probe", b"yes")]})
        await send({"type": "http.response.body", "body": json.dumps(response).encode()})

    async def do(self, words: list[str], body: bytes) -> dict[str, Any]:
        match words:
            case ["list"]:
                return {"files": sorted(path.name for path in DATA.iterdir())}
            case ["write", name]:
                (DATA / name).write_bytes(body)
            case ["commit"]:
                await asyncio.to_thread(data.commit)
            case ["reload"]:
                await asyncio.to_thread(data.reload)
            case ["reload", "with", "open", "file"]:
                with (DATA / "open").open("w"):
                    await asyncio.to_thread(data.reload)
            case ["reload", "inside"]:
                os.chdir(DATA)
                try:
                    await asyncio.to_thread(data.reload)
                finally:
                    os.chdir("/root")
            case ["look", "while", "reloading", name]:
                path = DATA / name  # requested by name, because listing the folder would open it
                before, during = path.exists(), []
                reloading = asyncio.ensure_future(asyncio.to_thread(data.reload))
                while not reloading.done():
                    during.append(path.exists())
                    await asyncio.sleep(0.001)
                await reloading
                return {"before": before, "always": all(during), "after": path.exists()}
            case ["hold"]:
                await asyncio.wait_for(self.go_on.wait(), 100)
            case ["let", "go"]:
                self.go_on.set()
            case ["write", "settings", name]:
                Path("/credentials", name).write_bytes(body)
            case ["sleep", seconds]:
                await asyncio.sleep(float(seconds))
            case ["length"]:
                return {"length": len(body)}
            case ["where"]:
                return {"file": __file__, "cwd": str(Path.cwd()), "variables": dict(os.environ)}
        return {}


@app.function(volumes={str(DATA): data, "/credentials": to_read}, max_containers=1, timeout=60)
@modal.concurrent(max_inputs=20)
@modal.asgi_app()
def server() -> Probe:
    return Probe()


@app.function(secrets=[secret], max_containers=1)
@modal.asgi_app(requires_proxy_auth=True)
def guarded() -> Probe:
    return Probe()
