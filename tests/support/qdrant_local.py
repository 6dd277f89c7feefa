"""Qdrant's REST, answered by qdrant-client's own local mode: a vector database without a server.

An aiohttp application with the routes that the tests use. rekeyd runs it in its own process with
`upstream.http: app:support.qdrant_local:application` and this folder's parent in PYTHONPATH. The models are
qdrant-client's, so that requests and answers have the form that Qdrant's own have.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from pydantic import BaseModel, TypeAdapter
from qdrant_client import QdrantClient, models

VERSION = "1.15.0"

LOCAL = web.AppKey("local", QdrantClient)
_INSERT: TypeAdapter[models.PointsList | models.PointsBatch] = TypeAdapter(models.PointInsertOperations)


def application() -> web.Application:
    """A new, empty database."""
    app = web.Application(middlewares=[_in_qdrants_form])
    app[LOCAL] = QdrantClient(":memory:")
    name = "/collections/{name}"
    app.add_routes(
        [
            web.get("/", _version),
            web.get("/healthz", _healthy),
            web.get("/collections", _answers(_list)),
            web.put(name, _answers(_create)),
            web.get(name, _answers(_describe)),
            web.delete(name, _answers(_delete)),
            web.get(f"{name}/exists", _answers(_exists)),
            web.put(f"{name}/points", _answers(_upsert)),
            web.post(f"{name}/points/query", _answers(_query)),
            web.post(f"{name}/points/scroll", _answers(_scroll)),
        ]
    )
    return app


async def _version(_request: web.Request) -> web.Response:
    return web.json_response({"title": "qdrant - vector search engine", "version": VERSION})


async def _healthy(_request: web.Request) -> web.Response:
    return web.Response(text="healthz check passed")


async def _list(request: web.Request) -> Any:
    return request.app[LOCAL].get_collections()


async def _create(request: web.Request) -> Any:
    wanted = models.CreateCollection.model_validate_json(await request.read())
    return request.app[LOCAL].create_collection(request.match_info["name"], vectors_config=wanted.vectors)


async def _describe(request: web.Request) -> Any:
    return request.app[LOCAL].get_collection(request.match_info["name"])


async def _delete(request: web.Request) -> Any:
    return request.app[LOCAL].delete_collection(request.match_info["name"])


async def _exists(request: web.Request) -> Any:
    return {"exists": request.app[LOCAL].collection_exists(request.match_info["name"])}


async def _upsert(request: web.Request) -> Any:
    wanted = _INSERT.validate_json(await request.read())
    points = wanted.points if isinstance(wanted, models.PointsList) else wanted.batch
    return request.app[LOCAL].upsert(request.match_info["name"], points)


async def _query(request: web.Request) -> Any:
    wanted = models.QueryRequest.model_validate_json(await request.read())
    return request.app[LOCAL].query_points(
        request.match_info["name"],
        query=wanted.query,
        query_filter=wanted.filter,
        limit=wanted.limit or 10,
        with_payload=bool(wanted.with_payload),
    )


async def _scroll(request: web.Request) -> Any:
    wanted = models.ScrollRequest.model_validate_json(await request.read())
    points, offset = request.app[LOCAL].scroll(
        request.match_info["name"], limit=wanted.limit or 10, offset=wanted.offset
    )
    return models.ScrollResult(points=points, next_page_offset=offset)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _answers(operation: Callable[[web.Request], Awaitable[Any]]) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        began = time.monotonic()
        result = await operation(request)
        if isinstance(result, BaseModel):
            result = result.model_dump(mode="json", exclude_none=True)
        return web.json_response({"result": result, "status": "ok", "time": time.monotonic() - began})

    return handler


@web.middleware
async def _in_qdrants_form(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What local mode raises for, Qdrant answers 400 or 404 with the reason."""
    try:
        return await handler(request)
    except ValueError as error:
        status = 404 if "not found" in str(error) else 400
        return web.json_response({"status": {"error": str(error)}, "time": 0.0}, status=status)
