"""Qdrant's gRPC interface as far as its clients need one: every method answers with an empty message, but for
what a client insists on. `python -m support.grpc_qdrant PORT` is Qdrant's Python client, as a user has it.
"""

import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from qdrant_client import QdrantClient, models
from qdrant_client.grpc import (
    collections_service_pb2,
    points_service_pb2,
    qdrant_pb2,
    snapshots_service_pb2,
)

KEY_FROM = "QDRANT_KEY"
LOOKUP = models.LookupLocation(collection="maps")
CITIES = [models.PointStruct(id=1, vector=[0.1, 0.2], payload={"city": "Berlin"})]


def services() -> Iterator[ServiceDescriptor]:
    for module in (collections_service_pb2, points_service_pb2, qdrant_pb2, snapshots_service_pb2):
        yield from module.DESCRIPTOR.services_by_name.values()


@asynccontextmanager
async def grpc_qdrant() -> AsyncIterator[str]:
    """Its address."""
    server = grpc.aio.server()
    for service in services():
        handlers: dict[str, Any] = {
            method.name: grpc.unary_unary_rpc_method_handler(
                _answering(GetMessageClass(method.output_type)),
                request_deserializer=GetMessageClass(method.input_type).FromString,
                response_serializer=GetMessageClass(method.output_type).SerializeToString,
            )
            for method in service.methods
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service.full_name, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def _answering(message: Any) -> Callable[[Any, Any], Any]:
    async def answer(request: Any, _context: Any) -> Any:
        made = message()
        if made.DESCRIPTOR.name == "PointsOperationResponse":
            made.result.status = 2
        if made.DESCRIPTOR.name == "ListCollectionsResponse":
            made.collections.add(name="cities")
        return made

    return answer


def main(port: int) -> None:
    """What came of each step, as JSON: the answer, or the status of the refusal."""
    client = QdrantClient(
        host="localhost",
        grpc_port=port,
        prefer_grpc=True,
        https=True,
        api_key=os.environ[KEY_FROM],
        check_compatibility=False,
        timeout=15,
    )
    does: dict[str, Callable[[], Any]] = {
        "list": lambda: [each.name for each in client.get_collections().collections],
        "upsert": lambda: client.upsert("cities", CITIES, wait=True).status.value,
        "query": lambda: len(client.query_points("cities", query=[0.1, 0.2]).points),
        "scroll": lambda: len(client.scroll("cities", limit=3)[0]),
        "elsewhere": lambda: len(client.scroll("maps", limit=3)[0]),
        "lookup": lambda: len(client.query_points("cities", query=1, lookup_from=LOOKUP).points),
        "drop": lambda: client.delete_collection("cities"),
    }
    said: dict[str, Any] = {}
    for step, attempt in does.items():
        try:
            said[step] = attempt()
        except grpc.RpcError as error:
            said[step] = error.code().name
    print(json.dumps(said))  # noqa: T201 - it is the answer


if __name__ == "__main__":
    main(int(sys.argv[1]))
