"""The description is true: whatever a client makes of it is answered as it says."""

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import pytest
import waking
from drawn import ANYTHING, from_schema
from form import by_form
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from serving import serving

from gateway.web.openapi import document

DOCUMENT = document()
COMPONENTS = {"components": DOCUMENT["components"]}
OPERATIONS = [
    (method.upper(), path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]
EXAMPLES = by_form(25, 1_000)
DONE = "script:\nsay Done.\n"
ASKS = 'script:\nask_user {"question": "Which?"}\nsay Thanks.\n'
NEVER = "scripted?delay_ms=600000"


def whole(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with what it refers to put in its place."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return whole(DOCUMENT["components"]["schemas"][name])
    return {key: _whole(value) for key, value in schema.items()}


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return whole(value)
    return [_whole(item) for item in value] if isinstance(value, list) else value


class Client:
    """Sends what is drawn, over one connection after the other; knows some ids."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port
        self._token = token
        self.ids: list[str] = []

    def send(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, str, bytes]:
        """Return status, content type and body of the answer."""
        sent = {"Authorization": f"Bearer {self._token}", **headers}
        encoded = None
        if body is not None:
            encoded = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        connection = HTTPConnection(self._host, self._port, timeout=waking.LIMIT)
        try:
            connection.request(method, path, encoded, sent)
            answer = connection.getresponse()
            return answer.status, answer.headers["Content-Type"], answer.read()
        finally:
            connection.close()

    def start(self, prompt: str, **options: Any) -> None:
        """Start one more execution whose id may be drawn."""
        body = {"agent_type": "explorer", "input": prompt, "options": options}
        status, _, answer = self.send("POST", "/api/agents", body)
        assert status == 201, answer
        self.ids.append(json.loads(answer)["id"])


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Somebody with executions in several states, and a schedule."""
    folder = tmp_path_factory.mktemp("openapi")
    quiet = {
        "WAKE_LOGS_LEVEL": "warning",  # nobody reads its stderr meanwhile
        "WAKE_LIMITS_ENTERPRISE_CONCURRENT": "",
        "WAKE_LIMITS_ENTERPRISE_HOURLY": "",
        "WAKE_LIMITS_ENTERPRISE_SCHEDULES": "1000",
    }
    with serving(folder, "--port", "0", **quiet) as told:
        token = waking.wake(folder, "token", "--tier", "enterprise").out.strip()
        one = Client(told["http"], token)
        one.start(DONE)
        one.start(ASKS)
        one.start(DONE, model=NEVER)
        schedule = {
            "name": "nightly",
            "start": {"agent_type": "explorer", "input": DONE},
            "cron": "0 3 * * *",
        }
        assert one.send("POST", "/api/schedules", schedule)[0] == 201
        one.ids.append("nightly")
        yield one


def bodies(operation: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Bodies as described, and some that are not."""
    described = operation.get("requestBody")
    if described is None:
        return st.none()
    schema = whole(described["content"]["application/json"]["schema"])
    good = from_schema(schema)
    if "agent_type" in json.dumps(schema):
        good = good.map(_of_a_kind)
    wrong = st.one_of(
        ANYTHING,
        st.tuples(good, st.text()).map(lambda pair: {**pair[0], pair[1]: 1}),
    )
    return st.one_of(good, good, wrong)


def _of_a_kind(body: Any) -> Any:
    """Name an agent type that there is: what else is drawn then counts."""
    start = body.get("start", body)
    start["agent_type"] = "explorer"
    start["input"] = DONE
    start.get("options", {}).pop("model", None)
    return body


def queries(operation: dict[str, Any]) -> st.SearchStrategy[str]:
    """Queries as described, and some that are not."""
    parts = {
        p["name"]: from_schema(p["schema"])
        for p in operation["parameters"]
        if p["in"] == "query"
    }
    good = st.fixed_dictionaries({}, optional=parts)
    wrong = st.dictionaries(
        st.one_of(st.sampled_from(sorted(parts) or ["x"]), st.text()), st.text()
    )
    return st.one_of(good, good, wrong).map(_written)


def _written(query: dict[str, Any]) -> str:
    return urlencode(query, doseq=True, errors="replace", encoding="utf-8")


def valid(schema: dict[str, Any], value: Any) -> bool:
    """Whether a value is as described."""
    return Draft202012Validator({**schema, **COMPONENTS}).is_valid(value)


@pytest.mark.parametrize(
    ("method", "path", "operation"), OPERATIONS, ids=lambda x: x or ""
)
@settings(
    max_examples=EXAMPLES,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_every_answer_is_one_that_is_described(
    client: Client, method: str, path: str, operation: Any, data: st.DataObject
) -> None:
    """Its status, its kind and its shape; and never is it a mistake of ours.

    A body that is not as described is refused; one that is, is never called unreadable.
    """
    body = data.draw(bodies(operation), "body")
    query = data.draw(queries(operation), "query")
    known = st.sampled_from(client.ids)
    name = data.draw(st.one_of(known, known, st.text(min_size=1)), "id")
    target = path.replace("{id}", quote(name, safe="", errors="replace"))
    status, kind, answer = client.send(method, f"{target}?{query}", body)
    if name in (".", "..") or name.startswith("token"):
        return  # another path
    assert status < 500, answer
    assert str(status) in operation["responses"], (status, answer)
    content = operation["responses"][str(status)]["content"]
    assert kind in content
    assert valid(content[kind]["schema"], json.loads(answer)), answer
    described = operation.get("requestBody")
    if described and body is not None:
        schema = described["content"]["application/json"]["schema"]
        if not valid(schema, body):
            assert status in (400, 413, 422, 404, 409), (body, answer)
        else:
            assert status not in (400, 415), answer


def test_the_description_is_a_good_one() -> None:
    """Every reference leads somewhere, every schema is one, every id is unique."""
    text = json.dumps(DOCUMENT)
    schemas = DOCUMENT["components"]["schemas"]
    for piece in text.split('"#/components/schemas/')[1:]:
        assert piece.partition('"')[0] in schemas
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    names = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(names) == len(set(names))
    assert all("." not in name for name in schemas)


def test_the_description_is_served(client: Client) -> None:
    """The same to everybody, and nothing of the server's in it."""
    status, kind, answer = client.send("GET", "/openapi.json")
    assert (status, kind) == (200, "application/json")
    assert json.loads(answer) == json.loads(json.dumps(DOCUMENT))
