"""The protobuf message ``tf.train.Example``, built without TensorFlow.

The descriptor is written here as text and parsed at import, so no generated code is needed.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, text_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_FIELD = "field {{ name: '{}' number: {} label: LABEL_{} type: TYPE_{} {} }}"


def _field(name: str, number: int, kind: str, more: str = "", *, many: bool = False) -> str:
    if kind[0] == ".":
        more += f" type_name: '{kind}'"
        kind = "MESSAGE"
    return _FIELD.format(name, number, "REPEATED" if many else "OPTIONAL", kind, more)


def _lists() -> str:
    kinds = {"BytesList": "BYTES", "FloatList": "FLOAT", "Int64List": "INT64"}
    return "".join(
        f"message_type {{ name: '{name}' {_field('value', 1, kind, many=True)} }}"
        for name, kind in kinds.items()
    )


# The numbers must be those of TensorFlow's example.proto and feature.proto: the serialized message
# has numbers only, and no names.
_FILE = f"""
    name: 'example.proto' package: 'tensorflow' syntax: 'proto3' {_lists()}
    message_type {{
        name: 'Feature' oneof_decl {{ name: 'kind' }}
        {_field("bytes_list", 1, ".tensorflow.BytesList", "oneof_index: 0")}
        {_field("float_list", 2, ".tensorflow.FloatList", "oneof_index: 0")}
        {_field("int64_list", 3, ".tensorflow.Int64List", "oneof_index: 0")}
    }}
    message_type {{
        name: 'Features'
        {_field("feature", 1, ".tensorflow.Features.FeatureEntry", many=True)}
        nested_type {{
            name: 'FeatureEntry' options {{ map_entry: true }}
            {_field("key", 1, "STRING")} {_field("value", 2, ".tensorflow.Feature")}
        }}
    }}
    message_type {{ name: 'Example' {_field("features", 1, ".tensorflow.Features")} }}
"""
# A separate pool: TensorFlow registers messages with these names in the default one, and
# protobuf refuses a second, different definition of a name.
_pool = DescriptorPool()
_pool.Add(text_format.Parse(_FILE, descriptor_pb2.FileDescriptorProto()))
Example: Any = GetMessageClass(_pool.FindMessageTypeByName("tensorflow.Example"))
