"""Named maxima of ONNX models. A file beyond one is a clear error before much is computed."""

from __future__ import annotations

MAX_MODEL_BYTES = 2**31 - 1
"""The model file itself (protobuf's own limit); larger weights are external data."""

MAX_NODES = 100_000
"""Nodes of all graphs, subgraphs and function bodies as they are written in the file."""

MAX_EXPANDED_NODES = 200_000
"""Nodes of the main graph after every function call is replaced by its body."""

MAX_EVALUATED_NODES = 300_000
"""Nodes evaluated in one pass over the model, loop iterations counted one by one."""

MAX_FUNCTIONS = 10_000
"""Model-local functions."""

MAX_CALL_DEPTH = 32
"""Function calls and subgraphs inside each other while a model is evaluated."""

MAX_GRAPH_DEPTH = 16
"""Subgraphs inside subgraphs in the file."""

MAX_INITIALISERS = 100_000
"""Initialisers of all graphs together."""

MAX_TENSOR_ELEMENTS = 2**34
"""Elements of one tensor in the file."""

MAX_INITIALISER_BYTES = 64 * 2**30
"""Bytes of all initialisers together, external data included."""

MAX_SPARSE_BYTES = 256 * 2**20
"""Bytes of all sparse tensors of a file once they are dense: a few bytes may ask for any size."""

MAX_ATTRIBUTE_ITEMS = 2**24
"""Numbers and strings in the lists of all attributes of a file together."""

MAX_RANK = 16
"""Axes of one tensor in the file."""

MAX_NAME_BYTES = 4_096
"""UTF-8 length of a name of a value, node or function."""

MAX_NODE_VALUES = 10_000
"""Inputs, or outputs, or attributes, of one node."""

MAX_HOST_BYTES = 256 * 2**20
"""All intermediate values of one evaluation by the reference while a graph is being built."""

MAX_FOLDED_ELEMENTS = 4_096
"""Elements of a value that is computed at once where everything that it depends on is known."""

MAX_FOLDED_WORK = 2**18
"""Elements of all intermediate values of such a computation."""

MAX_LITERAL_BYTES = 1_024
"""An initialiser up to this size that nobody trains is a literal of the program."""

MAX_UNROLLED_TRIPS = 10_000
"""Iterations of one Loop or Scan that is written out."""

MAX_HOST_TRIPS = 1_000_000
"""Iterations of one Loop that decides on the host when to stop."""

MAX_SEQUENCE_LENGTH = 100_000
"""Elements of one sequence."""

MAX_BOUND_ELEMENTS = 4_096
"""Elements of an integer or bool input that a program may be specialised for."""

MAX_TRACED_PROGRAMS = 16
"""Traced programs that one model keeps for the shapes it has met."""

MAX_REFERENCE_BYTES = 4 * 2**30
"""One value of a model that runs on the reference, which has no memory plan."""

MAX_REFERENCE_LOOP_WORK = 2**20
"""Nodes that the loops of one evaluation by the reference compute, every turn counted."""

MAX_TEXT_CHARACTERS = 2**24
"""Characters of all strings that one operator makes."""

MAX_PATTERN_CHARACTERS = 4_096
"""Length of one regular expression."""

MAX_PATTERN_STATES = 10_000
"""States of one regular expression's automaton; repetition counts multiply them."""

MAX_FOREST_DEPTH = 1_000
"""Levels of one decision tree; each is a step of the graph."""

MAX_SKIPS = 1_000
"""Distances between the words of an n-gram that are counted one by one."""

MAX_FOREST_NODES = 1_000_000
"""Nodes of all trees of one ensemble."""

MAX_COUPLED_CLASSES = 64
"""Classes whose pairwise probabilities are coupled; the graph grows with their number."""
