"""The one way into an archive: objects under new names, documents of single arrays, and last the root document.

Whoever changes an archive - a recording, one taken up again, a repair, packing, filling in, a note that is set -
goes through a `Committer`. Renaming the root into place is the commit; what is there before it stays as it is.
"""

from collections.abc import Callable, Mapping
from typing import Any

from tracer.store.documents import ArrayNode, GroupNode, document_digest, root_text, to_json
from tracer.store.files import Directory
from tracer.store.validate import parse

ROOT = "zarr.json"
_BLANK = "0" * 64


class Committer(Directory):
    """The directory of an archive with what a commit does in it. Errors: as `Directory`."""

    def documents(self, nodes: Mapping[str, GroupNode | ArrayNode]) -> None:
        """Write the documents of single groups and arrays, by path. They must not say more than the root."""
        for path, node in nodes.items():
            self.publish_text(f"{path}/{ROOT}", node.text())

    def commit(
        self, record: Mapping[str, Any], root: GroupNode, nodes: Mapping[str, GroupNode | ArrayNode]
    ) -> dict[str, Any]:
        """Make a state visible: that of the commit after ``record``; return its record."""
        record = {**record, "commit": record["commit"] + 1}
        self.publish_text(ROOT, root_text(record, root, nodes), last=True)
        return record

    def amend(self, root: bytes, change: Callable[[dict[str, Any]], None]) -> None:
        """Put a root document in the place of itself, after ``change`` of its attributes; no object is touched."""
        document = parse(root)
        change(document["attributes"])
        digest = document["attributes"]["tracer"]["digest"] = _BLANK
        text = to_json(document)
        renewed = document_digest(text.encode())
        self.publish_text(ROOT, text.replace(f'"digest":"{digest}"', f'"digest":"{renewed}"', 1), last=True)
