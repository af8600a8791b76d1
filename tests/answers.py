"""A gRPC server in this process that gives fixed answers, on a real connection."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version

import grpc
from qdrant_client import grpc as proto

Answer = Callable[[bytes, grpc.ServicerContext], object]


class Handler(grpc.GenericRpcHandler):
    """Answers by the last part of a method's name; records the keys it was shown."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        self.answers = answers
        self.keys: list[str | None] = []

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        self.keys.append(dict(details.invocation_metadata).get("api-key"))
        answer = self.answers[details.method.rpartition("/")[2]]
        return grpc.unary_unary_rpc_method_handler(answer, response_serializer=lambda reply: reply.SerializeToString())


@contextmanager
def served(**answers: Answer) -> Iterator[tuple[str, Handler]]:
    """The URL of a server that gives these answers."""
    usual = {"HealthCheck": health(version("qdrant-client")), "List": no_collections, "Count": no_points}
    handler = Handler(usual | answers)
    server = grpc.server(ThreadPoolExecutor(8), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port - 1}", handler
    finally:
        server.stop(None)


def health(number: str) -> Answer:
    return lambda _, __: proto.HealthCheckReply(title="qdrant", version=number)


def no_collections(*_: object) -> object:
    return proto.ListCollectionsResponse()


def no_points(*_: object) -> object:
    return proto.CountResponse(result=proto.CountResult(count=0))


def refusing(code: grpc.StatusCode, details: str) -> Answer:
    return lambda _, context: context.abort(code, details)


def in_turn(*answers: Answer) -> Answer:
    left = list(answers)
    return lambda request, context: (left.pop(0) if len(left) > 1 else left[0])(request, context)
