"""What TensorFlow's operations take and return, and their attributes as messages."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeAlias

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2
from tensorflow.python.framework import op_def_registry

Signature: TypeAlias = Any
"""The message `OpDef`: the name of an operation, and the names and dtypes of what it takes."""


def dtype_of(constant: Any) -> int:
    dtype: int = tf.as_dtype(constant.dtype).as_datatype_enum
    return dtype


def set_attribute(attribute: attr_value_pb2.AttrValue, value: Any) -> None:
    match value:
        case attr_value_pb2.AttrValue():
            attribute.CopyFrom(value)
        case bool():
            attribute.b = value
        case int():
            attribute.i = value
        case str():
            attribute.s = value.encode()
        case tf.DType():
            attribute.type = value.as_datatype_enum
        case tf.TensorShape():
            attribute.shape.CopyFrom(value.as_proto())
        case _ if hasattr(value, "add_to_graph"):  # a function of ours or of TensorFlow's
            attribute.func.name = value.name
        case _:
            for item in value:
                if isinstance(item, tf.TensorShape):
                    attribute.list.shape.append(item.as_proto())
                else:
                    attribute.list.type.append(tf.as_dtype(item).as_datatype_enum)


@cache
def signature_of(operation: str) -> Signature:
    return op_def_registry.get(operation)
