"""Flow files: JSON and YAML read under guard and written so that they read back equal, and their JSON Schema.

Everything public is importable from this package. Nothing here resolves class references, looks tools up or runs
anything; PyYAML is imported on the first YAML text and not before.
"""

from chainweaver.formats.complaints import FlowFormatWarning
from chainweaver.formats.limits import FlowParseLimits
from chainweaver.formats.reading import (
    FlowFile,
    flow_from_dict,
    flow_from_json,
    flow_from_yaml,
    load_flow_file,
    read_flow_file,
)
from chainweaver.formats.schema import flow_schema, flow_schema_json
from chainweaver.formats.writing import FORMAT_VERSION, flow_to_dict, flow_to_json, flow_to_yaml

__all__ = [
    "FORMAT_VERSION",
    "FlowFile",
    "FlowFormatWarning",
    "FlowParseLimits",
    "flow_from_dict",
    "flow_from_json",
    "flow_from_yaml",
    "flow_schema",
    "flow_schema_json",
    "flow_to_dict",
    "flow_to_json",
    "flow_to_yaml",
    "load_flow_file",
    "read_flow_file",
]
