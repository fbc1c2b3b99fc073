"""A bare ASGI route: the same served model, and nothing around it.

No validation, interval, words, limits, recording, metrics or log: what is left when everything is
left out.
"""

from typing import Any

import numpy as np
import orjson

from smartcity import registry

model = registry.load("air_quality")
names = model.card.parts[registry.NOW].view.inputs
HEAD = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json")],
}


async def app(_: Any, receive: Any, send: Any) -> None:
    """Answer one row."""
    message = await receive()
    if message["type"] != "http.request":
        return
    row = orjson.loads(message["body"])
    value = float(model.scores(np.array([[row[name] for name in names]], dtype=np.float32))[0])
    await send(HEAD)
    await send({"type": "http.response.body", "body": orjson.dumps({"prediction": value})})
