"""``gh api`` as far as docs/ci uses it: the comments of one pull request, kept in a file.

The file is named in STAND_IN_COMMENTS; filters are run by jq's own library.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import jq


def main(arguments: list[str]) -> int:
    file = Path(os.environ["STAND_IN_COMMENTS"])
    comments = json.loads(file.read_text()) if file.exists() else []
    words = iter(arguments)
    assert next(words) == "api"
    method, place, body, query = "GET", "", "", ""
    for word in words:
        if word == "--method":
            method = next(words)
        elif word == "--jq":
            query = next(words)
        elif word == "-F":
            name, _, value = next(words).partition("=@")
            assert name == "body"
            body = Path(value).read_text()
        elif word != "--paginate":
            place = word
    assert os.environ["GH_TOKEN"]
    _, _, _, _, *rest = place.split("/")
    if method == "GET":
        assert rest[1:] == ["comments"]
        for found in jq.compile(query).input_value(comments).all():
            print(found)
        return 0
    if method == "POST":
        assert rest[1:] == ["comments"]
        own = {"id": len(comments) + 1, "user": {"login": "github-actions[bot]"}, "body": body}
        comments.append(own)
    else:
        assert (method, rest[0]) == ("PATCH", "comments")
        (own,) = (comment for comment in comments if comment["id"] == int(rest[1]))
        own["body"] = body
    file.write_text(json.dumps(comments))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
