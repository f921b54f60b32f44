"""Calls every operation of the document with the generated Python client.

Usage: client.py DOCUMENT SCENARIO URL TOKEN-FILE CA-FILE, with the generated package
"holdfast_admin_api_client" in the present folder.
"""
import importlib
import io
import json
import pkgutil
import re
import ssl
import sys
import typing

import person  # beside this file

sys.path.insert(0, ".")
document, scenario, url, token_file, ca = sys.argv[1:]
document, scenario = json.load(open(document)), json.load(open(scenario))
import holdfast_admin_api_client as package
import holdfast_admin_api_client.api as api

client = package.AuthenticatedClient(base_url=url, token=open(token_file).read().strip(), verify_ssl=ssl.create_default_context(cafile=ca), timeout=60)
operations = {op["operationId"]: op for path in document["paths"].values() for op in path.values()}
modules = {}
for tag in pkgutil.iter_modules(api.__path__):
    folder = importlib.import_module(f"{api.__name__}.{tag.name}")
    for module in pkgutil.iter_modules(folder.__path__):
        modules[module.name.replace("_", "").lower()] = importlib.import_module(f"{folder.__name__}.{module.name}")

wrong, called, done, saved, tags = [], set(), set(), {}, {}
shows = {}  # the operations that show a thing, by the pattern of their paths
for path, methods in document["paths"].items():
    if "get" in methods:
        shows[methods["get"]["operationId"]] = re.compile("^/api/v1" + re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(path)) + "$")


def member(value, name):
    """gives a member of an answer, such as items.0.id; None if there is none."""
    for part in name.split("."):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def known(value):
    """gives what an answer before has saved, for a $NAME."""
    return saved[value[1:]] if isinstance(value, str) and value.startswith("$") else value


def call(step):
    op = operations[step["op"]]
    function = modules[step["op"].lower()].sync_detailed
    hints = typing.get_type_hints(function)
    arguments = {"client": client}
    for p in op.get("parameters", []):
        if p["in"] == "path":
            value = step.get("path", {}).get(p["name"], "1" if p["schema"]["type"] == "integer" else "nobody")
            value = known(value)
            arguments[p["name"]] = int(value) if p["schema"]["type"] == "integer" else value
        elif p["in"] == "query" and p["name"] == "nonce":
            arguments["nonce"] = "00112233445566778899aabbccddeeff"
    if "match" in step:
        arguments["if_match"] = tags[step["match"]]
    if "requestBody" in op:
        body = known(step.get("body", "example"))
        if body == "example":
            body = op["requestBody"]["content"]["application/json"].get("example", {})
        body = {name: known(value) for name, value in body.items()} if isinstance(body, dict) else body
        kinds = [k for k in (typing.get_args(hints["body"]) or [hints["body"]]) if hasattr(k, "from_dict")]
        arguments["body"] = kinds[0].from_dict(body) if kinds else hints["body"](payload=io.BytesIO(body))  # a file
    answer = function(**arguments)
    called.add(step["op"])
    status = int(answer.status_code)
    if str(status) not in op["responses"]:
        wrong.append(f"{step['op']}: the status {status} is not in the document")
    binary = any("json" not in media for media in op["responses"].get(str(status), {}).get("content", {}))
    if answer.parsed is None and not binary:
        wrong.append(f"{step['op']}: the client cannot read the answer: {status} {answer.content[:300]}")
    for of, name in step.get("save", {}).items():
        saved[name] = member(json.loads(answer.content), of)
    if "file" in step:
        saved[step["file"]] = answer.content
    if status < 300:
        done.add(step["op"])
    for of, want in step.get("see", {}).items():
        if member(json.loads(answer.content), of) != known(want):
            wrong.append(f"{step['op']}: {of} {member(json.loads(answer.content), of)}, want {known(want)}")
    for of in step.get("has", []):
        if member(json.loads(answer.content), of) is None:
            wrong.append(f"{step['op']}: {of} is missing in {answer.content[:300]}")
    if "tag" in step and status == 200:
        tags[step["tag"]] = answer.headers["etag"]
    return status, answer.content, answer.headers


def follow(step, content, headers):
    """shows what was made, by the Location of the answer."""
    found = shows[step["follow"]].match(headers.get("location", ""))
    if not found:
        wrong.append(f"{step['op']}: Location {headers.get('location')} is no path of {step['follow']}")
        return
    status, shown, _ = call({"op": step["follow"], "path": found.groupdict()})
    made, shown = json.loads(content), json.loads(shown)
    for name in ("id", "name", "access_key_id", "created_at"):
        if status != 200 or made.get(name) != shown.get(name):
            wrong.append(f"{step['follow']}: {status} {name} {shown.get(name)}, want {made.get(name)}")


for step in scenario["steps"]:
    if "person" in step:
        failed = getattr(person, step["person"])(url.removesuffix("/api/v1"), ca, known(step["of"]))
        if failed:
            wrong.append(f"{step['person']} {step['of']}: {failed}")
        continue
    success = 201 if "201" in operations[step["op"]]["responses"] else 200
    status, content, headers = call(step)
    if status != step.get("want", success):
        wrong.append(f"{step['op']}: {status} {content[:300]}, want {step.get('want', success)}")
    elif "follow" in step:
        follow(step, content, headers)
for name in scenario["refused"]:
    if name in operations and name not in called:
        call({"op": name})  # the client can read why
for name in operations:
    if name not in done and name not in scenario["refused"]:
        wrong.append(f"{name}: nothing has done it: give it a step in scenario.json, or say there why it is refused")
for name in scenario["refused"]:
    if name not in operations or name in done:
        wrong.append(f"{name}: scenario.json has it as refused, and it is done, or is no operation")
for w in wrong:
    print("python client:", w)
print(f"python client: of {len(operations)} operations {len(called)} were called, {len(done)} of them with success")
sys.exit(1 if wrong else 0)
