"""`chainweaver schema`: the JSON Schema of flow files, for editors and other programs."""

from __future__ import annotations

from chainweaver.cli._answer import Answer
from chainweaver.cli._options import Format, OutputOption
from chainweaver.formats import flow_schema, flow_schema_json


def schema(output: OutputOption = Format.TEXT) -> Answer:
    """Write the JSON Schema of flow files to stdout."""
    text = flow_schema_json().removesuffix("\n")
    return Answer(data=flow_schema(), text=lambda screen: print(text))
