"""Functions of graph operations that are defined node by node.

`tf.function` takes a fifth of a millisecond to trace an operation, and some milliseconds for each
function. That was most of the time until the first batch of a process, since it takes hundreds of
operations to read a chunk. Here an operation takes microseconds: it is an entry in a message.

How it works: `define` calls a Python function with a `Symbol` for each input. Operators and methods
of symbols add operations, whose outputs are symbols again. Those that the function returns are the
outputs. The definition is added to TensorFlow's library of functions, where others find it by name.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import function_pb2, node_def_pb2
from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
from tensorflow.python.eager import context, execute

from registry.tensorflow.op_definitions import Signature, dtype_of, set_attribute, signature_of

_UNOPTIMIZED = config_pb2.ConfigProto(
    graph_options=config_pb2.GraphOptions(
        rewrite_options=rewriter_config_pb2.RewriterConfig(disable_meta_optimizer=True)
    )
).SerializeToString()
"""The configuration with which a function that makes a dataset is not optimized before it runs."""
_numbers = itertools.count()


class Symbol:
    """A tensor in a definition. A number next to it becomes a constant of the dtype it must have.

    Operators do what they do on integer tensors. ``&`` is logical if the dtype is bool.
    """

    __slots__ = ("_definition", "dtype", "name")

    def __init__(self, definition: _Definition, name: str, dtype: int) -> None:
        self._definition = definition
        self.name: str = name
        self.dtype: int = dtype

    def then(self, operation: str, *inputs: Any, **attributes: Any) -> Any:
        """Return the output of an operation whose first input is this tensor.

        Inputs are symbols, constants, or lists of them. The attributes that follow from the inputs'
        dtypes need not be given. Several outputs are a list. With ``after``, which is another
        operation's output, the operation runs after that one.
        """
        return self._definition.add(operation, [self, *inputs], attributes)

    def source(self, operation: str, **attributes: Any) -> Any:
        """Return the output of an operation without inputs, in the same definition."""
        return self._definition.add(operation, [], attributes)

    def call(self, function: Any, *inputs: Symbol, after: Symbol | None = None) -> list[Symbol]:
        """Call a function whose first input is this tensor; its operations are copied to here.

        It is a `Function` or a concrete function of TensorFlow's.
        """
        return self._definition.call(function, [self, *inputs], after)

    def call_compiled(self, function: Function, *inputs: Symbol) -> list[Symbol]:
        """Call a function whose first input is this tensor, and have XLA compile it."""
        attributes = {"f": function, "_XlaMustCompile": True}
        dtypes = [output.type for output in function.signature.output_arg]
        outputs: list[Symbol] = self._definition.add(
            "PartitionedCall", [[self, *inputs]], {"Tout": dtypes, **attributes}
        )
        return outputs

    def loop(self, condition: Function, body: Function, *others: Symbol) -> list[Symbol]:
        """Return this tensor and others after calls of ``body`` while ``condition`` is true."""
        attributes = {"cond": condition, "body": body}
        outputs: list[Symbol] = self._definition.add(
            "StatelessWhile", [[self, *others]], attributes
        )
        return outputs

    def constant(self, value: Any, dtype: tf.DType) -> Symbol:
        """Return a constant in the same definition."""
        return self._definition.constant(value, dtype.as_datatype_enum)

    def cast(self, dtype: tf.DType) -> Symbol:
        return self._one("Cast", DstT=dtype)

    def bitcast(self, dtype: tf.DType) -> Symbol:
        return self._one("Bitcast", type=dtype)

    def gather(self, indices: Symbol) -> Symbol:
        """Return the rows at some indices."""
        return self._one("GatherV2", indices, self.constant(0, tf.int32))

    def column(self, number: int) -> Symbol:
        """Return a column of a matrix, as a vector."""
        begin, end, stride = (self.constant(v, tf.int32) for v in ([0, number], [0, 0], [1, 1]))
        masks = {"begin_mask": 1, "end_mask": 1, "shrink_axis_mask": 2}
        return self._one("StridedSlice", begin, end, stride, **masks)

    def minimum(self, other: Symbol | int) -> Symbol:
        return self._one("Minimum", other)

    def where(self, then: Symbol, otherwise: Symbol | int) -> Symbol:
        """Return ``then`` where this is true."""
        return self._one("SelectV2", then, otherwise)

    def equal(self, other: Symbol | int) -> Symbol:
        return self._one("Equal", other)

    def pack(self, *others: Symbol) -> Symbol:
        """Return the vector of this scalar and others."""
        items = [self, *others]
        vector: Symbol = self._definition.add("Pack", [items], {})
        return vector

    def unpack(self, count: int) -> list[Symbol]:
        """Return the items of a vector of this length."""
        items: list[Symbol] = self.then("Unpack", num=count)
        return items

    def __add__(self, other: Symbol | int) -> Symbol:
        return self._one("AddV2", other)

    def __sub__(self, other: Symbol | int) -> Symbol:
        return self._one("Sub", other)

    def __mul__(self, other: Symbol | int) -> Symbol:
        return self._one("Mul", other)

    def __floordiv__(self, other: Symbol | int) -> Symbol:
        return self._one("FloorDiv", other)

    def __rshift__(self, other: Symbol | int) -> Symbol:
        return self._one("RightShift", other)

    def __xor__(self, other: Symbol | int) -> Symbol:
        return self._one("BitwiseXor", other)

    def __and__(self, other: Symbol | int) -> Symbol:
        logical = self.dtype == tf.bool.as_datatype_enum
        return self._one("LogicalAnd" if logical else "BitwiseAnd", other)

    def __lt__(self, other: Symbol | int) -> Symbol:
        return self._one("Less", other)

    def __le__(self, other: Symbol | int) -> Symbol:
        return self._one("LessEqual", other)

    def __ge__(self, other: Symbol | int) -> Symbol:
        return self._one("GreaterEqual", other)

    def _one(self, operation: str, *inputs: Any, **attributes: Any) -> Symbol:
        output: Symbol = self.then(operation, *inputs, **attributes)
        return output


class Function:
    """A defined function, which TensorFlow knows by its name for as long as this object lives."""

    def __init__(self, definition: function_pb2.FunctionDef, used: list[Any]) -> None:
        self._definition = definition
        self.signature: Any = definition.signature
        self.name: str = definition.signature.name
        self._used = used
        weakref.finalize(self, context.remove_function, self.name).atexit = False

    def add_to_graph(self, graph: Any) -> None:
        """Add it to a graph with an operation that refers to it, as TensorFlow's functions do."""
        graph._add_function_recursive(self)  # noqa: SLF001
        for function in self._used:
            function.add_to_graph(graph)

    @property
    def cached_definition(self) -> function_pb2.FunctionDef:
        """The definition, for a graph that is written as a message."""
        return self._definition

    @property
    def _c_func(self) -> Any:
        """The function in C, for a graph that it is added to."""
        return context.get_c_function(self.name)


def define(
    name: str,
    function: Callable[..., Iterable[Symbol]],
    inputs: Sequence[tf.DType],
    attributes: Mapping[str, bool] | None = None,
) -> Function:
    """Define a function of inputs of these dtypes; its name begins with ``name``.

    Without inputs, ``function`` is called with a constant.
    """
    definition = _Definition(f"{name}_{next(_numbers)}")
    symbols = [definition.input(dtype) for dtype in inputs]
    outputs = function(*symbols or [definition.constant(0, tf.int64.as_datatype_enum)])
    definition.finish(outputs, attributes or {})
    return Function(definition.message, definition.used)


def evaluate(function: Function, *tensors: Any) -> Any:
    """Return the output of a function of tensors. In a traced function, it is called there."""
    if not tf.executing_eagerly():
        dtypes = [output.type for output in function.signature.output_arg]
        return tf.raw_ops.PartitionedCall(args=list(tensors), Tout=dtypes, f=function)[0]
    # As an operation. Each other one that runs eagerly is first made a function, and optimized.
    attributes = ("config_proto", _UNOPTIMIZED)
    return execute.execute(function.name, 1, list(tensors), attributes, context.context())[0]


def operation(name: str, first: Any, *inputs: Any, **attributes: Any) -> Any:
    """Return the output of an operation on symbols or, in a traced function, on tensors.

    Constants that the other inputs give no dtype are NumPy's.
    """
    symbol = first[0] if isinstance(first, list) else first
    if isinstance(symbol, Symbol):
        return symbol._definition.add(name, [first, *inputs], attributes)  # noqa: SLF001
    names = [argument.name for argument in signature_of(name).input_arg]
    arguments = dict(zip(names, [first, *inputs], strict=True))
    return getattr(tf.raw_ops, name)(**arguments, **attributes)


class _Definition:
    """A function that is being defined."""

    def __init__(self, name: str) -> None:
        self.message: Any = function_pb2.FunctionDef()
        self.signature: Any = self.message.signature
        self.signature.name = name
        self.used: list[Any] = []
        """The functions that it calls."""
        self._constants: dict[tuple[int, int] | None, Symbol] = {}

    def input(self, dtype: tf.DType) -> Symbol:
        name = f"input_{len(self.signature.input_arg)}"
        self.signature.input_arg.add(name=name, type=dtype.as_datatype_enum)
        return Symbol(self, name, dtype.as_datatype_enum)

    def constant(self, value: Any, dtype: int) -> Symbol:
        key = (value, dtype) if isinstance(value, int) else None
        if key in self._constants:
            return self._constants[key]
        node = self._node("Const")
        node.attr["dtype"].type = dtype
        tensor = node.attr["value"].tensor
        tensor.dtype = dtype
        array = np.asarray(value, tf.as_dtype(dtype).as_numpy_dtype)
        # As `tf.make_tensor_proto` does, which takes several times as long.
        for length in array.shape:
            tensor.tensor_shape.dim.add(size=length)
        if dtype == tf.string.as_datatype_enum:
            tensor.string_val.extend(text.encode() for text in array.ravel())
        else:
            tensor.tensor_content = array.tobytes()
        symbol = Symbol(self, f"{node.name}:output:0", dtype)
        if key is not None:
            self._constants[key] = symbol
        return symbol

    def add(self, operation: str, inputs: Sequence[Any], attributes: dict[str, Any]) -> Any:
        signature = signature_of(operation)
        node = self._node(operation)
        dtypes: dict[str, int] = {}
        for argument, value in zip(signature.input_arg, inputs, strict=True):
            listed = argument.number_attr or argument.type_list_attr
            values = value if listed else [value]
            dtype = argument.type or dtypes.get(argument.type_attr, 0)
            symbols = [
                v if isinstance(v, Symbol) else self.constant(v, dtype or dtype_of(v))
                for v in values
            ]
            node.input.extend(symbol.name for symbol in symbols)
            if argument.number_attr:
                node.attr[argument.number_attr].i = len(symbols)
            if argument.type_list_attr:
                types = [symbol.dtype for symbol in symbols]
                node.attr[argument.type_list_attr].list.type.extend(types)
            elif argument.type_attr:
                dtypes[argument.type_attr] = node.attr[argument.type_attr].type = symbols[0].dtype
        _run_after(node, attributes.pop("after", None))
        for name, value in attributes.items():
            if hasattr(value, "add_to_graph"):
                self.used.append(value)
            set_attribute(node.attr[name], value)
        for attribute in signature.attr:
            if attribute.HasField("default_value") and attribute.name not in node.attr:
                node.attr[attribute.name].CopyFrom(attribute.default_value)
        return self._outputs(node, signature)

    def _outputs(self, node: node_def_pb2.NodeDef, signature: Signature) -> Any:
        """Return what `Symbol.then` does. An operation without outputs returns a symbol, too."""
        symbols, listed = [], len(signature.output_arg) > 1
        for argument in signature.output_arg:
            if argument.type_list_attr:
                dtypes = list(node.attr[argument.type_list_attr].list.type)
            else:
                dtype = argument.type or node.attr[argument.type_attr].type
                dtypes = [dtype] * (
                    node.attr[argument.number_attr].i if argument.number_attr else 1
                )
            listed = listed or bool(argument.type_list_attr or argument.number_attr)
            symbols += [
                Symbol(self, f"{node.name}:{argument.name}:{number}", dtype)
                for number, dtype in enumerate(dtypes)
            ]
        if listed:
            return symbols
        return symbols[0] if symbols else Symbol(self, node.name, 0)

    def call(self, function: Any, inputs: Sequence[Symbol], after: Symbol | None) -> list[Symbol]:
        self.used.append(function)
        defined = isinstance(function, Function)
        signature = function.signature if defined else function.function_def.signature
        node = self._node(signature.name)
        node.input.extend(symbol.name for symbol in inputs)
        _run_after(node, after)
        return [
            Symbol(self, f"{node.name}:{output.name}:0", output.type)
            for output in signature.output_arg
        ]

    def finish(self, outputs: Iterable[Symbol], attributes: Mapping[str, bool]) -> None:
        for number, symbol in enumerate(outputs):
            name = f"output_{number}"
            self.signature.output_arg.add(name=name, type=symbol.dtype)
            self.message.ret[name] = symbol.name
        for name, value in attributes.items():
            self.message.attr[name].b = value
        context.context().add_function_def(self.message)

    def _node(self, operation: str) -> node_def_pb2.NodeDef:
        name = f"{operation}_{len(self.message.node_def)}"
        return self.message.node_def.add(name=name, op=operation)


def _run_after(node: node_def_pb2.NodeDef, first: Symbol | None) -> None:
    if first is not None:
        node.input.append(f"^{first.name.partition(':')[0]}")
